"""Training N steps equals training k, being killed or stopped, and training on to N: bit for bit.

The network has everything that could make a difference: batch norm, dropout, a moving average, momentum, random
augmentation. Processes that are to end are real ones; what goes on from there runs here.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vision import config as configs
from vision import experiment
from vision.errors import UsageError
from vision.run import load
from vision.train.checkpoints import Checkpoints
from vision.train.writers import read_metrics
from vision.training import fit, starting_state

ROOT = Path(__file__).resolve().parents[1]
STEPS = 40
OVERRIDES = {
    "model.hidden": "(16, 16)",
    "model.batch_norm": "True",
    "model.dropout": "0.2",
    "optimizer.name": "adamw",
    "optimizer.ema": "0.9",
    "optimizer.accumulate": "2",
    "data.train.batch_size": "48",
    "data.eval.test.split": "test[:50]",
    "train.steps": str(STEPS),
    "log.every": "3",
    "evaluate.every": "7",
    "checkpoint.every": "2",
}


def config(**changes):
    made = configs.load(f"{ROOT}/configs/digits.py:mlp")
    configs.override(made, OVERRIDES | {name.replace("__", "."): str(value) for name, value in changes.items()})
    return made


def state_of(workdir, step, **changes):
    """(every array of the last checkpoint by its path, random key included)."""
    wired = experiment.build(config(**changes))
    with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
        state, _ = starting_state(wired, saved)
    assert int(state.step) == step
    state = state.replace(rng=jax.random.key_data(state.rng))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def metrics_of(workdir):
    """Rows of metrics.jsonl less what depends on the clock."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "time" and not k.startswith("perf/")} for row in rows]


def assert_same_run(workdir, other, step=STEPS):
    one, two = state_of(workdir, step), state_of(other, step)
    assert one.keys() == two.keys()
    different = [
        path for path in one if one[path].tobytes() != two[path].tobytes() or one[path].dtype != two[path].dtype
    ]
    assert not different
    assert metrics_of(workdir) == metrics_of(other)
    summary, expected = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, other))
    for name in ("step", "final", "best", "parameters"):
        assert summary[name] == expected[name]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run without any interruption; no test may change its folder."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    fit(config(checkpoint__every=19), workdir)
    return workdir


