"""Matching and sampling against reference indices and loops in NumPy."""

from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops import matching as ops

REFERENCE = dict(np.load(Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"))
OBJECTS, ANCHORS = 4, 9

match_by_threshold = jax.jit(ops.match_by_threshold, static_argnames=("high", "low", "low_quality_matches"))
match_bipartite = jax.jit(ops.match_bipartite, static_argnames="threshold")
sample_balanced = jax.jit(ops.sample_balanced, static_argnames=("num", "positive_fraction"))
hard_negatives = jax.jit(ops.hard_negatives, static_argnames=("ratio", "minimum"))

# Few distinct values: ties and exact thresholds are common.
quality = st.lists(st.integers(0, 5), min_size=OBJECTS * ANCHORS, max_size=OBJECTS * ANCHORS)
flags = st.lists(st.booleans(), min_size=OBJECTS, max_size=OBJECTS)


def arrays(numbers, valid):
    return np.array(numbers, np.float32).reshape(OBJECTS, ANCHORS) / 8, np.array(valid)


def by_threshold(quality, valid, high, low, low_quality_matches):
    matches = np.full(quality.shape[1], ops.BELOW)
    rows = np.flatnonzero(valid)
    for anchor in range(quality.shape[1]):
        if not len(rows):
            continue
        best = max(rows, key=lambda row: (quality[row, anchor], -row))
        value = quality[best, anchor]
        forced = any(value_of == quality[row].max() > 0 for row in rows for value_of in [quality[row, anchor]])
        if value >= high or (low_quality_matches and forced):
            matches[anchor] = best
        elif value >= low:
            matches[anchor] = ops.BETWEEN
    return matches


def bipartite(quality, valid, threshold):
    matches = by_threshold(quality, valid, threshold, threshold, False)
    left = np.where(valid[:, None], quality, 0)
    while left.max() > 0:
        row, anchor = np.unravel_index(left.argmax(), left.shape)
        matches[anchor] = row
        left[row], left[:, anchor] = 0, 0
    return matches


@pytest.mark.parametrize(
    "key, options",
    [
        ("match_0.7_0.3_low_quality", dict(high=0.7, low=0.3, low_quality_matches=True)),
        ("match_0.5_0.5", dict(high=0.5)),
        ("match_0.3_0.1_low_quality", dict(high=0.3, low=0.1, low_quality_matches=True)),
    ],
)
def test_reference_matches(key, options):
    found = match_by_threshold(jnp.asarray(REFERENCE["match_iou"]), jnp.ones(6, bool), **options)
    np.testing.assert_array_equal(found, REFERENCE[key])


@hypothesis.given(quality, flags)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_matches_follow_their_definitions(numbers, valid):
    quality, valid = arrays(numbers, valid)
    for low_quality_matches in (False, True):
        found = match_by_threshold(jnp.asarray(quality), jnp.asarray(valid), 0.5, 0.25, low_quality_matches)
        np.testing.assert_array_equal(found, by_threshold(quality, valid, 0.5, 0.25, low_quality_matches))
    found = match_bipartite(jnp.asarray(quality), jnp.asarray(valid), 0.5)
    np.testing.assert_array_equal(found, bipartite(quality, valid, 0.5))


def test_each_of_many_objects_gets_an_anchor_of_its_own():
    rng = np.random.default_rng(0)
    quality = rng.random((3, 20, 200)).astype(np.float32) ** 4
    quality[0, :, 5:] = 0  # all want the same five
    found = jax.jit(jax.vmap(ops.match_bipartite))(jnp.asarray(quality), jnp.ones((3, 20), bool))
    for image in range(3):
        np.testing.assert_array_equal(found[image], bipartite(quality[image], np.ones(20, bool), 0.5))


@pytest.mark.parametrize("objects, anchors", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_match(objects, anchors):
    quality, valid = jnp.zeros((objects, anchors)), jnp.ones(objects, bool)
    for matches in (ops.match_by_threshold(quality, valid, 0.5, 0.3, True), ops.match_bipartite(quality, valid)):
        np.testing.assert_array_equal(matches, np.full(anchors, ops.BELOW))


# Sampling.


@hypothesis.given(st.lists(st.integers(-1, 1), min_size=30, max_size=30), st.integers(0, 100))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.example([0] * 30, 0)
@hypothesis.example([-1] * 30, 0)
@hypothesis.example([1] * 30, 0)
def test_balanced_sample(kinds, seed):
    kinds = np.array(kinds)
    index, positive, filled = (
        np.asarray(part)
        for part in sample_balanced(jax.random.key(seed), jnp.asarray(kinds == 1), jnp.asarray(kinds == 0), 16, 0.25)
    )
    positives = min((kinds == 1).sum(), 4)
    assert positive.sum() == positives and filled.sum() == positives + min((kinds == 0).sum(), 16 - positives)
    assert np.all(kinds[index[positive]] == 1) and np.all(kinds[index[filled & ~positive]] == 0)
    assert len(set(index[filled])) == filled.sum() and np.all(index[~filled] == 0)
    assert np.all(np.diff(filled.astype(int)) <= 0) and np.all(np.diff(positive.astype(int)) <= 0)


def test_a_sample_depends_on_its_own_image_and_key_alone():
    rng = np.random.default_rng(0)
    kinds = jnp.asarray(rng.integers(0, 2, (3, 50)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(3))
    sample = jax.jit(jax.vmap(lambda key, kind: ops.sample_balanced(key, kind == 1, kind == 0, 16, 0.5)[0]))
    together, reordered = sample(keys, kinds), sample(keys[::-1], kinds[::-1])
    np.testing.assert_array_equal(together, reordered[::-1])
    other = sample(keys, kinds.at[0].set(1 - kinds[0]))
    np.testing.assert_array_equal(together[1:], other[1:])
    same = sample(keys, jnp.tile(kinds[:1], (3, 1)))
    assert len({tuple(row) for row in np.asarray(same).tolist()}) == 3


def test_samples_are_uniform():
    sample = jax.jit(jax.vmap(lambda key: ops.sample_balanced(key, jnp.arange(20) < 8, jnp.arange(20) >= 8, 8, 0.5)[0]))
    index = sample(jax.random.split(jax.random.key(0), 4000))
    share = np.bincount(np.asarray(index).reshape(-1), minlength=20) / 4000
    np.testing.assert_allclose(share, [4 / 8] * 8 + [4 / 12] * 12, atol=0.04)


def test_samples_larger_than_the_image():
    index, positive, filled = ops.sample_balanced(jax.random.key(0), jnp.array([True]), jnp.array([False]), 6, 0.5)
    assert index.shape == (6,) and positive.sum() == filled.sum() == 1
    none = jnp.zeros(0, bool)
    assert not np.any(ops.sample_balanced(jax.random.key(0), none, none, 6, 0.5)[2])


@hypothesis.given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 1)), min_size=20, max_size=20))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_hard_negatives(drawn):
    loss, kinds = (np.array(column) for column in zip(*drawn, strict=True))
    for minimum in (0, 5):
        found = hard_negatives(
            jnp.asarray(loss, jnp.float32), jnp.asarray(kinds == 1), jnp.asarray(kinds == 0), 3.0, minimum
        )
        wanted = max(3 * (kinds == 1).sum(), minimum)
        expected = sorted(np.flatnonzero(kinds == 0), key=lambda place: (-loss[place], place))[:wanted]
        np.testing.assert_array_equal(np.flatnonzero(found), sorted(expected))


def test_no_gradient_flows_through_the_choice_of_negatives():
    loss, positive = jnp.array([1.0, 3, 2, 5, 4]), jnp.array([True, False, False, False, False])

    def total(loss):
        return jnp.sum(jnp.where(ops.hard_negatives(loss, positive, ~positive, 2.0) | positive, loss, 0.0))

    np.testing.assert_array_equal(jax.grad(total)(loss), [1, 0, 0, 1, 1])
