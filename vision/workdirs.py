"""The run folder: whether a config may train in it, and what its files say."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vision.config import LENGTHS, differences, load, to_json
from vision.errors import UsageError
from vision.experiment import Best
from vision.train.writers import write_text

# What a run may change when it goes on: how long, how often and how fast; not what is computed.
FREE_SECTIONS = ("train", "evaluate", "checkpoint", "log", "parallel")
FREE_DATA_KEYS = ("workers", "threads", "prefetch")


def prepare(workdir: Path, config: ConfigDict) -> None:
    """Makes the folder, or checks that it is one of this very run, and writes its config.json.

    Raises:
        UsageError: the folder cannot be written, or holds a run of another config; the message has what differs.
    """
    file = workdir / "config.json"
    if file.exists():
        changed = {key: values for key, values in differences(load(str(file)), config).items() if not _free(key)}
        if changed:
            listing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, (old, new) in list(changed.items())[:4])
            more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise UsageError(
                f"--workdir={workdir}: holds a run of another config ({listing}{more}). Choose another --workdir, or "
                f"continue that run with --config={file}."
            )
    if jax.process_index() > 0:
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(config))
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be written: {error.strerror or error}.") from error


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
