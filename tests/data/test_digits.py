"""The embedded data set prepares itself, once, whole, and always the same."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

import vision.data
from vision.data import create, digits, open_source
from vision.data.tfds_source import open_directory
from vision.errors import UsageError

# Examples of each class: published with the data set, and a fifth of each to within one.
ALL = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_split_is_fixed_and_stratified():
    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    counts = np.bincount(test.labels)
    np.testing.assert_array_equal(np.bincount(train.labels) + counts, ALL)
    assert np.abs(counts - np.array(ALL) * 360 / 1797).max() < 1
    chosen = digits.test_indices(load_digits().target)
    assert chosen[:8].tolist() == [3, 7, 8, 12, 15, 22, 26, 36]  # as ever; a published accuracy is on these
    assert len(set(chosen.tolist())) == 360


def test_pixels_and_labels_are_scikit_learns():
    images, labels = load_digits().images, load_digits().target
    test = digits.test_indices(labels)
    batch = create("digits", "test", 360, "decode(channels=1)", train=False).batch(0)
    np.testing.assert_array_equal(batch["label"], labels[test])
    np.testing.assert_allclose(batch["image"][..., 0] / 255 * 16, images[test], atol=0.04)
    assert batch["image"].dtype == np.uint8 and (batch["image"].min(), batch["image"].max()) == (0, 255)
    rest = create("digits", "train", 1437, "decode(channels=1)", train=False).batch(0)
    np.testing.assert_array_equal(np.sort(rest["label"]), np.sort(np.delete(labels, test)))


def test_slices_and_names():
    assert len(open_source("digits", "train[:100]")) == 100
    assert open_source("digits", "test").class_names == tuple("0123456789")
    assert open_source("digits", "test").describe(17) == "digits/test record 17"
    with pytest.raises(UsageError, match="unknown split 'tset'; did you mean 'test'"):
        open_source("digits", "tset", "config.data.eval.test")
    with pytest.raises(UsageError, match=r"config.data.train.split: 'train\[:x%\]' is not a slice"):
        open_source("digits", "train[:x%]", "config.data.train")
    with pytest.raises(UsageError, match="has no examples"):
        create("digits", "train[:0]", 4, "decode")


SCRIPT = """
import os, sys
import tensorflow_datasets
from vision.data import digits
digits.load()
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
    pass
print(digits.prepare())
assert "tensorflow" not in sys.modules
"""


def test_processes_that_start_at_once_do_not_corrupt_it(tmp_path):
    python_path = str(pathlib.Path(vision.data.__file__).parents[2])
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": python_path}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "go")]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert folders == {str(tmp_path / "data" / "digits" / "1.0.0")}
    assert [path.name for path in (tmp_path / "data" / "digits").iterdir()] == ["1.0.0"]  # nothing half-written is left
    assert len(open_directory("digits", folders.pop(), "train+test")) == 1797


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot prepare the digits data set in .*; set TFDS_DATA_DIR"):
        digits.prepare(str(tmp_path / "file"))
