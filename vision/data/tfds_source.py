"""TFDS data sets that are prepared as ArrayRecord, read without TensorFlow; images stay encoded until the pipeline."""

import dataclasses
import logging
import os
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from vision.data import cache, class_tables, tfds_objects
from vision.data.builders import default_data_dir
from vision.data.label_maps import IdTable
from vision.data.objects import Options
from vision.data.source import Source
from vision.errors import UsageError, nearest, unknown_name

_CHUNK = 1024  # examples read at once when only their labels are wanted
_LONG = 100_000  # examples; below, nobody wonders what takes so long

# What the ids in the label maps of TFDS data sets mean, by the name's first part: "cityscapes/semantic_segmentation".
LABEL_MAPS: dict[str, class_tables.Table] = {
    "oxford_iiit_pet": class_tables.Table(("pet", "background", "border"), ids=(1, 2, 3)),
    "cityscapes": class_tables.CITYSCAPES,
    "scene_parse150": class_tables.Table(tuple(str(i) for i in range(1, 151)), ids=tuple(range(1, 151)), ignore=(0,)),
}


class PreparedSplit:
    """The examples of one split of a prepared data set, as TFDS gives them but with their images still encoded.

    It is known by its folder, and so cheap to pickle.
    """

    def __init__(self, name: str, directory: str, split: str):
        self.name, self.directory, self.split = name, directory, split
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
        self.features = builder.info.features
        self._length = builder.info.splits[split].num_examples
        encoded = (key for key, feature in self.features.items() if isinstance(feature, tfds.features.Image))
        decoders = {key: tfds.decode.SkipDecoding() for key in encoded}
        # An empty slice is no split of files to ArrayRecord; it is reported as such before training starts.
        self._data = builder.as_data_source(split, decoders=decoders) if self._length else []

    def __reduce__(self):
        return PreparedSplit, (self.name, self.directory, self.split)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._data[index]

    def describe(self, index: int) -> str:
        """Names an example for a message."""
        return f"{self.name}/{self.split} record {index}"

    def fingerprint(self) -> str:
        """A text that is another one when the data set is prepared anew."""
        info = os.path.join(self.directory, "dataset_info.json")
        return f"{os.path.realpath(self.directory)} {self.split} {os.stat(info).st_mtime_ns}"

    def labels(self, column: str, read: Callable[[dict[str, Any]], Any]) -> np.ndarray:
        """(M,) int32: `read(example)`, one number or several, of all examples; as `table`."""
        return self.table(column, read, np.int32)

    def table(self, column: str, read: Callable[[dict[str, Any]], Any], dtype: Any) -> np.ndarray:
        """(M, ...) what `read` says of all examples, one after the other.

        They are read once, for the whole examples must be, and kept in the user's cache folder.

        Args:
            column: what is read, in words.
            read: an example to a number, or to (m, ...) of them.
            dtype: of the result.
        """
        key = f"{self.fingerprint()} {column}"
        table = cache.load("labels", key)
        if table is not None:
            return table
        if len(self) > _LONG:
            logging.info("Reading the labels of %s/%s, once.", self.name, self.split)
        chunks = (range(start, min(start + _CHUNK, len(self))) for start in range(0, len(self), _CHUNK))
        found = [np.atleast_1d(read(example)) for chunk in chunks for example in self._data.__getitems__(chunk)]
        table = np.concatenate(found).astype(dtype) if found else np.zeros(0, dtype)
        cache.save("labels", key, table)
        return table


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """`vision.data.source.Records` of a prepared split: images, with a class where there is one.

    Attributes:
        data: the examples.
        image_key: the feature that is the image.
        label_key: the feature that is the class, if any.
    """

    data: PreparedSplit
    image_key: str
    label_key: str | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.data[index]
        record = {"image": example[self.image_key]}
        if self.label_key:
            record["label"] = int(example[self.label_key])
        return record

    def describe(self, index: int) -> str:
        return self.data.describe(index)

    def labels(self) -> np.ndarray | None:
        """(N,) classes, or None."""
        key = self.label_key
        return self.data.labels(key, lambda example: example[key]) if key else None


