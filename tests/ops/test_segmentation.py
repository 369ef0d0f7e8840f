"""Segmentation losses, confusion and boundary scores against NumPy, brute force and published values."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import segmentation as ops

IGNORE = ops.IGNORE
REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"


# Compiled: operation by operation they take seconds.
confusion_matrix = jax.jit(ops.confusion_matrix, static_argnums=2)
boundary_f1 = jax.jit(ops.boundary_f1, static_argnums=(2, 4))
dice_loss = jax.jit(ops.dice_loss)
focal_loss = jax.jit(ops.focal_loss, static_argnums=2)


def example(seed=0, batch=2, height=6, width=7, classes=3, ignored=0.2):
    """Logits, and labels of which some are ignored."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (batch, height, width, classes)).astype(np.float32)
    labels = rng.integers(0, classes, (batch, height, width)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = IGNORE
    return logits, labels


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def true_probability(logits, labels):
    """(B, H, W) probability of the true class, 1 where it is ignored."""
    safe = np.where(labels == IGNORE, 0, labels)[..., None].astype(int)
    found = np.take_along_axis(softmax(logits), safe, axis=-1)[..., 0]
    return np.where(labels == IGNORE, 1.0, found)


def arrays(*values):
    return [jnp.asarray(value) for value in values]


# Losses.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    logits, labels = example()
    expected = -(1 - smoothing) * np.log(true_probability(logits, labels))
    expected -= np.where(labels == IGNORE, 0, smoothing * np.log(softmax(logits)).mean(axis=-1))
    np.testing.assert_allclose(ops.cross_entropy(*arrays(logits, labels), smoothing), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss(gamma):
    logits, labels = example(1)
    p = true_probability(logits, labels)
    expected = -((1 - p) ** gamma) * np.log(p)
    np.testing.assert_allclose(focal_loss(*arrays(logits, labels), gamma), expected, rtol=1e-4, atol=1e-6)


def test_focal_loss_of_two_classes_is_the_published_sigmoid_form():
    """Logits (0, x) have the sigmoid of x as the second class's probability; alpha 0.25 is a class weight."""
    with np.load(REFERENCE) as stored:
        x, targets = stored["focal_logits"], stored["focal_targets"]
        expected = stored["sigmoid_focal_loss_0.25_2"]
    logits, labels = np.stack([np.zeros_like(x), x], axis=-1)[None], targets[None].astype(np.uint8)
    loss = focal_loss(*arrays(logits, labels), 2.0)
    weights = ops.pixel_weights(*arrays(labels, np.array([0.75, 0.25], np.float32)))
    np.testing.assert_allclose((weights * loss)[0], expected, rtol=1e-5, atol=1e-7)


def test_class_weights():
    _, labels = example(2)
    weights = np.array([1.0, 0.0, 3.0], np.float32)
    expected = np.append(weights, np.zeros(253, np.float32))[labels]
    np.testing.assert_array_equal(ops.pixel_weights(*arrays(labels, weights)), expected)
    np.testing.assert_array_equal(ops.pixel_weights(jnp.asarray(labels)), labels != IGNORE)


def test_dice_loss():
    logits, labels = example(3, batch=4)
    labels[1][labels[1] == 2] = 0  # a class that is not in the image
    labels[2] = IGNORE
    loss, judged = dice_loss(*arrays(logits, labels))
    for image in range(4):
        terms, valid = [], labels[image] != IGNORE
        for label in np.unique(labels[image][valid]):
            p, g = softmax(logits[image])[..., label][valid], labels[image][valid] == label
            terms.append(1 - 2 * (p * g).sum() / (p.sum() + g.sum()))
        assert judged[image] == bool(terms)
        np.testing.assert_allclose(loss[image], np.mean(terms) if terms else 0, rtol=1e-5)


def test_a_perfect_prediction_has_no_loss():
    _, labels = example(4)
    logits = 50.0 * (labels[..., None] == np.arange(3)).astype(np.float32)
    for loss in (jax.jit(ops.cross_entropy), focal_loss, lambda *given: dice_loss(*given)[0]):
        np.testing.assert_allclose(loss(*arrays(logits, labels)), 0, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal_loss", "dice_loss"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_finite_and_zero_where_ignored(loss, dtype):
    logits, labels = example(5, batch=3)
    logits[0] *= 50  # certain, some of it wrong
    labels[1] = IGNORE
    further = {"gamma": 0.5} if loss == "focal_loss" else {}

    def total(logits):
        return jnp.sum(jax.tree.leaves(getattr(ops, loss)(logits.astype(dtype), jnp.asarray(labels), **further))[0])

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(logits))
    assert value.dtype == np.float32 and np.isfinite(value) and np.isfinite(gradient).all()
    assert not np.asarray(gradient)[labels == IGNORE].any()
    assert np.asarray(gradient)[labels != IGNORE].any()


# Confusion.


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([2, 11, 30]))
def test_confusion_matrix_counts_every_valid_pixel(seed, classes):
    _, labels = example(seed, classes=classes)
    _, predicted = example(seed + 1, classes=classes, ignored=0)
    expected = np.zeros((classes, classes), int)
    for true, said in zip(labels.ravel(), predicted.ravel(), strict=True):
        if true != IGNORE:
            expected[true, said] += 1
    found = confusion_matrix(*arrays(labels, predicted), classes)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_confusion_matrix_is_exact_above_two_to_the_24():
    """Float32 cannot count beyond it."""
    labels = jnp.ones((1, 4097, 4097), jnp.uint8)
    assert int(confusion_matrix(labels, labels, 2)[1, 1]) == 4097**2 > 2**24


# Boundaries.


def brute_boundaries(labels):
    result = np.zeros(labels.shape, bool)
    for row, column in np.ndindex(labels.shape):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            y, x = row + down, column + right
            if (
                0 <= y < labels.shape[0]
                and 0 <= x < labels.shape[1]
                and IGNORE not in (labels[y, x], labels[row, column])
            ):
                result[row, column] |= labels[y, x] != labels[row, column]
    return result


def brute_boundary_f1(labels, predicted, classes, tolerance):
    """Distances between all pairs of boundary pixels; NaN for an image without any."""
    predicted = np.where(labels == IGNORE, IGNORE, predicted)
    edges = brute_boundaries(labels), brute_boundaries(predicted)
    scores = []
    for label in range(classes):
        true, said = (np.argwhere(edge & (ids == label)) for edge, ids in zip(edges, (labels, predicted), strict=True))
        if not len(true) + len(said):
            continue
        if not (len(true) and len(said)):
            scores.append(0.0)
            continue
        near = np.square(true[:, None] - said[None]).sum(axis=-1) <= tolerance**2
        precision, recall = near.any(axis=0).mean(), near.any(axis=1).mean()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.mean(scores) if scores else np.nan


def blocks(seed, batch, height, width, classes, side=3):
    """Labels in blocks, so that there are areas and not only boundaries."""
    small = np.random.default_rng(seed).integers(0, classes, (batch, -(-height // side), -(-width // side)))
    return small.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width].astype(np.uint8)


def test_boundaries():
    labels = blocks(0, 3, 10, 13, 3)
    labels[0, 3:6, 3:6] = IGNORE
    expected = np.stack([brute_boundaries(image) for image in labels])
    np.testing.assert_array_equal(jax.jit(ops.boundaries)(jnp.asarray(labels)), expected)
    assert not ops.boundaries(jnp.ones((1, 1, 1), jnp.uint8)).any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([3, 40]), st.lists(st.floats(0.5, 4.5), min_size=2, max_size=2))
def test_boundary_f1_equals_the_definition(seed, classes, tolerances):
    labels, predicted = blocks(seed, 2, 12, 14, classes), blocks(seed + 1, 2, 12, 14, classes, 4)
    labels[1, :4] = IGNORE
    tolerances = np.float32(tolerances)
    score, judged = boundary_f1(*arrays(labels, predicted), classes, jnp.asarray(tolerances), 4.5)
    for image in range(2):
        expected = brute_boundary_f1(labels[image], predicted[image], classes, float(tolerances[image]))
        assert judged[image] == np.isfinite(expected)
        np.testing.assert_allclose(score[image], np.nan_to_num(expected), atol=1e-5)


def test_boundary_f1_forgives_a_shift_within_the_tolerance():
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[:, 8:20, 8:20] = 1
    shifted = np.roll(labels, 2, axis=2)

    def score(predicted, tolerance):
        return float(boundary_f1(*arrays(labels, predicted), 2, jnp.full(1, tolerance, jnp.float32), 5.0)[0][0])

    assert score(labels, 0.5) == 1
    assert score(shifted, 2.0) == 1
    assert 0 < score(shifted, 1.5) < 1
    assert score(np.zeros_like(labels), 5.0) == 0


def test_ignored_areas_have_no_boundary():
    labels = blocks(3, 1, 12, 12, 2)
    padded = np.full((1, 20, 17), IGNORE, np.uint8)
    padded[:, :12, :12] = labels
    predicted = blocks(4, 1, 20, 17, 2)
    tolerance = jnp.full(1, 2.0, jnp.float32)
    one, _ = boundary_f1(*arrays(labels, predicted[:, :12, :12]), 2, tolerance, 2.0)
    other, _ = boundary_f1(*arrays(padded, predicted), 2, tolerance, 2.0)
    assert float(one[0]) == float(other[0])
    score, judged = boundary_f1(*arrays(np.full_like(padded, IGNORE), predicted), 2, tolerance, 2.0)
    assert float(score[0]) == float(judged[0]) == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("background", "cat"), True), (("Background",), True), (("road", "car"), False), ((), False)],
)
def test_a_background_is_known_by_its_name(names, expected):
    assert ops.has_background(names) is expected
