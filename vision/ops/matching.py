"""Which anchor answers for which object, and which anchors a loss looks at.

All functions take one image; `jax.vmap` over images. What is random takes a key, one for each image: an image's
sample then depends on nothing else in its batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from vision.ops.boxes import Number

BELOW = -1  # matched to no object: background
BETWEEN = -2  # neither one nor the other: left out of the loss

Quality = Float[Array, "objects anchors"]
Matches = Int[Array, " anchors"]


def match_by_threshold(
    quality: Quality,
    valid: Bool[Array, " objects"],
    high: Number,
    low: Number | None = None,
    low_quality_matches: bool = False,
) -> Matches:
    """Matches each anchor with the object it overlaps most (Ren et al. 2015, section 3.1.2), as torchvision does.

    An anchor's object is the first of those with the largest quality; the match stands where it is at least `high`.
    Low-quality matches give every object the anchors that overlap it most, all of them where several do equally, even
    below the thresholds; such an anchor still goes to its own best object, which may be another one. Objects
    that overlap no anchor get none, where torchvision would give them every anchor.

    Args:
        quality: (objects, anchors), IoU as a rule.
        valid: (objects,) False for padding.
        high: least quality of a match.
        low: qualities below are background; from here to `high` the anchor is left out. None: the same as `high`.
        low_quality_matches: whether each object gets its best anchors in any case.

    Returns:
        (anchors,) int32 index of the object, `BELOW` or `BETWEEN`. Without objects all are `BELOW`.
    """
    if quality.size == 0:
        return jnp.full(quality.shape[1], BELOW, jnp.int32)
    quality = jnp.where(valid[:, None], quality, -1.0)
    best, index = quality.max(axis=0), quality.argmax(axis=0).astype(jnp.int32)
    matches = jnp.where(best >= high, index, BELOW if low is None else jnp.where(best < low, BELOW, BETWEEN))
    if low_quality_matches:
        largest = quality.max(axis=1, keepdims=True)
        matches = jnp.where(jnp.any((quality == largest) & (largest > 0), axis=0), index, matches)
    return matches


def match_bipartite(quality: Quality, valid: Bool[Array, " objects"], threshold: Number = 0.5) -> Matches:
    """Matches each object with one anchor of its own, then further anchors by threshold (Liu et al. 2016, section 2.2).

    The first part takes the pair with the largest quality of all, then the largest among the other objects and
    anchors, and so on; of equal ones the first object, then the first anchor. An object finds none where
    all anchors that overlap it are gone. torchvision differs where two objects have the same best anchor: the last of
    them gets it, the other nothing.

    Args:
        quality: (objects, anchors), IoU as a rule.
        valid: (objects,) False for padding.
        threshold: least quality of the further matches.

    Returns:
        (anchors,) int32 index of the object, or `BELOW`.
    """
    matches = match_by_threshold(quality, valid, threshold)
    if quality.size == 0:
        return matches
    objects, anchors = quality.shape
    quality = jnp.where(valid[:, None], quality, 0.0)
    index = jnp.arange(objects, dtype=jnp.int32)

    # Taking pairs one by one is a search through the matrix for each object. Instead, all objects ask at once for the
    # best anchor whose holder they beat, and of those that ask an anchor holds the best, until nobody asks anew. All
    # order the pairs alike, so there is only one such stable matching: that of taking them one by one.
    def ask(state):
        held, held_quality, _ = state
        beats = (quality > held_quality) | ((quality == held_quality) & (index[:, None] <= held))
        asked = jnp.where(beats, quality, -1.0)
        wish, wish_quality = asked.argmax(axis=1), asked.max(axis=1)
        better = (wish_quality[None] > wish_quality[:, None]) | (
            (wish_quality[None] == wish_quality[:, None]) & (index[None] < index[:, None])
        )
        loses = jnp.any((wish[None] == wish[:, None]) & better, axis=1) | (wish_quality < 0)
        place = jnp.where(loses, anchors, wish)  # out of bounds, which is dropped
        new = held.at[place].set(index, mode="drop")
        return new, held_quality.at[place].set(wish_quality, mode="drop"), jnp.any(new != held)

    nobody = jnp.full(anchors, BELOW, jnp.int32)
    start = (nobody, jnp.zeros(anchors, quality.dtype), jnp.array(True))
    held = lax.while_loop(lambda state: state[2], ask, start)[0]
    return jnp.where(held >= 0, held, matches)


def sample_balanced(
    key: Key[Array, ""],
    positive: Bool[Array, " anchors"],
    negative: Bool[Array, " anchors"],
    num: int,
    positive_fraction: Number,
) -> tuple[Int[Array, " num"], Bool[Array, " num"], Bool[Array, " num"]]:
    """Draws `num` anchors, at most a share of them positive, the rest negative (Ren et al. 2015, section 3.1.3).

    Where there are fewer positives, negatives take their places; where there are too few of both, places stay empty.

    Args:
        key: of this image. Folding an example's number into the step's key makes the sample its own.
        positive: (anchors,) those that answer for an object.
        negative: (anchors,) those of the background; anchors that are neither are never drawn.
        num: number of places.
        positive_fraction: largest share of positives, rounded down.

    Returns:
        (num,) int32 index of the anchor in each place, 0 in empty ones; (num,) whether it is positive; (num,) whether
        the place is filled. Positives come first.
    """
    anchors, limit = positive.shape[0], int(num * positive_fraction)
    if anchors == 0:
        return jnp.zeros(num, jnp.int32), jnp.zeros(num, bool), jnp.zeros(num, bool)
    order = jax.random.uniform(key, (anchors,))
    chosen_positive = _largest(jnp.where(positive, order, -1.0), limit)
    chosen_negative = _largest(jnp.where(negative, order, -1.0), num)
    positives = jnp.minimum(jnp.sum(positive), limit)
    negatives = jnp.minimum(jnp.sum(negative), num - positives)
    place = jnp.arange(num)
    is_positive, is_filled = place < positives, place < positives + negatives
    index = jnp.concatenate([chosen_positive, chosen_negative])
    index = index[jnp.where(is_positive, place, limit + place - positives)]
    return jnp.where(is_filled, index, 0), is_positive, is_filled


def hard_negatives(
    loss: Float[Array, " anchors"],
    positive: Bool[Array, " anchors"],
    negative: Bool[Array, " anchors"],
    ratio: Number = 3.0,
    minimum: int = 0,
) -> Bool[Array, " anchors"]:
    """The negatives with the largest loss, `ratio` for each positive (Liu et al. 2016, section 2.2).

    Of equal losses the first come first; no gradient flows through the choice.

    Args:
        loss: (anchors,) classification loss of each anchor.
        positive: (anchors,) those that answer for an object.
        negative: (anchors,) those that may be chosen.
        ratio: negatives for each positive.
        minimum: negatives of an image with fewer positives than that asks for; the paper's 0 leaves images without
            objects out of the loss.

    Returns:
        (anchors,) True for the negatives chosen.
    """
    loss = jnp.where(negative, lax.stop_gradient(loss), -jnp.inf)
    order = jnp.argsort(-loss, stable=True)
    wanted = jnp.maximum((ratio * jnp.sum(positive)).astype(jnp.int32), minimum)
    chosen = jnp.zeros(loss.shape, bool).at[order].set(jnp.arange(loss.shape[0]) < wanted)
    return chosen & negative


def _largest(values: Array, num: int) -> Array:
    """(num,) int32 indices of the largest values; 0 beyond the number of values."""
    found = lax.top_k(values, min(num, values.shape[0]))[1]
    return jnp.pad(found, (0, num - found.shape[0])).astype(np.int32)
