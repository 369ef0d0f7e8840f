"""Objects drawn on an image: boxes with names and scores, masks, keypoints; the truth and predictions alike."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.explain import palette

_SMALLEST = 480  # pixels; an image whose longer side has fewer is enlarged, so that names can be read
_TINT = 0.4  # opacity of masks
_DASH = 7  # thicknesses of a line that a dash of a crowd's box is long, and so is the gap after it
_SHIFT = 4  # bits behind the point in the coordinates that OpenCV is given


class _Style(NamedTuple):
    """Sizes in pixels of the drawing.

    Attributes:
        factor: how much larger the drawing is than the image.
        thickness: of lines.
        text: scale of OpenCV's font.
        padding: around a text.
    """

    factor: int
    thickness: int
    text: float
    padding: int


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    keypoints: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> np.ndarray:
    """The image with its objects, each in the colour of its class; a small image is enlarged by a whole factor first.

    Give the rows that are objects only; those with an empty box are left out, as padding is. The objects that are most
    certain, and then the smaller ones, are drawn on top.

    Args:
        image: (H, W, C) or (H, W) uint8, C 1 or 3.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        classes: (N,) class ids.
        class_names: the name of each class; a class without one is drawn as its number.
        scores: (N,) 0..1, written behind the names.
        masks: (N, H, W) integers or booleans, not 0 where the object is; or (N, h, w) floating-point probabilities
            within each box, of which those from one half are drawn.
        keypoints: (N, K, 3) x, y in pixels of the image, and a visibility or score; those above 0 are drawn.
        crowd: (N,) whether a box is of many objects that are not told apart; its line is dashed.

    Returns:
        (f H, f W, 3) uint8, with f = 1 for images of at least 480 pixels.
    """
    image = np.ascontiguousarray(palette.as_rgb(image))
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes = np.asarray(classes, np.int64)
    style = _style(image.shape[:2])
    drawing = image.repeat(style.factor, axis=0).repeat(style.factor, axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shown = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    certain = np.zeros(len(boxes)) if scores is None else np.asarray(scores, np.float64)
    order = [int(index) for index in shown[np.lexsort((-areas[shown], certain[shown]))]]
    colors = {index: _color(int(classes[index])) for index in order}
    if masks is not None:
        for index in order:
            _tint(drawing, _mask_of(masks[index], boxes[index], image.shape[:2]), colors[index], style)
    for index in order:
        _box(drawing, boxes[index], colors[index], style, dashed=crowd is not None and bool(crowd[index]))
    if keypoints is not None:
        for index in order:
            _points(drawing, np.asarray(keypoints[index], np.float64), colors[index], style)
    for index in order:  # last, so that no line crosses them
        text = _name(class_names, int(classes[index]))
        if scores is not None:
            text += f" {float(scores[index]):.2f}"
        _label(drawing, text, boxes[index], colors[index], style)
    return drawing


def _style(shape: tuple[int, int]) -> _Style:
    factor = max(1, math.ceil(_SMALLEST / max(shape)))
    unit = factor * max(shape) / 512
    return _Style(factor, max(1, round(1.3 * unit)), 0.55 * unit, max(2, round(2 * unit)))


def _color(label: int) -> tuple[int, int, int]:
    """The colour of a class: with more classes than colours, the first are used again."""
    colors = palette.palette(255)
    red, green, blue = colors[label % len(colors)].tolist()
    return red, green, blue


def _name(class_names: Sequence[str], label: int) -> str:
    return str(class_names[label]) if 0 <= label < len(class_names) else str(label)


def _mask_of(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of an object's mask, be it of the whole image or of its box."""
    mask = np.asarray(mask)
    if mask.dtype.kind != "f":
        return mask.astype(bool)
    cv2 = _opencv()
    (x0, y0, x1, y1), (height, width) = box, mask.shape
    stretch_x, stretch_y = (x1 - x0) / width, (y1 - y0) / height
    # OpenCV's coordinates are those of pixels' centres, here as everywhere.
    matrix = np.array([[stretch_x, 0, x0 - 0.5 + stretch_x / 2], [0, stretch_y, y0 - 0.5 + stretch_y / 2]], np.float64)
    pasted = cv2.warpAffine(mask.astype(np.float32), matrix, shape[::-1], flags=cv2.INTER_LINEAR, borderValue=0)
    return pasted >= 0.5


