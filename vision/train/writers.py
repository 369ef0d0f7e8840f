"""The run folder's writers: metrics.jsonl, TensorBoard events, Weights & Biases, summary.json and log.txt.

Every writer is given a step's metrics once and in rising order of steps. A resumed run first takes back what the killed
process had written after the checkpoint, so that each step is in each place once.
"""

import json
import logging
import math
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from vision.errors import UsageError


class Writer(NamedTuple):
    """Where metrics go.

    Attributes:
        write: (step, metrics) -> None. All scalars of one step at once: {"time": 12.3, "train/loss": 0.31, ...};
            "time" is the training time in seconds, counted on after a resume.
        close: () -> None. Writes what is still held in memory.
    """

    write: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]


def open_writers(
    workdir: Path,
    restored_step: int | None,
    *,
    tensorboard: bool = True,
    wandb: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Writer:
    """The writers of a run folder as one; on a pod, only process 0 opens them.

    Args:
        workdir: the run folder; it exists.
        restored_step: the step of the checkpoint that the run goes on from; None when it starts afresh, which takes
            back everything an earlier process logged there before its first checkpoint.
        tensorboard: whether to write TensorBoard events.
        wandb: whether to log to Weights & Biases, which must be installed.
        config: the run's configuration, for Weights & Biases to show.
    """
    workdir = Path(workdir)
    # A missing package is reported before the files of an earlier process are touched.
    opened = [wandb_writer(workdir, restored_step, config)] if wandb else []
    opened.insert(0, jsonl_writer(workdir / "metrics.jsonl", restored_step))
    if tensorboard:
        opened.append(tensorboard_writer(workdir, restored_step))

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        for writer in opened:
            writer.write(step, metrics)

    def close() -> None:
        for writer in opened:
            writer.close()

    return Writer(write, close)


def jsonl_writer(path: Path, restored_step: int | None = None) -> Writer:
    """Appends one line of JSON per step: {"step": 100, "time": 12.3, "train/loss": 0.31, ...}, flushed at once.

    NaN and infinity, which JSON does not have, become null.

    Args:
        path: the file; created when missing.
        restored_step: lines of later steps are removed first; None removes all lines.

    Raises:
        ValueError: on writing a step that is not later than the last one in the file.
    """
    kept = truncate_after(path, -1 if restored_step is None else restored_step)
    last = kept[-1]["step"] if kept else -1
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal last
        if step <= last:
            raise ValueError(f"step {step} was given to {path} after step {last}: each step is written once, in order")
        last = step
        numbers = {name: plain(value) for name, value in metrics.items()}
        line = {"step": int(step), **({"time": numbers.pop("time")} if "time" in numbers else {}), **numbers}
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()

    return Writer(write, file.close)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; an empty list when there is none.

    A last line that a killed process left half written is passed over.

    Raises:
        UsageError: an earlier line is not a JSON object with a step.
    """
    if not Path(path).exists():
        return []
    lines = Path(path).read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError("a step is an integer")
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise UsageError(
                    f"{path}: line {number} is not a JSON object with a step; mend that line, or move the file away."
                ) from None
    return rows


def truncate_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes the lines of steps after `step`, and a half-written last line, from a metrics.jsonl.

    The file is replaced in one piece: a process killed meanwhile leaves either the old or the new one.

    Returns:
        The rows kept. The last one's "time" is the training time that a resumed run goes on counting from.
    """
    path = Path(path)
    kept = [row for row in read_metrics(path) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if path.exists() and path.read_bytes() != text.encode():
        _replace(path, text)
    return kept


def tensorboard_writer(workdir: Path, restored_step: int | None = None, flush_seconds: int = 30) -> Writer:
    """Writes scalars to an events.out.tfevents.* file, which `tensorboard --logdir` shows; needs no TensorFlow.

    Args:
        workdir: the folder of the event file. A resumed run adds a file of its own.
        restored_step: TensorBoard is told to forget later steps of earlier files; None makes it forget all.
        flush_seconds: the file is written out at least this often.
    """
    from tensorboardX import SummaryWriter

    logging.getLogger("tensorboardX").setLevel(logging.ERROR)  # a metric that is NaN is a metric
    events = SummaryWriter(
        str(workdir),
        # Events at or after this step are forgotten.
        purge_step=0 if restored_step is None else restored_step + 1,
        flush_secs=flush_seconds,
        # The name holds a time in whole seconds: without more, a restart within a second would overwrite the file.
        filename_suffix=f".{time.time_ns()}",
    )

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        now = time.time()
        for name, value in metrics.items():
            events.add_scalar(name, float("nan") if value is None else float(value), int(step), walltime=now)

    return Writer(write, events.close)


def wandb_writer(workdir: Path, restored_step: int | None = None, config: Mapping[str, Any] | None = None) -> Writer:
    """Logs to Weights & Biases; a resumed run goes on with the same run there, whose id is kept in `wandb_id.txt`.

    The project, the account and offline mode come from Weights & Biases' own environment variables.

    Args:
        workdir: the run folder; its name is the run's name.
        restored_step: None starts a new run there.
        config: shown with the run.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UsageError(
            "config.log.wandb is true but Weights & Biases is not installed: `pip install wandb`, or set it to false."
        ) from None

    id_file = Path(workdir) / "wandb_id.txt"
    if restored_step is None or not id_file.exists():
        write_text(id_file, uuid.uuid4().hex[:12] + "\n")
    identity = id_file.read_text().strip()
    name = Path(workdir).resolve().name
    run = wandb.init(id=identity, name=name, dir=str(workdir), config=dict(config or {}), resume="allow")

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        # Steps that the killed process had sent already are dropped there: a resumed run repeats them exactly.
        run.log({name: plain(value) for name, value in metrics.items()}, step=int(step))

    return Writer(write, run.finish)


def plain(value: Any) -> Any:
    """A value as JSON has it: scalars of NumPy and JAX as Python numbers, arrays as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes `data`, made `plain`, as indented JSON; a reader never sees half a file."""
    write_text(path, json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: a reader, or a restart after a kill, finds the old text or the new one."""
    _replace(Path(path), text)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Console:
    """The terminal and log.txt: what is printed goes to both; a status line is drawn over on the terminal only.

    A text may carry ANSI colours: they are taken out for log.txt, for a stream that is no terminal, and where the
    NO_COLOR environment variable asks for it. A terminal that goes away does not end the training.
    """

    def __init__(self, log: Path | None = None, stream: IO[str] | None = None):
        """Opens the log at its end.

        Args:
            log: log.txt; None keeps no log.
            stream: the terminal; None for the standard output of the moment.
        """
        self._stream = sys.stdout if stream is None else stream
        self._log = None if log is None else open(log, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._status = ""
        try:
            terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        except (AttributeError, ValueError):
            terminal = False
        self.is_terminal: bool = terminal
        self._colors = terminal and not os.environ.get("NO_COLOR")

    def print(self, text: str = "") -> None:
        """Prints text and a line end, above the status line where there is one."""
        status, self._status = self._status, ""
        shown = text if self._colors else strip_escapes(text)
        self._send(("\r\x1b[K" if status else "") + shown + "\n")
        self.record(text)
        if status:
            self.status(status)

    def status(self, text: str) -> None:
        """Draws `text`, one line, over the last line of the terminal; an empty text wipes it. Nothing elsewhere."""
        if self.is_terminal and (text or self._status):
            self._status = text
            self._send("\r" + (text if self._colors else strip_escapes(text)) + "\x1b[K")

    def record(self, text: str) -> None:
        """Appends to log.txt only."""
        if self._log is not None:
            self._log.write(strip_escapes(text) + "\n")
            self._log.flush()

    def can_show(self, characters: str) -> bool:
        """Whether the terminal's encoding has these characters."""
        try:
            characters.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except (UnicodeError, LookupError):
            return False
        return True

    def close(self) -> None:
        """Wipes the status line and closes the log. The stream stays open."""
        self.status("")
        if self._log is not None:
            self._log.close()
            self._log = None

    def _send(self, text: str) -> None:
        if not self.can_show(text):
            text = text.encode("ascii", "replace").decode()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a terminal that is gone: log.txt has it all the same
            self.is_terminal = False


def strip_escapes(text: str) -> str:
    """Text without ANSI escapes and carriage returns."""
    return _ESCAPES.sub("", text).replace("\r", "")
