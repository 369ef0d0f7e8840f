"""Label maps in image files (grey, palette or RGB) into (H, W) uint8 class ids, 255 = ignore."""

import dataclasses
import functools
import os
import struct
import zlib
from typing import Literal

import numpy as np

from vision.data import images
from vision.data.images import BadImage
from vision.errors import UsageError

IGNORE = 255
MAX_CLASSES = 254
_UNKNOWN = 254  # in the look-up tables: what is neither a class nor to be ignored
_PNG_START = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types, PNG specification, 11.2.2

Colour = tuple[int, int, int]
Encoded = bytes | str | os.PathLike


@dataclasses.dataclass(frozen=True)
class IdTable:
    """What the ids in a label map mean.

    Attributes:
        ids: the id of each class, in order.
        ignore: the ids that are to be ignored, or "others": all that are no class.
    """

    ids: tuple[int, ...]
    ignore: tuple[int, ...] | Literal["others"] = (IGNORE,)

    def read(self, file: Encoded, palette: bool = False) -> np.ndarray:
        """The (H, W) uint8 class ids of a file of ids: grey of 8 or 16 bits, or the indices of a palette.

        Args:
            file: its bytes or path.
            palette: a file without a palette is an error.

        Raises:
            BadImage: the file is missing, truncated or not such an image.
            UsageError: an id that is neither a class nor to be ignored; says where.
        """
        return self.convert(decode_ids(file, palette))

    def convert(self, raw: np.ndarray) -> np.ndarray:
        """(H, W) uint8 or uint16 ids -> (H, W) uint8 class ids.

        Raises:
            UsageError: as `read`.
        """
        result = _id_lookup(self.ids, self.ignore)[raw]
        wrong = _first(result == _UNKNOWN)
        if wrong is None:
            return result
        y, x = wrong
        ignored = f", or {_listed(self.ignore)} to be ignored" if self.ignore else ""
        raise UsageError(
            f"the pixel at x {x}, y {y} has the id {raw[y, x]}; expected {_listed(self.ids)} of the "
            f"{len(self.ids)} classes{ignored}"
        )


@dataclasses.dataclass(frozen=True)
class ColourTable:
    """What the colours in a label map mean.

    Attributes:
        colours: the (red, green, blue) of each class, in order.
        ignore: the colours that are to be ignored, or "others": all that are no class.
        names: of the classes, for messages.
    """

    colours: tuple[Colour, ...]
    ignore: tuple[Colour, ...] | Literal["others"] = ()
    names: tuple[str, ...] = ()

    def read(self, file: Encoded) -> np.ndarray:
        """The (H, W) uint8 class ids of a file of colours.

        Raises:
            BadImage: the file is missing, truncated or not an image.
            UsageError: a colour that is neither a class nor to be ignored; says where, and which is nearest.
        """
        rgb = decode_colours(file)
        result = _colour_lookup(self.colours, self.ignore)[pack(rgb)]
        wrong = _first(result == _UNKNOWN)
        if wrong is None:
            return result
        y, x = wrong
        colour = rgb[y, x].astype(int)
        nearest = int(np.abs(np.array(self.colours) - colour).sum(1).argmin())
        name = self.names[nearest] if self.names else str(nearest)
        raise UsageError(
            f"the pixel at x {x}, y {y} has the colour {tuple(colour.tolist())}, which is no class; the nearest is "
            f"{name!r} with {tuple(self.colours[nearest])}"
        )


