"""Data sets prepared by TFDS, and the sentence for those that are not."""

import io
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vision.data import create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

CLASSES = ("ant", "bee", "cow")


def images(count):
    return np.random.default_rng(7).integers(0, 256, (count, 6, 5, 3), np.uint8)


def prepare(data_dir, name="insects", file_format="array_record", features=None, count=40):
    """Writes a small TFDS data set with splits `train` and `validation`."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features or standard), disable_shuffling=True
        )

    def examples(self, offset):
        for i, image in enumerate(images(count)):
            encoded = io.BytesIO(opencv().imencode(".png", image[..., ::-1])[1].tobytes())
            record = {"picture": encoded, "kind": (i + offset) % 3, "title": f"number {i}", "id": i}
            yield i, {key: value for key, value in record.items() if key in (features or standard)}

    standard = {
        "id": tfds.features.Scalar(np.int64),
        "title": tfds.features.Text(),
        "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "kind": tfds.features.ClassLabel(names=CLASSES),
    }
    methods = {
        "VERSION": tfds.core.Version("1.2.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {"train": examples(self, 0), "validation": examples(self, 1)},
        "_generate_examples": examples,
    }
    bases = (tfds.core.GeneratorBasedBuilder,)
    builder_class = type(name.title(), bases, {**methods, "__module__": __name__}, skip_registration=True)
    builder_class(data_dir=str(data_dir)).download_and_prepare(file_format=file_format)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder)
    return folder


@pytest.fixture(autouse=True)
def environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def test_a_prepared_data_set_is_read_by_its_name():
    source = open_source("insects", "train")
    assert (len(source), source.class_names) == (40, CLASSES)
    np.testing.assert_array_equal(source.labels, np.arange(40) % 3)
    batch = create("insects:1.2.0", "validation", 10, "decode", train=False).batch(2)
    np.testing.assert_array_equal(batch["image"], images(40)[20:30])
    np.testing.assert_array_equal(batch["label"], (np.arange(20, 30) + 1) % 3)
    assert set(batch) == {"image", "label", "mask", "index"}
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("split", "places"), [("train[:25%]", range(10)), ("train[30:]", range(30, 40)), ("train[:0]", [])]
)
def test_slices_of_splits(split, places):
    source = open_source("insects", split)
    np.testing.assert_array_equal(source.labels, np.array(places, int) % 3)
    assert [source.records[i]["label"] for i in range(len(source))] == [place % 3 for place in places]


def test_labels_are_read_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_source("insects", "train").labels
    (kept,) = tmp_path.rglob("*.npy")
    source = open_source("insects", "train")
    monkeypatch.setattr(source.records.data, "_data", None)
    np.testing.assert_array_equal(source.labels, first)
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(open_source("insects", "train").labels, first)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    np.testing.assert_array_equal(open_source("insects", "train").labels, first)


def test_records_are_cheap_to_send_to_another_process():
    records = open_source("insects", "train[5:9]").records
    assert len(pickle.dumps(records)) < 1000
    assert pickle.loads(pickle.dumps(records))[3] == records[3]


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012", "cifar10:3.0.2"])
def test_one_that_is_not_prepared_says_which_command_prepares_it(name):
    with pytest.raises(UsageError) as caught:
        open_source(name, "train", "config.data.train")
    message = str(caught.value)
    assert message.startswith(f"config.data.train.name: the TFDS data set '{name}' is not prepared in ")
    assert f"tfds build {name} --file_format=array_record" in message and "pip install tensorflow" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "offered"), [("cifar_10", "cifar10"), ("digit", "digits"), ("imagnet2012", "imagenet2012")]
)
def test_an_unknown_name_offers_the_nearest(name, offered):
    with pytest.raises(UsageError, match=f"unknown data set '{name}'; did you mean '{offered}'"):
        open_source(name, "train")


def test_one_prepared_as_tfrecord_says_so(tmp_path, monkeypatch, data_dir):
    import shutil

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    shutil.copytree(data_dir / "insects", tmp_path / "insects")
    info = tmp_path / "insects" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        UsageError, match=r"is prepared as tfrecord, which cannot be read at random.*--file_format=array_record"
    ):
        open_source("insects", "train")


def test_a_data_set_without_images_or_without_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare(tmp_path, "words", features={"title": tfds.features.Text(), "id": tfds.features.Scalar(np.int64)})
    with pytest.raises(UsageError, match="'words' has no image; its features are id, title"):
        open_source("words", "train")
    picture = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    prepare(tmp_path, "views", features={"picture": picture})
    source = open_source("views", "train")
    assert source.labels is None and source.class_names == () and set(source.records[0]) == {"image"}


def test_unknown_splits_and_kinds():
    with pytest.raises(UsageError, match=r"unknown split 'val'.* Valid: train, validation"):
        open_source("insects", "val")
    with pytest.raises(UsageError, match="unknown kind of data set 'floder'; did you mean 'folder'"):
        open_source("floder:photos", "train")
