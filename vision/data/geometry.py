"""Where pixels go: geometric transforms as one 3x3 matrix, and the resampling of images and label maps by it.

Coordinates are continuous, (x, y), x to the right and y down. The pixel in row i and column j covers the square
[j, j + 1) x [i, i + 1), so that its centre is (j + 0.5, i + 0.5) and an image of height h and width w covers
[0, w) x [0, h). Boxes, whose ends are exclusive, and keypoints live in the same plane: one matrix moves them all.
OpenCV counts from the centre of the first pixel instead; `_to_opencv` changes from the one to the other.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from vision.data import images

Shape = tuple[int, int]  # height, width

_WHOLE = 1e-6  # how far from a whole number of pixels rounding errors may lead


class Affine(NamedTuple):
    """The first two rows of a 3x3 matrix, whose last is (0, 0, 1): x' = xx x + xy y + x0, and y' = yx x + yy y + y0.

    Plain numbers, for the matrices of a small image's transforms would take NumPy longer than its pixels.
    """

    xx: float = 1.0
    xy: float = 0.0
    x0: float = 0.0
    yx: float = 0.0
    yy: float = 1.0
    y0: float = 0.0

    def after(self, first: "Affine") -> "Affine":
        """The matrix product self @ first."""
        a, b, c, d, e, f = self
        xx, xy, x0, yx, yy, y0 = first
        return Affine(
            a * xx + b * yx, a * xy + b * yy, a * x0 + b * y0 + c, d * xx + e * yx, d * xy + e * yy, d * x0 + e * y0 + f
        )

    def inverse(self) -> "Affine":
        """The way back."""
        area = self.area()
        xx, xy, yx, yy = self.yy / area, -self.xy / area, -self.yx / area, self.xx / area
        return Affine(xx, xy, -xx * self.x0 - xy * self.y0, yx, yy, -yx * self.x0 - yy * self.y0)

    def area(self) -> float:
        """What becomes of a unit of area; negative where left and right are exchanged."""
        return self.xx * self.yy - self.xy * self.yx

    def upright(self) -> bool:
        """Whether rows stay rows and columns columns, so that upright boxes stay upright."""
        return abs(self.xy) < 1e-12 and abs(self.yx) < 1e-12

    def hull(self, height: float, width: float) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) of the smallest upright rectangle that holds what becomes of [0, width) x [0, height)."""
        xs, ys = (0.0, self.xx * width), (0.0, self.xy * height)
        us, vs = (0.0, self.yx * width), (0.0, self.yy * height)
        return (
            self.x0 + min(xs) + min(ys),
            self.y0 + min(us) + min(vs),
            self.x0 + max(xs) + max(ys),
            self.y0 + max(us) + max(vs),
        )

    def rows(self) -> np.ndarray:
        """(3, 3) float64."""
        return np.array([self[:3], self[3:], (0.0, 0.0, 1.0)])

    def of(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) points (x, y) -> where they go, float64."""
        return points @ np.array([[self.xx, self.yx], [self.xy, self.yy]]) + np.array([self.x0, self.y0])


class Geometry(NamedTuple):
    """A change of coordinates and the canvas of its result.

    Attributes:
        matrix: from the source to the result.
        shape: height and width of the result.
        fill: what comes into view: a grey level, or (red, green, blue); None where nothing can.
        method: interpolation of images: "auto", "linear", "area", "cubic" or "nearest".
        border: whether the source ends at the edges of its canvas, so that all beyond is filled, even if an earlier
            transform has cut away something that could be shown there.
        size: where the result is a padded image, its height and width without the padding.
        swap: pairs of keypoints that exchange their places, one pair after the other.
        by_centre: whether objects whose centre is not on the canvas are taken out, however much of them there is.
    """

    matrix: Affine
    shape: Shape
    fill: int | tuple[float, float, float] | None = None
    method: str = "auto"
    border: bool = False
    size: Shape | None = None
    swap: tuple[tuple[int, int], ...] = ()
    by_centre: bool = False


def identity(shape: Shape) -> Geometry:
    """Everything stays."""
    return Geometry(Affine(), shape)


def crop(top: int, left: int, shape: Shape, **facts: Any) -> Geometry:
    """The window of this shape whose first pixel is (top, left); `facts` are further attributes."""
    return Geometry(Affine(x0=-left, y0=-top), shape, **facts)


def resize(source: Shape, shape: Shape, **facts: Any) -> Geometry:
    """The whole source on a canvas of this shape."""
    return Geometry(Affine(xx=shape[1] / source[1], yy=shape[0] / source[0]), shape, **facts)


def mirror(shape: Shape, axis: int, **facts: Any) -> Geometry:
    """Exchanges top and bottom (axis 0) or left and right (axis 1)."""
    matrix = Affine(yy=-1.0, y0=shape[0]) if axis == 0 else Affine(xx=-1.0, x0=shape[1])
    return Geometry(matrix, shape, **facts)


def about_centre(
    shape: Shape, linear: tuple[float, float, float, float], shift: tuple[float, float] = (0.0, 0.0), **facts: Any
) -> Geometry:
    """Moves what is at centre + p to centre + linear @ p + shift, on a canvas of the same shape.

    Args:
        shape: height and width.
        linear: the rows of the 2x2 matrix, one after the other.
        shift: to the right, and down, in pixels.
        **facts: further attributes.
    """
    xx, xy, yx, yy = linear
    x, y = shape[1] / 2, shape[0] / 2
    matrix = Affine(xx, xy, x - xx * x - xy * y + shift[0], yx, yy, y - yx * x - yy * y + shift[1])
    return Geometry(matrix, shape, **facts)


def then(first: Geometry, second: Geometry) -> Geometry:
    """One after the other, as one; associative. See `joins` for where that is the same thing."""
    return Geometry(
        second.matrix.after(first.matrix),
        second.shape,
        second.fill if first.fill is None else first.fill,
        second.method if first.method == "auto" else first.method,
        first.border or second.border,
        second.size or first.size,
        first.swap + second.swap,
    )


def joins(source: Shape, first: Geometry, second: Geometry) -> bool:
    """Whether `then(first, second)` of a source of this shape gives what the two mean one by one.

    They must not disagree on the fill or the interpolation, and nothing that the first has cut away may show in a
    border of the second. Other transforms that make room do show it again: better than a grey level.
    """
    fills = None in (first.fill, second.fill) or fill_values(first.fill, 3) == fill_values(second.fill, 3)
    methods = "auto" in (first.method, second.method) or first.method == second.method
    return fills and methods and not (second.border and _cuts(source, first))


def visible_part(geometry: Geometry, source: Shape) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the smallest upright window of the source that holds all that is shown of it."""
    x0, y0, x1, y1 = geometry.matrix.inverse().hull(*geometry.shape)
    left, right = (min(max(x, 0), source[1]) for x in (math.floor(x0 + _WHOLE), math.ceil(x1 - _WHOLE)))
    top, bottom = (min(max(y, 0), source[0]) for y in (math.floor(y0 + _WHOLE), math.ceil(y1 - _WHOLE)))
    return top, left, bottom, right


