"""Where examples come from: a source is a random-access sequence of records; `vision.data.catalog` opens it by name."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


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

        None where there are no classes, or none but those of pixels.
        """
        ...

    # And, where it costs less than reading the record and the header of its image:
    # def size(self, index: int) -> tuple[int, int]:
    #     """Height and width of a record's image."""
    # And where a record has `boxes` that can be counted without reading it:
    # def counts(self) -> np.ndarray:
    #     """(N,) objects in each record."""


class SegmentationRecords(Records, Protocol):
    """Records with a class for every pixel, as `segmentation` (H, W) uint8, 255 = ignore."""

    def segmentation(self, index: int) -> np.ndarray:
        """The `segmentation` of a record, read without decoding its image."""
        ...

    def fingerprint(self) -> str | None:
        """A text that is another one when the label maps may have changed; None where counts are not to be kept."""
        ...


class Findings(NamedTuple):
    """What a source has found in annotations of objects when it was opened.

    Attributes:
        bad_annotations: of each annotation that is left out its file, the object and the reason.
        bad_images: of each image that is left out its file and the reason.
        clipped: boxes that stood out of their images and end where the images end.
    """

    bad_annotations: tuple[str, ...] = ()
    bad_images: tuple[str, ...] = ()
    clipped: int = 0


NOTHING = Findings()


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set.

    Attributes:
        name: as given in the configuration: "digits", "folder:photos".
        split: as given in the configuration: "train", "train[:90%]".
        records: the records.
        class_names: the name of each class id; () when the data set has no classes.
        keypoint_names: the name of each keypoint; () when the data set has none, or no names for them.
        findings: what is left out.
    """

    name: str
    split: str
    records: Records
    class_names: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    findings: Findings = NOTHING

    def __len__(self) -> int:
        return len(self.records)

    def describe(self, index: int) -> str:
        """Names a record for a message."""
        return self.records.describe(index)

    @property
    def has_segmentation(self) -> bool:
        """Whether the classes are those of pixels: the records are `SegmentationRecords`."""
        return hasattr(self.records, "segmentation")

    @functools.cached_property
    def object_counts(self) -> np.ndarray | None:
        """(N,) objects in each record, where the records tell without being read; else None."""
        return self.records.counts() if hasattr(self.records, "counts") else None

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """(M,) int32 class of each record, or of each object, or None; read on first use, no image is decoded."""
        labels = self.records.labels()
        return None if labels is None else np.asarray(labels, np.int32)


@dataclasses.dataclass(frozen=True)
class ImageRecords:
    """Images without labels, as given by the caller: paths, encoded bytes or arrays.

    They ask for the fields `placement` and `file_size`: who predicts wants to know where in the file something is.
    """

    images: Sequence[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "placement": np.array([1, 0, 0, 0, 1, 0], np.float32)}

    def describe(self, index: int) -> str:
        image = self.images[index]
        return f"image {index}" if isinstance(image, bytes | np.ndarray) else str(image)

    def labels(self) -> None:
        return None
