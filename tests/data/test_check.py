"""What is reported and refused before the first step."""

import dataclasses

import numpy as np
import pytest

from vision.data import check, open_source
from vision.data.fake import FakeRecords
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