@dataclasses.dataclass(frozen=True)
class TfdsSegmentationRecords:
    """`vision.data.source.SegmentationRecords` of a prepared split.

    Attributes:
        data: the examples.
        image_key: the feature that is the image.
        segmentation_key: the feature that is the label map.
        table: what its ids mean.
    """

    data: PreparedSplit
    image_key: str
    segmentation_key: str
    table: IdTable

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.data[index]
        return {"image": example[self.image_key], "segmentation": self._segmentation(example)}

    def _segmentation(self, example: dict[str, Any]) -> np.ndarray:
        return self.table.read(example[self.segmentation_key])

    def segmentation(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of a record."""
        return self._segmentation(self.data[index])

    def fingerprint(self) -> str:
        return f"{self.data.fingerprint()} {self.segmentation_key} {self.table}"

    def describe(self, index: int) -> str:
        return self.data.describe(index)

    def labels(self) -> None:
        """The classes are those of pixels."""


def open_prepared(
    name: str,
    split: str,
    where: str = "data",
    *,
    annotations: Literal["label", "segmentation", "boxes"] | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    segmentation_key: str | None = None,
    objects_key: str | None = None,
    classes: tuple[str, ...] = (),
    ids: tuple[int, ...] = (),
    ignore: tuple[int, ...] | Literal["others"] | None = None,
    max_objects: int | None = None,
    empty: bool = True,
    on_bad_annotation: Literal["drop", "stop"] = "drop",
) -> Source:
    """Opens a split of any TFDS data set by its name: "cifar10", "name/config", "name:1.0.0".

    Args:
        name: of the data set.
        split: a split of it, or a slice of one.
        where: the place of the section in the configuration, for messages.
        annotations: "label", a class for each image; "segmentation", a class for each pixel; or "boxes", objects with
            boxes. By default the first of these that the data set has.
        image_key: the feature that is the image; by default the data set's input, or its first image.
        label_key: the feature that is the class; by default the data set's target, or its first class.
        segmentation_key: the feature that is the label map; by default the image of one channel, or the second image.
        objects_key: the feature that is a sequence of objects with boxes; by default the first.
        classes: names of the classes of pixels; by default those known for the data set.
        ids: the id, in the label maps, of each class of pixels; by default 0, 1, ... or those known for the data set.
        ignore: ids, in the label maps, that become 255, or "others" for all that are no class; by default (255,) or
            those known for the data set.
        max_objects: objects a record has room for; by default the largest number in the split.
        empty: keep images without objects.
        on_bad_annotation: "drop" leaves bad annotations and damaged images out and reports them, "stop" lists them.

    Raises:
        UsageError: it is not prepared, or not as ArrayRecord (says which command prepares it), or lacks what is asked.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    data_dir = os.path.expanduser(default_data_dir())
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError:
        raise _not_prepared(name, data_dir, where) from None
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{where}.name: TFDS cannot open {name!r}: {str(error).splitlines()[0]}") from None
    data = open_split(name, os.fspath(builder.data_dir), split, where)
    image, label, segmentation = _keys(data, builder.info.supervised_keys)
    image = _chosen(data, image_key, image, f"{where}.source.image_key")
    label = _chosen(data, label_key, label, f"{where}.source.label_key")
    segmentation = _chosen(data, segmentation_key, segmentation, f"{where}.source.segmentation_key")
    objects = _chosen(data, objects_key, tfds_objects.feature(data.features), f"{where}.source.objects_key")
    _check_image(data, image, where)
    if annotations is None:
        asked = segmentation_key or classes or ids or ignore
        annotations = "segmentation" if segmentation and (asked or not label) else "label"
        if objects and (objects_key or not (label or segmentation)):
            annotations = "boxes"
    if annotations == "boxes":
        if objects is None:
            raise _lacks(data, "objects with boxes", "objects_key", where)
        options = Options(on_bad_annotation, max_objects, empty, where)
        return tfds_objects.open_boxes(data, image, objects, options)
    if annotations == "label":
        return _labelled(data, image, label)
    if segmentation is None:
        raise _lacks(data, "label map", "segmentation_key", where)
    known = LABEL_MAPS.get(re.split(r"[/:]", name)[0], class_tables.Table(()))
    table = class_tables.resolve(known, classes, ids, ignore, f"{where}.source")
    return Source(name, split, TfdsSegmentationRecords(data, image, segmentation, table.ids_table()), table.names)


def open_directory(name: str, directory: str, split: str, where: str = "data") -> Source:
    """Opens a split of the TFDS data set of images and classes prepared in a folder.

    Raises:
        UsageError: it is not ArrayRecord, has no such split, or no image.
    """
    data = open_split(name, directory, split, where)
    image, label, _ = _keys(data, None)
    _check_image(data, image, where)
    return _labelled(data, image, label)


def open_split(name: str, directory: str, split: str, where: str = "data") -> PreparedSplit:
    """Opens a split of the TFDS data set prepared in a folder.

    Raises:
        UsageError: it is not ArrayRecord, or has no such split.
    """
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(directory).info
    formats = {file_format.value for file_format in info.available_file_formats()}
    if "array_record" not in formats:
        raise UsageError(
            f"{where}.name: {name!r} in {directory} is prepared as {', '.join(sorted(formats))}, which cannot be "
            f"read at random. Prepare it as ArrayRecord in another folder: {_build_command(name)} --data_dir=FOLDER, "
            "then set TFDS_DATA_DIR=FOLDER."
        )
    _check_split(info, split, where)
    return PreparedSplit(name, directory, split)


def _labelled(data: PreparedSplit, image: str, label: str | None) -> Source:
    names = tuple(data.features[label].names) if label else ()
    return Source(data.name, data.split, TfdsRecords(data, image, label), names)


def _check_image(data: PreparedSplit, image: str | None, where: str) -> None:
    if image is None:
        features = ", ".join(sorted(data.features))
        raise UsageError(f"{where}.name: {data.name!r} has no image; its features are {features}.")


def _lacks(data: PreparedSplit, what: str, key: str, where: str) -> UsageError:
    return UsageError(
        f"{where}.source.annotations: {data.name!r} has no {what}; its features are "
        f"{', '.join(sorted(data.features))}. Name one by {key}."
    )


def _chosen(data: PreparedSplit, given: str | None, default: str | None, where: str) -> str | None:
    if given is not None and given not in data.features:
        raise unknown_name("feature", given, data.features, where)
    return given or default


def _check_split(info, split: str, where: str) -> None:
    base = re.match(r"\w*", split)[0]
    if base not in info.splits and base != "all":
        raise unknown_name("split", split, info.splits, f"{where}.split")
    try:
        info.splits[split]
    except (ValueError, KeyError):
        example = f"{base}[:90%] or {base}[1000:2000]"
        raise UsageError(f"{where}.split: {split!r} is not a slice of a split, such as {example}.") from None


def _keys(data: PreparedSplit, supervised: tuple | None) -> tuple[str | None, str | None, str | None]:
    """The names of the image, the class and the label map among the features, by the data set's word or their kind."""
    from tensorflow_datasets import features

    input_key, target_key = (supervised or (None, None))[:2]
    images = [key for key, feature in data.features.items() if isinstance(feature, features.Image)]
    image = input_key if input_key in images else next((k for k in images if data.features[k].shape[-1] != 1), None)
    image = image or next(iter(images), None)
    labels = [key for key, feature in data.features.items() if isinstance(feature, features.ClassLabel)]
    label = target_key if target_key in labels else next(iter(labels), None)
    others = [key for key in images if key != image]
    grey = [key for key in others if data.features[key].shape[-1] == 1]
    return image, label, next(iter([key for key in (target_key,) if key in others] + grey + others), None)


def _not_prepared(name: str, data_dir: str, where: str) -> UsageError:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    base = re.split(r"[/:]", name)[0]
    if base not in known:
        close = nearest(base, [*known, "digits"])
        hint = f"; did you mean {close!r}?" if close else "."
        return UsageError(
            f"{where}.name: unknown data set {name!r}{hint} A data set is 'digits', 'folder:PATH', or a TFDS name "
            f"prepared in {data_dir}."
        )
    return UsageError(
        f"{where}.name: the TFDS data set {name!r} is not prepared in {data_dir}. Prepare it, in an environment with "
        f"TensorFlow (pip install tensorflow): {_build_command(name)} --data_dir={data_dir}"
    )


def _build_command(name: str) -> str:
    return f"tfds build {name} --file_format=array_record"