def decode_ids(file: Encoded, palette: bool = False) -> np.ndarray:
    """(H, W) uint8 or uint16: the values of a grey file, or the indices of one with a palette, as they are stored.

    Raises:
        BadImage: the file is missing, truncated, or has colours (or no palette where one is asked for).
    """
    cv2 = images.opencv()
    data = images.read(file)
    data, levels = _without_palette(data) if data.startswith(_PNG_START) else (data, None)
    if palette and levels is None:
        raise BadImage("the file has no palette; its values are read with 'ids' or 'colors'")
    raw = images.decode_unchanged(data)
    if (
        raw.ndim == 3
        and raw.shape[2] == 3
        and (raw[..., 0] == raw[..., 1]).all()
        and (raw[..., 0] == raw[..., 2]).all()
    ):
        raw = np.ascontiguousarray(raw[..., 0])
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        raise BadImage(
            f"expected one channel of 8 or 16 bits with a class id in each pixel, given {raw.dtype} of shape "
            f"{raw.shape}; for a table of colours see 'colors'"
        )
    # libpng stretches the 1, 2 or 4 bits of a value over 0..255.
    return cv2.LUT(raw, _unstretched(levels)) if levels not in (None, 256) else raw


def decode_colours(file: Encoded) -> np.ndarray:
    """(H, W, 3) uint8 RGB; a palette is expanded.

    Raises:
        BadImage: as `vision.data.images.decode`.
    """
    return images.decode(images.read(file))


def of_size(label_map: np.ndarray, image: Encoded, where: str) -> np.ndarray:
    """The label map, if it has the size of its image (the bytes of a file, or its path).

    An image that cannot be read is let through: it is reported where its pixels are wanted.

    Raises:
        UsageError: the sizes differ; says where the label map came from.
    """
    try:
        height, width = images.size(image)
    except BadImage:
        return label_map
    if (height, width) == label_map.shape:
        return label_map
    raise UsageError(
        f"its label map {where} is {label_map.shape[0]}x{label_map.shape[1]} (height x width), the image "
        f"{height}x{width}"
    )


def pack(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32: red + 256 green + 65536 blue."""
    return rgb[..., 0] + (rgb[..., 1].astype(np.int32) << 8) + (rgb[..., 2].astype(np.int32) << 16)


def _without_palette(data: bytes) -> tuple[bytes, int | None]:
    """A PNG with a palette as a grey one of the same values, which OpenCV would replace by colours; and the levels."""
    if len(data) < 33 or data[25] != _PALETTE:
        levels = 2 ** data[24] if len(data) > 25 and data[25] == _GREY and data[24] < 8 else None
        return data, levels if levels else None
    bits = data[24]
    header = data[12:25] + bytes([_GREY]) + data[26:29]
    rest, position = [], 33
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind not in (b"PLTE", b"tRNS", b"sBIT", b"bKGD", b"hIST"):
            rest.append(data[position : position + 12 + length])
        position += 12 + length
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + b"".join(rest), 2**bits


@functools.cache
def _unstretched(levels: int) -> np.ndarray:
    return (np.arange(256) * (levels - 1) // 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _id_lookup(ids: tuple[int, ...], ignore: tuple[int, ...] | str) -> np.ndarray:
    table = np.full(2**16, IGNORE if ignore == "others" else _UNKNOWN, np.uint8)
    if ignore != "others":
        table[list(ignore)] = IGNORE
    table[list(ids)] = np.arange(len(ids))
    return table


@functools.lru_cache(maxsize=4)  # of 16 MB each
def _colour_lookup(colours: tuple[Colour, ...], ignore: tuple[Colour, ...] | str) -> np.ndarray:
    table = np.full(2**24, IGNORE if ignore == "others" else _UNKNOWN, np.uint8)
    if ignore and ignore != "others":
        table[pack(np.array(ignore, np.uint8))] = IGNORE
    table[pack(np.array(colours, np.uint8))] = np.arange(len(colours))
    return table


def _first(wrong: np.ndarray) -> tuple[int, int] | None:
    """(y, x) of the first pixel that is, or None."""
    if not wrong.any():
        return None
    y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return int(y), int(x)


def _listed(ids: tuple[int, ...]) -> str:
    """ "0 to 20", or "7, 8, 11, ..."."""
    if len(ids) > 2 and ids == tuple(range(ids[0], ids[0] + len(ids))):
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(map(str, ids[:12])) + (", ..." if len(ids) > 12 else "")
