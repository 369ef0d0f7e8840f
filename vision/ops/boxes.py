"""Boxes: areas, overlaps, conversions and offsets from anchors.

A box is (x0, y0, x1, y1) in pixels of the model's input, float32; x1 and y1 are exclusive, so that x1 - x0 is the width
and a box from 0 to 1 covers the first pixel. Arrays of boxes are padded with zeros and go with a `valid` mask. Sources
convert into this format and exports out of it; everything between keeps to it.

All functions take one image's boxes and are meant for `jax.vmap` over images. Empty boxes (x1 <= x0 or y1 <= y0, the
padding among them) have area 0 and overlap nothing; neither they nor their gradients are ever NaN.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Num

Boxes = Float[Array, "boxes 4"]
AnyBoxes = Float[Array, "*shape 4"]
Values = Float[Array, "*shape"]
Number = int | float
Four = tuple[Number, Number, Number, Number]
Size = tuple[int, int] | Num[Array, "2"]

# The largest growth that offsets can ask for: Faster R-CNN's images have 1000 pixels and features of stride 16.
MAX_LOG_GROWTH = math.log(1000 / 16)
_SMALLEST_SIDE = 1e-6  # pixels; keeps quotients and logarithms of empty boxes finite
_EPSILON = 1e-7


def sides(boxes: AnyBoxes) -> tuple[Values, Values]:
    """Width and height of each box in pixels, 0 where a box ends before it starts."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0), jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)


def area(boxes: AnyBoxes) -> Values:
    """Area of each box in square pixels; 0 for empty boxes."""
    width, height = sides(boxes)
    return width * height


def is_valid(boxes: AnyBoxes, min_size: Number = 0.0) -> Bool[Array, "*shape"]:
    """Whether each box is finite, has an area, and neither side is below `min_size` pixels."""
    width, height = sides(boxes)
    shortest = jnp.minimum(width, height)
    return jnp.all(jnp.isfinite(boxes), axis=-1) & (shortest > 0) & (shortest >= min_size)


def clip(boxes: AnyBoxes, size: Size) -> AnyBoxes:
    """The part of each box inside the image; a box wholly outside becomes an empty one on the edge.

    Args:
        boxes: (..., 4).
        size: (height, width) of the image, numbers or an array.
    """
    height, width = size[0], size[1]
    limits = jnp.stack([jnp.asarray(limit, boxes.dtype) for limit in (width, height, width, height)])
    return jnp.clip(boxes, 0, limits)


def to_xywh(boxes: AnyBoxes) -> AnyBoxes:
    """(x0, y0, x1, y1) to (x0, y0, width, height), COCO's format."""
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def from_xywh(boxes: AnyBoxes) -> AnyBoxes:
    """(x0, y0, width, height), COCO's format, to (x0, y0, x1, y1)."""
    return jnp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def to_cxcywh(boxes: AnyBoxes) -> AnyBoxes:
    """(x0, y0, x1, y1) to (centre x, centre y, width, height)."""
    return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def from_cxcywh(boxes: AnyBoxes) -> AnyBoxes:
    """(centre x, centre y, width, height) to (x0, y0, x1, y1)."""
    half = boxes[..., 2:] / 2
    return jnp.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def iou(first: Float[Array, "*#shape 4"], second: Float[Array, "*#shape 4"]) -> Float[Array, "..."]:
    """Intersection over union of each box with its counterpart; leading dimensions broadcast. 0 for empty boxes."""
    intersection, union = _intersection_and_union(first, second)
    return _divide(intersection, union)


def giou(first: Float[Array, "*#shape 4"], second: Float[Array, "*#shape 4"]) -> Float[Array, "..."]:
    """Generalised IoU of each box with its counterpart, -1 to 1 (Rezatofighi et al. 2019, algorithm 1).

    IoU less the share of the enclosing box that neither box covers; two empty boxes in one place have 0.
    """
    intersection, union = _intersection_and_union(first, second)
    width, height = _enclosing_sides(first, second)
    enclosing = width * height
    return _divide(intersection, union) - _divide(enclosing - union, enclosing)


def diou(first: Float[Array, "*#shape 4"], second: Float[Array, "*#shape 4"]) -> Float[Array, "..."]:
    """Distance IoU of each box with its counterpart, -1 to 1 (Zheng et al. 2020, equation 7).

    IoU less the squared distance of the centres over the squared diagonal of the enclosing box.
    """
    width, height = _enclosing_sides(first, second)
    distance = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    return iou(first, second) - jnp.sum(distance**2, axis=-1) / (width**2 + height**2 + _EPSILON)


