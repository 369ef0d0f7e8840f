"""Windows that slide over an image, the boxes found in them, and the boxes of many windows merged into few.

Sermanet et al. 2014 (arXiv:1312.6229), sections 3.5 and 4.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from vision.ops import boxes as box_ops
from vision.ops.boxes import Boxes
from vision.ops.nms import Threshold


def sliding_windows(map_size: tuple[int, int], side: int, stride: int) -> Float[Array, "windows 4"]:
    """The square of the image that each place of a dense classifier's map looks at, row by row.

    Args:
        map_size: (rows, columns) of the map.
        side: of the windows in pixels: that of the smallest image the network takes.
        stride: pixels from one window to the next.
    """
    rows, columns = (jnp.arange(size) * float(stride) for size in map_size)
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    corner = jnp.stack([x, y], axis=-1).reshape(-1, 2).astype(jnp.float32)
    return jnp.concatenate([corner, corner + side], axis=1)


def from_windows(shares: Float[Array, "*#shape 4"], windows: Float[Array, "*#shape 4"]) -> Float[Array, "... 4"]:
    """Boxes in pixels of the image from boxes as shares of their windows' sides. Leading dimensions broadcast.

    Args:
        shares: (..., 4) x0, y0, x1, y1; 0 is the window's left or upper side and 1 its right or lower one.
        windows: (..., 4) in pixels.
    """
    size = windows[..., 2:] - windows[..., :2]
    return jnp.concatenate([windows[..., :2]] * 2, axis=-1) + shares * jnp.concatenate([size, size], axis=-1)


def match_score(first: Float[Array, "*#shape 4"], second: Float[Array, "*#shape 4"]) -> Float[Array, "..."]:
    """How badly two boxes match, 0 for equal ones to almost 2 for small ones far apart; leading dimensions broadcast.

    The paper adds the distance of the centres to the intersection, and does not say in which units (section 4.3). Here
    it is the distance over the diagonal of the smallest box that holds both, and 1 - IoU.

    Args:
        first: (..., 4).
        second: (..., 4).
    """
    low, high = jnp.minimum(first[..., :2], second[..., :2]), jnp.maximum(first[..., 2:], second[..., 2:])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    diagonal = jnp.maximum(jnp.sqrt(jnp.sum((high - low) ** 2, axis=-1)), 1e-6)
    return jnp.sqrt(jnp.sum(apart**2, axis=-1)) / diagonal + 1 - box_ops.iou(first, second)


def merge(
    boxes: Boxes, scores: Float[Array, " boxes"], valid: Bool[Array, " boxes"], threshold: Threshold
) -> tuple[Boxes, Float[Array, " boxes"], Bool[Array, " boxes"]]:
    """Merges the two boxes that match best, again and again, while they match well enough (section 4.3, greedy).

    Unlike non-maximum suppression it is the boxes that many windows agree on that win: a merged box has the mean of the
    two boxes' coordinates and the sum of their scores. It takes the place of the first; the second becomes empty.

    Args:
        boxes: (n, 4) of one class, from all windows and scales.
        scores: (n,).
        valid: (n,) False for padding.
        threshold: largest `match_score` of two boxes that are merged.

    Returns:
        boxes, scores and valid as given, with zeros in places that are empty now.
    """
    count = len(scores)
    first = jnp.arange(count)[:, None] < jnp.arange(count)  # each pair once

    def best(boxes: Array, valid: Array) -> tuple[Array, Array]:
        costs = match_score(boxes[:, None], boxes[None])
        costs = jnp.where(first & valid[:, None] & valid, costs, jnp.inf).reshape(-1)
        place = jnp.argmin(costs)
        return costs[place], place

    def goes_on(state: tuple) -> Array:
        return state[3] <= threshold

    def step(state: tuple) -> tuple:
        boxes, scores, valid, _, place = state
        one, other = place // count, place % count
        boxes = boxes.at[one].set((boxes[one] + boxes[other]) / 2).at[other].set(0.0)
        scores = scores.at[one].add(scores[other]).at[other].set(0.0)
        valid = valid.at[other].set(False)
        return boxes, scores, valid, *best(boxes, valid)

    boxes, scores = jnp.where(valid[:, None], boxes, 0.0), jnp.where(valid, scores, 0.0)
    if count < 2:
        return boxes, scores, valid
    return lax.while_loop(goes_on, step, (boxes, scores, valid, *best(boxes, valid)))[:3]
