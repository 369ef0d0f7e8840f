"""Which config may train in a run folder, and what is read out of its files."""

import json

import pytest
from ml_collections import ConfigDict

from vision import workdirs
from vision.config import freeze, load
from vision.errors import UsageError
from vision.experiment import Best
from vision.sections import complete


def config(**changes):
    made = ConfigDict(
        {
            "seed": 0,
            "parallel": "jit",
            "model": {"name": "mlp", "hidden": (8,)},
            "task": {"name": "classification"},
            "data": {
                "preprocess": {"name": "normalize"},
                "train": {"name": "digits", "split": "train", "batch_size": 8, "transforms": "decode"},
                "eval": {"test": {"name": "digits", "split": "test", "batch_size": 8, "transforms": "decode"}},
            },
            "optimizer": {"name": "adam", "learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8},
            "train": {"steps": 10, "epochs": None, "examples": None},
            "log": {"every": 5},
            "evaluate": {"every": 5},
            "checkpoint": {"every": 5},
        }
    )
    made = complete(made)
    made.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return made


def prepare(workdir, made):
    """What `fit` does with a folder before it trains there."""
    with workdirs.claimed(workdir, made):
        workdirs.write_config(workdir, made)


def test_two_at_once_are_refused(tmp_path):
    with (
        workdirs.claimed(tmp_path, config()),
        pytest.raises(UsageError, match="another process is training in this folder"),
    ):
        prepare(tmp_path, config())
    prepare(tmp_path, config())  # let go of at the end


def test_a_run_from_before_a_key_existed_goes_on(tmp_path):
    earlier = config()
    prepare(tmp_path, earlier)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["task"]["top_k"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    prepare(tmp_path, earlier)
    with pytest.raises(UsageError, match=r"task\.top_k: 5 there, 3 now"):
        prepare(tmp_path, config(task__top_k=3))


def test_a_new_folder_is_made_and_gets_the_config(tmp_path):
    prepare(tmp_path / "a" / "b", config())
    assert freeze(load(str(tmp_path / "a" / "b" / "config.json"))) == freeze(config())


@pytest.mark.parametrize(
    "change",
    [
        dict(train__steps=20),
        dict(parallel="pmap"),
        dict(log__every=1),
        dict(evaluate__every=1),
        dict(checkpoint__every=1),
        dict(data__train__threads=3),
        dict(data__eval__test__workers=2),
    ],
)
def test_what_may_change_when_a_run_goes_on(tmp_path, change):
    prepare(tmp_path, config())
    prepare(tmp_path, config(**change))
    assert freeze(load(str(tmp_path / "config.json"))) == freeze(config(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(optimizer__learning_rate=0.2), r"\(optimizer.learning_rate: 0.1 there, 0.2 now\)"),
        (dict(seed=1), r"\(seed: 0 there, 1 now\)"),
        (dict(model__hidden=(9,)), r"\(model.hidden: \(8,\) there, \(9,\) now\)"),
        (dict(data__train__batch_size=4), r"data.train.batch_size: 8 there, 4 now"),
        (dict(seed=1, model__hidden=(9,), optimizer__b1=0.1, optimizer__b2=0.2, optimizer__eps=0.3), "and 1 more"),
    ],
)
def test_what_may_not(tmp_path, change, message):
    prepare(tmp_path, config())
    with pytest.raises(UsageError, match=message) as error:
        prepare(tmp_path, config(**change))
    assert f"--config={tmp_path / 'config.json'}" in str(error.value)
    assert freeze(load(str(tmp_path / "config.json"))) == freeze(config())  # the folder is as it was


@pytest.mark.parametrize("below", ["", "runs/a"])
def test_a_folder_that_cannot_be_written(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: "):
        prepare(tmp_path / "file" / below, config())


@pytest.mark.parametrize("key", ["steps", "epochs", "examples"])
def test_the_flag_for_the_length(key):
    made = config(train__steps=None) if key != "steps" else config()
    with made.ignore_type():
        made.train[key] = 3
    assert workdirs.length_flag(made) == f"--config.train.{key}"


ROWS = [
    {"step": 1, "train/loss": 9.0},
    {"step": 2, "test/loss": 1.0, "test/accuracy": 0.5},
    {"step": 3, "test/loss": 0.5, "test/accuracy": 0.75, "val/loss": 2.0},
    {"step": 4, "test/loss": None, "test/accuracy": 0.75},
]


@pytest.mark.parametrize(
    ("best", "step"),
    [
        (Best("test/accuracy", "max"), 4),  # of equals the latest, as checkpoints keep it
        (Best("test/accuracy", "min"), 2),
        (Best("test/loss", "min"), 3),  # a loss that is no number is never the best
        (Best("test/loss", "max"), 2),
    ],
)
def test_the_best_row(best, step):
    assert workdirs.best_row(ROWS, best)["step"] == step
    assert workdirs.best_row(reversed(ROWS), best)["step"] == step


def test_no_best_row():
    assert workdirs.best_row(ROWS, None) is None
    assert workdirs.best_row(ROWS, Best("val/accuracy", "max")) is None
    assert workdirs.best_row([], Best("test/loss", "min")) is None


def test_results_are_those_of_the_evaluation_splits():
    assert workdirs.results(ROWS[2], ["test"]) == {"test/loss": 0.5, "test/accuracy": 0.75}
    assert workdirs.results(ROWS[2], ["val", "test"]).keys() == {"test/loss", "test/accuracy", "val/loss"}
    assert workdirs.results(ROWS[0], ["test"]) == workdirs.results(None, ["test"]) == {}


def test_whether_a_run_has_written_its_summary(tmp_path):
    assert not workdirs.has_summary(tmp_path, 0)
    (tmp_path / "summary.json").write_text(json.dumps({"step": 40}))
    assert workdirs.has_summary(tmp_path, 40) and workdirs.has_summary(tmp_path, 30)
    assert not workdirs.has_summary(tmp_path, 41)  # extended, and not finished since
    (tmp_path / "summary.json").write_text("{")
    assert not workdirs.has_summary(tmp_path, 1)


def test_a_perfect_value_counts_and_one_that_is_no_number_does_not():
    rows = [{"step": 1, "test/loss": 0.0}, {"step": 2, "test/loss": 0.1}, {"step": 3, "test/loss": float("nan")}]
    assert workdirs.best_row(rows, Best("test/loss", "min"))["step"] == 1
    assert workdirs.best_row(rows[2:], Best("test/loss", "max")) is None
