"""Objects with boxes in TFDS data sets: `coco/2017`, `voc/2007` and others with a sequence of boxes."""

import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.data import objects
from vision.data.images import BadImage, whole_size
from vision.data.objects import Annotations, Options
from vision.data.source import Source
from vision.errors import UsageError

if TYPE_CHECKING:
    from vision.data.tfds_source import PreparedSplit

# Data sets whose boxes are VOC's own numbers divided by the image's size: pixels counted from 1, the last ones within.
_INCLUSIVE = ("voc",)
_COLUMNS = 7  # of the table of a split: x0, y0, x1, y1, class, crowd and area


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """The encoded images of a prepared split, as `vision.data.objects.Images`.

    Attributes:
        data: the examples.
        key: the feature that is the image.
        places: (N,) which examples.
    """

    data: "PreparedSplit"
    key: str
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> bytes:
        return self.data[int(self.places[index])][self.key]

    def describe(self, index: int) -> str:
        return self.data.describe(int(self.places[index]))

    def take(self, places: np.ndarray) -> "PreparedImages":
        return dataclasses.replace(self, places=self.places[places])


def feature(features: Any) -> str | None:
    """The name of the first feature that is a sequence of objects with boxes, or None."""
    return next((key for key in features if _box_key(features[key])), None)


def open_boxes(data: "PreparedSplit", image: str, key: str, options: Options) -> Source:
    """Opens the boxes of a prepared split.

    All examples are read once, for their boxes and the sizes of their images; that is kept in the user's cache folder.

    Args:
        data: the split.
        image: the feature that is the image.
        key: the feature that is a sequence of objects.
        options: of the source.

    Raises:
        UsageError: the feature is no sequence of objects with boxes, or bad annotations.
    """
    box = _box_key(data.features[key])
    if box is None:
        raise UsageError(f"{options.where}.source.objects_key: {key!r} is no sequence of objects with boxes.")
    inner = data.features[key].feature
    label = _label_key(inner)
    names = tuple(inner[label].names) if label else ("object",)
    crowd = [name for name in ("is_crowd", "is_difficult") if name in inner]
    read = functools.partial(_rows, image=image, key=key, box=box, label=label, crowd=crowd)
    table = data.table(f"boxes {image} {key} {box} {label} {crowd}", read, np.float64)
    heads, counts = _heads(table, len(data))
    rows = np.delete(table, heads, axis=0)
    of_image = np.repeat(np.arange(len(data)), counts)
    damaged = {place: _why_damaged(data[place][image]) for place in np.flatnonzero(table[heads, 0] == 0).tolist()}
    found = Annotations(
        images=of_image,
        boxes=rows[:, :4],
        classes=rows[:, 4].astype(np.int64),
        name=lambda row: (
            f"{data.describe(int(of_image[row]))}: object {row - int(np.searchsorted(of_image, of_image[row]))}"
        ),
        inclusive=re.split(r"[/:]", data.name)[0] in _INCLUSIVE,
        crowd=rows[:, 5] > 0 if crowd else None,
        area=rows[:, 6] if "area" in inner else None,
    )
    images = PreparedImages(data, image, np.arange(len(data)))
    sizes = table[heads, :2].astype(np.int32)
    return objects.open_objects(data.name, data.split, images, (sizes, damaged), found, names, options)


def _box_key(one: Any) -> str | None:
    """The boxes' name within a sequence of objects."""
    from tensorflow_datasets import features

    inner = getattr(one, "feature", None)
    if not isinstance(inner, features.FeaturesDict):
        return None
    boxes = [name for name in inner if isinstance(inner[name], features.BBoxFeature)]
    return next((name for name in boxes if inner[name].bbox_format.value == "REL_YXYX"), None)


def _label_key(inner: Any) -> str | None:
    from tensorflow_datasets import features

    labels = [name for name in inner if isinstance(inner[name], features.ClassLabel)]
    return "label" if "label" in labels else next(iter(labels), None)


def _rows(example: dict[str, Any], image: str, key: str, box: str, label: str | None, crowd: list[str]) -> np.ndarray:
    """(1 + n, 7): height, width and number of the objects; then what `_COLUMNS` says of each, in pixels."""
    found = example[key]
    boxes = np.asarray(found[box], np.float64).reshape(-1, 4)
    rows = np.zeros((1 + len(boxes), _COLUMNS))
    try:
        height, width = whole_size(example[image])
    except BadImage:
        height, width = 0, 0
    rows[0, :3] = height, width, len(boxes)
    rows[1:, :4] = boxes[:, [1, 0, 3, 2]] * (width, height, width, height)
    if label:
        rows[1:, 4] = found[label]
    if crowd:
        rows[1:, 5] = np.any([found[name] for name in crowd], axis=0)
    if "area" in found:
        rows[1:, 6] = found["area"]
    return rows


def _heads(table: np.ndarray, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the rows of the images, and the number of objects of each."""
    heads, counts, row = np.zeros(examples, np.int64), np.zeros(examples, np.int64), 0
    for place in range(examples):
        heads[place], counts[place] = row, int(table[row, 2])
        row += 1 + counts[place]
    return heads, counts


def _why_damaged(image: bytes) -> str:
    try:
        whole_size(image)
    except BadImage as error:
        return str(error)
    return "it could not be read a moment ago"
