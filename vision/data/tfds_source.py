"""TFDS data sets that are prepared as ArrayRecord, read without TensorFlow; images stay encoded until the pipeline."""

import hashlib
import logging
import os
import pathlib
import re
from typing import Any

import numpy as np

from vision.data.digits import default_data_dir
from vision.data.source import Source
from vision.errors import UsageError, nearest, unknown_name

_CHUNK = 1024  # records read at once when only their labels are wanted


class TfdsRecords:
    """`vision.data.source.Records` of one split of a prepared data set, by its folder: cheap to pickle."""

    def __init__(self, name: str, directory: str, split: str):
        self._name, self._directory, self._split = name, directory, split
        self._open()

    def __reduce__(self):
        return TfdsRecords, (self._name, self._directory, self._split)

    def _open(self):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._directory)
        self._length = builder.info.splits[self._split].num_examples
        self._image_key, self._label_key = _keys(builder.info)
        self.class_names = _class_names(builder.info, self._label_key)
        decoders = {self._image_key: tfds.decode.SkipDecoding()}
        # An empty slice is no split of files to ArrayRecord; it is reported as such before training starts.
        self._data = builder.as_data_source(self._split, decoders=decoders) if self._length else []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._data[index]
        record = {"image": example[self._image_key]}
        if self._label_key:
            record["label"] = int(example[self._label_key])
        return record

    def describe(self, index: int) -> str:
        return f"{self._name}/{self._split} record {index}"

    def labels(self) -> np.ndarray | None:
        """(N,) labels: read once, for the whole records must be, and kept in the user's cache folder."""
        if not self._label_key:
            return None
        cache = self._cache_file()
        try:
            labels = np.load(cache)
            if labels.shape == (len(self),):
                return labels
        except (OSError, ValueError):
            pass
        if len(self) > 100_000:
            logging.info("Reading the labels of %s/%s, once (kept in %s).", self._name, self._split, cache)
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(self)))
            labels[chunk.start : chunk.stop] = [example[self._label_key] for example in self._data.__getitems__(chunk)]
        _save(cache, labels)
        return labels

    def _cache_file(self) -> pathlib.Path:
        info = os.path.join(self._directory, "dataset_info.json")  # rewritten when the data set is prepared anew
        key = f"{os.path.realpath(self._directory)} {self._split} {self._label_key} {os.stat(info).st_mtime_ns}"
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return cache / "vision" / "labels" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def open_prepared(name: str, split: str, where: str = "data") -> Source:
    """Opens a split of any TFDS data set by its name: "cifar10", "name/config", "name:1.0.0".

    Raises:
        UsageError: it is not prepared, or not as ArrayRecord; says which command prepares it.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    data_dir = os.path.expanduser(default_data_dir())
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError:
        raise _not_prepared(name, data_dir, where) from None
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{where}.name: TFDS cannot open {name!r}: {str(error).splitlines()[0]}") from None
    return open_directory(name, os.fspath(builder.data_dir), split, where)


def open_directory(name: str, directory: str, split: str, where: str = "data") -> Source:
    """Opens a split of the TFDS data set prepared in a folder.

    Raises:
        UsageError: it is not ArrayRecord, has no such split, or no image.
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
    if _keys(info)[0] is None:
        raise UsageError(f"{where}.name: {name!r} has no image; its features are {', '.join(sorted(info.features))}.")
    records = TfdsRecords(name, directory, split)
    return Source(name, split, records, records.class_names)


def _check_split(info, split: str, where: str) -> None:
    base = re.match(r"\w*", split)[0]
    if base not in info.splits and base != "all":
        raise unknown_name("split", split, info.splits, f"{where}.split")
    try:
        info.splits[split]
    except (ValueError, KeyError):
        example = f"{base}[:90%] or {base}[1000:2000]"
        raise UsageError(f"{where}.split: {split!r} is not a slice of a split, such as {example}.") from None


def _keys(info) -> tuple[str | None, str | None]:
    """The names of the image and of the class among the features, by the data set's own word or by their kind."""
    from tensorflow_datasets import features

    def named(kind, supervised_key):
        found = [key for key, feature in info.features.items() if isinstance(feature, kind)]
        return supervised_key if supervised_key in found else next(iter(found), None)

    image, label = (info.supervised_keys or (None, None))[:2]
    return named(features.Image, image), named(features.ClassLabel, label)


def _class_names(info, label_key: str | None) -> tuple[str, ...]:
    return tuple(info.features[label_key].names) if label_key else ()


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


def _save(path: pathlib.Path, labels: np.ndarray) -> None:
    """Writes a file as a whole or not at all; a cache that cannot be written is no error."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(temporary, labels)
        os.replace(temporary, path)
    except OSError as error:
        logging.info("The labels are not kept for the next run: %s", error)
