"""Splits of files: folders named after them, or a hash of each file's name, and ranges of the hashes."""

import hashlib
import os
import re

from vision.errors import UsageError

SPLIT_FOLDERS = ("train", "val", "validation", "test")
# Where there are no such folders: the range of hashes, in percent, of each split.
HASH_SPLITS = {"train": (0.0, 80.0), "val": (80.0, 100.0), "test": (80.0, 100.0), "all": (0.0, 100.0)}


def parse(split: str, where: str) -> tuple[str, float, float]:
    """ "train[10%:90%]" -> ("train", 10, 90).

    Raises:
        UsageError: not of this form.
    """
    match = re.fullmatch(r"(\w+)(?:\[(?:(\d+(?:\.\d+)?)%)?:(?:(\d+(?:\.\d+)?)%)?\])?", split)
    low, high = (float(match[2] or 0), float(match[3] or 100)) if match else (0.0, 0.0)
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"{where}.split: {split!r} is not a split, such as 'train', 'val', 'all[:90%]' or 'all[90%:]'."
        )
    return match[1], low, high


def within(name: str, low: float, high: float) -> tuple[float, float]:
    """The range of hashes of a part, in percent, of a split by hash: ("val", 0, 50) -> (80, 90)."""
    start, stop = HASH_SPLITS[name]
    return start + low * (stop - start) / 100, start + high * (stop - start) / 100


def percentile(name: str) -> float:
    """A number in [0, 100) that depends on the name only."""
    digest = hashlib.sha256(name.replace(os.sep, "/").encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") * 100 / 2**48


def subfolders(folder: str) -> list[str]:
    """Names of the folders in a folder that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
