"""`folder:PATH`: a folder of images with one subfolder per class, with train/ and val/ above them or split by hash."""

import dataclasses
import os
from typing import Any

import numpy as np

from vision.data import image_files, splits
from vision.data.source import Source
from vision.data.splits import HASH_SPLITS, SPLIT_FOLDERS, percentile, subfolders
from vision.errors import UsageError, unknown_name


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
    name, low, high = splits.parse(split, where)
    folders = subfolders(root)
    parts = [folder for folder in folders if folder in SPLIT_FOLDERS and subfolders(os.path.join(root, folder))]
    if parts and ("train" in parts or parts == folders):
        if name in folders and name in SPLIT_FOLDERS and name not in parts:
            raise UsageError(
                f"{where}.split: {os.path.join(root, name)} has no subfolders; one folder per class is expected, as in "
                f"{os.path.join(root, parts[0])}."
            )
        if name not in parts:
            raise unknown_name("split", name, parts, f"{where}.split")
        base = os.path.join(root, name)
        class_names = _classes(os.path.join(root, "train"), where) if "train" in parts else _classes(base, where)
        extra = sorted(set(subfolders(base)) - set(class_names))
        if extra:
            raise UsageError(f"{where}.name: {base} has the class {extra[0]!r}, which {path}/train does not have.")
        may_lack_classes = name != "train" and "train" in parts
    else:
        if name not in HASH_SPLITS:
            raise unknown_name("split", name, HASH_SPLITS, f"{where}.split")
        base, class_names, may_lack_classes = root, _classes(root, where), False
        low, high = splits.within(name, low, high)
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        found = image_files.below(os.path.join(base, class_name))
        if not found and not may_lack_classes:
            raise UsageError(f"{where}.name: the class folder {os.path.join(base, class_name)} has no image.")
        chosen = [file for file in found if low <= percentile(os.path.relpath(file, base)) < high]
        files.extend(chosen)
        labels.extend([label] * len(chosen))
    return Source(f"folder:{path}", split, FolderRecords(tuple(files), np.array(labels, np.int32)), class_names)


def _classes(folder: str, where: str) -> tuple[str, ...]:
    names = tuple(subfolders(folder))
    if not names:
        raise UsageError(
            f"{where}.name: {folder} has no subfolders; one folder per class is expected, such as cat/ and dog/."
        )
    return names
