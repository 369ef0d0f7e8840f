"""Scenes of digits: the same everywhere, made of the right digits, and what their annotations say is there."""

import hashlib
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import vision.data
from vision.data import check, create, digit_scenes, digits, open_source, scene_drawing
from vision.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with a small edition."""
    path = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(path))
        patch.setattr(digit_scenes, "EXAMPLES", {"train": 40, "test": 10})
        for objects in digit_scenes.OBJECTS:
            digit_scenes.prepare(objects)
    return path


@pytest.fixture(autouse=True)
def environment(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


def test_the_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for _, scene in itertools.islice(digit_scenes.scenes(split), 30):
            for array in (scene.image, scene.instances, scene.classes.astype(np.uint8), scene.visible):
                digest.update(array.tobytes())
    assert digest.hexdigest() == "fa3fc89bdfbf132d3ebb8e5282050ef0be9048403e6b8e577c7d46d43c3b215d"
    assert digit_scenes.EXAMPLES == {"train": 2000, "test": 500}


def test_glyphs_are_cubic_convolutions_of_the_digits():
    images = digits.levels()[0][:3]
    fine = scene_drawing.glyphs(images)

    def cubic(x):  # Keys, "Cubic convolution interpolation for digital image processing", equation 15, a = -1/2
        x = np.abs(x)
        return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

    place = (np.arange(96) + 0.5) / 8 - 0.5 - 2
    weights = cubic(place[:, None] - np.arange(8))
    np.testing.assert_allclose(fine, weights @ (images / 16) @ weights.T, atol=1e-12)


def test_a_split_is_made_of_its_own_digits():
    labels = digits.levels()[1]
    test = set(digits.test_indices(labels).tolist())
    for split, of_test in (("train", False), ("test", True)):
        data = open_source("digit_scenes", split).records.data
        for example in (data[i] for i in range(len(data))):
            ids = example["objects"]["id"]
            assert all((int(i) in test) == of_test for i in ids)
            np.testing.assert_array_equal(labels[ids], example["objects"]["label"])


def test_annotations_agree_with_each_other():
    semantic = create("digit_scenes", "train", 40, "decode", train=False).batch(0)
    source = open_source("digit_scenes", "train", options=dict(annotations="masks"))
    for index, segmentation in enumerate(semantic["segmentation"]):
        record = source.records[index]
        found = int(record["valid"].sum())
        assert 1 <= found <= 8 and record["valid"][:found].all()
        assert record["masks"].shape == (8, 96, 96) and record["masks"].dtype == np.uint8
        assert not any(record[name][found:].any() for name in ("boxes", "classes", "visible", "masks"))
        ids = (record["masks"] * (record["classes"] + 1)[:, None, None]).sum(0)
        np.testing.assert_array_equal(segmentation, ids)  # and so no pixel is of two objects
        for mask, box, visible in zip(record["masks"][:found], record["boxes"], record["visible"], strict=False):
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert scene_drawing.MIN_VISIBLE <= visible <= 1
        assert record["visible"][found - 1] == 1  # nothing is over the last
    assert source.labels.tolist() == [label for i in range(40) for label in _classes(source.records[i])]


def _classes(record):
    return record["classes"][record["valid"]].tolist()


def test_kinds_of_annotations():
    source = open_source("digit_scenes", "test")
    assert source.class_names == ("background", *"0123456789") and source.labels is None
    assert set(source.records[0]) == {"image", "segmentation"}
    assert str(check(source, 11)).startswith("digit_scenes test: 10 examples, 11 classes of pixels: background 9")
    boxes = open_source("digit_scenes", "test", options=dict(annotations="boxes"))
    assert boxes.class_names == tuple("0123456789") and not boxes.has_segmentation
    assert set(boxes.records[0]) == {"image", "boxes", "classes", "valid", "visible"}
    assert boxes.object_counts.tolist() == [boxes.records[index]["valid"].sum() for index in range(10)]
    report = check(boxes, 10)
    assert sum(report.class_counts) == len(boxes.labels) == boxes.object_counts.sum() and report.empty == 0
    with pytest.raises(UsageError, match="10 classes, while the model has 11"):
        check(boxes, 11)


def test_one_digit():
    source = open_source("digit_scenes", "test", options=dict(annotations="boxes", objects="one"))
    assert len(source.labels) == 10 == len(source)
    for index in range(10):
        record = source.records[index]
        assert record["boxes"].shape == (1, 4) and record["valid"].tolist() == [True] == record["visible"].tolist()
        assert record["label"] == record["classes"][0] == source.labels[index]


@pytest.mark.slow
def test_worker_processes_read_scenes():
    sources = dict(annotations="masks")
    here, there = (
        next(create("digit_scenes", "train", 4, "decode", source=sources, workers=workers).batches())
        for workers in (0, 1)
    )
    for name in here:
        np.testing.assert_array_equal(here[name], there[name])


def test_mistakes():
    with pytest.raises(UsageError, match=r"train.source.annotation: unknown key; did you mean 'annotations'"):
        open_source("digit_scenes", "train", "config.data.train", dict(annotation="boxes"))
    with pytest.raises(UsageError, match=r"source.objects: expected 'many' or 'one', given 'two'"):
        open_source("digit_scenes", "train", options=dict(objects="two"))
    with pytest.raises(UsageError, match="unknown split 'val'"):
        open_source("digit_scenes", "val")
    with pytest.raises(UsageError, match="'digit_scenes' takes no argument, given '64'"):
        open_source("digit_scenes:64", "train")


SCRIPT = """
import os, sys
from vision.data import digit_scenes
digit_scenes.EXAMPLES = {"train": 20, "test": 5}
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
    pass
print(digit_scenes.prepare())
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_processes_that_start_at_once_do_not_corrupt_it(tmp_path, monkeypatch):
    python_path = str(pathlib.Path(vision.data.__file__).parents[2])
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": python_path}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "go")]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert folders == {str(tmp_path / "data" / "digit_scenes" / "many" / "1.0.0")}
    assert [path.name for path in (tmp_path / "data" / "digit_scenes" / "many").iterdir()] == ["1.0.0"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    assert len(open_source("digit_scenes", "train+test")) == 25
