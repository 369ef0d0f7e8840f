"""COCO's panoptic and stuff annotations as label maps."""

import json

import numpy as np
import pytest

from vision.data import check, create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 92, "name": "sea"}, {"id": 200, "name": "rug"}]
SEGMENTS = np.array([[7, 7, 300], [70_000, 0, 300]])


def write(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert opencv().imwrite(str(path), rgb[..., ::-1])


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_panoptic(root, segments=SEGMENTS, categories=(1, 92, 1)):
    infos = [
        {"id": int(i), "category_id": category, "iscrowd": 0}
        for i, category in zip(np.unique(SEGMENTS)[1:], categories, strict=True)
    ]
    rgb = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1).astype(np.uint8)
    for name in ("b", "a"):
        write(root / "val2017" / f"{name}.jpg", np.zeros((2, 3, 3), np.uint8))
        write(root / "annotations" / "panoptic_val2017" / f"{name}.png", rgb)
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg", "height": 2, "width": 3} for i, name in enumerate("ab")],
        "annotations": [{"image_id": i, "file_name": f"{n}.png", "segments_info": infos} for i, n in enumerate("ab")],
        "categories": CATEGORIES,
    }
    write_json(root / "annotations" / "panoptic_val2017.json", content)


def test_panoptic(tmp_path):
    write_panoptic(tmp_path)  # 7 is a person, 300 the sea, 70,000 another person, 0 nothing
    source = open_source(f"coco_panoptic:{tmp_path}", "val")
    assert source.class_names == ("person", "sea", "rug") and source.labels is None
    assert [source.describe(i) for i in (0, 1)] == [str(tmp_path / "val2017" / f"{name}.jpg") for name in "ab"]
    assert source.records[0]["segmentation"].tolist() == [[0, 0, 1], [0, 255, 1]]
    report = check(source, 3)
    assert report.pixel_counts == (6, 4, 0) and report.ignored_pixels == 2
    assert "none of rug" in str(report)
    batch = create(f"coco_panoptic:{tmp_path}", "val", 2, "decode", train=False).batch(0)
    assert batch["segmentation"].shape == (2, 2, 3)
    parts = [len(open_source(f"coco_panoptic:{tmp_path}", f"val[{part}]")) for part in (":50%", "50%:")]
    assert sum(parts) == 2


def test_panoptic_with_other_paths(tmp_path):
    write_panoptic(tmp_path)
    (tmp_path / "annotations" / "panoptic_val2017.json").rename(tmp_path / "val.json")
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "png")
    options = dict(images="val2017", json="{split}.json", pngs="png")
    assert len(check(open_source(f"coco_panoptic:{tmp_path}", "val", options=options), 3).pixel_counts) == 3


def test_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_panoptic(tmp_path / "coco")
    assert open_source("coco_panoptic:~/coco", "val").records[0]["segmentation"].shape == (2, 3)
    content = {"images": [{"id": 0, "file_name": "a.jpg", "height": 2, "width": 3}], "annotations": []}
    write_json(tmp_path / "coco" / "annotations" / "stuff_val2017.json", content | {"categories": CATEGORIES})
    assert open_source("coco_stuff:~/coco", "val").records[0]["image"]