def move_image(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The image on its new canvas, resampled at most once.

    Crops, flips, whole-pixel shifts and resizes are recognised and exact: slices, and OpenCV's resize. Everything else
    is one interpolation, of an image that is first shrunk by means over areas where it would lose more than every
    second pixel.

    Args:
        image: (H, W, C) uint8.
        geometry: where to.

    Returns:
        (*geometry.shape, C) uint8; a view where that will do, and the image itself where nothing moves.
    """
    if _stays(geometry, image.shape[:2]):
        return image
    if not geometry.matrix.upright():
        return _general(image, geometry)
    stretch_x, _, x, _, stretch_y, y = geometry.matrix
    mirrored, upset = stretch_x < 0, stretch_y < 0
    if mirrored:
        stretch_x, x = -stretch_x, geometry.shape[1] - x
    if upset:
        stretch_y, y = -stretch_y, geometry.shape[0] - y
    moved = _upright(image, geometry, stretch_x, x, stretch_y, y)
    if not (mirrored or upset):
        return moved
    return _with_channel(images.opencv().flip(moved, -1 if mirrored and upset else int(mirrored)))


def move_labels(labels: np.ndarray, geometry: Geometry, fill: int) -> np.ndarray:
    """Label maps on their new canvas: each pixel gets the label of the source's pixel that holds its centre.

    Args:
        labels: (..., H, W) uint8: class ids, or masks of instances.
        geometry: where to.
        fill: the label of what comes into view.
    """
    if _stays(geometry, labels.shape[-2:]):
        return labels
    matrix, (height, width) = geometry.matrix, geometry.shape
    moved = np.full((*labels.shape[:-2], height, width), fill, labels.dtype)
    places = [place for place in np.ndindex(labels.shape[:-2]) if (labels[place] != fill).any()]  # a list is padded
    if matrix.upright():
        rows, from_rows = _nearest(height, labels.shape[-2], matrix.yy, matrix.y0)
        columns, from_columns = _nearest(width, labels.shape[-1], matrix.xx, matrix.x0)
        for place in places:
            moved[place][rows, columns] = labels[place][from_rows][:, from_columns]
        return moved
    cv2, opencv_rows = images.opencv(), _to_opencv(matrix).rows()[:2]
    for place in places:
        moved[place] = cv2.warpAffine(
            labels[place], opencv_rows, (width, height), flags=cv2.INTER_NEAREST, borderValue=fill
        )
    return moved


def _nearest(length: int, source_length: int, stretch: float, shift: float) -> tuple[slice, slice | np.ndarray]:
    """Which of the rows (or columns) of a canvas show one of the source, and which one each of them shows."""
    source = np.floor((np.arange(length) + 0.5 - shift) / stretch + _WHOLE).astype(int)
    seen = np.flatnonzero((source >= 0) & (source < source_length))  # neighbours, for the source is in order
    if not len(seen):
        return slice(0, 0), slice(0, 0)
    source = source[seen]
    if stretch == 1.0:
        source = slice(source[0], source[-1] + 1)
    elif stretch == -1.0:
        source = slice(source[0], source[-1] - 1 if source[-1] else None, -1)
    return slice(seen[0], seen[-1] + 1), source


def resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """The whole image (H, W, C) at this size; "auto" is "area" where a side shrinks to less than half, or "linear"."""
    if image.shape[:2] == (height, width):
        return image
    cv2 = images.opencv()
    if method == "auto":
        method = "area" if 2 * height < image.shape[0] or 2 * width < image.shape[1] else "linear"
    return _with_channel(cv2.resize(image, (width, height), interpolation=getattr(cv2, f"INTER_{method.upper()}")))


def _upright(
    image: np.ndarray, geometry: Geometry, stretch_x: float, x: float, stretch_y: float, y: float
) -> np.ndarray:
    """`move_image` by another matrix: x and y are stretched by these positive factors, and then shifted."""
    (height, width), (image_height, image_width) = geometry.shape, image.shape[:2]
    seen = _whole(-y / stretch_y, -x / stretch_x, (height - y) / stretch_y, (width - x) / stretch_x)
    if seen and 0 <= seen[0] < seen[2] <= image_height and 0 <= seen[1] < seen[3] <= image_width:
        top, left, bottom, right = seen
        return resized(image[top:bottom, left:right], height, width, geometry.method)
    placed = _whole(y, x, y + stretch_y * image_height, x + stretch_x * image_width)
    if placed:
        top, left, bottom, right = placed
        # Nothing is gained by enlarging all of an image of which little is seen.
        if 0 < (bottom - top) * (right - left) <= 4 * max(height * width, image_height * image_width):
            return _place(resized(image, bottom - top, right - left, geometry.method), top, left, geometry)
    return _general(image, geometry._replace(matrix=Affine(xx=stretch_x, x0=x, yy=stretch_y, y0=y)))


def _place(image: np.ndarray, top: int, left: int, geometry: Geometry) -> np.ndarray:
    """A canvas with the image's first pixel at (top, left)."""
    height, width = geometry.shape
    first, start = max(0, -top), max(0, -left)
    seen = image[first : max(first, height - top), start : max(start, width - left)]
    if seen.shape[:2] == geometry.shape:
        return seen
    fill = fill_values(geometry.fill, image.shape[2])
    if not seen.size:
        return np.full((height, width, image.shape[2]), fill, np.uint8)
    cv2, top, left = images.opencv(), max(0, top), max(0, left)
    bottom, right = height - top - seen.shape[0], width - left - seen.shape[1]
    return _with_channel(cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill))


