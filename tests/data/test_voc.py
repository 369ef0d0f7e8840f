"""Pascal VOC's XML files: small ones, and those of real micrographs."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import check, class_tables, open_source
from vision.data.images import opencv
from vision.errors import UsageError

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"


def xml(objects, size=(30, 20)):
    """An XML file of objects (name, corners, difficult) in an image of that width and height."""
    parts = []
    for name, corners, difficult in objects:
        sides = "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
        )
        marks = f"<difficult>{difficult}</difficult><part><name>head</name></part>"
        parts.append(f"<object><name>{name}</name>{marks}<bndbox>{sides}</bndbox></object>")
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>else.jpg</filename>{told}{''.join(parts)}</annotation>"


def write(root, contents, **lists):
    """Images of 30 x 20 pixels with {name: content of the XML file}."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        assert opencv().imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.zeros((20, 30, 3), np.uint8))
        (root / "Annotations" / f"{name}.xml").write_text(content)
    for split, names in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")


def opened(root, split="train", **options):
    return open_source(f"voc:{root}", split, "config.data.train", options)


@pytest.fixture
def pets(tmp_path):
    contents = {
        "b": xml([("dog", (1, 2, 10, 20), 0), ("cat", (5.5, 6, 30, 20), 1)]),
        "a": xml([], size=None),
        "c": xml([("bird", (3, 3, 4, 5), 0)], size=(0, 0)),
    }
    write(tmp_path, contents, train=["b", "a"], test=["c"])
    return tmp_path


def test_boxes(pets):
    source = opened(pets)
    assert source.class_names == ("bird", "cat", "dog") == opened(pets, "test").class_names
    assert [Path(source.describe(index)).name for index in (0, 1)] == ["b.jpg", "a.jpg"]
    record = pickle.loads(pickle.dumps(source.records))[0]
    assert record["boxes"].tolist() == [[0, 1, 10, 20], [4.5, 5, 30, 20]]
    assert record["classes"].tolist() == [2, 1] and record["crowd"].tolist() == [False, True]
    assert "area" not in record
    assert opened(pets, coordinates="exclusive").records[0]["boxes"].tolist() == [[1, 2, 10, 20], [5.5, 6, 30, 20]]
    assert source.records.size(1) == (20, 30) and opened(pets, "test").records.size(0) == (20, 30)
    assert str(check(source, 3)).endswith(
        "2 examples, 3 classes of objects: bird 0, cat 1, dog 1, 1 image without objects, none of bird"
    )
    assert len(opened(pets, empty=False)) == 1
    assert sum(len(opened(pets, f"train[{part}]")) for part in (":30%", "30%:")) == 2


def test_other_folders(pets, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other, {"z": xml([("ape", (1, 1, 3, 3), 0)])}, train=["z"])
    source = opened(pets, also=(str(other),))
    assert source.class_names == ("ape", "bird", "cat", "dog")
    assert [Path(source.describe(index)).name for index in range(3)] == ["b.jpg", "a.jpg", "z.jpg"]
    assert source.records[2]["boxes"].tolist() == [[0, 0, 3, 3], [0] * 4]
    (other / "JPEGImages").rename(other / "pictures")
    (other / "Annotations").rename(other / "truth")
    (other / "ImageSets" / "Main" / "train.txt").rename(other / "my_train_list.txt")
    options = dict(images="pictures", xml="truth", lists="my_{split}_list.txt")
    assert opened(other, **options).records[0]["boxes"].tolist() == [[0, 0, 3, 3]]
    with pytest.raises(UsageError, match=r"config.data.train.split: unknown split 'trian'; did you mean 'train'"):
        opened(other, "trian", **options)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (("dog", (9, 3, 9, 3), 0), "the box has no size: x0 9, y0 3, x1 9, y1 3"),
        (("dog", (9, 3, 9, 7), 0), "the box has no size"),
        (("dog", (9, 3, 8, 7), 0), "the box has a negative size"),
        (("dog", (9, 21, 12, 25), 0), "the box lies outside the image of 30x20"),
        (("dog", (9, "three", 12, 25), 0), "the box is not of numbers: xmin 9, ymin three, xmax 12, ymax 25"),
        (("dog", (9, 3), 0), "the box is not of numbers: xmin 9, ymin 3, xmax missing, ymax missing"),
        (("dog", (9, 3, "inf", 5), 0), "the box is not of numbers"),
        (("cow", (1, 1, 5, 5), 0), "its class is unknown: 'cow'"),
    ],
)
def test_bad_annotations(tmp_path, content, why):
    write(tmp_path, {"a": xml([("cat", (1, 1, 4, 4), 0), content])}, train=["a"])
    source = opened(tmp_path, classes=("cat", "dog"))
    assert source.labels.tolist() == [0]
    with pytest.raises(UsageError, match=rf"Annotations/a.xml: object 2 \({content[0]}\): {why}"):
        opened(tmp_path, classes=("cat", "dog"), on_bad_annotation="stop")