@pytest.mark.parametrize("kind", ["panoptic", "stuff"])
def test_two_images_of_one_id(tmp_path, kind):
    write_panoptic(tmp_path)
    content = json.loads((tmp_path / "annotations" / "panoptic_val2017.json").read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    write_json(tmp_path / "annotations" / f"{kind}_val2017.json", content)
    with pytest.raises(UsageError, match=r"two images of the id 0: a\.jpg and b\.jpg"):
        open_source(f"coco_{kind}:{tmp_path}", "val")


@pytest.mark.parametrize("height", ["tall", None, 0, -3])
def test_stuff_of_no_size(tmp_path, height):
    image = {"id": 0, "file_name": "a.jpg", "height": height, "width": 3}
    content = {"images": [image], "annotations": [], "categories": CATEGORIES}
    write_json(tmp_path / "annotations" / "stuff_val2017.json", content)
    with pytest.raises(UsageError, match=rf"no size of a\.jpg: height {height!r}, width 3"):
        open_source(f"coco_stuff:{tmp_path}", "val")


def test_panoptic_mistakes(tmp_path):
    write_panoptic(tmp_path, SEGMENTS + 5)
    with pytest.raises(UsageError, match=r"a.jpg: its label map .*a.png: the pixel at x 0, y 0 is of the segment 12, "):
        check(open_source(f"coco_panoptic:{tmp_path}", "val"), 3)
    with pytest.raises(UsageError, match=r"config.data.train.source.json: .*panoptic_train2017.json cannot be read"):
        open_source(f"coco_panoptic:{tmp_path}", "train", "config.data.train")
    write_panoptic(tmp_path)
    write(tmp_path / "val2017" / "b.jpg", np.zeros((4, 6, 3), np.uint8))
    source = open_source(f"coco_panoptic:{tmp_path}", "val")
    with pytest.raises(UsageError, match=r"b.jpg: its label map .*b.png is 2x3 \(height x width\), the image 4x6"):
        check(source, 3)
    with pytest.raises(UsageError, match=r"b.png is 2x3"):
        source.records[1]
    write_panoptic(tmp_path, categories=(1, 92, 3))
    with pytest.raises(UsageError, match="is not of COCO's format: it lacks 3"):
        open_source(f"coco_panoptic:{tmp_path}", "val")


def test_stuff(tmp_path):
    sea, person = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    sea[2:], person[1:3, 1:3] = True, True
    regions = [
        (92, {"size": [4, 5], "counts": "2220000000"}),
        (1, [[1, 1, 3, 1, 3, 3, 1, 3]]),
        (200, {"size": [4, 5], "counts": [19, 1]}),
    ]
    annotations = [{"image_id": 5, "category_id": category, "segmentation": one} for category, one in regions]
    image = {"id": 5, "file_name": "a.jpg", "height": 4, "width": 5}
    content = {"images": [image], "annotations": annotations, "categories": CATEGORIES}
    write_json(tmp_path / "annotations" / "stuff_val2017.json", content)
    write(tmp_path / "val2017" / "a.jpg", np.zeros((4, 5, 3), np.uint8))
    expected = np.where(person, 0, np.where(sea, 1, 255))
    expected[3, 4] = 2

    def opened(**options):
        return open_source(f"coco_stuff:{tmp_path}", "val", "config.data.train", options)

    np.testing.assert_array_equal(opened().records[0]["segmentation"], expected)
    assert check(opened(), 3).pixel_counts == (4, 7, 1)
    chosen = opened(background=True, classes=("sea", "person"))
    assert chosen.class_names == ("background", "sea", "person")
    np.testing.assert_array_equal(chosen.records[0]["segmentation"], np.where(person, 2, np.where(sea, 1, 0)))
    with pytest.raises(UsageError, match="unknown category 'se'; did you mean 'sea'"):
        opened(classes=("se",))
    content["annotations"][2]["segmentation"]["counts"] = [3, 1]
    write_json(tmp_path / "annotations" / "stuff_val2017.json", content)
    with pytest.raises(UsageError, match=r"a.jpg: run lengths of 4 pixels and size \[4, 5\] for an image of 4x5"):
        check(opened(), 3)
    write(tmp_path / "val2017" / "a.jpg", np.zeros((5, 4, 3), np.uint8))
    content["annotations"].pop()
    write_json(tmp_path / "annotations" / "stuff_val2017.json", content)
    with pytest.raises(UsageError, match=r"a.jpg: its label map in .*stuff_val2017.json is 4x5 .*, the image 5x4"):
        check(opened(), 3)
