"""`fake:...` and `fake_segmentation:...`: random images, to try a configuration without its data."""

import dataclasses
import re
from typing import Any

import numpy as np

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
