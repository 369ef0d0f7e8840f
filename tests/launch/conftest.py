"""Runs the commands as a user does, in processes of their own, from a folder that has nothing but `configs/`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24

# Commands define the same flags, so that a process has one of them; it may run it many times, which saves the imports.
_MANY = """
import contextlib, importlib, io, json, sys, traceback
from absl import flags
from launch import command

module = importlib.import_module(sys.argv[1])
results = []
for arguments in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    sys.argv = [module.__file__, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            command.run(module.main)
            code = None
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


class Done(NamedTuple):
    """How a command ended, and what it showed."""

    code: int
    out: str
    err: str


class Launcher(NamedTuple):
    """Runs commands in a folder."""

    folder: Path

    def run(self, command: str, *arguments: str, **options) -> Done:
        """`python -m launch.COMMAND ARGUMENTS`, with further options of `subprocess.run`."""
        done = self._process(["-m", f"launch.{command}", *arguments], **options)
        return Done(done.returncode, done.stdout, done.stderr)

    def run_many(self, command: str, argument_lists: list[list[str]], devices: int = 1) -> list[Done]:
        """The command with each list of arguments, one after the other in one process with simulated devices."""
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {}
        done = self._process(["-c", _MANY, f"launch.{command}"], flags, input=json.dumps(argument_lists))
        assert done.returncode == 0, done.stderr
        return [Done(*result) for result in json.loads(done.stdout.splitlines()[-1])]

    def _process(self, arguments, environment=None, **options):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(ROOT / "configs")
    return Launcher(folder)


@pytest.fixture(scope="session")
def trained(launcher):
    """A finished run in the default folder of its config, `runs/digits-mlp`, and what its process showed."""
    return launcher.run(
        "train",
        "--config=configs/digits.py:mlp",
        f"--config.train.steps={STEPS}",
        "--config.model.hidden=(32,)",
        "--config.optimizer.learning_rate=2e-2",
        "--config.log.every=4",
        "--config.evaluate.every",
        "25%",
        "--config.checkpoint.every=8 steps",
        "--profile=3:5",
    )