def ciou(first: Float[Array, "*#shape 4"], second: Float[Array, "*#shape 4"]) -> Float[Array, "..."]:
    """Complete IoU of each box with its counterpart (Zheng et al. 2020, equations 8 to 11).

    Distance IoU less alpha v, where v measures how much the aspect ratios differ. No gradient flows through alpha.
    """
    # The arctangent of the quotient, with a floor under both sides, has a gradient for empty boxes as well.
    angles = [jnp.arctan(_divide(width, height, when_zero=1.0)) for width, height in map(sides, (first, second))]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    alpha = lax.stop_gradient(v / (1 - iou(first, second) + v + _EPSILON))
    return diou(first, second) - alpha * v


def pairwise(
    first: Float[Array, "rows 4"],
    second: Float[Array, "columns 4"],
    similarity: Callable[[Array, Array], Array] = iou,
) -> Float[Array, "rows columns"]:
    """The matrix of every box of one set with every box of another.

    Args:
        first: (rows, 4).
        second: (columns, 4).
        similarity: `iou`, `giou`, `diou` or `ciou`.
    """
    return similarity(first[:, None], second[None])


def covered(boxes: Float[Array, "rows 4"], regions: Float[Array, "columns 4"]) -> Float[Array, "rows columns"]:
    """The share of each box's area that lies in each region, 0 for empty boxes.

    What decides about regions that are neither objects nor background: a small box in the middle of a crowd has hardly
    any IoU with it.

    Args:
        boxes: (rows, 4).
        regions: (columns, 4).
    """
    intersection, _ = _intersection_and_union(boxes[:, None], regions[None])
    return _divide(intersection, jnp.broadcast_to(area(boxes)[:, None], intersection.shape))


def encode(boxes: AnyBoxes, anchors: AnyBoxes, weights: Four = (1.0, 1.0, 1.0, 1.0)) -> AnyBoxes:
    """The offsets (dx, dy, dw, dh) that turn each anchor into its box (Girshick et al. 2014, appendix C).

    Centres move by dx anchor widths, sides grow by exp(dw); each offset is then multiplied by its weight. Sides below a
    millionth of a pixel count as that, so that the offsets of padding are finite.

    Args:
        boxes: (..., 4) boxes to reach.
        anchors: (..., 4) anchors or proposals to start from.
        weights: factors of dx, dy, dw, dh. Fast R-CNN's head takes (10, 10, 5, 5), SSD too, under the name of
            variances (0.1, 0.1, 0.2, 0.2).
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    size, anchor_size = jnp.maximum(size, _SMALLEST_SIDE), jnp.maximum(anchor_size, _SMALLEST_SIDE)
    offsets = jnp.concatenate([(centre - anchor_centre) / anchor_size, jnp.log(size / anchor_size)], axis=-1)
    return offsets * jnp.asarray(weights, offsets.dtype)


def decode(
    offsets: Float[Array, "*#shape 4"],
    anchors: Float[Array, "*#shape 4"],
    weights: Four = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "... 4"]:
    """The box each anchor becomes by its offsets: the inverse of `encode`. Leading dimensions broadcast.

    Args:
        offsets: (..., 4) predicted (dx, dy, dw, dh); dw and dh, without their weights, count up to log(1000 / 16).
        anchors: (..., 4) anchors or proposals.
        weights: as given to `encode`.
    """
    offsets = offsets.astype(jnp.float32) / jnp.asarray(weights, jnp.float32)
    centre, size = _centre_and_size(anchors)
    centre = centre + offsets[..., :2] * size
    half = size * jnp.exp(jnp.minimum(offsets[..., 2:], MAX_LOG_GROWTH)) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _intersection_and_union(first: Array, second: Array) -> tuple[Array, Array]:
    # Written by coordinate: XLA vectorises it better than pairs of columns.
    width = jnp.minimum(first[..., 2], second[..., 2]) - jnp.maximum(first[..., 0], second[..., 0])
    height = jnp.minimum(first[..., 3], second[..., 3]) - jnp.maximum(first[..., 1], second[..., 1])
    intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    return intersection, area(first) + area(second) - intersection


def _enclosing_sides(first: Array, second: Array) -> tuple[Array, Array]:
    width = jnp.maximum(first[..., 2], second[..., 2]) - jnp.minimum(first[..., 0], second[..., 0])
    height = jnp.maximum(first[..., 3], second[..., 3]) - jnp.minimum(first[..., 1], second[..., 1])
    return jnp.maximum(width, 0), jnp.maximum(height, 0)


def _centre_and_size(boxes: Array) -> tuple[Array, Array]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def _divide(numerator: Array, denominator: Array, when_zero: float = 0.0) -> Array:
    """The quotient, `when_zero` where the denominator is not positive; finite with its gradient."""
    safe = jnp.where(denominator > 0, denominator, 1.0)
    return jnp.where(denominator > 0, numerator / safe, when_zero)
