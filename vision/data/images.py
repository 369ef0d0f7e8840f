"""Encoded images of any kind into uint8 RGB arrays; what cannot be decoded as a whole is a `BadImage`."""

import functools
import os
from collections.abc import Callable

import numpy as np

from vision.errors import UsageError

# What OpenCV reads into 8 or 16 bits; its floating-point formats (EXR, HDR) have no range to scale from.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".webp", ".avif", ".gif"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".ras", ".sr"}
)

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 1 << 16
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_NEVER_TRANSPARENT = (_JPEG_START, b"BM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_UNREADABLE = "not an image that OpenCV can read, or a damaged one"


class BadImage(UsageError):
    """An image that cannot be decoded; the message says why, and where it is as far as the raiser knows."""


@functools.cache
def opencv():
    """The cv2 module, with its own threads and log switched off: the pipeline's threads and errors do their work."""
    import cv2

    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def decode(image: bytes | str | os.PathLike | np.ndarray, channels: int = 3) -> np.ndarray:
    """A uint8 array of shape (H, W, channels), RGB or grey, as a viewer would show the image.

    Palettes are expanded, 16 bits are scaled to 8, transparent pixels are laid over white, and the EXIF orientation
    is applied. An array passes through, apart from its number of channels.

    Args:
        image: an encoded file's bytes, its path, or a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        channels: 3 for RGB, 1 for grey (ITU-R BT.601 luma).

    Raises:
        BadImage: the file is missing, empty, unreadable, truncated, not an image, or the array is none of the above.
    """
    if isinstance(image, np.ndarray):
        return _with_channels(_checked(image), channels)
    return _with_channels(_decode_bytes(read(image)), channels)


def size(image: bytes | str | os.PathLike | np.ndarray) -> tuple[int, int]:
    """Height and width that `decode` gives, read from the header of a JPEG or PNG file where that is enough.

    Raises:
        BadImage: as `decode`; but that a file is damaged further on may go unnoticed.
    """
    if isinstance(image, np.ndarray):
        return _checked(image).shape[:2]
    data = image if isinstance(image, bytes) else read(image, _HEADER_BYTES)
    if data.startswith(_PNG_START) and data is not image:
        data = read(image)  # its orientation may come after the pixels
    return _header_size(data) or decode(image).shape[:2]


def whole_size(image: bytes | str | os.PathLike) -> tuple[int, int]:
    """`size` of an encoded image that has been looked at to its end: that of a JPEG or PNG file is not cut off.

    Raises:
        BadImage: as `decode`; but damage between a file's header and its end may go unnoticed.
    """
    if isinstance(image, bytes):
        _check_whole(image)
        return size(image)
    try:
        with open(image, "rb") as file:
            data = file.read(_HEADER_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2))
            end = file.read()
    except OSError as error:
        raise BadImage((error.strerror or str(error)).lower()) from None
    if data.startswith(_JPEG_START) and end == _JPEG_END:
        return _header_size(data) or decode(image).shape[:2]
    return whole_size(read(image))


def decoded(image: object) -> np.ndarray:
    """The image of an example, which must have been decoded."""
    if not isinstance(image, np.ndarray):
        raise UsageError('The image is still encoded; put "decode" first among the transforms.')
    return image


def decode_unchanged(data: bytes) -> np.ndarray:
    """(H, W) or (H, W, channels) as the file has it: 8 or 16 bits, colours in OpenCV's order, not turned by EXIF.

    Raises:
        BadImage: as `decode`.
    """
    _check_whole(data)
    image = _imdecode(data, opencv().IMREAD_UNCHANGED)
    if image is None:
        raise BadImage(_UNREADABLE)
    return image


