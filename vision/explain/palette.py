"""Colours of classes, and class maps laid over images."""

import functools
from collections.abc import Sequence

import numpy as np

from vision.explain.figure import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from vision.ops.segmentation import IGNORE, has_background

YELLOW = "#F0E442"  # the last of Okabe and Ito's colours; too light for text and lines, good for areas
IGNORED = np.array([128, 128, 128], np.uint8)
BACKGROUND = np.array([0, 0, 0], np.uint8)

# Linear RGB as the most frequent form of colour blindness sees it (Machado et al. 2009, deuteranopia).
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
_RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _RGB_TO_XYZ.sum(axis=1)


def palette(count: int, background: bool = False) -> np.ndarray:
    """Colours of classes, (count, 3) uint8: the first seven safe for the colour-blind, all of them distinct.

    A class has the same colour whatever the number of classes.

    Args:
        count: number of classes, up to 255.
        background: whether the first class is the background, which is black; the others follow from the second on.
    """
    colors = _colors()
    if background:
        colors = np.concatenate([BACKGROUND[None], colors])
    return colors[:count].copy()


def class_palette(class_names: Sequence[str]) -> np.ndarray:
    """The colours of a table of classes, (classes, 3) uint8."""
    return palette(len(class_names), has_background(class_names))


@functools.cache
def _colors() -> np.ndarray:
    """(255, 3) uint8: Okabe and Ito's, then always the one farthest from all before.

    Distances are those of CIELAB, of the colours as they are and as the colour-blind see them. Candidates are neither
    very dark nor very light, nor greyish, for they must be told from an image under them, nor glaring.
    """
    first = [ORANGE, SKY, GREEN, VERMILION, PURPLE, BLUE, YELLOW]
    chosen = [[int(color[place : place + 2], 16) for place in (1, 3, 5)] for color in first]
    levels = np.linspace(0, 255, 13).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    candidates = candidates[(lab[:, 0] > 32) & (lab[:, 0] < 90) & (chroma > 22) & (chroma < 95)]
    places = _seen(candidates)
    nearest = np.full(len(candidates), np.inf)
    for place in _seen(np.array(chosen, float)):
        nearest = np.minimum(nearest, np.linalg.norm(places - place, axis=1))
    while len(chosen) < IGNORE:
        best = int(np.argmax(nearest))
        chosen.append(candidates[best].astype(int).tolist())
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    colors = np.array(chosen, np.uint8)
    colors.flags.writeable = False
    return colors


def _seen(colors: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB 0..255 -> (N, 6): CIELAB as most people see them, and with deuteranopia."""
    return np.concatenate([_lab(colors), _lab(colors, _DEUTERANOPIA)], axis=1)


def _lab(colors: np.ndarray, eye: np.ndarray | None = None) -> np.ndarray:
    """(N, 3) sRGB 0..255 -> (N, 3) CIELAB (D65), seen through a matrix of linear RGB."""
    values = colors / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if eye is not None:
        linear = np.clip(linear @ eye.T, 0, 1)
    ratio = linear @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def overlay(
    image: np.ndarray, segmentation: np.ndarray, class_names: Sequence[str], opacity: float = 0.5
) -> np.ndarray:
    """The image with every class tinted in its colour and outlined, (H, W, 3) uint8; the background stays as it is.

    Args:
        image: (H, W, C) uint8, C 1 or 3.
        segmentation: (H, W) class ids; what is ignored (255) is grey.
        class_names: the table of classes.
        opacity: of the tint, 0 to 1.
    """
    colors = np.full((256, 3), IGNORED, np.float32)
    colors[: len(class_names)] = class_palette(class_names)
    plain = as_rgb(image).astype(np.float32)
    tint = colors[segmentation]
    result = plain + opacity * (tint - plain)
    thickness = max(1, round(max(segmentation.shape) / 400))
    edge = outlines(segmentation, thickness) & (segmentation != IGNORE)
    result[edge] = tint[edge]
    if has_background(class_names):
        result[segmentation == 0] = plain[segmentation == 0]
    return np.round(result).astype(np.uint8)


def outlines(segmentation: np.ndarray, thickness: int = 1) -> np.ndarray:
    """(H, W) bool: pixels with one of another class so near above, below, left or right."""
    result = np.zeros(segmentation.shape, bool)
    for distance in range(1, thickness + 1):
        down = segmentation[distance:] != segmentation[:-distance]
        across = segmentation[:, distance:] != segmentation[:, :-distance]
        result[distance:] |= down
        result[:-distance] |= down
        result[:, distance:] |= across
        result[:, :-distance] |= across
    return result


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) or (H, W, 3 or more) -> (H, W, 3)."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def classes_shown(class_names: Sequence[str], segmentations: Sequence[np.ndarray]) -> list[int]:
    """The classes in any of the maps, without the background, which has no tint."""
    present = set().union(*(np.unique(segmentation).tolist() for segmentation in segmentations))
    return [index for index in range(int(has_background(class_names)), len(class_names)) if index in present]


def legend(class_names: Sequence[str], segmentations: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    """(name, colour as "#RRGGBB") of the classes in any of the maps, and of ignored areas."""
    colors = class_palette(class_names)
    shown = classes_shown(class_names, segmentations)
    ignored = any((np.asarray(segmentation) == IGNORE).any() for segmentation in segmentations)
    entries = [(str(class_names[index]), hexadecimal(colors[index])) for index in shown]
    return entries + ([("ignored", hexadecimal(IGNORED))] if ignored else [])


def hexadecimal(color: np.ndarray) -> str:
    """(3,) uint8 -> "#RRGGBB"."""
    return "#" + "".join(f"{int(value):02X}" for value in color)
