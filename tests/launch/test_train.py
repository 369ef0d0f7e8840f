"""`python -m launch.train`: the run folder it leaves, and what else it shows."""

import json
import re

import pytest

from vision import config as configs
from vision import sections
from vision.data.images import opencv

EVALUATIONS = [6, 12, 18, 24]


@pytest.fixture(scope="module")
def folder(trained, launcher):
    assert trained.code == 0, trained.err
    return launcher.folder / "runs" / "digits-mlp"


@pytest.fixture(scope="module")
def more(trained, launcher, folder):
    """What further commands, none of which trains, show."""
    digits = "--config=configs/digits.py:mlp"
    names = {
        "finished": [f"--config={folder}/config.json"],
        "help": ["--help_config=configs/digits.py:resnet", "--config.optimizer.learning_rate=0.5"],
        "batch": [digits, "--show_batch=17", "--workdir=runs/shown"],
        "same batch": ["--config", "configs/digits.py:mlp", "--show_batch", "17", "--workdir", "runs/shown again"],
        "next batch": [digits, "--show_batch=18", "--workdir=runs/shown"],
    }
    del trained
    return dict(zip(names, launcher.run_many("train", list(names.values())), strict=True))


@pytest.fixture(scope="module")
def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_nothing_on_standard_error(trained):
    assert trained.err == ""


def test_the_files_of_a_run_folder(folder):
    found = {path.name.partition(".out.")[0] for path in folder.iterdir()}
    contract = {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "events",
        "log.txt",
        "plots",
    }
    assert found == contract | {"profile"}
    pictures = {path.name: opencv().imread(str(path)) for path in (folder / "plots").iterdir()}
    assert set(pictures) == {"loss.png", "accuracy.png", "confusion_matrix.png", "predictions.png"}
    assert all(picture.std() > 1 for picture in pictures.values())
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir())[-1] == 24


def test_the_log_is_what_the_terminal_showed(folder, trained):
    assert (folder / "log.txt").read_text() == trained.out
    for expected in (
        "mlp, 2,410 parameters",
        "digits train: 1,437 examples, 10 classes of 139 to 147",
        "digits test: 360 examples, 10 classes of 35 to 37",
        "24 steps of 64",
        "1 x cpu, jit",
        "step 24/24  loss",
        "runs/digits-mlp/plots/: loss.png, accuracy.png, confusion_matrix.png, predictions.png",
    ):
        assert expected in trained.out
    assert not re.search(r"[\x1b\r]", trained.out)


def test_the_config_is_the_exact_one(folder):
    config = configs.load(f"{folder}/config.json")
    assert configs.freeze(sections.complete(config)) == configs.freeze(config)
    assert config.model.hidden == (32,)
    assert config.optimizer.learning_rate == 2e-2
    assert (config.train.steps, config.train.epochs) == (24, None)
    assert (config.evaluate.every, config.checkpoint.every) == ("25%", "8 steps")


def test_metrics_and_summary(folder, rows):
    assert [row["step"] for row in rows] == sorted({*range(4, 25, 4), *EVALUATIONS})
    assert [row["step"] for row in rows if "test/accuracy" in row] == EVALUATIONS
    assert all({"step", "time"} < row.keys() for row in rows)
    assert {"train/loss", "train/accuracy", "test/accuracy", "test/loss"} < rows[-1].keys()
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {"step", "final", "best", "parameters", "wall_seconds", "examples_per_second"}
    assert (summary["step"], summary["parameters"]) == (24, 64 * 32 + 32 + 32 * 10 + 10)
    assert summary["final"] == {k: v for k, v in rows[-1].items() if k.startswith("test/") or k == "train/loss"}
    assert summary["best"]["test/accuracy"] == max(row.get("test/accuracy", 0) for row in rows)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_profile_is_a_trace(folder):
    assert list((folder / "profile").rglob("*.xplane.pb"))


def test_its_config_json_is_accepted_and_the_run_is_finished(more, folder):
    done = more["finished"]
    assert done.code == 0, done.err
    assert "This run is finished: step 24 of 24. Its results are in runs/digits-mlp/summary.json" in done.out
    assert "a larger --config.train.steps extends it" in done.out
    assert (folder / "log.txt").read_text().endswith(done.out)


def test_help_prints_every_key_with_value_meaning_and_file(more):
    done = more["help"]
    assert done.code == 0, done.err
    config = configs.load(f"{configs.__file__.rpartition('/vision/')[0]}/configs/digits.py:resnet")
    keys = dict(configs.flatten(sections.complete(config))) | {"optimizer.learning_rate": 0.5}
    for key, value in keys.items():
        assert f"  --config.{key}={value!r}   [" in done.out
    assert "config.model   (vision/models/resnet.py)" in done.out
    assert "      the schedule's height." in done.out


def test_show_batch_writes_the_picture_of_that_step(more, launcher):
    assert {done.code for done in more.values()} == {0}
    shown = launcher.folder / "runs" / "shown" / "plots" / "batch_17.png"
    assert more["batch"].out == "Wrote the batch of step 17 to runs/shown/plots/batch_17.png\n"
    again = launcher.folder / "runs" / "shown again" / "plots" / "batch_17.png"
    picture, other = (opencv().imread(str(file)) for file in (shown, shown.with_name("batch_18.png")))
    assert (picture == opencv().imread(str(again))).all()
    assert picture.shape != other.shape or (picture != other).any()
    assert not (shown.parent.parent / "config.json").exists()  # nothing is trained
