"""COCO's instances and person_keypoints files."""

import copy
import json
import pickle

import numpy as np
import pytest

from vision.data import check, create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "cup"}]
CONTENT = {
    "categories": CATEGORIES,
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 20, "width": 30},
        {"id": 3, "file_name": "a.jpg", "height": 20, "width": 30},
        {"id": 9, "file_name": "c.jpg", "height": 20, "width": 30},
    ],
    "annotations": [
        {
            "id": 100,
            "image_id": 7,
            "category_id": 90,
            "bbox": [2, 3, 4.5, 5],
            "area": 11.5,
            "iscrowd": 0,
            "segmentation": [[2, 3, 6.5, 3, 6.5, 8, 2, 8], [0, 0, 1, 0, 1, 1, 0, 1]],
        },
        {
            "id": 101,
            "image_id": 3,
            "category_id": 1,
            "bbox": [0, 0, 30, 20],
            "area": 600,
            "iscrowd": 1,
            "segmentation": {"size": [20, 30], "counts": [0, 20, 580]},
        },
        {
            "id": 102,
            "image_id": 7,
            "category_id": 18,
            "bbox": [10, 10, 5, 5],
            "area": 20,
            "iscrowd": 0,
            "segmentation": [[10, 10, 15, 10, 15, 15]],
        },
    ],
}


def write(root, content=CONTENT, kind="instances"):
    for folder in ("val2017", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    for image in content["images"]:
        picture = np.zeros((20, 30, 3), np.uint8)
        assert opencv().imwrite(str(root / "val2017" / image["file_name"]), picture)
    (root / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))


def opened(root, split="val", **options):
    return open_source(f"coco:{root}", split, "config.data.train", options)


def test_boxes(tmp_path):
    write(tmp_path)
    source = opened(tmp_path)
    assert source.class_names == ("dog", "person", "cup")
    assert [source.describe(index) for index in range(3)] == [str(tmp_path / "val2017" / f"{n}.jpg") for n in "abc"]
    record = source.records[1]
    assert set(record) == {"image", "boxes", "classes", "valid", "crowd", "area"}
    assert record["boxes"].tolist() == [[2, 3, 6.5, 8], [10, 10, 15, 15]]
    assert record["classes"].tolist() == [2, 0] and record["area"].tolist() == [11.5, 20]
    assert source.records[0]["crowd"].tolist() == [True, False]
    assert source.labels.tolist() == [1, 2, 0]
    report = check(source, 3)
    assert (report.class_counts, report.empty, report.findings.bad_annotations) == ((1, 1, 1), 1, ())
    batch = create(f"coco:{tmp_path}", "val", 3, "decode", train=False).batch(0)
    assert batch["boxes"].shape == (3, 2, 4) and batch["valid"].sum(axis=1).tolist() == [1, 2, 0]
    assert [len(opened(tmp_path, empty=empty)) for empty in (True, False)] == [3, 2]
    assert sum(len(opened(tmp_path, f"val[{part}]")) for part in (":50%", "50%:")) == 3
    chosen = opened(tmp_path, classes=("cup", "dog"))
    assert chosen.class_names == ("cup", "dog") and chosen.labels.tolist() == [0, 1] and len(chosen) == 3


@pytest.mark.parametrize("area", [None, "large", float("nan")])
def test_an_area_that_is_missing_is_that_of_the_box(tmp_path, area):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["area"] = area
    write(tmp_path, content)
    assert opened(tmp_path).records[1]["area"].tolist() == [4.5 * 5, 20]


def test_masks(tmp_path):
    write(tmp_path)
    source = opened(tmp_path, annotations="masks")
    for records in (source.records, pickle.loads(pickle.dumps(source.records))):
        masks = records[1]["masks"]
        assert masks.shape == (2, 20, 30) and masks[0, 3:8, 2:6].all() and masks[0].sum() == 5 * 4 + 1
        assert records[0]["masks"][0, :, 0].all() and records[0]["masks"].sum() == 20
        assert not records[2]["masks"].any()


