"""What is reported and refused before the first step."""

import dataclasses

import numpy as np
import pytest

from vision.data import check, open_source
from vision.data.fake import FakeRecords
from vision.data.images import BadImage
from vision.data.source import ImageRecords, Source
from vision.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Labelled(FakeRecords):
    """Fake records with labels as given."""

    given: tuple = ()

    def labels(self):
        return np.array(self.given)


def labelled(*labels, class_names=("a", "b", "c")):
    return Source("some", "train", Labelled((4, 4, 3), 3, len(labels), labels), class_names)


def test_counts():
    report = check(labelled(0, 2, 2, 0, 2), 3)
    assert report.class_counts == (2, 0, 3) and report.num_examples == 5
    assert str(report) == "some train: 5 examples, 3 classes of 0 to 3, none of b"
    assert report.facts()["examples_of_classes"] == {"a": 2, "b": 0, "c": 3}
    digits = check(open_source("digits", "test"), 10)
    assert sum(digits.class_counts) == 360
    assert str(digits) == "digits test: 360 examples, 10 classes of 35 to 37"


@pytest.mark.parametrize("labels", [(0, 1, 3, 5), (0, 1, -1)])
def test_a_label_out_of_range_names_its_record(labels):
    with pytest.raises(UsageError, match=f"fake record 2 has the label {labels[2]}, but labels are 0 to 2"):
        check(labelled(*labels))
    with pytest.raises(UsageError, match="labels are 0 to 2"):
        check(labelled(*labels, class_names=()), 3)


def test_a_class_count_that_differs_from_the_models():
    with pytest.raises(UsageError, match=r"config.data.train.name: 'some' has 3 classes, while the model has 10"):
        check(labelled(0, 1, 2), 10, "config.data.train")


def test_an_empty_split():
    with pytest.raises(UsageError, match="'train' of 'some' has no examples"):
        check(labelled())


def test_images_without_labels():
    source = Source("photos", "all", ImageRecords([b"1", b"2"]))
    assert str(check(source)) == "photos all: 2 examples"
    with pytest.raises(UsageError, match="has no labels"):
        check(source, 10)


def test_fake_data():
    source = open_source("fake:6x5x1:7:20", "anything")
    assert str(check(source, 7)) == "fake:6x5x1:7:20 anything: 20 examples, 7 classes of 2 to 3"
    assert source.records[3]["image"].shape == (6, 5, 1)
    assert len(open_source("fake:6x5x3:1000", "train")) == 1000
    for name in ("fake", "fake:6x5:3", "fake:6x5x2:3", "fake:axbxc:3"):
        with pytest.raises(UsageError, match="fake:HEIGHTxWIDTHxCHANNELS:CLASSES"):
            open_source(name, "train")
    for name in ("fake:0x5x1:3", "fake:6x0x1:3", "fake:6x5x1:0"):
        with pytest.raises(UsageError, match=r"height, width and classes of .* must be at least 1"):
            open_source(name, "train")


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Records with label maps as given."""

    maps: tuple
    kept_as: str | None = None

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        raise AssertionError("the image is not to be decoded")

    def describe(self, index):
        return f"map {index}"

    def labels(self):
        return None

    def fingerprint(self):
        return self.kept_as

    def segmentation(self, index):
        if isinstance(self.maps[index], Exception):
            raise self.maps[index]
        return np.array(self.maps[index], np.uint8)


def segmented(*maps, class_names=("sky", "sea", "sand"), kept_as=None):
    return Source("some", "train", Segmented(maps, kept_as), class_names)


def test_shares_of_pixels():
    report = check(segmented([[0, 0, 0, 1]], [[0, 255, 255, 1]]), 3)
    assert (report.pixel_counts, report.ignored_pixels, report.class_counts) == ((4, 2, 0), 2, ())
    assert str(report) == (
        "some train: 2 examples, 3 classes of pixels: sky 67 %, sea 33 %, 25 % ignored, none of sand"
    )
    assert report.facts()["pixels_of_classes"] == {"sky": 4, "sea": 2, "sand": 0}
    assert report.facts()["ignored_pixels"] == 2
    many = segmented([[0] * 60 + [1] * 20 + [2] * 8 + [3] * 7 + [4] * 5], class_names=tuple("abcde"))
    assert str(check(many)) == "some train: 1 examples, 5 classes of pixels: a 60 %, others 5 % to 20 %"
    assert check(segmented([[0, 2]], class_names=())).pixel_counts == (1, 0, 1)


def test_a_class_of_pixels_out_of_range_names_its_record():
    with pytest.raises(UsageError, match=r"data.name: map 1: the pixel at x 2, y 1 of its label map has the class 3"):
        check(segmented([[0, 1, 2]], [[0, 1, 2], [2, 255, 3]], [[3]]), 3)
    with pytest.raises(UsageError, match="classes are 0 to 1, or 255 to be ignored"):
        check(segmented([[2]], class_names=()), 2)
    with pytest.raises(UsageError, match=r"config.data.train.name: map 1: what the reader says\.$"):
        check(segmented([[0]], UsageError("what the reader says")), 3, "config.data.train")
    with pytest.raises(UsageError, match="'some' has 3 classes, while the model has 4"):
        check(segmented([[0]]), 4)


def test_label_maps_that_cannot_be_read():
    report = check(segmented([[0]], BadImage("it is truncated")), 3)
    assert report.unreadable == ("map 1: it is truncated",)
    assert str(report).endswith("1 label map cannot be read, that of map 1: it is truncated")
    with pytest.raises(UsageError, match="no label map can be read; map 0: it is truncated"):
        check(segmented(BadImage("it is truncated")), 3)


def test_counts_of_pixels_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert check(segmented([[0, 1]], kept_as="one")).pixel_counts == (1, 1, 0)
    assert check(segmented(ValueError("read again"), kept_as="one")).pixel_counts == (1, 1, 0)
    assert check(segmented([[2, 2]], kept_as="two")).pixel_counts == (0, 0, 2)
    check(segmented([[0]], BadImage("not now"), kept_as="three"))
    assert check(segmented([[0]], [[1]], kept_as="three")).pixel_counts == (1, 1, 0)
