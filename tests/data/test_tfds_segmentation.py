"""TFDS data sets with label maps: the known ones, in their own layouts of features, and the generic rule."""

import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vision.data import check, create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

SHAPE = (4, 5)


def png(array):
    return io.BytesIO(opencv().imencode(".png", array)[1].tobytes())


def prepare(data_dir, name, features, record, supervised=None, config=None):
    """Writes a TFDS data set of three records in a split `train`: `record(i)` -> its features."""

    def examples(self):
        yield from ((i, record(i)) for i in range(3))

    info = dict(features=tfds.features.FeaturesDict(features), supervised_keys=supervised, disable_shuffling=True)
    methods = {
        "VERSION": tfds.core.Version("1.0.0"),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config, version="1.0.0")] if config else [],
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, **info),
        "_split_generators": lambda self, manager: {"train": examples(self)},
        "_generate_examples": examples,
        "__module__": __name__,
        "name": name,
    }
    builder = type("Some", (tfds.core.GeneratorBasedBuilder,), methods, skip_registration=True)
    builder(data_dir=str(data_dir)).download_and_prepare(file_format="array_record")


def ids(*values):
    """(4, 5) uint8 of some values in turn."""
    return np.resize(np.array(values, np.uint8), SHAPE)


def picture(i):
    return png(np.full((*SHAPE, 3), i, np.uint8))


COLOUR = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
GREY = tfds.features.Image(shape=(None, None, 1), encoding_format="png")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "oxford_iiit_pet",
        {
            "image": COLOUR,
            "label": tfds.features.ClassLabel(names=["Abyssinian", "pug"]),
            "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
            "file_name": tfds.features.Text(),
            "segmentation_mask": GREY,
            "head_bbox": tfds.features.BBoxFeature(),
        },
        lambda i: {
            "image": picture(i),
            "label": i % 2,
            "species": i % 2,
            "file_name": f"{i}.jpg",
            "segmentation_mask": png(ids(1, 2, 3)),
            "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
        },
        supervised=("image", "label"),
    )
    prepare(
        folder,
        "cityscapes",
        {"image_id": tfds.features.Text(), "image_left": COLOUR, "segmentation_label": GREY},
        lambda i: {
            "image_id": str(i),
            "image_left": picture(i),
            "segmentation_label": png(ids(0, 7, 8, 9, 33, 255)),
        },
        config="semantic_segmentation",
    )
    prepare(
        folder,
        "scene_parse150",
        {"image": COLOUR, "annotation": COLOUR},
        lambda i: {"image": picture(i), "annotation": png(ids(0, 1, 150))},
        supervised=("image", "annotation"),
    )
    prepare(
        folder,
        "leaves",
        {"depth": GREY, "photo": COLOUR, "parts": GREY},
        lambda i: {"depth": png(ids(200)), "photo": picture(i), "parts": png(ids(0, i, 255))},
        supervised=("photo", "parts"),
    )
    return folder


@pytest.fixture(autouse=True)
def environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def values(source, index=0):
    return source.records[index]["segmentation"].ravel()[:6].tolist()


def test_oxford_iiit_pet():
    breeds = open_source("oxford_iiit_pet", "train")  # its own target
    assert breeds.class_names == ("Abyssinian", "pug") and breeds.labels.tolist() == [0, 1, 0]
    source = open_source("oxford_iiit_pet", "train", options=dict(annotations="segmentation"))
    assert source.class_names == ("pet", "background", "border")
    assert values(source) == [0, 1, 2, 0, 1, 2]
    assert check(source, 3).pixel_counts == (21, 21, 18)


def test_cityscapes():
    source = open_source("cityscapes/semantic_segmentation", "train")
    assert len(source.class_names) == 19 and source.class_names[18] == "bicycle"
    assert values(source) == [255, 0, 1, 255, 18, 255]
    batch = create("cityscapes", "train", 3, "decode", train=False).batch(0)
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2] and batch["segmentation"].shape == (3, *SHAPE)


def test_scene_parse150():
    source = open_source("scene_parse150", "train")
    assert len(source.class_names) == 150 and values(source) == [255, 0, 149, 255, 0, 149]


def test_the_generic_rule_and_its_options():
    source = open_source("leaves", "train")
    assert source.class_names == () and values(source, 2) == [0, 2, 255, 0, 2, 255]
    assert check(source, 3).pixel_counts[2] == 7
    with pytest.raises(UsageError, match="record 2: the pixel at x 1, y 0 of its label map has the class 2"):
        check(source, 2)
    options = dict(image_key="photo", segmentation_key="depth", ids=(100, 200), classes=("far", "near"))
    source = open_source("leaves", "train", options=options)
    assert source.class_names == ("far", "near") and values(source) == [1] * 6
    other = open_source("leaves", "train", options=options | dict(ids=(100, 201)))
    with pytest.raises(UsageError, match="leaves/train record 0: the pixel at x 0, y 0 has the id 200; expected 100"):
        check(other, 2)
    assert values(open_source("leaves", "train", options=options | dict(ids=(7, 8), ignore="others"))) == [255] * 6
    with pytest.raises(UsageError, match=r"source.segmentation_key: unknown feature 'part'; did you mean 'parts'"):
        open_source("leaves", "train", options=dict(segmentation_key="part"))
    with pytest.raises(UsageError, match=r"source.ids: 3 ids for 2 classes"):
        open_source("leaves", "train", options=options | dict(ids=(1, 2, 3)))


def test_records_are_cheap_to_send_to_another_process():
    records = open_source("cityscapes/semantic_segmentation", "train").records
    assert len(pickle.dumps(records)) < 1500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(records)).segmentation(1), records.segmentation(1))


def test_without_a_label_map(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare(tmp_path, "views", {"photo": COLOUR}, lambda i: {"photo": picture(i)})
    with pytest.raises(UsageError, match=r"source.annotations: 'views' has no label map; its features are photo"):
        open_source("views", "train", options=dict(annotations="segmentation"))
