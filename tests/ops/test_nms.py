"""Non-maximum suppression against reference indices and the greedy loop in NumPy."""

from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops import nms as ops

REFERENCE = dict(np.load(Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"))
TOTAL = 12  # boxes of the property tests, padding included

nms = jax.jit(ops.nms, static_argnames="num")
nms_per_class = jax.jit(ops.nms_per_class, static_argnames="num")
soft_nms = jax.jit(ops.soft_nms, static_argnames=("num", "sigma", "min_score"))

# Small whole numbers: overlaps exactly at the threshold, equal scores, equal boxes and boxes without area are common.
box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 4)] * 2)
objects = st.lists(st.tuples(box, st.integers(0, 4), st.integers(0, 1), st.booleans()), max_size=TOTAL)


def padded(drawn):
    boxes, scores, classes, valid = np.zeros((TOTAL, 4)), np.zeros(TOTAL), np.zeros(TOTAL, int), np.zeros(TOTAL, bool)
    for index, ((x, y, width, height), score, group, exists) in enumerate(drawn):
        boxes[index], scores[index] = (x, y, x + width, y + height), score / 4
        classes[index], valid[index] = group, exists
    return boxes.astype(np.float32), scores.astype(np.float32), classes.astype(np.int32), valid


def overlaps(boxes):
    """(boxes, boxes) IoU in float32, as the decisions are: 0 for boxes without area."""
    a, b = boxes[:, None], boxes[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared, area = np.prod(sides, axis=-1), np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    union = area[:, None] + area[None] - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def greedy(boxes, scores, classes, valid, threshold):
    """Indices that stay, one box after the other."""
    kept, iou = [], overlaps(boxes)
    for index in np.argsort(-scores, kind="stable"):
        if valid[index] and all(classes[other] != classes[index] or iou[other, index] <= threshold for other in kept):
            kept.append(index)
    return kept


def softened(boxes, scores, classes, valid, num, sigma, min_score, threshold):
    """Indices and scores of the boxes taken."""
    left, taken, iou = np.where(valid, scores, -np.inf).astype(float), [], overlaps(boxes)
    while len(taken) < num and left.max() >= min_score:
        best = int(left.argmax())
        taken.append((best, left[best]))
        left[best] = -np.inf
        for index in np.flatnonzero((classes == classes[best]) & (left > -np.inf)):
            shared = iou[best, index]
            left[index] *= np.exp(-(shared**2) / sigma) if threshold is None else 1 - shared * (shared > threshold)
    return taken


def check(found, expected, num):
    index, filled = (np.asarray(part) for part in found)
    expected = expected[:num]
    assert index.shape == filled.shape == (num,) and filled.sum() == len(expected)
    assert np.all(filled[: len(expected)]) and np.all(index[~filled] == 0)
    np.testing.assert_array_equal(index[filled], expected)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_reference_indices(threshold):
    boxes, scores, classes = (jnp.asarray(REFERENCE[f"nms_{name}"]) for name in ("boxes", "scores", "classes"))
    check(nms(boxes, scores, threshold, 300), REFERENCE[f"nms_keep_{threshold}"], 300)
    found = nms_per_class(boxes, scores, classes.astype(jnp.int32), threshold, 300)
    check(found, REFERENCE[f"batched_nms_keep_{threshold}"], 300)


@hypothesis.given(objects, st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]))
@hypothesis.settings(max_examples=120, deadline=None, derandomize=True)
def test_greedy_loop(drawn, threshold):
    boxes, scores, classes, valid = padded(drawn)
    threshold = float(np.float32(threshold))
    exists, arrays = jnp.asarray(valid), [jnp.asarray(array) for array in (boxes, scores)]
    expected = greedy(boxes, scores, np.zeros_like(classes), valid, threshold)
    check(nms(*arrays, threshold, TOTAL, valid=exists), expected, TOTAL)
    expected = greedy(boxes, scores, classes, valid, threshold)
    check(nms_per_class(*arrays, jnp.asarray(classes), threshold, 5, valid=exists), expected, 5)


