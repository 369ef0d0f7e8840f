"""Where examples come from: a source is a random-access sequence of records, opened by name."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vision.errors import UsageError, unknown_name


class Records(Protocol):
    """Random access to records; pickled to worker processes and read from several threads at once.

    A record is a dict of named fields: `image` (encoded bytes, a path, or a uint8 array) and the ground truth in the
    conventions of this project: `label` (a class id), `boxes` (x0, y0, x1, y1) in pixels, `classes`, ... A source
    converts into these conventions; what varies in number is padded to a fixed size by the source or a transform.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def describe(self, index: int) -> str:
        """Names a record for a message: its file, or its place in the data set."""
        ...

    def labels(self) -> np.ndarray | None:
        """(M,) integer class of each record, or of each object in all records; read without decoding any image.

        None where there are no classes.
        """
        ...

    # And, where it costs less than reading the record and the header of its image:
    # def size(self, index: int) -> tuple[int, int]:
    #     """Height and width of a record's image."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set.

    Attributes:
        name: as given in the configuration: "digits", "folder:photos".
        split: as given in the configuration: "train", "train[:90%]".
        records: the records.
        class_names: the name of each class id; () when the data set has no classes.
    """

    name: str
    split: str
    records: Records
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def describe(self, index: int) -> str:
        """Names a record for a message."""
        return self.records.describe(index)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """(M,) int32 class of each record, or of each object, or None; read on first use, no image is decoded."""
        labels = self.records.labels()
        return None if labels is None else np.asarray(labels, np.int32)


def open_source(name: str, split: str, where: str = "data") -> Source:
    """Opens one split of a data set.

    Args:
        name: "digits"; "folder:PATH", one folder per class; "fake:HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES]", random
            images; or any TFDS name that is prepared as ArrayRecord: "cifar10", "imagenet2012", "name/config:version".
        split: a split of the data set, or a slice of one as TFDS writes it: "train", "train[:90%]".
        where: the place of the section in the configuration, for messages.

    Raises:
        UsageError: no such data set or split, or the data are not there.
    """
    kind, separator, rest = name.partition(":")
    if kind in SOURCES:
        return SOURCES[kind](rest, split, where)
    is_tfds_version = re.fullmatch(r"\d+\.\d+\.\d+|\d+\.\*\.\*|\d+\.\d+\.\*", rest)
    if separator and not is_tfds_version:
        raise unknown_name("kind of data set", kind, SOURCES, f"{where}.name")
    from vision.data import tfds_source

    return tfds_source.open_prepared(name, split, where)


def _digits(rest: str, split: str, where: str) -> Source:
    from vision.data import digits, tfds_source

    if rest:
        raise UsageError(f"{where}.name: 'digits' takes no argument, given {rest!r}.")
    return tfds_source.open_directory("digits", digits.prepare(), split, where)


def _folder(path: str, split: str, where: str) -> Source:
    from vision.data import folder

    return folder.open_folder(path, split, where)


def _fake(rest: str, split: str, where: str) -> Source:
    match = re.fullmatch(r"(\d+)x(\d+)x([13]):(\d+)(?::(\d+))?", rest)
    if not match:
        raise UsageError(
            f"{where}.name: 'fake:{rest}' is not of the form fake:HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES], "
            "such as fake:32x32x3:10."
        )
    height, width, channels, classes, examples = (int(group or 0) for group in match.groups())
    if not (height and width and classes):
        raise UsageError(f"{where}.name: height, width and classes of 'fake:{rest}' must be at least 1.")
    records = FakeRecords((height, width, channels), classes, examples or max(64, classes))
    return Source(f"fake:{rest}", split, records, tuple(str(label) for label in range(classes)))


# The kinds of data sets that are not plain TFDS names: what follows "kind:" -> source.
SOURCES: dict[str, Callable[[str, str, str], Source]] = {"digits": _digits, "folder": _folder, "fake": _fake}


@dataclasses.dataclass(frozen=True)
class FakeRecords:
    """Random images with every class in turn, to try a configuration without its data.

    Attributes:
        shape: (H, W, C) of the images.
        classes: number of classes.
        examples: number of records.
    """

    shape: tuple[int, int, int]
    classes: int
    examples: int

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.random.default_rng(index).integers(0, 256, self.shape, np.uint8)
        return {"image": image, "label": index % self.classes}

    def describe(self, index: int) -> str:
        return f"fake record {index}"

    def labels(self) -> np.ndarray:
        return np.arange(self.examples) % self.classes


@dataclasses.dataclass(frozen=True)
class ImageRecords:
    """Images without labels, as given by the caller: paths, encoded bytes or arrays."""

    images: Sequence[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index]}

    def describe(self, index: int) -> str:
        image = self.images[index]
        return f"image {index}" if isinstance(image, bytes | np.ndarray) else str(image)

    def labels(self) -> None:
        return None
