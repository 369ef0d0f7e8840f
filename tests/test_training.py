"""Training in Python: the run folder and what its files say, lengths, and how a run ends that goes wrong."""

import errno
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

import vision
from vision import config as configs
from vision.data.images import opencv
from vision.errors import UsageError
from vision.train import writers
from vision.train.writers import Console

SMALL = {
    "model": {"name": "mlp", "hidden": (8,)},
    "task": {"name": "classification"},
    "data": {
        "preprocess": {"name": "normalize"},
        "train": {"name": "fake:4x4x1:3:30", "split": "train", "batch_size": 4, "transforms": ""},
        "eval": {"test": {"name": "fake:4x4x1:3:30", "split": "test", "batch_size": 7, "transforms": ""}},
    },
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "train": {"epochs": 2},
    "evaluate": {"every": 5},
    "checkpoint": {"every": 5},
    "log": {"every": 4},
}


def small(**overrides):
    made = configs.thaw(SMALL)
    configs.override(made, {name.replace("__", "."): str(value) for name, value in overrides.items()})
    return made


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return vision.fit(small(), tmp_path_factory.mktemp("runs") / "a")


def test_every_file_of_a_run_folder(fitted):
    found = {path.name.partition(".out.")[0] for path in fitted.workdir.iterdir()}
    assert found == {
        *("config.json", "data.json", "metrics.jsonl", "summary.json"),
        *("checkpoints", "events", "log.txt", "plots"),
    }
    facts = json.loads((fitted.workdir / "data.json").read_text())
    assert list(facts) == ["data.train", "data.eval.test"]
    assert sum(facts["data.train"]["examples_of_classes"].values()) == facts["data.train"]["examples"]
    plots = {path.name for path in (fitted.workdir / "plots").iterdir()}
    assert plots == {"loss.png", "accuracy.png", "confusion_matrix.png", "predictions.png"}
    for name in plots:
        assert opencv().imread(str(fitted.workdir / "plots" / name)).std() > 1  # a picture, with something on it


def test_metrics_are_logged_at_their_times(fitted):
    rows = rows_of(fitted.workdir)
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12, 15]  # 2 epochs of 30 examples in batches of 4
    assert all(list(row)[:2] == ["step", "time"] for row in rows)
    assert [row["step"] for row in rows if "train/loss" in row] == [4, 8, 12, 15]
    assert [row["step"] for row in rows if "test/accuracy" in row] == [5, 10, 15]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    trained = next(row for row in rows if row["step"] == 4)
    expected = {"loss", "cross_entropy", "accuracy", "grad_norm", "learning_rate"}
    assert {name.removeprefix("train/") for name in trained if name.startswith("train/")} == expected
    assert trained["train/learning_rate"] == pytest.approx(0.1)
    speed = {"step_time", "data_wait", "examples_per_second", "compile_seconds", "memory_gb", "flops_per_second"}
    assert {name.removeprefix("perf/") for name in trained if name.startswith("perf/")} >= speed


def test_the_summary_is_that_of_the_metrics(fitted):
    summary, rows = json.loads((fitted.workdir / "summary.json").read_text()), rows_of(fitted.workdir)
    assert summary["step"] == 15
    assert summary["final"]["test/accuracy"] == rows[-1]["test/accuracy"]
    assert summary["final"]["train/loss"] == rows[-1]["train/loss"]
    best = max((row for row in rows if "test/accuracy" in row), key=lambda row: (row["test/accuracy"], row["step"]))
    assert summary["best"] == {"step": best["step"]} | {k: v for k, v in best.items() if k.startswith("test/")}
    assert summary["parameters"] == 16 * 8 + 8 + 8 * 3 + 3
    assert summary["wall_seconds"] > 0 and summary["examples_per_second"] > 0


def test_the_config_of_the_folder_is_complete_and_trains_the_same(fitted, tmp_path):
    config = vision.load_config(str(fitted.workdir / "config.json"))
    assert config.optimizer.schedule == "constant" and config.checkpoint.keep == 2
    again = vision.fit(config, tmp_path / "again")

    def numbers(run):
        return [{k: v for k, v in row.items() if k.startswith(("train/", "test/"))} for row in rows_of(run.workdir)]

    assert numbers(again) == numbers(fitted)


