"""What is counted over all label maps of a split, in threads and once: no image is decoded for it."""

import concurrent.futures
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from vision.data import cache
from vision.data.images import BadImage, opencv
from vision.data.source import Source
from vision.errors import UsageError

_LONG = 20_000  # records; below, nobody wonders what takes so long


class PixelCounts(NamedTuple):
    """The class ids in the label maps of a split.

    Attributes:
        counts: (256,) int64 pixels of each id; those of 255 are to be ignored.
        first: (256,) int64 first record with each id, -1 for none.
        unreadable: {record: message} of the label maps that cannot be decoded.
    """

    counts: np.ndarray
    first: np.ndarray
    unreadable: dict[int, str]


def count_pixels(source: Source) -> PixelCounts:
    """The pixels of each class in a split; kept in the user's cache folder where the records have a fingerprint.

    Args:
        source: one with `has_segmentation`.

    Raises:
        UsageError: a label map holds what is no class; names the record.
    """
    records = source.records
    fingerprint = records.fingerprint()
    kept = None if fingerprint is None else cache.load("pixels", fingerprint)
    if kept is not None:
        return PixelCounts(kept[0], kept[1], {})
    if len(source) > _LONG:
        logging.info(
            "Counting the classes in the %d label maps of %s/%s, once.", len(source), source.name, source.split
        )
    counts, first, unreadable = np.zeros(256, np.int64), np.full(256, -1, np.int64), {}
    for index, found in enumerate(in_threads(lambda index: _histogram(source, index), range(len(source)))):
        if isinstance(found, BadImage):
            unreadable[index] = str(found)
            continue
        counts += found
        first[(found > 0) & (first < 0)] = index
    if fingerprint is not None and not unreadable:
        cache.save("pixels", fingerprint, np.stack([counts, first]))
    return PixelCounts(counts, first, unreadable)


def in_threads(function: Callable[[int], Any], indices: Iterable[int]) -> Iterable[Any]:
    """The results of a function in order; decoders release the interpreter lock."""
    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as executor:
        yield from executor.map(function, indices)


def _histogram(source: Source, index: int) -> np.ndarray | BadImage:
    """(256,) pixels of each id in a record."""
    try:
        segmentation = source.records.segmentation(index)
    except BadImage as error:  # training stops at it or skips it, as the configuration says
        return BadImage(f"{source.describe(index)}: {error}")
    except UsageError as error:
        raise UsageError(f"{source.describe(index)}: {error}") from None
    # Exact up to 2**24 pixels of a class in an image; much faster than np.bincount on bytes.
    histogram = opencv().calcHist([np.ascontiguousarray(segmentation)], [0], None, [256], [0, 256])
    return histogram.ravel().astype(np.int64)