def _tint(drawing: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], style: _Style) -> None:
    large = mask.repeat(style.factor, axis=0).repeat(style.factor, axis=1)
    if large.shape != drawing.shape[:2]:
        raise ValueError(f"masks of the whole image have its shape; given {mask.shape}, of an image of another.")
    drawing[large] = np.round(drawing[large] * (1 - _TINT) + _TINT * np.array(color)).astype(np.uint8)
    # Within the object, so that one at the image's edge is not outlined there.
    drawing[palette.outlines(large.astype(np.uint8), style.thickness) & large] = color


def _box(drawing: np.ndarray, box: np.ndarray, color: tuple[int, int, int], style: _Style, dashed: bool) -> None:
    x0, y0, x1, y1 = _within(box, drawing, style)
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        for one, other in _dashes(start, end, _DASH * style.thickness) if dashed else [(start, end)]:
            _opencv().line(drawing, _fixed(one), _fixed(other), color, style.thickness, _opencv().LINE_AA, _SHIFT)


def _dashes(start: tuple[float, float], end: tuple[float, float], length: float) -> list[tuple[Any, Any]]:
    """The parts of a line that are drawn; both ends are."""
    total = math.dist(start, end)
    parts = 2 * max(0, round((total / length - 1) / 2)) + 1
    places = [tuple(a + (b - a) * part / parts for a, b in zip(start, end, strict=True)) for part in range(parts + 1)]
    return list(zip(places[::2], places[1::2], strict=True))


def _points(drawing: np.ndarray, points: np.ndarray, color: tuple[int, int, int], style: _Style) -> None:
    cv2, radius = _opencv(), 2.2 * style.thickness
    for x, y, shown in points:
        if shown <= 0 or not (np.isfinite(x) and np.isfinite(y)):
            continue
        centre = _fixed((style.factor * x - 0.5, style.factor * y - 0.5))
        cv2.circle(drawing, centre, round(radius * 2**_SHIFT), color, cv2.FILLED, cv2.LINE_AA, _SHIFT)
        rim = (255, 255, 255) if _is_dark(color) else (0, 0, 0)
        cv2.circle(drawing, centre, round(radius * 2**_SHIFT), rim, max(1, style.thickness // 2), cv2.LINE_AA, _SHIFT)


def _label(drawing: np.ndarray, text: str, box: np.ndarray, color: tuple[int, int, int], style: _Style) -> None:
    """The text on the box's top edge, or below that where there is no room above."""
    cv2, font = _opencv(), _opencv().FONT_HERSHEY_SIMPLEX
    thickness = max(1, round(style.text))
    (width, height), below = cv2.getTextSize(text, font, style.text, thickness)
    width, height = width + 2 * style.padding, height + below + style.padding
    x0, y0, _, _ = _within(box, drawing, style)
    left = max(0, min(round(x0 - style.thickness / 2), drawing.shape[1] - width))
    top = round(y0 - style.thickness / 2) - height
    if top < 0:
        top = round(y0 - style.thickness / 2)
    cv2.rectangle(drawing, (left, top), (left + width - 1, top + height - 1), color, cv2.FILLED)
    ink = (255, 255, 255) if _is_dark(color) else (0, 0, 0)
    place = (left + style.padding, top + height - below)
    cv2.putText(drawing, text, place, font, style.text, ink, thickness, cv2.LINE_AA)


def _within(box: np.ndarray, drawing: np.ndarray, style: _Style) -> tuple[float, float, float, float]:
    """The box in the drawing's pixels as OpenCV counts them, its line within the drawing."""
    inset = (style.thickness - 1) / 2
    x0, y0, x1, y1 = (float(side) for side in style.factor * box - 0.5)
    right, bottom = drawing.shape[1] - 1 - inset, drawing.shape[0] - 1 - inset
    return (
        min(max(x0, inset), right), min(max(y0, inset), bottom), min(max(x1, inset), right), min(max(y1, inset), bottom)
    )  # fmt: skip


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    return round(point[0] * 2**_SHIFT), round(point[1] * 2**_SHIFT)


def _is_dark(color: tuple[int, int, int]) -> bool:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 128


def _opencv():
    import cv2

    return cv2