@pytest.mark.parametrize(
    ("flag", "difficult"), [("0", False), ("1", True), ("False", False), ("true", True), ("", False)]
)
def test_difficult_in_any_spelling(tmp_path, flag, difficult):
    write(tmp_path, {"a": xml([("cat", (1, 1, 4, 4), flag)])}, train=["a"])
    assert opened(tmp_path).records[0]["crowd"].tolist() == [difficult]


def test_bad_images(pets):
    write(pets, {"d": "<annotation>", "e": xml([("dog", (1, 1, 2, 2), 0)], size=(20, 30))})
    (pets / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nd -1\ne\nf\n")
    source = opened(pets)
    assert len(source) == 2 and source.class_names == ("bird", "cat", "dog")
    told = [bad.removeprefix(str(pets)) for bad in source.findings.bad_images]
    assert told[0].startswith(f"/JPEGImages/d.jpg: its annotation {pets}/Annotations/d.xml is no XML file")
    assert told[1].startswith("/JPEGImages/e.jpg: the image has 20x30 pixels") and "says 30x20" in told[1]
    assert told[2].endswith("f.xml cannot be read (no such file or directory)")


def test_mistakes(pets):
    for options, message in (
        (dict(lists="list.txt"), "source.lists: there is no file"),
        (dict(images="pictures"), "source.images: .*pictures cannot be read"),
        (dict(xml="truth"), "source.xml: there is no folder"),
        (dict(also=("elsewhere",)), "source.also: there is no folder 'elsewhere'"),
    ):
        with pytest.raises(UsageError, match=message):
            opened(pets, **options)
    with pytest.raises(UsageError, match=r"unknown split 'val'.*Valid: test, train"):
        opened(pets, "val")
    with pytest.raises(UsageError, match=r"data.train.name: there is no folder"):
        opened(pets / "no")


def test_the_official_classes_are_in_their_order(tmp_path):
    names = class_tables.VOC.names[1:]
    write(tmp_path, {"a": xml([(name, (1, 1, 4, 4), 0) for name in reversed(names)])}, train=["a"])
    assert len(names) == 20 and opened(tmp_path).class_names == names


CORNERS = st.tuples(st.integers(1, 29), st.integers(1, 19)).flatmap(
    lambda low: st.tuples(*map(st.just, low), st.integers(low[0] + 1, 30), st.integers(low[1] + 1, 20))
)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), CORNERS, st.integers(0, 1)), min_size=1, max_size=6))
@settings(max_examples=25)
def test_boxes_in_are_boxes_out(tmp_path_factory, objects):
    root = tmp_path_factory.mktemp("voc")
    write(root, {"one": xml(objects)}, train=["one"])
    record = opened(root, classes=("a", "b")).records[0]
    pixels = [(int(x0), int(y0), int(x1) - 1, int(y1) - 1) for x0, y0, x1, y1 in record["boxes"]]  # counted from 0
    assert [tuple(value + 1 for value in box) for box in pixels] == [corners for _, corners, _ in objects]
    assert record["classes"].tolist() == ["ab".index(name) for name, _, _ in objects]
    assert record["crowd"].tolist() == [bool(difficult) for _, _, difficult in objects]


@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood-cell micrographs are not here")
def test_blood_cells():
    sources = {split: opened(BCCD, split) for split in ("train", "val", "test")}
    assert {split: len(source) for split, source in sources.items()} == {"train": 205, "val": 87, "test": 72}
    assert all(source.class_names == ("Platelets", "RBC", "WBC") for source in sources.values())
    counts = [check(source, 3).class_counts for source in sources.values()]
    assert np.sum(counts, axis=0).tolist() == [361, 4155 - 2, 372]
    bad = [one for source in sources.values() for one in source.findings.bad_annotations]
    assert [Path(one.split(":")[0]).name for one in bad] == ["BloodImage_00343.xml", "BloodImage_00338.xml"]
    assert bad[1].endswith("object 13 (RBC): the box has no size: x0 504, y0 337, x1 504, y1 337")
    assert sum(source.findings.clipped + len(source.findings.bad_images) for source in sources.values()) == 0
    record = sources["train"].records[0]
    assert Path(record["image"]).name == "BloodImage_00001.jpg"
    assert record["boxes"][0].tolist() == [67, 314, 286, 480] and record["classes"][0] == 2
