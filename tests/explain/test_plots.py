"""Plots are PNG files of what was given: normalised rows, smoothed curves, the best step; nothing global is touched."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vision.explain import plots
from vision.explain.results import Results


def read(path):
    """The picture as RGB; fails unless the file is a PNG."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def has_color(picture, color, least=20):
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return np.sum(np.all(np.abs(picture.astype(int) - wanted) <= 3, axis=-1)) >= least


counts = hnp.arrays(np.int64, st.integers(1, 8).map(lambda n: (n, n)), elements=st.integers(0, 50))


@settings(deadline=None)
@given(counts)
def test_rows_are_shares_of_the_true_class(confusion):
    shares = plots.normalize_rows(confusion)
    for row, share in zip(confusion, shares, strict=True):
        np.testing.assert_allclose(share, row / row.sum() if row.sum() else 0)


@settings(deadline=None)
@given(counts, st.integers(0, 70))
def test_top_confusions_are_the_largest_off_the_diagonal(confusion, count):
    pairs = plots.top_confusions(confusion, count)
    size = len(confusion)
    off = sorted((confusion[i, j] for i in range(size) for j in range(size) if i != j), reverse=True)
    assert [n for *_, n in pairs] == [n for n in off if n > 0][:count]
    assert all(true != said and confusion[true, said] == n for true, said, n in pairs)
    assert len(set(pairs)) == len(pairs)


def test_hardest_classes_leave_out_those_without_examples():
    confusion = np.array([[9, 1, 0], [0, 0, 0], [5, 0, 5]])
    assert plots.hardest_classes(confusion, 5) == [(2, 0.5), (0, 0.9)]


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-10, 10)), st.integers(1, 15))
def test_smoothing_is_the_mean_of_the_window(values, window):
    half = window // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(plots.smooth(values, window), expected, atol=1e-9)


def rows(steps=400):
    result = []
    for step in range(10, steps + 1, 10):
        row = {"step": step, "time": step / 10, "train/loss": 100 / step, "train/learning_rate": 1e-3 / step}
        if step % 100 == 0:
            row |= {"test/loss": abs(step - 300) / 100 + 0.5, "test/accuracy": 0.9, "val/accuracy": 0.8}
        result.append(row)
    result[3]["train/loss"] = None  # not finite, as metrics.jsonl says it
    return result


def legend(monkeypatch):
    """Collects the labels of all curves drawn."""
    from matplotlib.axes import Axes

    labels, original = [], Axes.plot

    def plot(self, *args, **kwargs):
        if "label" in kwargs:
            labels.append(kwargs["label"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", plot)
    return labels


def test_loss_curve(tmp_path, monkeypatch):
    labels = legend(monkeypatch)
    assert plots.plot_curves(tmp_path / "plots" / "loss.png", rows(), "loss", higher_is_better=False)
    assert labels == ["training", "test, best 0.5 at step 300"]
    picture = read(tmp_path / "plots" / "loss.png")
    assert has_color(picture, plots.BLUE) and has_color(picture, plots.ORANGE)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["loss.png"]


def test_accuracy_curve_of_two_evaluations_and_none_where_there_is_no_accuracy(tmp_path, monkeypatch):
    labels = legend(monkeypatch)
    assert plots.plot_curves(tmp_path / "accuracy.png", rows(), "accuracy")
    assert labels == ["test, best 0.9 at step 100", "val, best 0.8 at step 100"]
    assert not plots.plot_curves(tmp_path / "psnr.png", rows(), "psnr")
    assert not plots.plot_curves(tmp_path / "empty.png", [], "loss")
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.png"]


def test_many_steps_are_smoothed_and_one_point_is_enough(tmp_path, monkeypatch):
    labels = legend(monkeypatch)
    assert plots.plot_curves(tmp_path / "a.png", rows(2000), "loss", higher_is_better=False)
    assert labels[0] == "training, smoothed"
    assert plots.plot_curves(tmp_path / "b.png", [{"step": 5, "test/accuracy": 0.5}], "accuracy")
    read(tmp_path / "b.png")


@pytest.mark.parametrize("classes", [1, 2, 10, 20, 21, 100, 1000, 1001])
def test_confusion_matrix_of_any_number_of_classes(tmp_path, classes):
    confusion = np.eye(classes, dtype=np.int64) * 10
    confusion[0, -1] += 7
    names = [f"class ${index}" for index in range(classes)]  # a dollar sign starts no formula
    plots.confusion_matrix(tmp_path / "c.png", Results([], class_names=names, arrays={"confusion_matrix": confusion}))
    picture = read(tmp_path / "c.png")
    assert max(picture.shape) < 2000
    assert has_color(picture, plots._WHITE_TO_BLUE[-1])  # a share of 1


def test_confusion_matrix_without_names_or_examples(tmp_path):
    plots.confusion_matrix(tmp_path / "c.png", Results([], arrays={"confusion_matrix": np.zeros((4, 4), int)}))
    read(tmp_path / "c.png")


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 8))
def test_blocks_add_up_neighbours(classes, block):
    confusion = np.arange(classes**2).reshape(classes, classes)
    blocks = plots._in_blocks(confusion, block)
    size = -(-classes // block)
    for i in range(size):
        for j in range(size):
            part = confusion[i * block : (i + 1) * block, j * block : (j + 1) * block]
            assert blocks[i, j] == part.sum()


def test_nothing_is_imported_early_and_nothing_global_is_touched(tmp_path):
    script = f"""
import sys
from vision.explain import plots, pictures, results
from vision.train import meters, progress, writers
heavy = {{"matplotlib", "tensorboardX", "wandb", "cv2", "sklearn", "tensorflow", "torch", "PIL"}} & set(sys.modules)
assert not heavy, heavy
import matplotlib
values = lambda: [(name, dict.__getitem__(matplotlib.rcParams, name)) for name in list(matplotlib.rcParams)]
before = values()  # past rcParams' own access, which would choose a backend
plots.plot_curves({str(tmp_path / "a.png")!r}, [{{"step": 1, "test/loss": 1.0}}], "loss")
assert values() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)
