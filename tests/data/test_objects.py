"""Records of images with objects, and the check of their annotations."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.data import check, image_files, objects
from vision.data.images import opencv
from vision.data.objects import Annotations, Options
from vision.errors import UsageError

SIZE = (40, 60)  # height and width
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of 40 x 60 pixels."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        assert opencv().imwrite(str(folder / f"{number}.jpg"), np.full((*SIZE, 3), number, np.uint8))
    return folder


def opened(folder, objects_of, images=3, damaged=None, stated=SIZE, class_names=("cat", "dog"), fields=None, **options):
    """A source of objects ((image, class), box) or of (image, class, box)."""
    paths = image_files.Paths.of([str(folder / f"{number}.jpg") for number in range(images)])
    found = Annotations(
        images=np.array([image for image, _, _ in objects_of], np.int64),
        boxes=np.array([box for _, _, box in objects_of], np.float64).reshape(-1, 4),
        classes=np.array([label for _, label, _ in objects_of], np.int64),
        name=lambda row: f"object {row}",
        **(fields or {}),
    )
    sizes = np.tile(stated, (images, 1))
    options = Options(**{"where": "config.data.train", **options})
    return objects.open_objects("pets:some", "train", paths, (sizes, damaged or {}), found, class_names, options)


def test_records_are_padded(folder):
    fields = dict(
        crowd=np.array([False, True, False]),
        area=np.array([1.0, 2.0, 3.0]),
        keypoints=np.arange(18.0).reshape(3, 2, 3),
        regions=[[[0, 0, 2, 0, 2, 3, 0, 3]], {"size": list(SIZE), "counts": [1, 2, 2397]}, [[5, 5, 9, 5, 9, 9]]],
    )
    three = [(0, 1, (0, 0, 2, 3)), (0, 0, (0, 1, 1, 3)), (2, 1, (5, 5, 9, 9))]
    source = opened(folder, three, fields=fields)
    first, second, third = (source.records[index] for index in range(3))
    assert first["boxes"].tolist() == [[0, 0, 2, 3], [0, 1, 1, 3]] and first["boxes"].dtype == np.float32
    assert first["classes"].tolist() == [1, 0] and first["classes"].dtype == np.int32
    assert first["valid"].tolist() == [True, True] and first["crowd"].tolist() == [False, True]
    assert first["masks"].shape == (2, *SIZE) and first["masks"].dtype == np.uint8
    assert first["masks"].sum(axis=(1, 2)).tolist() == [6, 2] and first["masks"][1, 1:3, 0].all()
    assert {name: value.tolist() for name, value in second.items() if name not in ("image", "masks")} == {
        "boxes": [[0] * 4] * 2,
        "classes": [0, 0],
        "valid": [False] * 2,
        "crowd": [False] * 2,
        "area": [0, 0],
        "keypoints": [[[0] * 3] * 2] * 2,
    }
    assert third["area"].tolist() == [3, 0] and third["keypoints"][0].ravel().tolist() == list(range(12, 18))
    assert source.labels.tolist() == [1, 0, 1] and source.object_counts.tolist() == [2, 0, 1]
    assert source.describe(2) == third["image"] == str(folder / "2.jpg")
    assert source.records.size(2) == SIZE


BOXES = st.tuples(*[st.floats(0, side, width=32) for side in (60, 40)] * 2).map(
    lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), BOXES), max_size=20), st.booleans())
def test_boxes_in_are_boxes_out(folder, found, empty):
    found = sorted(found, key=lambda one: one[0])
    source = opened(folder, found, images=5, empty=empty)
    good = [one for one in found if one[2][0] < one[2][2] and one[2][1] < one[2][3] and one[2] != (0, 0, 0, 0)]
    images = [image for image in range(5) if empty or any(one[0] == image for one in good)]
    assert [source.describe(index) for index in range(len(source))] == [str(folder / f"{i}.jpg") for i in images]
    for index, image in enumerate(images):
        record = source.records[index]
        expected = [one for one in good if one[0] == image]
        valid = record["valid"]
        assert record["boxes"][valid].tolist() == [list(box) for _, _, box in expected]
        assert record["classes"][valid].tolist() == [label for _, label, _ in expected]
        assert not record["boxes"][~valid].any() and valid.tolist() == sorted(valid.tolist(), reverse=True)
    assert len(source.findings.bad_annotations) == len(found) - len(good) and not source.findings.clipped
    assert source.labels.tolist() == [label for _, label, _ in good]


BAD = [
    ((3, 3, 3, 9), 0, "the box has no size: x0 3, y0 3, x1 3, y1 9"),
    ((9, 3, 5, 9), 0, "the box has a negative size: x0 9, y0 3, x1 5, y1 9"),
    ((60, 3, 65, 9), 0, r"the box lies outside the image of 60x40 \(width x height\): x0 60, y0 3, x1 65, y1 9"),
    ((-9, 3, 0, 9), 1, "the box lies outside the image"),
    ((3, 44, 9, 50), 1, "the box lies outside the image"),
    ((3, -4, 9, -1), 1, "the box lies outside the image"),
    ((NAN, 3, 5, 9), 0, "the box is not of numbers: x0 nan, y0 3, x1 5, y1 9"),
    ((0, 3, INF, 9), 0, "the box is not of numbers: x0 0, y0 3, x1 inf, y1 9"),
    ((0, 3, 1e300, 9), 0, "the box is not of numbers"),
    ((0, 3, 5, 9), -1, "its class is unknown"),
    ((3, 3, 3, 9), -1, "the box has no size"),
]


@pytest.mark.parametrize(("box", "label", "why"), BAD)
def test_every_kind_of_bad_annotation(folder, box, label, why):
    found = [(0, 1, (0, 0, 2, 3)), (1, label, box), (1, 0, (5, 5, 9, 9))]
    source = opened(folder, found)
    (told,) = source.findings.bad_annotations
    assert told.startswith("object 1: ")
    with pytest.raises(
        UsageError, match=f"config.data.train.source.on_bad_annotation: in pets:some .*\n  object 1: {why}"
    ):
        opened(folder, found, on_bad_annotation="stop")
    assert source.records[1]["boxes"].tolist() == [[5, 5, 9, 9]]
    assert source.object_counts.tolist() == [1, 1, 0]


def test_bad_keypoints_and_regions(folder):
    keypoints = np.zeros((2, 1, 3))
    keypoints[1, 0, 0] = NAN
    found = [(0, 1, (0, 0, 2, 3)), (1, 1, (0, 0, 2, 3))]
    source = opened(folder, found, fields=dict(keypoints=keypoints))
    assert source.findings.bad_annotations == ("object 1: a keypoint is not of numbers",)
    source = opened(folder, found, fields=dict(regions=[[[1, 2]], [[5, 5, 9, 5, 9, 9]]]))
    assert source.findings.bad_annotations == ("object 0: it has no polygon of three corners",)
    assert source.records[1]["masks"].sum() == 10


def test_boxes_that_stand_out_are_clipped_and_counted(folder):
    found = [(0, 1, (-3, 5, 20, 45)), (0, 1, (-0.4, 5, 60.9, 40)), (1, 1, (0, 0, 60, 40))]
    source = opened(folder, found)
    assert source.records[0]["boxes"].tolist() == [[0, 5, 20, 40], [0, 5, 60, 40]]
    assert source.findings.clipped == 1 and not source.findings.bad_annotations


def test_damaged_images_are_left_out_with_their_objects(folder):
    found = [(0, 1, (0, 0, 2, 3)), (1, 0, (9, 9, 1, 1)), (1, 0, (1, 1, 9, 9)), (2, 0, (5, 5, 9, 9))]
    source = opened(folder, found, damaged={1: "it is cut off"})
    assert [source.describe(index) for index in range(2)] == [str(folder / f"{number}.jpg") for number in (0, 2)]
    assert source.labels.tolist() == [1, 0] and source.records[1]["boxes"].tolist() == [[5, 5, 9, 9]]
    assert source.findings.bad_images == (f"{folder / '1.jpg'}: it is cut off",)
    assert not source.findings.bad_annotations
    with pytest.raises(UsageError, match="images that cannot be used: 1, bad annotations: 0"):
        opened(folder, found, damaged={1: "it is cut off"}, on_bad_annotation="stop")
    with pytest.raises(UsageError, match=r"none of the 3 images can be used; .*0.jpg: it is cut off"):
        opened(folder, found, damaged=dict.fromkeys(range(3), "it is cut off"))


def test_a_stop_lists_all_but_not_without_end(folder):
    found = [(0, 1, (0, 0, 0, 0))] * 150
    with pytest.raises(UsageError, match="bad annotations: 150") as error:
        opened(folder, found, on_bad_annotation="stop")
    assert str(error.value).count("\n") == 101 and str(error.value).endswith("... and 50 more")


def test_room_for_objects(folder):
    found = [(0, 1, (0, 0, 2, 3)), (1, 0, (5, 5, 9, 9)), (1, 0, (5, 5, 9, 9))]
    assert opened(folder, found).records.max_objects == 2
    assert opened(folder, []).records.max_objects == 1
    source = opened(folder, found, max_objects=5)
    assert source.records[2]["valid"].shape == (5,)
    with pytest.raises(
        UsageError, match=r"max_objects: .*1.jpg has 2 objects, more than 1 \(1 such images in the split\)"
    ):
        opened(folder, found, max_objects=1)
    with pytest.raises(UsageError, match="max_objects: expected at least 1, given 0"):
        opened(folder, found, max_objects=0)


def test_the_report(folder):
    found = [(0, 1, (0, 0, 2, 3)), (0, 1, (1, 1, 1, 1)), (1, 1, (5, 5, 9, 9)), (1, 1, (50, 5, 65, 9))]
    report = check(opened(folder, found), 2)
    assert (report.class_counts, report.empty, report.findings.clipped) == ((0, 3), 1, 1)
    assert str(report) == (
        "pets:some train: 3 examples, 2 classes of objects: cat 0, dog 3, 1 image without objects, none of cat, "
        "1 annotation left out (object 1: the box has no size: x0 1, y0 1, x1 1, y1 1), 1 box clipped to the image"
    )
    names = tuple("abcdefg")
    many = [(0, label, (0, 0, 2, 3)) for label in range(7)] + [(1, 6, (0, 0, 0, 0))] * 5
    text = str(check(opened(folder, many, class_names=names, damaged={2: "it is cut off"}), 7))
    assert (
        "2 examples, 7 classes of 1 objects each, 1 image without objects, 5 annotations left out (object 7: " in text
    )
    assert text.count("no size") == 3 and text.endswith(f"; ...), 1 image left out ({folder / '2.jpg'}: it is cut off)")
    assert str(check(opened(folder, []), 2)).startswith(
        "pets:some train: 3 examples, 2 classes of objects: cat 0, dog 0"
    )


def test_many_records_are_cheap_to_send_to_another_process(folder):
    count = 5_000
    objects_of = [(image, 0, (0, 0, 2, 3)) for image in range(count)]
    source = opened(folder, objects_of, images=count)
    data = pickle.dumps(source.records)
    assert len(data) < 60 * count
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy[7]["boxes"], source.records[7]["boxes"])
    assert copy.describe(4321) == str(folder / "4321.jpg")


def test_paths():
    names = ["a/b/one.jpg", "a/b/öne.jpg", "a/bc/two.jpg", "/x.jpg", "a/b/\udcff.jpg"]
    for chosen in (names, names[:3], names[:1], []):
        paths = pickle.loads(pickle.dumps(image_files.Paths.of(chosen)))
        assert [paths[place] for place in range(len(paths))] == chosen
    assert image_files.Paths.of(names[:3]).take(np.array([2]))[0] == names[2]


def test_sizes_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    jpeg, png = (opencv().imencode(suffix, picture)[1].tobytes() for suffix in (".jpg", ".png"))
    contents = {"a.jpg": jpeg, "b.png": png, "c.jpg": jpeg[:-200], "d.png": png[:-200], "e.jpg": b"", "f.jpg": b"text"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = image_files.Paths.of([str(tmp_path / name) for name in [*contents, "missing.jpg"]])
    for _ in range(2):  # read, and then known
        sizes, wrong = image_files.sizes(paths)
        assert sizes.tolist() == [[30, 20]] * 2 + [[0, 0]] * 5
        assert [wrong[place].split(";")[0] for place in range(2, 7)] == [
            "the JPEG file is truncated",
            "the PNG file is truncated",
            "the file is empty",
            "not an image that OpenCV can read, or a damaged one",
            "no such file or directory",
        ]
    stated = np.array([[30, 20], [20, 30], [0, 0]])
    some = paths.take(np.arange(3))
    sizes, wrong = image_files.sizes(some, stated)
    assert sorted(wrong) == [1, 2] and "has 30x20 pixels (height x width" in wrong[1] and "says 20x30" in wrong[1]
    sizes, wrong = image_files.sizes(some, stated, look=False)
    assert sizes.tolist() == [[30, 20], [20, 30], [0, 0]] and sorted(wrong) == [2]
    (tmp_path / "c.jpg").write_bytes(jpeg)
    assert image_files.sizes(paths)[0][2].tolist() == [30, 20]