def test_keypoints(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["categories"] = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
    for annotation in content["annotations"]:
        annotation |= {"category_id": 1, "keypoints": [4, 5, 2, 9, 9, 0, 3, 2, 1], "num_keypoints": 2}
    content["annotations"][2]["keypoints"] = [1, 2]
    write(tmp_path, content, "person_keypoints")
    source = opened(tmp_path, annotations="keypoints")
    assert source.keypoint_names == ("nose", "left_eye", "right_eye") and source.class_names == ("person",)
    assert source.records[1]["keypoints"].tolist() == [[[4.5, 5.5, 2], [0, 0, 0], [3.5, 2.5, 1]]]
    (bad,) = source.findings.bad_annotations
    assert bad.endswith("b.jpg: annotation 102: keypoints are not 3 times three numbers: x, y and visibility")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"category_id": 5}, "its class is unknown: category_id 5 is not among the categories"),
        ({"bbox": [1, 2, 0, 4]}, "the box has no size: x0 1, y0 2, x1 1, y1 6"),
        ({"bbox": [1, 2, 3, -4]}, "the box has a negative size"),
        ({"bbox": [31, 2, 3, 4]}, "the box lies outside the image of 30x20"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]; expected four numbers"),
        ({"bbox": None}, "bbox is None"),
        ({"bbox": [1, 2, float("nan"), 4]}, "the box is not of numbers"),
        ({"bbox": [1, "two", 3, 4]}, r"bbox is \[1, 'two', 3, 4\]"),
        ({"segmentation": [[1, 2, 3, 4]]}, "it has no polygon of three corners"),
        ({"segmentation": {"size": [20, 30], "counts": [7]}}, "run lengths of 7 pixels"),
    ],
)
def test_bad_annotations(tmp_path, change, why):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0] |= change
    write(tmp_path, content)
    source = opened(tmp_path, annotations="masks")
    assert source.records[1]["boxes"].tolist() == [[10, 10, 15, 15]] and len(source.findings.bad_annotations) == 1
    assert source.records[1]["masks"][0, 12, 13] == 1
    with pytest.raises(UsageError, match=f"b.jpg: annotation 100: {why}"):
        opened(tmp_path, annotations="masks", on_bad_annotation="stop")


def test_bad_images(tmp_path):
    write(tmp_path)
    (tmp_path / "val2017" / "c.jpg").write_bytes((tmp_path / "val2017" / "c.jpg").read_bytes()[:-50])
    (tmp_path / "val2017" / "a.jpg").unlink()
    source = opened(tmp_path)
    assert len(source) == 1 and source.labels.tolist() == [2, 0]
    assert [bad.split(": ", 1)[1] for bad in source.findings.bad_images] == [
        "no such file or directory",
        "the JPEG file is truncated",
    ]
    assert "2 images left out" in str(check(source, 3))
    facts = check(source, 3).facts()
    assert facts["images_left_out"] == source.findings.bad_images
    assert facts["objects_of_classes"] == {"dog": 1, "person": 0, "cup": 1}
    assert len(opened(tmp_path, check_images=False)) == 3


@pytest.mark.parametrize("side", ["x", [20], 10**12, None, -3, "20"])
def test_a_size_that_is_none_is_read_from_the_file(tmp_path, side):
    content = copy.deepcopy(CONTENT)
    content["images"][0]["height"] = side
    write(tmp_path, content)
    assert len(opened(tmp_path)) == 3


@pytest.mark.parametrize(("flag", "crowd"), [("0", False), ("1", True), (True, True), (False, False), (None, False)])
def test_crowd_in_any_spelling(tmp_path, flag, crowd):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["iscrowd"] = flag
    write(tmp_path, content)
    assert opened(tmp_path).records[1]["crowd"][:2].tolist() == [crowd, False]


@pytest.mark.parametrize(
    ("key", "why"),
    [("image_id", "annotation 100: there is no image None"), ("category_id", "its class is unknown: category_id None")],
)
def test_an_annotation_that_lacks_something_is_named(tmp_path, key, why):
    content = copy.deepcopy(CONTENT)
    del content["annotations"][0][key]
    write(tmp_path, content)
    source = opened(tmp_path)
    assert source.labels.tolist() == [1, 0] and why in source.findings.bad_annotations[0]


def test_mistakes(tmp_path):
    write(tmp_path)
    with pytest.raises(UsageError, match=r"config.data.train.source.json: .*instances_train2017.json cannot be read"):
        opened(tmp_path, "train")
    with pytest.raises(UsageError, match=r"person_keypoints_val2017.json cannot be read"):
        opened(tmp_path, annotations="keypoints")
    with pytest.raises(UsageError, match="unknown category 'dgo'; did you mean 'dog'"):
        opened(tmp_path, classes=("dgo",))
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["image_id"] = 55
    write(tmp_path, content)
    assert opened(tmp_path).labels.tolist() == [1, 0]
    with pytest.raises(UsageError, match=r"instances_val2017.json: annotation 100: there is no image 55"):
        opened(tmp_path, on_bad_annotation="stop")
    content["categories"][2]["name"] = "dog"
    write(tmp_path, content)
    with pytest.raises(UsageError, match=r"data.train.source.classes: 'dog' is there twice"):
        opened(tmp_path)
    write(tmp_path, kind="person_keypoints")
    with pytest.raises(UsageError, match=r"source.annotations: no category in .*keypoints_val2017.json has keypoints"):
        opened(tmp_path, annotations="keypoints")
    content = copy.deepcopy(CONTENT)
    content["images"][2]["id"] = 3
    write(tmp_path, content)
    with pytest.raises(UsageError, match=r"two images of the id 3: a.jpg and c.jpg"):
        opened(tmp_path)
    for key in ("annotations", "images", "categories"):
        write(tmp_path)
        (tmp_path / "annotations" / "x.json").write_text(json.dumps({k: v for k, v in CONTENT.items() if k != key}))
        with pytest.raises(UsageError, match=f"x.json is not of COCO's format: it lacks '{key}'"):
            opened(tmp_path, json="annotations/x.json")
