"""TFDS data sets of objects: those of COCO and VOC in their own layouts of features, and others."""

import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vision.data import check, create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

HEIGHT, WIDTH = 20, 40
# Of each of three examples its objects: (ymin, xmin, ymax, xmax), class.
OBJECTS = (
    [((0.1, 0.25, 0.5, 1.0), 1), ((0.0, 0.0, 1.0, 0.5), 0)],
    [],
    [((0.5, 0.5, 0.5, 0.75), 0), ((0.05, 0.025, 1.0, 1.0), 2)],
)
LABEL = tfds.features.ClassLabel(names=["ape", "bee", "cow"])


def prepare(data_dir, name, inner, more, cut=(), config=None):
    """Writes a TFDS data set with a split `train`.

    Args:
        data_dir: the TFDS data folder.
        name: of the data set.
        inner: the features of an object besides its box.
        more: (example, object) -> their values.
        cut: the examples whose images are cut off.
        config: of the data set.
    """

    def record(i):
        png = opencv().imencode(".png", np.full((HEIGHT, WIDTH, 3), i, np.uint8))[1].tobytes()
        boxes = [dict(bbox=tfds.features.BBox(*box)) | more(i, label) for box, label in OBJECTS[i]]
        return {"image": io.BytesIO(png[:-20] if i in cut else png), "things": boxes}

    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "things": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), **inner}),
    }

    def examples(self):
        yield from ((i, record(i)) for i in range(len(OBJECTS)))

    info = dict(features=tfds.features.FeaturesDict(features), disable_shuffling=True)
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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "coco",
        {"area": np.int64, "label": LABEL, "is_crowd": np.bool_, "id": np.int64},
        lambda i, label: {"area": 7 * i, "label": label, "is_crowd": label == 2, "id": 5},
        config="2017",
    )
    prepare(
        folder,
        "voc",
        {"pose": tfds.features.ClassLabel(names=["left"]), "label": LABEL, "is_difficult": np.bool_},
        lambda i, label: {"pose": 0, "label": label, "is_difficult": label == 1},
        config="2007",
    )
    prepare(folder, "faces", {}, lambda i, label: {}, cut=(0,))
    return folder


@pytest.fixture(autouse=True)
def environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def test_coco():
    source = open_source("coco/2017", "train", options=dict(annotations="boxes"))
    assert source.class_names == ("ape", "bee", "cow") and source.labels.tolist() == [1, 0, 2]
    record = source.records[0]
    np.testing.assert_allclose(record["boxes"], [[10, 2, 40, 10], [0, 0, 20, 20]], rtol=1e-6)
    assert source.records[2]["crowd"].tolist() == [True, False] and source.records[2]["area"].tolist() == [14, 0]
    assert source.findings.bad_annotations == (
        "coco/2017/train record 2: object 0: the box has no size: x0 20, y0 10, x1 30, y1 10",
    )
    report = check(source, 3)
    assert (report.class_counts, report.empty) == ((1, 1, 1), 1)
    batch = create("coco/2017", "train", 3, "decode", train=False).batch(0)
    assert batch["boxes"].shape == (3, 2, 4) and batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="coco/2017/train record 2: object 0: the box has no size"):
        open_source("coco/2017", "train", options=dict(on_bad_annotation="stop"))
    assert len(open_source("coco/2017", "train", options=dict(empty=False))) == 2
    with pytest.raises(
        UsageError, match=r"data.source.max_objects: coco/2017/train record 0 has 2 objects, more than 1"
    ):
        open_source("coco/2017", "train", options=dict(max_objects=1))


def test_voc_counts_pixels_from_1():
    source = open_source("voc/2007", "train")
    np.testing.assert_allclose(source.records[0]["boxes"], [[9, 1, 40, 10], [0, 0, 20, 20]], rtol=1e-6)
    np.testing.assert_allclose(source.records[2]["boxes"][0], [0, 0, 40, 20], atol=1e-5)
    assert source.records[0]["crowd"].tolist() == [True, False] and "area" not in source.records[0]


def test_without_classes_and_with_a_damaged_image():
    source = open_source("faces", "train")
    assert source.class_names == ("object",) and len(source) == 2 and source.labels.tolist() == [0]
    assert source.findings.bad_images == ("faces/train record 0: the PNG file is truncated",)
    assert source.describe(1) == "faces/train record 2" and source.records[1]["image"].startswith(b"\x89PNG")
    copy = pickle.loads(pickle.dumps(source.records))
    assert copy[1]["boxes"].tolist() == source.records[1]["boxes"].tolist()


def test_what_is_not_there():
    with pytest.raises(UsageError, match=r"source.objects_key: unknown feature 'thing'; did you mean 'things'"):
        open_source("faces", "train", options=dict(objects_key="thing"))
    with pytest.raises(UsageError, match=r"source.objects_key: 'image' is no sequence of objects with boxes"):
        open_source("faces", "train", options=dict(objects_key="image"))
