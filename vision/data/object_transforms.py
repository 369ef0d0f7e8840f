"""Transforms for detection, which look at the objects: SSD's crops and expansion, and mosaics of four images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vision.data import geometry, images
from vision.data.annotations import OBJECTS, PROPOSALS, move_example
from vision.data.arguments import Colour, Example, Method, Size, check, height_width, is_colour, scaled
from vision.data.geometry import Geometry, Shape

_MEAN_COLOUR = (124, 116, 104)  # of ImageNet
_TRIES = 50  # rectangles that are tried for each overlap; as published


def random_iou_crop(
    shape: Shape,
    boxes: np.ndarray,
    rng: np.random.Generator,
    *,
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
    side: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (0.5, 2.0),
) -> Geometry:
    """Cuts out a rectangle that overlaps an object by a share drawn at random (Liu et al. 2016, section 2.2).

    The overlap is the intersection over union of the rectangle and the best box, and is at least the one drawn. Objects
    whose centre is outside are left out; of the others, the part inside is kept. At least one object is kept. Where 50
    rectangles have not the overlap, another one is drawn; an image without objects stays whole.

    Args:
        overlaps: the least overlaps, one of which is drawn; 0 for any rectangle, 1 for the whole image.
        side: smallest and largest side of the rectangle, as a share of the image's.
        ratio: smallest and largest width / height.
    """
    check(
        random_iou_crop,
        overlaps=len(overlaps) > 0 and 0 <= min(overlaps) <= max(overlaps) <= 1,
        side=0 < side[0] <= side[1] <= 1,
        ratio=0 < ratio[0] <= ratio[1],
    )
    whole = geometry.identity(shape)
    for overlap in rng.permutation(overlaps).tolist() if len(boxes) else ():
        if overlap == 1:
            return whole
        heights = np.rint(rng.uniform(*side, _TRIES) * shape[0]).clip(1)
        widths = np.rint(rng.uniform(*side, _TRIES) * shape[1]).clip(1)
        tops = np.floor(rng.random(_TRIES) * (shape[0] - heights + 1))
        lefts = np.floor(rng.random(_TRIES) * (shape[1] - widths + 1))
        windows = np.stack([lefts, tops, lefts + widths, tops + heights], axis=1)
        fits = (widths / heights >= ratio[0]) & (widths / heights <= ratio[1])
        fits &= _holds_a_centre(windows, boxes) & (_intersection_over_union(windows, boxes).max(axis=1) >= overlap)
        if fits.any():
            left, top, right, bottom = windows[np.argmax(fits)].astype(int).tolist()
            return geometry.crop(top, left, (bottom - top, right - left), by_centre=True)
    return whole


def _holds_a_centre(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(W,) whether a window has the centre of one of the boxes in it."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres >= windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(axis=2).any(axis=1)


def _intersection_over_union(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(W, 4) and (n, 4), all of positive area -> (W, n)."""
    low, high = np.maximum(windows[:, None, :2], boxes[:, :2]), np.minimum(windows[:, None, 2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas, others = np.prod(windows[:, 2:] - windows[:, :2], axis=1), np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return common / (areas[:, None] + others - common)


def expand(
    shape: Shape,
    rng: np.random.Generator,
    *,
    ratio: float = 4.0,
    probability: float = 0.5,
    fill: Colour = _MEAN_COLOUR,
) -> Geometry:
    """Puts the image somewhere on a larger canvas, so that objects become smaller (Liu et al. 2016, section 3.6).

    Args:
        ratio: the largest height and width of the canvas, as a multiple of the image's; drawn uniformly from 1 on.
        probability: how often, 0..1.
        fill: grey level of the canvas, 0..255, or red, green and blue; as a rule the mean colour of the data.
    """
    check(expand, ratio=ratio >= 1, probability=0 <= probability <= 1, fill=is_colour(fill))
    if rng.random() >= probability:
        return geometry.identity(shape)
    canvas = scaled(shape, rng.uniform(1, ratio))
    top, left = (int(rng.integers(large - small + 1)) for large, small in zip(canvas, shape, strict=True))
    return geometry.crop(-top, -left, canvas, fill=fill, border=True)


def mosaic(
    example: Example,
    others: Callable[[int], list[Example]],
    rng: np.random.Generator,
    *,
    size: Size,
    probability: float = 1.0,
    centre: tuple[float, float] = (0.25, 0.75),
    max_objects: int | None = None,
    fill: Colour = 114,
    method: Method = "auto",
) -> Example:
    """Four images in one, this one and three drawn at random, which meet in one point (YOLOv4, section 3.3).

    Each is resized to fit into the whole canvas, its proportions kept, and put with its inner corner at that point;
    what lies beyond the canvas is cut off. Objects are those of the four. Fields of the whole image, such as `label`
    and `placement`, are those of the first; `proposals` are left out: search them after it. Where there is no mosaic,
    the image is resized to fit into the canvas and put in its middle.

    Args:
        size: height and width of the result in pixels, one number for a square.
        probability: how often, 0..1.
        centre: from where to where the point may lie, as shares of the canvas's height and width.
        max_objects: rows for objects of the result, the largest where there are more; by default as many as the data
            have for one image. Objects that are left out are seen and not learnt: give it what four images need.
        fill: grey level of what no image covers, 0..255, or red, green and blue.
        method: interpolation, as for resize.
    """
    canvas = height_width(size, mosaic)
    check(
        mosaic,
        probability=0 <= probability <= 1,
        centre=0 <= centre[0] <= centre[1] <= 1,
        max_objects=max_objects is None or max_objects >= 1,
        fill=is_colour(fill),
    )
    if rng.random() >= probability:
        alone = _in_the_middle(example, canvas, fill, method)
        return _with_objects(alone, [_Part(alone, slice(0, canvas[0]), slice(0, canvas[1]))], canvas, max_objects)
    row, column = (min(max(1, round(rng.uniform(*centre) * length)), max(1, length - 1)) for length in canvas)
    quarters = [
        _quarter(one, canvas, (row, column), below, right, fill, method)
        for one, (below, right) in zip([example, *others(3)], np.ndindex(2, 2), strict=True)
    ]
    return _together(quarters, canvas, max_objects)


def _fitted(shape: Shape, canvas: Shape) -> Shape:
    return scaled(shape, min(canvas[0] / shape[0], canvas[1] / shape[1]))


def _in_the_middle(example: Example, canvas: Shape, fill: Colour, method: Method) -> Example:
    shape = images.decoded(example["image"]).shape[:2]
    inner = geometry.resize(shape, _fitted(shape, canvas), method=method)
    top, left = ((large - small) // 2 for large, small in zip(canvas, inner.shape, strict=True))
    placed = geometry.crop(-top, -left, canvas, fill=fill, border=True)
    return move_example(example, geometry.then(inner, placed))


class _Part(NamedTuple):
    """One image of a mosaic: its example, cut to its part of the canvas, and where that part is."""

    example: Example
    rows: slice
    columns: slice


def _quarter(
    example: Example, canvas: Shape, centre: tuple[int, int], below: int, right: int, fill: Colour, method: Method
) -> _Part:
    """The part above or below, and left or right of the centre."""
    rows = slice(centre[0], canvas[0]) if below else slice(0, centre[0])
    columns = slice(centre[1], canvas[1]) if right else slice(0, centre[1])
    shape = images.decoded(example["image"]).shape[:2]
    inner = geometry.resize(shape, _fitted(shape, canvas), method=method)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    top, left = (0 if below else inner.shape[0] - height), (0 if right else inner.shape[1] - width)
    part = geometry.crop(top, left, (height, width), fill=fill, border=True)
    return _Part(move_example(example, geometry.then(inner, part)), rows, columns)


def _together(quarters: list[_Part], canvas: Shape, max_objects: int | None) -> Example:
    """One example of four, its fields those of the first but for what has pixels or objects."""
    examples = [quarter.example for quarter in quarters]
    whole = {name: value for name, value in examples[0].items() if name not in ("size", *PROPOSALS)}
    for name in ("image", "target", "segmentation"):
        if name in whole:
            one, two, three, four = (example[name] for example in examples)
            whole[name] = np.vstack([np.hstack([one, two]), np.hstack([three, four])])
    return _with_objects(whole, quarters, canvas, max_objects)


def _with_objects(example: Example, parts: list[_Part], canvas: Shape, max_objects: int | None) -> Example:
    """The example with the objects of the parts, the largest where they are too many, in their order."""
    if "boxes" not in example:
        return example
    boxes = [np.asarray(part.example["boxes"]) for part in parts]
    number = len(boxes[0]) if max_objects is None else max_objects
    areas = [np.prod(of_part[:, 2:] - of_part[:, :2], axis=1) for of_part in boxes]
    objects = [(part, row) for part, of_part in enumerate(areas) for row in np.flatnonzero(of_part).tolist()]
    chosen = sorted(sorted(objects, key=lambda place: -areas[place[0]][place[1]])[:number])
    return {**example, **{name: _rows(name, parts, chosen, number, canvas) for name in OBJECTS if name in example}}


def _rows(name: str, parts: list[_Part], chosen: list[tuple[int, int]], number: int, canvas: Shape) -> np.ndarray:
    """A field of the chosen objects, (part, row) each, in coordinates of the canvas; zeros in the other rows."""
    like = np.asarray(parts[0].example[name])
    result = np.zeros((number, *(canvas if name == "masks" else like.shape[1:])), like.dtype)
    for place, (part, row) in enumerate(chosen):
        example, rows, columns = parts[part]
        value = example[name][row]
        if name == "masks":
            result[place, rows, columns] = value
        elif name == "boxes":
            result[place] = value + np.array([columns.start, rows.start] * 2, np.float32)
        elif name == "keypoints":
            seen = value[:, 2:] > 0
            result[place] = value + seen * np.array([columns.start, rows.start, 0], np.float32)
        else:
            result[place] = value
    return result
