"""Masks and key points between a box's own grid and the image: masks pasted into the image, key points as heat maps.

All functions take one image; `jax.vmap` over images.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vision.ops.boxes import Boxes

Heatmaps = Float[Array, "boxes points size size"]
Keypoints = Float[Array, "boxes points 3"]
Pair = tuple[int, int]


def paste_masks(
    masks: Float[Array, "boxes size size"], boxes: Boxes, image_size: Pair
) -> Float[Array, "boxes height width"]:
    """Each mask stretched over its box, bilinearly, 0 outside (He et al. 2017, section 3.1, inference).

    A pixel takes the value of the mask at its centre; around the mask its values fade to 0 within one of its own
    cells. The boxes are not rounded to pixels first.

    Args:
        masks: (boxes, size, size), probabilities as a rule; a pixel belongs to the object from one half.
        boxes: (boxes, 4) in pixels of the result. Empty ones give zeros.
        image_size: (height, width) of the result.

    Returns:
        (boxes, height, width) float32.
    """
    size = masks.shape[1]

    def matrix(start: Array, end: Array, pixels: int) -> Array:
        """(boxes, pixels, size): the weights of the mask's cells for each pixel along one axis."""
        length = jnp.where(end > start, end - start, 1.0)[:, None]
        position = (jnp.arange(pixels) + 0.5 - start[:, None]) / length * size - 0.5
        weights = jnp.maximum(1 - jnp.abs(position[..., None] - jnp.arange(size)), 0)
        return jnp.where((end > start)[:, None, None], weights, 0.0)

    over_rows = matrix(boxes[:, 1], boxes[:, 3], image_size[0])
    over_columns = matrix(boxes[:, 0], boxes[:, 2], image_size[1])
    rows = jnp.einsum("nhi,nij->nhj", over_rows, masks.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    return jnp.einsum("nwj,nhj->nhw", over_columns, rows, precision=lax.Precision.HIGHEST)


def encode_keypoints(
    keypoints: Keypoints, boxes: Boxes, size: int
) -> tuple[Int[Array, "boxes points"], Bool[Array, "boxes points"]]:
    """The cell of each box's heat map that a key point lies in: the class to predict (He et al. 2017, section 5).

    Args:
        keypoints: (boxes, points, 3) x, y and visibility, in pixels of the image.
        boxes: (boxes, 4).
        size: cells of a side of the heat map.

    Returns:
        (boxes, points) int32 row * size + column, 0 where there is none; and (boxes, points) whether there is one: the
        point is labelled (visibility above 0) and lies in the box, its right and bottom edge included.
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    points, length = keypoints[..., :2], end - start
    # A point on the far edge belongs to the last cell.
    cell = jnp.floor((points - start) / jnp.where(length > 0, length, 1.0) * size)
    cell = jnp.where(points == end, size - 1, cell)
    inside = (points >= start) & (points <= end) & (length > 0)
    exists = jnp.all(inside, axis=-1) & (keypoints[..., 2] > 0)
    cell = jnp.clip(jnp.where(exists[..., None], cell, 0), 0, size - 1).astype(jnp.int32)
    return cell[..., 1] * size + cell[..., 0], exists


def decode_keypoints(heatmaps: Heatmaps, boxes: Boxes) -> Keypoints:
    """The place of the largest value of each heat map, refined between cells.

    A parabola through the largest value and its two neighbours, along each axis, gives the place of the peak to a
    fraction of a cell. The published networks enlarge the heat map to the box's size in pixels instead, a shape that
    varies; the two agree to a fraction of a cell.

    Args:
        heatmaps: (boxes, points, size, size) logits.
        boxes: (boxes, 4).

    Returns:
        (boxes, points, 3) x and y in pixels of the image, and the largest value of the heat map.
    """
    number, points, size, _ = heatmaps.shape
    flat = heatmaps.astype(jnp.float32).reshape(number, points, size**2)
    best = jnp.argmax(flat, axis=-1)
    row, column = best // size, best % size
    peak = jnp.take_along_axis(flat, best[..., None], axis=-1)[..., 0]

    def refine(cell: Array, step: int) -> Array:
        """The peak's distance from the cell's centre, within half a cell; 0 at the map's edge."""
        at_edge = (cell == 0) | (cell == size - 1)
        neighbours = jnp.clip(jnp.stack([best - step, best + step], axis=-1), 0, size**2 - 1)
        before, after = jnp.moveaxis(jnp.take_along_axis(flat, neighbours, axis=-1), -1, 0)
        curvature = 2 * peak - before - after
        flat_top = at_edge | (curvature <= 0)
        return jnp.where(flat_top, 0.0, (after - before) / (2 * jnp.where(flat_top, 1.0, curvature)))

    cells = jnp.stack([column + refine(column, 1), row + refine(row, size)], axis=-1) + 0.5
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    return jnp.concatenate([start + cells / size * (end - start), peak[..., None]], axis=-1)
