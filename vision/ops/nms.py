"""Non-maximum suppression: of boxes on the same object the best one stays.

All functions take one image; `jax.vmap` over images. The number of boxes that stay is padded to a fixed size.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vision.ops.boxes import Boxes, Number, iou

Scores = Float[Array, " boxes"]
Classes = Int[Array, " boxes"]
Valid = Bool[Array, " boxes"]
Threshold = Number | Float[Array, ""]
Kept = tuple[Int[Array, " num"], Bool[Array, " num"]]

_BLOCK = 128  # boxes decided at a time
_CHUNK = 256  # boxes that stay, compared with a block at a time


def nms(boxes: Boxes, scores: Scores, threshold: Threshold, num: int, valid: Valid | None = None) -> Kept:
    """Greedy non-maximum suppression: a box stays unless it overlaps a better one that stays by more than a threshold.

    Suppressed is what lies strictly above the threshold; of equal scores the box that comes first is the better; boxes
    without area overlap nothing and stay. No gradient flows through the choice: gather boxes and scores by index.

    The boxes are sorted and decided block by block, each against those that stay so far and then within itself, so
    that time goes with boxes x num and ends when `num` have been found.

    Args:
        boxes: (boxes, 4); those that are not finite count as padding.
        scores: (boxes,); those of minus infinity, and NaN, count as padding.
        threshold: largest IoU of two boxes that both stay, at least 0.
        num: size of the result: the best `num` of the boxes that stay.
        valid: (boxes,) False for padding, which neither stays nor suppresses; None for all True.

    Returns:
        (num,) int32 indices by descending score, 0 in empty places, and (num,) whether a place is filled.
    """
    return _greedy(boxes, scores, None, threshold, num, valid)


def nms_per_class(
    boxes: Boxes, scores: Scores, classes: Classes, threshold: Threshold, num: int, valid: Valid | None = None
) -> Kept:
    """Non-maximum suppression where only boxes of the same class suppress each other; otherwise as `nms`.

    Args:
        boxes: (boxes, 4).
        scores: (boxes,).
        classes: (boxes,) class id, or any other number of a group, such as the level of a pyramid.
        threshold: largest IoU of two boxes of a class that both stay, at least 0.
        num: size of the result, all classes together.
        valid: (boxes,) False for padding; None for all True.

    Returns:
        (num,) int32 indices by descending score, 0 in empty places, and (num,) whether a place is filled.
    """
    return _greedy(boxes, scores, classes, threshold, num, valid)


def soft_nms(
    boxes: Boxes,
    scores: Scores,
    num: int,
    sigma: Number = 0.5,
    min_score: Number = 0.001,
    threshold: Threshold | None = None,
    classes: Classes | None = None,
    valid: Valid | None = None,
) -> tuple[Int[Array, " num"], Float[Array, " num"], Bool[Array, " num"]]:
    """Lowers the scores of boxes that overlap better ones instead of taking them out (Bodla et al. 2017, figure 2).

    The best box is taken, all others' scores are multiplied by exp(-IoU^2 / sigma), or with a threshold by 1 - IoU
    where IoU is above it, and so on. Each step depends on the last: `num` steps over all boxes. Scores are
    differentiable.

    Args:
        boxes: (boxes, 4).
        scores: (boxes,), not negative.
        num: size of the result.
        sigma: width of the Gaussian decay.
        min_score: boxes whose score falls below are left out.
        threshold: None for the Gaussian decay; otherwise that of the linear one.
        classes: (boxes,) where only boxes of the same class lower each other; None: all do.
        valid: (boxes,) False for padding; None for all True.

    Returns:
        (num,) int32 indices in the order taken, 0 in empty places, (num,) the lowered scores, 0 there, and (num,)
        whether a place is filled.
    """
    if boxes.shape[0] == 0:
        return jnp.zeros(num, jnp.int32), jnp.zeros(num, jnp.float32), jnp.zeros(num, bool)
    left = _without_padding(scores, valid)

    def take(left, _):
        best = jnp.argmax(left)
        score = left[best]
        overlap = iou(boxes[best], boxes)
        if threshold is None:
            decay = jnp.exp(-(overlap**2) / sigma)
        else:
            decay = jnp.where(overlap > threshold, 1 - overlap, 1.0)
        if classes is not None:
            decay = jnp.where(classes == classes[best], decay, 1.0)
        filled = score >= min_score
        # Taken and padded boxes stay at minus infinity; multiplying it would make NaN of it, or of its gradient.
        alive = (left > -jnp.inf) & (jnp.arange(left.shape[0]) != best)
        left = jnp.where(alive, jnp.where(alive, left, 0.0) * decay, -jnp.inf)
        return left, (jnp.where(filled, best, 0).astype(jnp.int32), jnp.where(filled, score, 0.0), filled)

    return lax.scan(take, left, length=num)[1]


def _greedy(
    boxes: Array, scores: Array, classes: Array | None, threshold: Threshold, num: int, valid: Array | None
) -> Kept:
    total = boxes.shape[0]
    if total == 0 or num == 0:
        return jnp.zeros(num, jnp.int32), jnp.zeros(num, bool)
    scores = _without_padding(scores, valid)
    scores = jnp.where(jnp.all(jnp.isfinite(boxes), axis=1), scores, -jnp.inf)
    boxes, scores = lax.stop_gradient((boxes, scores))
    order = jnp.argsort(-scores, stable=True).astype(jnp.int32)
    exists = jnp.sum(scores > -jnp.inf)
    groups = jnp.zeros(total, jnp.int32) if classes is None else classes
    # Coordinates in rows: neighbouring boxes then lie side by side in memory, which doubles the speed on CPU.
    padding = (0, -total % _BLOCK)
    boxes, groups = jnp.pad(boxes[order].T, ((0, 0), padding)), jnp.pad(groups[order], padding)
    slots = -(-num // _CHUNK) * _CHUNK
    place = jnp.arange(_BLOCK)

    def overlaps(one: Array, one_groups: Array, other: Array, other_groups: Array) -> Array:
        """(ones, others) IoU of boxes of the same group, else 0."""
        found = iou(one.T[:, None], other.T[None])
        return found if classes is None else jnp.where(one_groups[:, None] == other_groups[None], found, 0.0)

    def decide_block(state):
        start, count, kept, kept_groups, kept_index = state
        block = lax.dynamic_slice_in_dim(boxes, start, _BLOCK, axis=1)
        block_groups = lax.dynamic_slice_in_dim(groups, start, _BLOCK)

        def compare(chunk, largest):
            some = lax.dynamic_slice_in_dim(kept, chunk * _CHUNK, _CHUNK, axis=1)
            some_groups = lax.dynamic_slice_in_dim(kept_groups, chunk * _CHUNK, _CHUNK)
            return jnp.maximum(largest, jnp.max(overlaps(some, some_groups, block, block_groups), axis=0))

        largest = lax.fori_loop(0, (count + _CHUNK - 1) // _CHUNK, compare, jnp.zeros(_BLOCK, boxes.dtype))
        free = (largest <= threshold) & (start + place < exists)
        # A box stays if no better one of the block that stays suppresses it. Once the boxes before one are decided it
        # is too, so that this settles within as many rounds as the longest chain of boxes that free each other.
        suppresses = jnp.triu(overlaps(block, block_groups, block, block_groups) > threshold, 1).astype(jnp.float32)

        def settle(state):
            stays, _ = state
            return free & (stays.astype(jnp.float32) @ suppresses == 0), stays

        stays = lax.while_loop(lambda state: jnp.any(state[0] != state[1]), settle, settle((free, free)))[0]
        at = jnp.where(stays, count + jnp.cumsum(stays) - 1, slots)  # out of bounds, which is dropped
        return (
            start + _BLOCK,
            count + jnp.sum(stays),
            kept.at[:, at].set(block, mode="drop"),
            kept_groups.at[at].set(block_groups, mode="drop"),
            kept_index.at[at].set(start + place, mode="drop"),
        )

    def unfinished(state):
        start, count, *_ = state
        return (start < exists) & (count < num)

    nothing = jnp.zeros((4, slots), boxes.dtype), jnp.zeros(slots, groups.dtype), jnp.zeros(slots, jnp.int32)
    _, count, _, _, index = lax.while_loop(unfinished, decide_block, (0, 0, *nothing))
    filled = jnp.arange(num) < count
    return jnp.where(filled, order[index[:num]], 0), filled


def _without_padding(scores: Array, valid: Array | None) -> Array:
    """The scores in float32, minus infinity for padding and NaN."""
    scores = scores.astype(jnp.float32)
    exists = ~jnp.isnan(scores) if valid is None else valid & ~jnp.isnan(scores)
    return jnp.where(exists, scores, -jnp.inf)
