"""YOLO's text files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import check, open_source
from vision.data.images import opencv
from vision.errors import UsageError

NAMES = "names: [cat, dog]\n"


def write(root, contents, images="images/train", labels="labels/train", yaml=NAMES):
    """Images of 40 x 20 pixels with {name: content of the text file, or None}."""
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        assert opencv().imwrite(str(root / images / f"{name}.png"), np.zeros((20, 40, 3), np.uint8))
        if content is not None:
            (root / labels / f"{name}.txt").write_text(content)
    if yaml:
        (root / "data.yaml").write_text(yaml)


def opened(root, split="train", **options):
    return open_source(f"yolo:{root}", split, "config.data.train", options)


PETS = {"b": "1 0.5 0.5 0.5 1\n\n0 0.25 0.25 0.1 0.2\n", "a": None, "c": ""}


def test_boxes(tmp_path):
    write(tmp_path, PETS)
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert [Path(source.describe(index)).name for index in range(3)] == ["a.png", "b.png", "c.png"]
    record = pickle.loads(pickle.dumps(source.records))[1]
    np.testing.assert_allclose(record["boxes"], [[10, 0, 30, 20], [8, 3, 12, 7]], rtol=1e-6)
    assert record["classes"].tolist() == [1, 0] and set(record) == {"image", "boxes", "classes", "valid"}
    assert (check(source, 2).empty, source.object_counts.tolist()) == (2, [0, 2, 0])
    assert len(opened(tmp_path, empty=False)) == 1


@pytest.mark.parametrize(
    ("yaml", "images", "labels", "options"),
    [
        ("train: ../train/images\nnc: 2\nnames:\n  - cat\n  - dog\n", "train/images", "train/labels", {}),
        ("names: {0: cat, 1: dog}\n", "train/images", "train/labels", {}),
        ("path: here\ntrain: images\nnames: ['cat', 'dog']\n", "here/images", "here/labels", {}),
        ("train: [pictures]\n" + NAMES, "pictures", "pictures", {}),
        (NAMES, "photos", "truth", dict(images="photos", labels="truth")),
        ("", "train/images/deep", "train/labels/deep", dict(classes=("cat", "dog"))),
    ],
)
def test_layouts(tmp_path, yaml, images, labels, options):
    write(tmp_path, PETS, images, labels, yaml)
    source = opened(tmp_path, **options)
    assert len(source) == 3 and source.labels.tolist() == [1, 0] and source.class_names == ("cat", "dog")


def test_a_list_of_images(tmp_path):
    write(tmp_path, PETS, "images/all", "labels/all", "val: some.txt\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "some.txt").write_text("./images/all/b.png\nimages/all/a.png\n")
    source = opened(tmp_path, "val")
    assert [Path(source.describe(index)).name for index in (0, 1)] == ["b.png", "a.png"]
    assert source.labels.tolist() == [1, 0]
    assert sum(len(opened(tmp_path, f"val[{part}]")) for part in (":50%", "50%:")) == 2


def test_polygons(tmp_path):
    write(tmp_path, {"a": "1 0.25 0.1 0.5 0.1 0.5 0.6 0.25 0.6\n0 0.5 0.5 0.1 0.1\n"})
    boxes = opened(tmp_path)
    np.testing.assert_allclose(boxes.records[0]["boxes"], [[10, 2, 20, 12], [18, 9, 22, 11]], rtol=1e-6)
    masks = opened(tmp_path, annotations="masks")
    assert masks.records[0]["masks"].shape == (1, 20, 40) and masks.records[0]["masks"][0, 2:12, 10:20].all()
    assert masks.records[0]["masks"].sum() == 100
    (bad,) = masks.findings.bad_annotations
    assert bad.endswith("a.txt: line 2: it has a box and no polygon, from which its mask would be drawn")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("2 0.5 0.5 0.1 0.1", "its class is unknown: 2; classes are 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "its class is unknown: -1"),
        ("0.5 0.5 0.5 0.1 0.1", "its class is unknown: 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "its class is unknown: nan"),
        ("dog 0.5 0.5 0.1 0.1", "the line is not of numbers: 'dog 0.5 0.5 0.1 0.1'"),
        ("1 0.5 0.5 0.1", "the line has 4 numbers; expected 5"),
        ("1 0.5 0.5 0.1 0.1 0.3", "the line has 6 numbers"),
        ("1 0.5 0.5 0 0.1", "the box has no size"),
        ("1 0.5 0.5 0.1 -0.1", "the box has a negative size"),
        ("1 20 10 5 5", "the box lies outside the image of 40x20"),
        ("1 nan 0.5 0.1 0.1", "the box is not of numbers"),
    ],
)
def test_bad_annotations(tmp_path, line, why):
    write(tmp_path, {"a": f"1 0.5 0.5 0.5 1\n{line}\n"})
    assert opened(tmp_path).labels.tolist() == [1]
    with pytest.raises(UsageError, match=f"labels/train/a.txt: line 2: {why}"):
        opened(tmp_path, on_bad_annotation="stop")


def test_a_damaged_image(tmp_path):
    write(tmp_path, PETS)
    (tmp_path / "images" / "train" / "b.png").write_bytes(b"")
    source = opened(tmp_path)
    assert len(source) == 2 and not len(source.labels)
    assert source.findings == ((), (f"{tmp_path}/images/train/b.png: the file is empty",), 0)


def test_mistakes(tmp_path):
    write(tmp_path, PETS)
    with pytest.raises(UsageError, match=r"config.data.train.split: unknown split 'trian'; did you mean 'train'"):
        opened(tmp_path, "trian")
    with pytest.raises(UsageError, match=r"source.images: there is no .*pictures"):
        opened(tmp_path, images="pictures")
    with pytest.raises(UsageError, match=r"source.labels: no image has a text file, such as .*no/a.txt for .*a.png"):
        opened(tmp_path, labels="no")
    for yaml, message in (
        ("nc: 2\n", r"source.classes: missing; name the classes here, in the key names of .*data.yaml"),
        ("names: {1: cat, 2: dog}\n", "names in data.yaml are not numbered 0 to 1"),
        ("- cat\n", "data.yaml has no keys such as names and train"),
        ("names: [cat\n", "data.yaml cannot be read"),
    ):
        (tmp_path / "data.yaml").write_text(yaml)
        with pytest.raises(UsageError, match=message):
            opened(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 1), *[st.floats(0.01, 0.99)] * 2, *[st.floats(0.01, 1)] * 2), max_size=5))
@settings(max_examples=25)
def test_boxes_in_are_boxes_out(tmp_path_factory, objects):
    root = tmp_path_factory.mktemp("yolo")
    # Boxes that end within the image: their halves reach at most its nearer edge.
    objects = [
        (label, x, y, 2 * min(x, 1 - x) * width, 2 * min(y, 1 - y) * height) for label, x, y, width, height in objects
    ]
    write(root, {"a": "".join(f"{' '.join(map(repr, one))}\n" for one in objects)})
    record = opened(root).records[0]
    x0, y0, x1, y1 = record["boxes"][record["valid"]].T / [[40], [20], [40], [20]]
    expected = np.reshape([one[1:] for one in objects], (-1, 4))
    np.testing.assert_allclose(np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1), expected, atol=1e-6)
    assert record["classes"][record["valid"]].tolist() == [one[0] for one in objects]