def read(image: bytes | str | os.PathLike, most: int = -1) -> bytes:
    """The bytes of an encoded image, given by its path or as they are; of a file at most the first `most`.

    Raises:
        BadImage: the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        with open(image, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise BadImage((error.strerror or str(error)).lower()) from None


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BadImage(
            f"expected a uint8 array of shape (H, W) or (H, W, 1, 3 or 4), given {array.dtype} of shape {array.shape}"
        )
    return array if array.ndim == 3 else array[..., None]


def _decode_bytes(data: bytes) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    cv2 = opencv()
    _check_whole(data)
    image = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)  # any depth of 8 or 16 bits
    if image is None:
        raise BadImage(_UNREADABLE)
    # libtiff's own conversion to 8 bits, which OpenCV uses, has multiplied the colours by their opacity already.
    premultiplied = data.startswith(_TIFF_STARTS) and image.dtype == np.uint8
    image = cv2.cvtColor(_to_8_bits(image), cv2.COLOR_BGR2RGB)
    alpha = _alpha(data, image) if _may_be_transparent(data) else None
    if alpha is None:
        return image
    return image + (255 - alpha[..., None]) if premultiplied else _over_white(image, alpha)


def _check_whole(data: bytes) -> None:
    if not data:
        raise BadImage("the file is empty")
    if data.startswith(_JPEG_START) and not _jpeg_is_whole(data):
        raise BadImage("the JPEG file is truncated")  # OpenCV 4 fills the missing part with grey, without a word
    if data.startswith(_PNG_START) and b"IEND" not in data:
        raise BadImage("the PNG file is truncated")


def _imdecode(data: bytes, flags: int) -> np.ndarray | None:
    cv2 = opencv()
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # among others: more pixels than OpenCV's limit
        raise BadImage(f"OpenCV cannot decode it ({error.err or error})") from None


def _to_8_bits(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:  # 65535 = 255 * 257, so this is the nearest of the 256 levels
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise BadImage(f"its pixels are {image.dtype}; 8 and 16 bits are supported")


def _may_be_transparent(data: bytes) -> bool:
    """Whether a second decoding is worth while, for OpenCV gives the alpha channel only in another mode."""
    if data.startswith(_PNG_START):
        colour_type = data[25]  # PNG specification, 11.2.2: 4 and 6 have an alpha channel
        return colour_type in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")]
    return not data.startswith(_NEVER_TRANSPARENT)


def _alpha(data: bytes, image: np.ndarray) -> np.ndarray | None:
    """The (H, W) alpha channel of a file whose colours are `image`, or None where it has none or is opaque."""
    unchanged = _imdecode(data, opencv().IMREAD_UNCHANGED)
    if unchanged is None or unchanged.ndim != 3 or unchanged.shape[2] != 4:
        return None
    unchanged = _to_8_bits(unchanged)
    if unchanged[..., 3].min() == 255:
        return None
    # This mode ignores the EXIF orientation: turn it until its colours are those of the upright image.
    for turn in _TURNS:
        turned = turn(unchanged)
        if turned.shape[:2] == image.shape[:2] and np.array_equal(turned[..., 2::-1], image):
            return turned[..., 3]
    raise BadImage("its transparency and its colours do not match")


_TURNS: tuple[Callable[[np.ndarray], np.ndarray], ...] = tuple(
    functools.partial(
        lambda image, quarters, mirrored: np.rot90(image[:, ::-1] if mirrored else image, quarters), **turn
    )
    for turn in ({"quarters": quarters, "mirrored": mirrored} for mirrored in (False, True) for quarters in range(4))
)


def _over_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None].astype(np.uint16)
    return ((image * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    cv2 = opencv()
    if channels not in (1, 3):
        raise UsageError(f"decode: channels must be 1 or 3, given {channels}.")
    if image.shape[2] == 4:
        image = _over_white(image[..., :3], image[..., 3])
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    return np.repeat(image, 3, axis=2)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end-of-image marker of the picture itself, not of a thumbnail in its header, is there.

    ITU-T T.81, B.1: a marker is 0xFF and a byte that is neither 0 (a stuffed 0xFF of the coded data) nor 0xFF (fill);
    those of restarts, 0xD0 to 0xD7, stand alone within the coded data; the others are followed by their length.
    """
    if data.endswith(_JPEG_END):
        return True
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return False
        marker = data[position + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _header_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from a PNG file or the start of a JPEG file; None where it does not tell, or may be turned."""
    if data.startswith(_PNG_START) and len(data) >= 24:
        turned = b"eXIf" in data
        return None if turned else (int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    position, sideways = 2, False
    while data.startswith(_JPEG_START) and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xE1 and data[position + 4 : position + 8] == b"Exif":
            turn = _orientation(data[position + 10 : position + 2 + int.from_bytes(data[position + 2 : position + 4])])
            if turn is None or sideways:
                return None
            sideways = turn >= 5  # EXIF 2.3, 4.6.4: rows are columns
        # ITU-T T.81, B.2.2: the frame header, of one of the coding processes; C4, C8 and CC are something else.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            if not (height and width):
                return None
            return (width, height) if sideways else (height, width)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _orientation(tiff: bytes) -> int | None:
    """The orientation, 1 to 8, in the EXIF data of a JPEG file, 1 where there is none; None where that is not clear."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    start = int.from_bytes(tiff[4:8], order) if order else 0
    if start < 8 or start + 2 > len(tiff):
        return None
    count = int.from_bytes(tiff[start : start + 2], order)
    if start + 2 + 12 * count > len(tiff):
        return None
    # TIFF 6.0, section 2: entries of a tag, a type, a count and a value, here a number of 16 bits.
    entries = (tiff[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12))
    values = [entry[8:10] for entry in entries if int.from_bytes(entry[:2], order) == 0x0112]
    turn = int.from_bytes(values[0], order) if values else 1
    return turn if len(values) < 2 and 1 <= turn <= 8 else None