def interrupt(workdir, number, after):
    """Starts the run and sends it a signal at a random moment after a step is logged: (exit code, stdout, stderr)."""
    flags = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    command = [sys.executable, "-m", "launch.train", "--config=configs/digits.py:mlp", f"--workdir={workdir}", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(process.wait)
        cleanup.callback(process.kill)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            rows = read_metrics(workdir / "metrics.jsonl")
            if rows and rows[-1]["step"] >= after:
                break
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def interrupted(workdir, number, after, expected):
    """`interrupt`: (stdout, stderr); again where the process was through with its steps before the signal came."""
    backup = workdir.with_name(f"{workdir.name}-before")
    if workdir.exists():
        shutil.copytree(workdir, backup)
    for _ in range(3):
        code, out, err = interrupt(workdir, number, after)
        in_time = not (workdir / "summary.json").exists() and ("Stopped by" in out or number == signal.SIGKILL)
        if in_time:
            assert code == expected, err
            return out, err
        shutil.rmtree(workdir)
        if backup.exists():
            shutil.copytree(backup, workdir)
    raise AssertionError(f"three runs of {STEPS} steps were through before a signal reached them")


@pytest.mark.slow
def test_killed_at_a_random_moment_and_started_again(straight, tmp_path, capsys):
    workdir = tmp_path / "killed"
    after = random.randrange(9, 18)
    interrupted(workdir, signal.SIGKILL, after, expected=-signal.SIGKILL)
    logged = [row["step"] for row in metrics_of(workdir)]
    fit(config(), workdir)
    assert "Going on from the checkpoint of step" in capsys.readouterr().out
    steps = [row["step"] for row in metrics_of(workdir)]
    assert steps == sorted({*range(3, STEPS, 3), *range(7, STEPS, 7), STEPS})  # each step once
    assert set(logged) <= set(steps)
    assert_same_run(workdir, straight)


@pytest.mark.slow
def test_stopped_by_sigterm_then_by_ctrl_c_then_through(straight, tmp_path):
    workdir = tmp_path / "stopped"
    out, err = interrupted(workdir, signal.SIGTERM, 6, expected=0)
    assert "Stopped by SIGTERM after step" in out and "everything is saved" in out and not err
    with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
        first = saved.latest_step()
    assert f"after step {first} of {STEPS}" in out
    out, err = interrupted(workdir, signal.SIGINT, first + 4, expected=130)
    assert f"Going on from the checkpoint of step {first}." in out
    assert "Stopped by SIGINT after step" in out
    assert err.strip() == "Stopping after this step and saving; Ctrl-C again interrupts at once."
    run = fit(config(), workdir)
    assert (run.step, run.stopped_by) == (STEPS, None)
    assert_same_run(workdir, straight)


def copy(straight, tmp_path):
    return Path(shutil.copytree(straight, tmp_path / "copy"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"}


def test_a_finished_run_says_so_and_changes_nothing(straight, tmp_path, capsys):
    workdir = copy(straight, tmp_path)
    before = contents(workdir)
    run = fit(config(checkpoint__every=19), workdir)
    assert f"This run is finished: step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert "--config.train.steps extends it" in (workdir / "log.txt").read_text()
    assert run.step == STEPS
    assert contents(workdir) == before


@pytest.mark.slow
def test_a_larger_length_extends_a_run_also_run_another_way(straight, tmp_path, capsys):
    workdir = copy(straight, tmp_path)
    run = fit(config(train__steps=44, parallel="pmap", log__every=1, data__train__threads=1), workdir)
    assert f"Going on from the checkpoint of step {STEPS}" in capsys.readouterr().out
    assert run.step == json.loads((workdir / "summary.json").read_text())["step"] == 44
    before = metrics_of(straight)
    assert metrics_of(workdir)[: len(before)] == before
    assert [row["step"] for row in metrics_of(workdir)[len(before) :]] == [41, 42, 43, 44]


def test_another_learning_rate_is_refused(straight, tmp_path):
    workdir = copy(straight, tmp_path)
    before = contents(workdir)
    with pytest.raises(
        UsageError, match=r"holds a run of another config \(optimizer.learning_rate: 0.002 there, 0.1 now"
    ):
        fit(config(optimizer__learning_rate=0.1), workdir)
    assert contents(workdir) == before


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(straight, tmp_path, capsys):
    workdir = copy(straight, tmp_path)
    data = [p for p in (workdir / "checkpoints" / str(STEPS) / "state").rglob("*") if p.is_file()]
    largest = max(data, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    largest.write_bytes(content)
    fit(config(), workdir)
    assert f"Going on from the checkpoint of step {STEPS - 2}." in capsys.readouterr().out
    assert_same_run(workdir, straight)


def test_killed_between_the_last_checkpoint_and_the_summary(straight, tmp_path):
    workdir = copy(straight, tmp_path)
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "plots")
    fit(config(), workdir)
    assert_same_run(workdir, straight)
    assert sorted(os.listdir(workdir / "plots")) == sorted(os.listdir(straight / "plots"))


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_starts_anew(straight, tmp_path):
    workdir = copy(straight, tmp_path)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "summary.json").unlink()
    fit(config(checkpoint__every=0), workdir)
    assert_same_run(workdir, straight)


def test_checkpoints_of_another_network_are_refused(straight, tmp_path):
    workdir = copy(straight, tmp_path)
    (workdir / "config.json").unlink()
    with pytest.raises(UsageError, match=r"checkpoint .*dense_1.*") as error:
        fit(config(model__hidden="(8, 16)"), workdir)
    assert "\n" not in str(error.value)
    assert f"error: {error.value}" in (workdir / "log.txt").read_text()


@pytest.mark.slow
def test_an_owed_evaluation_is_paid_even_by_processes_that_die_of_it(straight, tmp_path, monkeypatch):
    """Stopped where an evaluation is due; two processes pay for it and die before they save; the next goes through."""
    workdir, due = tmp_path / "owed", 7

    @contextlib.contextmanager
    def stopping():
        yield lambda step: "SIGTERM" if step == due else None

    with monkeypatch.context() as patched:
        patched.setattr("vision.train.signals.stop_requests", stopping)
        run = fit(config(), workdir)
        assert (run.step, run.stopped_by) == (due, "SIGTERM")
    assert metrics_of(workdir)[-1]["step"] < due
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "save", lambda *_, **__: False)
            patched.setattr("vision.train.parallel.CompiledStep.__call__", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(config(), workdir)
        assert metrics_of(workdir)[-1]["step"] == due
    fit(config(), workdir)
    assert_same_run(workdir, straight)
    assert load(workdir, "best").step == json.loads((workdir / "summary.json").read_text())["best"]["step"]


def test_data_that_changed_in_between_are_noticed(straight, tmp_path):
    workdir = copy(straight, tmp_path)
    with pytest.raises(UsageError, match=rf"The data are not those of the checkpoint of step {STEPS}: examples differ"):
        # The split has the same name and another length: as if images had come or gone.
        made = config(train__steps=STEPS + 2)
        made.data.eval.test.split = "test[:40]"
        stored = configs.load(str(workdir / "config.json"))
        stored.data.eval.test.split = "test[:40]"
        (workdir / "config.json").write_text(configs.to_json(stored))
        fit(made, workdir)
