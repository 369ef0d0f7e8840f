"""`python -m launch.evaluate`: the metrics of a run's checkpoints."""

import json

import pytest

from vision.train.progress import format_number


@pytest.fixture(scope="module")
def rows(trained, launcher):
    assert trained.code == 0, trained.err
    lines = (launcher.folder / "runs" / "digits-mlp" / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if "test/accuracy" in row}


@pytest.fixture(scope="module")
def shown(rows, launcher):
    """What the command shows for each checkpoint asked for."""
    del rows
    asked = ["best", "last", "18", ""]
    arguments = [["--workdir=runs/digits-mlp", *([f"--checkpoint={name}"] if name else [])] for name in asked]
    return dict(zip(asked, launcher.run_many("evaluate", arguments), strict=True))


@pytest.mark.parametrize("asked", ["best", "last", "18", ""])
def test_metrics_are_those_that_were_logged(shown, rows, asked):
    done = shown[asked]
    assert done.code == 0, done.err
    best = max(rows, key=lambda step: (rows[step]["test/accuracy"], step))
    step = {"last": 24, "18": 18}.get(asked, best)
    assert f"step {step} ({asked or 'best'})" in done.out
    table = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.split()[1:]}
    assert table["test"] == ["value"]
    for name in ("loss", "accuracy", "top5_accuracy", "macro_f1"):
        assert table[name] == [format_number(rows[step][f"test/{name}"])]
    assert table["class"] == ["precision", "recall", "f1"]
    assert all(len(table[str(digit)]) == 3 for digit in range(10))


def test_as_a_user_types_it(rows, launcher):
    done = launcher.run("evaluate", "--workdir", "runs/digits-mlp", "--checkpoint=last", "--split=test")
    assert (done.code, done.err) == (0, "")
    assert format_number(rows[24]["test/accuracy"]) in done.out