def _general(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """`move_image` by interpolation between pixels."""
    cv2, matrix, (height, width) = images.opencv(), geometry.matrix, geometry.shape
    stretch = math.hypot(matrix.xx, matrix.yx), math.hypot(matrix.xy, matrix.yy)  # of a pixel's width and height
    margin = 2 + math.ceil(2 / max(min(stretch), 1e-3))
    top, left, bottom, right = visible_part(geometry, image.shape[:2])
    top, left = max(0, top - margin), max(0, left - margin)
    image = image[top : bottom + margin, left : right + margin]
    fill = fill_values(geometry.fill, image.shape[2])
    if not image.size:
        return np.full((height, width, image.shape[2]), fill, np.uint8)
    matrix = matrix.after(Affine(x0=left, y0=top))
    if min(stretch) < {"auto": 0.5, "area": 1.0}.get(geometry.method, 0.0):
        shrunk = [max(1, round(side * min(1.0, by))) for side, by in zip(image.shape[1::-1], stretch, strict=True)]
        matrix = matrix.after(Affine(xx=image.shape[1] / shrunk[0], yy=image.shape[0] / shrunk[1]))
        image = resized(image, shrunk[1], shrunk[0], "area")
    moved = cv2.warpAffine(
        image,
        _to_opencv(matrix).rows()[:2],
        (width, height),
        flags={"nearest": cv2.INTER_NEAREST, "cubic": cv2.INTER_CUBIC}.get(geometry.method, cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_REPLICATE if geometry.fill is None else cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    return _with_channel(moved)


@functools.lru_cache(maxsize=64)
def fill_values(fill: int | tuple[float, float, float] | None, channels: int) -> tuple[int, ...]:
    """The values 0..255 of a fill; a colour in a grey image is its luma."""
    colour = np.broadcast_to(np.asarray(0 if fill is None else fill, np.float64), 3)
    values = colour if channels == 3 else np.full(channels, colour @ LUMA)
    return tuple(np.clip(np.rint(values), 0, 255).astype(int).tolist())


LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601


def _stays(geometry: Geometry, source: Shape) -> bool:
    """Whether everything on a canvas of this shape stays as it is."""
    xx, xy, x0, yx, yy, y0 = geometry.matrix
    moved = abs(xx - 1) + abs(xy) + abs(x0) + abs(yx) + abs(yy - 1) + abs(y0)
    return moved < 1e-12 and geometry.shape == source


def _cuts(source: Shape, geometry: Geometry) -> bool:
    """Whether some of the source lies outside the canvas."""
    x0, y0, x1, y1 = geometry.matrix.hull(*source)
    return min(x0, y0) < -_WHOLE or x1 > geometry.shape[1] + _WHOLE or y1 > geometry.shape[0] + _WHOLE


def _whole(*numbers: float) -> list[int] | None:
    """The numbers as integers, or None where they are none."""
    rounded = []
    for number in numbers:
        whole = round(number)
        if abs(number - whole) >= _WHOLE:
            return None
        rounded.append(whole)
    return rounded


def _to_opencv(matrix: Affine) -> Affine:
    """For coordinates in which the centre of the first pixel is (0, 0)."""
    return Affine(x0=-0.5, y0=-0.5).after(matrix).after(Affine(x0=0.5, y0=0.5))


def _with_channel(image: np.ndarray) -> np.ndarray:
    """(H, W, C) again, for OpenCV drops a single channel."""
    return image if image.ndim == 3 else image[..., None]
