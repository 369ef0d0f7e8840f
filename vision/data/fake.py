"""`fake:...`, `fake_segmentation:...` and `fake_detection:...`: random images, to try configurations without data."""

import dataclasses
import re
from typing import Any, Literal

import numpy as np

from vision.data.instances import padded
from vision.data.source import Source
from vision.errors import UsageError

_REGION = 16  # pixels; the side of a region of one class


def open_fake(rest: str, split: str, where: str = "data") -> Source:
    """Opens random images with every class in turn.

    Args:
        rest: "HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES]".
        split: any.
        where: the place of the section in the configuration, for messages.

    Raises:
        UsageError: `rest` is not of this form.
    """
    arguments = _parse("fake", rest, where)
    return Source(f"fake:{rest}", split, FakeRecords(*arguments), _names(arguments[1]))


def open_fake_segmentation(rest: str, split: str, where: str = "data") -> Source:
    """Opens random images with random label maps. The arguments are those of `open_fake`.

    Raises:
        UsageError: `rest` is not of this form.
    """
    arguments = _parse("fake_segmentation", rest, where)
    return Source(
        f"fake_segmentation:{rest}",
        split,
        FakeSegmentationRecords(*arguments),
        ("background", *_names(arguments[1])[1:]),
    )


def open_fake_detection(
    rest: str,
    split: str,
    where: str = "data",
    *,
    annotations: Literal["boxes", "masks", "keypoints"] = "boxes",
    max_objects: int = 8,
    keypoints: int = 17,
) -> Source:
    """Opens random images with random objects, of every class in turn.

    Args:
        rest: as for `open_fake`.
        split: any.
        where: the place of the section in the configuration, for messages.
        annotations: "boxes"; "masks", the objects' pixels as well; or "keypoints", boxes and keypoints.
        max_objects: objects a record has room for; with 1 each image has one, whose class is its `label` as well, else
            none to this number in turn.
        keypoints: of each object.

    Raises:
        UsageError: `rest` is not of this form, or a number below 1.
    """
    shape, classes, examples = _parse("fake_detection", rest, where)
    for key, value in (("max_objects", max_objects), ("keypoints", keypoints)):
        if value < 1:
            raise UsageError(f"{where}.source.{key}: expected at least 1, given {value}.")
    points = keypoints if annotations == "keypoints" else 0
    records = FakeObjectRecords(shape, classes, examples, max_objects, annotations == "masks", points)
    return Source(f"fake_detection:{rest}", split, records, _names(classes))


def _parse(kind: str, rest: str, where: str) -> tuple[tuple[int, int, int], int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)x([13]):(\d+)(?::(\d+))?", rest)
    if not match:
        raise UsageError(
            f"{where}.name: '{kind}:{rest}' is not of the form {kind}:HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES], "
            f"such as {kind}:32x32x3:10."
        )
    height, width, channels, classes, examples = (int(group or 0) for group in match.groups())
    if not (height and width and classes):
        raise UsageError(f"{where}.name: height, width and classes of '{kind}:{rest}' must be at least 1.")
    return (height, width, channels), classes, examples or max(64, classes)


def _names(classes: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(classes))


@dataclasses.dataclass(frozen=True)
class FakeRecords:
    """Random images with every class in turn.

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
        return {"image": self._image(index), "label": index % self.classes}

    def _image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, self.shape, np.uint8)

    def describe(self, index: int) -> str:
        return f"fake record {index}"

    def labels(self) -> np.ndarray | None:
        return np.arange(self.examples) % self.classes


class FakeSegmentationRecords(FakeRecords):
    """Random images whose label maps are squares of every class in turn, with a line to be ignored at the left."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._image(index), "segmentation": self.segmentation(index)}

    def segmentation(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids."""
        height, width, _ = self.shape
        rows, columns = np.arange(height) // _REGION, np.arange(width) // _REGION
        result = ((rows[:, None] * (columns[-1] + 1) + columns + index) % self.classes).astype(np.uint8)
        result[:, 0] = 255
        return result

    def fingerprint(self) -> None:
        """Nothing is kept: it is quickly counted."""

    def labels(self) -> None:
        """The classes are those of pixels."""


@dataclasses.dataclass(frozen=True)
class FakeObjectRecords(FakeRecords):
    """Random images with random boxes, every 16th of which is a crowd.

    Attributes:
        max_objects: most objects of an image.
        masks: whether they have masks, which fill their boxes.
        keypoints: how many keypoints each has, which lie in its box; 0 for none.
    """

    max_objects: int = 8
    masks: bool = False
    keypoints: int = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        height, width, _ = self.shape
        count = self._count(index)
        start = rng.integers(0, (width, height), (count, 2))
        end = rng.integers(start + 1, (width + 1, height + 1))
        boxes = np.concatenate([start, end], axis=1).astype(np.float32)
        classes = self._classes(index)
        record = {
            "image": self._image(index),
            "boxes": padded(boxes, self.max_objects),
            "classes": padded(classes, self.max_objects),
            "valid": np.arange(self.max_objects) < count,
            "crowd": padded((index + np.arange(count)) % 16 == 15, self.max_objects),
            "area": padded(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), self.max_objects),
        }
        if self.max_objects == 1:
            record["label"] = int(classes[0])
        if self.masks:
            record["masks"] = np.zeros((self.max_objects, height, width), np.uint8)
            for mask, (x0, y0), (x1, y1) in zip(record["masks"], start, end, strict=False):
                mask[y0:y1, x0:x1] = 1
        if self.keypoints:
            seen = rng.integers(0, 3, (count, self.keypoints, 1))
            places = rng.uniform(start[:, None], end[:, None], (count, self.keypoints, 2))
            points = np.concatenate([np.where(seen > 0, places, 0), seen], axis=2).astype(np.float32)
            record["keypoints"] = padded(points, self.max_objects)
        return record

    def _count(self, index: int) -> int:
        return 1 if self.max_objects == 1 else index % (self.max_objects + 1)

    def _classes(self, index: int) -> np.ndarray:
        return ((index + np.arange(self._count(index))) % self.classes).astype(np.int32)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a record's image."""
        del index
        return self.shape[:2]

    def counts(self) -> np.ndarray:
        """(N,) objects in each record."""
        return np.array([self._count(index) for index in range(self.examples)])

    def labels(self) -> np.ndarray:
        """(M,) classes of all objects."""
        return np.concatenate([self._classes(index) for index in range(self.examples)])
