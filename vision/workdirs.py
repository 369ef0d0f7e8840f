"""The run folder: whether a config may train in it, and what its files say."""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from vision.config import LENGTHS, differences, load, to_json
from vision.errors import UsageError
from vision.experiment import Best
from vision.sections import complete
from vision.train.writers import write_json, write_text

# What a run may change when it goes on: how long, how often and how fast; not what is computed.
FREE_SECTIONS = ("train", "evaluate", "checkpoint", "log", "parallel")
FREE_DATA_KEYS = ("workers", "threads", "prefetch")


@contextlib.contextmanager
def claimed(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes the folder, or checks that it is one of this very run, and keeps other processes from training in it.

    Raises:
        UsageError: the folder cannot be written, is in use, or holds a run of another config; says what differs.
    """
    _check_same_run(workdir, config)
    if jax.process_index() > 0:  # process 0 claims it for all
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        folder = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be written: {error.strerror or error}.") from error
    try:  # the system lets go of the lock when this process ends, however it ends
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise UsageError(f"--workdir={workdir}: another process is training in this folder.") from error
    except OSError as error:  # a file system without locks
        logging.warning("%s cannot be locked (%s): start no second process in it.", workdir, error)
    try:
        yield
    finally:
        os.close(folder)


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json: the config that the folder is trained with from now on."""
    if jax.process_index() == 0:
        write_text(workdir / "config.json", to_json(config))


def write_data(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Writes data.json: what the check of each split has found, with every annotation that is left out.

    Args:
        workdir: the run folder.
        facts: of each split, by its path in the config.
    """
    if jax.process_index() == 0:
        write_json(workdir / "data.json", facts)


def _check_same_run(workdir: Path, config: ConfigDict) -> None:
    file = workdir / "config.json"
    if file.exists():
        earlier = load(str(file))
        with contextlib.suppress(UsageError):  # where a key is gone since, the difference is named below
            earlier = complete(earlier)  # a key that is newer than the run has its default
        changed = {key: values for key, values in differences(earlier, config).items() if not _free(key)}
        if changed:
            listing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, (old, new) in list(changed.items())[:4])
            more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise UsageError(
                f"--workdir={workdir}: holds a run of another config ({listing}{more}). Choose another --workdir, or "
                f"continue that run with --config={file}."
            )


def _free(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section in FREE_SECTIONS or (section == "data" and rest.rpartition(".")[2] in FREE_DATA_KEYS)


def has_summary(workdir: Path, step: int) -> bool:
    """Whether summary.json is that of this step, or of a later one: it is the last file a run writes."""
    try:
        return json.loads((workdir / "summary.json").read_text())["step"] >= step
    except (OSError, ValueError):
        return False


def length_flag(config: ConfigDict) -> str:
    """The flag that says how long the run is: "--config.train.epochs"."""
    return "--config.train." + next(key for key in LENGTHS if config.train.get(key) is not None)


def best_row(rows: Iterable[Mapping[str, Any]], best: Best | None) -> Mapping[str, Any] | None:
    """The row of metrics.jsonl with the best value of the metric, the latest of equals; None without one."""
    if best is None:
        return None
    with_value = [row for row in rows if row.get(best.metric) is not None and math.isfinite(row[best.metric])]
    sign = -1 if best.mode == "min" else 1
    return max(with_value, key=lambda row: (sign * row[best.metric], row["step"]), default=None)


def results(row: Mapping[str, Any] | None, labels: Iterable[str]) -> dict[str, float]:
    """The metrics of the evaluation splits in a row of metrics.jsonl."""
    prefixes = tuple(f"{label}/" for label in labels)
    return {name: value for name, value in (row or {}).items() if name.startswith(prefixes)}