def test_the_terminal_shows_what_the_log_has(tmp_path):
    stream = io.StringIO()
    vision.fit(small(), tmp_path, console=Console(tmp_path / "log.txt", stream=stream))
    shown = stream.getvalue()
    assert (tmp_path / "log.txt").read_text() == shown
    for expected in (
        "mlp, 163 parameters",
        "fake:4x4x1:3:30 train: 30 examples, 3 classes of 10",
        "fake:4x4x1:3:30 test: 30 examples, 3 classes of 10",
        "15 steps of 4 = 2.0 epochs",
        "1 x cpu, jit",
        "step 15/15  test/loss",
        "metric",
        "best  at step",
        f"{tmp_path}/plots/: loss.png, accuracy.png, confusion_matrix.png, predictions.png",
        f"python -m launch.evaluate --workdir={tmp_path}",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("key", "value", "steps"),
    [pytest.param("steps", 3, 3, marks=pytest.mark.slow), ("epochs", 0.4, 3), ("examples", 9, 2)],
)
def test_lengths(tmp_path, key, value, steps):
    assert vision.fit(small(**{f"train__{key}": value}), tmp_path).step == steps


def test_without_evaluation(tmp_path):
    config = small(train__steps=4)
    del config.data["eval"]
    run = vision.fit(config, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["best"] == {}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png", "accuracy.png"}
    assert vision.load(tmp_path).step == 4  # the last one, where there is no best
    assert run.evaluate() == {}


def test_another_task_fills_the_same_folder(tmp_path):
    model = {"name": "autoencoder", "hidden": (8,), "latent": 2}
    run = vision.fit(small(model=model, task__name="reconstruction", train__steps=4), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "test/mse" in summary["final"] and "test/accuracy" not in summary["final"]
    assert (tmp_path / "plots" / "loss.png").exists()
    assert len(list((tmp_path / "plots").iterdir())) >= 2
    image = np.zeros((4, 4, 1), np.uint8)
    (found,) = run.predictions([image])
    assert found["predictions"]["reconstruction"].shape == (4, 4, 1)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    config = small(optimizer__learning_rate=1e30, log__every=1, checkpoint__every=1)
    message = r"step (\d+): \w+ is (nan|inf).*the checkpoint of step (\d+) is the last good one.*--show_batch=\1"
    with pytest.raises(UsageError, match=message) as error:
        vision.fit(config, tmp_path)
    assert f"error: {error.value}" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "summary.json").exists()
    assert all(math.isfinite(row["train/loss"]) for row in rows_of(tmp_path))
    good = vision.load(tmp_path, "last")
    assert f"checkpoint of step {good.step} is" in str(error.value)
    with pytest.raises(UsageError, match="last good one"):
        vision.fit(config, tmp_path)  # the same again


def test_a_profile_has_the_first_step(tmp_path):
    vision.fit(small(train__steps=2, data__eval="{}"), tmp_path, profile=(1, 1))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("function", ["write", "write_json"])
def test_a_full_disk_ends_the_run_with_the_error_of_the_system(tmp_path, monkeypatch, function):
    """At a row of metrics.jsonl, or at summary.json; the commands make a sentence of it."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if function == "write":
        monkeypatch.setattr(writers, "jsonl_writer", lambda *_: writers.Writer(full, lambda: None))
    else:
        monkeypatch.setattr(writers, "write_json", full)
    config = small(train__steps=4)
    with pytest.raises(OSError, match="No space left on device"):
        vision.fit(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    assert vision.fit(config, tmp_path).step == 4  # the same command, with some room
    assert [row["step"] for row in rows_of(tmp_path)][-1] == 4
    assert (tmp_path / "summary.json").exists()


def test_images_of_several_sizes_are_an_error_that_names_the_file(tmp_path):
    for label, size in (("a", 6), ("b", 7)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(4):
            file = tmp_path / "train" / label / f"{number}.png"
            opencv().imwrite(str(file), np.zeros((size, size, 3), np.uint8))
    config = small(data__train__name=f"folder:{tmp_path}", data__train__transforms="decode", data__eval="{}")
    with pytest.raises(UsageError, match=r"\.png: .image. has shape .*while other examples have .*resize"):
        vision.fit(config, Path(tmp_path / "run"))
