"""Names of data sets, and the options in a `source` section."""

import numpy as np
import pytest

from vision import config as configs
from vision import reference, schema, sections
from vision.data import catalog, check, create, open_source
from vision.errors import UsageError


def test_options_are_those_of_the_function():
    with pytest.raises(UsageError, match=r"train.source.anotations: unknown key; did you mean 'annotations'"):
        open_source("digit_scenes", "train", "config.data.train", {"anotations": "boxes"})
    with pytest.raises(UsageError, match=r"data.source.classes: unknown key; Valid: none"):
        open_source("fake:8x8x3:2", "train", options={"classes": ("a", "b")})
    with pytest.raises(UsageError, match=r"data.source.split: unknown key"):
        open_source("digit_scenes", "train", options={"split": "test"})
    with pytest.raises(UsageError, match=r"eval.test.source.classes: expected tuple\[str, ...\], given 'cat'"):
        create("pairs:photos", "train", 2, "decode", source={"classes": "cat"}, where="eval.test")


@pytest.mark.parametrize("name", [*catalog.SOURCES, "cifar10"])
def test_every_option_has_a_default_and_a_meaning(name):
    for key, description in schema.keys(catalog.opener(name), catalog.FACTS).items():
        assert description.meaning and not description.required, key


def test_fake_label_maps():
    source = open_source("fake_segmentation:20x33x3:4:5", "any")
    assert (len(source), source.class_names) == (5, ("background", "1", "2", "3"))
    report = check(source, 4)
    assert sum(report.pixel_counts) == 5 * 20 * 32 and report.ignored_pixels == 5 * 20
    batch = create("fake_segmentation:20x33x3:4:5", "any", 5, "decode", train=False).batch(0)
    assert set(batch) == {"image", "segmentation", "mask", "index"}
    assert set(np.unique(batch["segmentation"]).tolist()) == {0, 1, 2, 3, 255}
    with pytest.raises(UsageError, match="'fake_segmentation:8x8' is not of the form fake_segmentation:HEIGHT"):
        open_source("fake_segmentation:8x8", "any")


def fake_objects(**options):
    return open_source("fake_detection:20x33x3:4:10", "any", options=options)


def test_fake_objects():
    source = fake_objects(max_objects=3, annotations="masks")
    assert (len(source), source.class_names) == (10, ("0", "1", "2", "3"))
    report = check(source, 4)
    assert sum(report.class_counts) == 0 + 1 + 2 + 3 + 0 + 1 + 2 + 3 + 0 + 1 and report.empty == 3
    classes = []
    for index in range(10):
        record = source.records[index]
        boxes, valid, masks = record["boxes"], record["valid"], record["masks"]
        assert valid.sum() == source.object_counts[index] == index % 4 and not boxes[~valid].any()
        assert (boxes[valid, :2] >= 0).all() and (boxes[valid, 2:] <= (33, 20)).all()
        assert masks.shape == (3, 20, 33) and masks.sum(axis=(1, 2)).tolist() == record["area"].tolist()
        assert (record["area"] > 0).tolist() == valid.tolist() and record["crowd"].shape == (3,)
        classes += record["classes"][valid].tolist()
    assert source.labels.tolist() == classes
    keypoints = fake_objects(annotations="keypoints", keypoints=5).records[8]["keypoints"]
    assert keypoints.shape == (8, 5, 3) and set(np.unique(keypoints[..., 2])) == {0, 1, 2}
    one = fake_objects(max_objects=1)
    assert [one.records[i]["label"] for i in range(5)] == [0, 1, 2, 3, 0] == one.labels[:5].tolist()
    batch = create("fake_detection:8x8x3:2", "any", 2, "decode", train=False).batch(0)
    assert batch["boxes"].shape == (2, 8, 4) and "label" not in batch
    with pytest.raises(UsageError, match=r"data.source.max_objects: expected at least 1, given 0"):
        fake_objects(max_objects=0)
    with pytest.raises(UsageError, match="not of the form fake_detection:HEIGHTx"):
        open_source("fake_detection:8x8", "any")


def complete(**train):
    config = configs.load("configs/digits.py:linear")
    config.data.train.update(train)
    return sections.complete(config)


def test_a_config_holds_the_options_and_explains_them():
    config = complete(name="digit_scenes")
    assert configs.freeze(config.data.train.source) == {"annotations": "segmentation", "objects": "many"}
    assert configs.freeze(config.data.eval.test.source) == {}
    assert configs.freeze(sections.complete(config)) == configs.freeze(config)
    text = reference.explain(config)
    assert "config.data.train.source   (vision/data/digit_scenes.py)" in text
    assert "--config.data.train.source.objects='many'   ['many' or 'one']" in text
    assert complete(name="digit_scenes", source={"objects": "one"}).data.train.source.objects == "one"
    with pytest.raises(UsageError, match=r"config.data.train.source.object: unknown key; did you mean 'objects'"):
        complete(name="digit_scenes", source={"object": "one"})
    with pytest.raises(UsageError, match=r"config.data.train.source: expected a section with keys, given 'one'"):
        complete(name="digit_scenes", source="one")
