"""Batches of several buckets in turn: every example as often as any other, at any step, in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.orders import batches_before, bucket_of_step, shuffled

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60)
@given(COUNTS, st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_the_batches_of_each_bucket_come_once_each_in_the_epoch_they_begin_in(counts, batch_size, seed, shuffle):
    epochs = 3
    total = batches_before(epochs, counts, batch_size)
    assert 0 <= total - epochs * sum(counts) / batch_size < len(counts)
    turns = [bucket_of_step(step, counts, batch_size, seed, shuffle) for step in range(total)]
    for bucket, count in enumerate(counts):
        numbers = [number for which, number in turns if which == bucket]
        assert sorted(numbers) == list(range(len(numbers)))
        begun = [number * batch_size // count for number in numbers]
        assert begun == sorted(begun) and all(epoch < epochs for epoch in begun)
        # Every example was met as often as there were epochs; those in batches across their end once more, or, where a
        # batch is larger than the bucket, as often as it takes to fill it.
        met = np.bincount(np.arange(len(numbers) * batch_size) % count, minlength=count)
        assert epochs <= met.min() and met.max() <= epochs + -(-(batch_size - 1) // count)
    for epoch in range(epochs):
        steps = range(*(batches_before(e, counts, batch_size) for e in (epoch, epoch + 1)))
        assert all(turns[s][1] * batch_size // counts[turns[s][0]] == epoch for s in steps)


def test_buckets_are_mixed_and_each_epoch_anew():
    counts, batch_size = (800, 200), 10
    turns = np.array([bucket_of_step(step, counts, batch_size, 0, True)[0] for step in range(200)])
    assert turns[:100].sum() == turns[100:].sum() == 20
    assert (turns[:100] != turns[100:]).any() and 1 <= turns[:25].sum() <= 12
    even = [bucket_of_step(step, counts, batch_size, 0, False)[0] for step in range(100)]
    assert set(np.convolve(even, np.ones(5, int), "valid").tolist()) <= {0, 1, 2}


def test_far_steps_need_no_walk():
    counts = (90_000, 28_000)
    bucket, number = bucket_of_step(10**9, counts, 16, 0, True)
    assert number * 16 / counts[bucket] == pytest.approx(10**9 * 16 / sum(counts), abs=1)


def test_each_bucket_has_its_own_order():
    assert not np.array_equal(shuffled(0, 0, 50, 0), shuffled(0, 0, 50, 1))
    np.testing.assert_array_equal(np.sort(shuffled(0, 3, 50, 1)), np.arange(50))
