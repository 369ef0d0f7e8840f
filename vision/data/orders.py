"""Which examples a training batch holds: a random order of each epoch, and batches of several shapes in turn.

All are pure functions of the seed and the step or epoch.
"""

import bisect
import functools

import numpy as np

# The second word of Philox's key keeps apart what is drawn with one seed; 0 is that of the augmentations.
_ORDERS, _TURNS = 1, 2


@functools.lru_cache(maxsize=16)
def shuffled(seed: int, epoch: int, count: int, bucket: int = 0) -> np.ndarray:
    """A random order of `count` examples; every (seed, epoch, bucket) has its own.

    Kept for the epochs in use. An order of a million takes 10 ms and 4 MB, once an epoch; asking Grain's
    `index_shuffle` instead takes 20 microseconds for each example, more than decoding a small image.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, _ORDERS], counter=[0, 0, epoch, bucket]))
    order = rng.permutation(np.arange(count, dtype=np.int32))
    order.flags.writeable = False  # shared by all threads
    return order


def batches_before(epoch: int, counts: tuple[int, ...], batch_size: int) -> int:
    """How many batches of all buckets begin before an epoch does.

    A bucket's examples come in endless succession, one epoch after the other, and are cut into batches; a batch belongs
    to the epoch of its first example. Less than one for each bucket more than `epoch * sum(counts) / batch_size`.

    Args:
        epoch: from 0 on.
        counts: examples of each bucket, at least 1.
        batch_size: examples of a batch.
    """
    return sum(-(-epoch * count // batch_size) for count in counts)


def bucket_of_step(step: int, counts: tuple[int, ...], batch_size: int, seed: int, shuffle: bool) -> tuple[int, int]:
    """Which bucket the batch of a step is of, and which of that bucket's batches it is.

    The batches that begin within an epoch come in random order, so that each bucket is met as often as it has examples;
    without shuffling, they are spread evenly.

    Args:
        step: from 0 on.
        counts, batch_size: as in `batches_before`.
        seed: of the order.
        shuffle: whether it is random.
    """
    most = step * batch_size // sum(counts)
    epoch = bisect.bisect_right(range(most + 1), step, key=lambda e: batches_before(e, counts, batch_size)) - 1
    turns = _turns(epoch, counts, batch_size, seed, shuffle)
    bucket, number = turns[step - batches_before(epoch, counts, batch_size)].tolist()
    return bucket, number


@functools.lru_cache(maxsize=4)
def _turns(epoch: int, counts: tuple[int, ...], batch_size: int, seed: int, shuffle: bool) -> np.ndarray:
    """(batches, 2) bucket and number within the bucket of the batches that begin in an epoch, in their order."""
    begin, end = ([-(-e * count // batch_size) for count in counts] for e in (epoch, epoch + 1))
    numbers = [np.arange(first, last) for first, last in zip(begin, end, strict=True)]
    buckets = [np.full(len(of_bucket), bucket) for bucket, of_bucket in enumerate(numbers)]
    turns = np.stack([np.concatenate(buckets), np.concatenate(numbers)], axis=1)
    if shuffle:
        rng = np.random.Generator(np.random.Philox(key=[seed, _TURNS], counter=[0, 0, epoch, 0]))
        return rng.permutation(turns)
    passed = turns[:, 1] * batch_size / np.array(counts)[turns[:, 0]]  # epochs of its bucket before each batch
    return turns[np.argsort(passed, kind="stable")]