def test_several_blocks():
    """More boxes than are decided at a time, for images at once as if alone: one runs out of boxes, one of places."""
    rng, num = np.random.default_rng(0), 300
    boxes, scores = np.zeros((2, 700, 4), np.float32), np.round(rng.random((2, 700)), 2).astype(np.float32)
    for image, spread in enumerate((60, 400)):
        start = rng.uniform(0, spread, (700, 2))
        boxes[image] = np.concatenate([start, start + rng.uniform(5, 40, (700, 2))], axis=1)
    valid = rng.random((2, 700)) < 0.9
    found = jax.jit(jax.vmap(lambda b, s, v: ops.nms(b, s, 0.5, num, v)))(*map(jnp.asarray, (boxes, scores, valid)))
    expected = [greedy(boxes[image], scores[image], np.zeros(700), valid[image], 0.5) for image in range(2)]
    assert 128 < len(expected[0]) < num < len(expected[1])
    for image in range(2):
        check([part[image] for part in found], expected[image], num)


def test_chain_of_boxes_that_free_each_other():
    """Each overlaps the next by more than the threshold: every second one stays."""
    start = np.arange(300, dtype=np.float32)
    boxes = np.stack([start, 0 * start, start + 3, 0 * start + 1], axis=1)
    found = nms(jnp.asarray(boxes), jnp.asarray(-start), 0.4, 300)
    check(found, np.arange(0, 300, 2), 300)


def test_edges():
    none, every = jnp.zeros((0, 4)), jnp.ones(5, bool)
    check(nms(none, jnp.zeros(0), 0.5, 3), [], 3)
    assert soft_nms(none, jnp.zeros(0), 3)[2].sum() == 0
    boxes = jnp.array([[0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2], [2, 2, 2, 2], [-9, -9, -5, -5]], jnp.float32)
    scores = jnp.array([0.5, 0.5, 0.7, 0.7, 0.1])
    check(nms(boxes, scores, 0.0, 5, valid=every), [2, 3, 0, 4], 5)  # equal boxes: the first; without area: all
    check(nms(boxes, scores, 0.0, 5, valid=~every), [], 5)
    check(nms(boxes, jnp.array([jnp.nan, 0.5, -jnp.inf, jnp.nan, -3]), 0.5, 5, valid=every), [1, 4], 5)
    odd = np.array(boxes)
    odd[1, 2], odd[3, 0] = np.nan, -np.inf
    check(nms(jnp.asarray(odd), scores, 0.5, 5, valid=every), [2, 0, 4], 5)
    assert soft_nms(boxes, scores, 5, valid=~every)[2].sum() == 0


@hypothesis.given(objects, st.sampled_from([None, 0.3]))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_soft_nms_loop(drawn, threshold):
    boxes, scores, classes, valid = padded(drawn)
    scores += np.arange(TOTAL, dtype=np.float32) / 1000  # no ties: they would fall either way after rounding
    found = soft_nms(
        *map(jnp.asarray, (boxes, scores)), 6, 0.5, 0.05, threshold, jnp.asarray(classes), jnp.asarray(valid)
    )
    index, lowered, filled = (np.asarray(part) for part in found)
    expected = softened(boxes, scores, classes, valid, 6, 0.5, 0.05, threshold)
    assert filled.sum() == len(expected) and np.all(lowered[~filled] == 0)
    np.testing.assert_array_equal(index[filled], [place for place, _ in expected])
    np.testing.assert_allclose(lowered[filled], [score for _, score in expected], rtol=1e-4)


def test_gradients_pass_through_the_chosen_and_are_finite():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 10, (TOTAL, 2))
    boxes = jnp.asarray(np.concatenate([start, start + 6], axis=1), jnp.float32).at[-2:].set(0)
    scores = jnp.asarray(rng.random(TOTAL), jnp.float32)
    valid = jnp.arange(TOTAL) < TOTAL - 1

    @jax.jit
    @jax.grad
    def slope(parts):
        index, filled = ops.nms(parts[0], parts[1], 0.5, TOTAL, valid)
        chosen = jnp.sum(jnp.where(filled, parts[1][index], 0)) + jnp.sum(parts[0][index])
        return chosen + jnp.sum(ops.soft_nms(*parts, TOTAL, valid=valid)[1] ** 2)

    for gradient in slope((boxes, scores)):
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)
