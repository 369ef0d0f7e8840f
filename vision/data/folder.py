"""`folder:PATH`: a folder of images with one subfolder per class, with train/ and val/ above them or split by hash."""

import dataclasses
import hashlib
import os
import re
from typing import Any

import numpy as np

from vision.data.images import SUFFIXES
from vision.data.source import Source
from vision.errors import UsageError, unknown_name

SPLIT_FOLDERS = ("train", "val", "validation", "test")
# Where there are no such folders: the range of hashes, in percent, of each split.
HASH_SPLITS = {"train": (0.0, 80.0), "val": (80.0, 100.0), "test": (80.0, 100.0), "all": (0.0, 100.0)}


@dataclasses.dataclass(frozen=True)
class FolderRecords:
    """`vision.data.source.Records` of image files.

    Attributes:
        files: their paths.
        classes: (N,) class of each.
    """

    files: tuple[str, ...]
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.files[index], "label": int(self.classes[index])}

    def describe(self, index: int) -> str:
        return self.files[index]

    def labels(self) -> np.ndarray:
        return self.classes


def open_folder(path: str, split: str, where: str = "data") -> Source:
    """Opens one split of a folder of images.

    With split folders (`PATH/train/cat/1.jpg`), a split is one of them, and what lies beside them is left out. Without
    (`PATH/cat/1.jpg`), "train" is about 80 % of the files and "val" (or "test") the rest, by a hash of "cat/1.jpg", so
    that a file stays on its side when others are added; "all" is everything. A range of hashes may follow either:
    "all[:90%]", "train[50%:]".

    The classes are the folders' names, sorted; images may lie deeper, and hidden and other files are left out.

    Raises:
        UsageError: no such folder or split, no classes, a class without an image, or one that training lacks.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise UsageError(f"{where}.name: there is no folder {path!r}.")
    name, low, high = _parse_split(split, where)
    folders = _subfolders(root)
    splits = [folder for folder in folders if folder in SPLIT_FOLDERS and _subfolders(os.path.join(root, folder))]
    if splits and ("train" in splits or splits == folders):
        if name in folders and name in SPLIT_FOLDERS and name not in splits:
            raise UsageError(
                f"{where}.split: {os.path.join(root, name)} has no subfolders; one folder per class is expected, as in "
                f"{os.path.join(root, splits[0])}."
            )
        if name not in splits:
            raise unknown_name("split", name, splits, f"{where}.split")
        base = os.path.join(root, name)
        class_names = _classes(os.path.join(root, "train"), where) if "train" in splits else _classes(base, where)
        extra = sorted(set(_subfolders(base)) - set(class_names))
        if extra:
            raise UsageError(f"{where}.name: {base} has the class {extra[0]!r}, which {path}/train does not have.")
        may_lack_classes = name != "train" and "train" in splits
    else:
        if name not in HASH_SPLITS:
            raise unknown_name("split", name, HASH_SPLITS, f"{where}.split")
        base, class_names, may_lack_classes = root, _classes(root, where), False
        start, stop = HASH_SPLITS[name]
        low, high = start + low * (stop - start) / 100, start + high * (stop - start) / 100
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        found = _images(os.path.join(base, class_name))
        if not found and not may_lack_classes:
            raise UsageError(f"{where}.name: the class folder {os.path.join(base, class_name)} has no image.")
        chosen = [file for file in found if low <= _percentile(os.path.relpath(file, base)) < high]
        files.extend(chosen)
        labels.extend([label] * len(chosen))
    return Source(f"folder:{path}", split, FolderRecords(tuple(files), np.array(labels, np.int32)), class_names)


def _parse_split(split: str, where: str) -> tuple[str, float, float]:
    """ "train[10%:90%]" -> ("train", 10, 90)."""
    match = re.fullmatch(r"(\w+)(?:\[(?:(\d+(?:\.\d+)?)%)?:(?:(\d+(?:\.\d+)?)%)?\])?", split)
    low, high = (float(match[2] or 0), float(match[3] or 100)) if match else (0.0, 0.0)
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"{where}.split: {split!r} is not a split, such as 'train', 'val', 'all[:90%]' or 'all[90%:]'."
        )
    return match[1], low, high


def _percentile(name: str) -> float:
    """A number in [0, 100) that depends on the name only."""
    digest = hashlib.sha256(name.replace(os.sep, "/").encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") * 100 / 2**48


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: str, where: str) -> tuple[str, ...]:
    names = tuple(_subfolders(folder))
    if not names:
        raise UsageError(
            f"{where}.name: {folder} has no subfolders; one folder per class is expected, such as cat/ and dog/."
        )
    return names


def _images(folder: str) -> list[str]:
    """The image files in a folder and below, sorted."""
    found = []
    for directory, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        images = (name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES)
        found.extend(os.path.join(directory, name) for name in images)
    return sorted(found)
