"""Checkpoints of a run: written in the background, verified bit for bit when read.

A checkpoint is a folder named by its step, which Orbax renames into place when all of it is written:

    state/        the arrays
    checksums/    process_<n>.json: shape, dtype and CRC-32 of every array, because Orbax restores flipped bits without
                  a word; record.json: metrics, what `best` chooses by, and extras (config, data, versions, ...)
"""

import contextlib
import errno
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from etils import epath

from vision.errors import UsageError
from vision.train import checksums, flat_state, orbax_io
from vision.train.checksums import Damaged
from vision.train.parameters import parameter_paths

WEIGHTS = ("params", "model_state", "ema")  # the parts of a state that evaluation and prediction need

# Another process may save and delete while this one reads: how often to list the folder again, and how long a deletion
# may take to be seen, in seconds.
_ATTEMPTS, _DELETION = 5, 0.2


class _Outdated(Exception):
    """What was being read is no longer among the checkpoints, or about to go."""


class Checkpoints:
    """The checkpoints of one folder; a context manager that waits for the last save.

    Args:
        directory: local path, or a URL that Orbax knows (gs://...).
        keep: how many of the newest checkpoints stay.
        best: metric whose best checkpoint stays as well; None: no such. A reader may leave it to what was written.
        best_mode: whether the largest or the smallest value is the best; of equals, the later checkpoint.
        read_only: neither make the folder nor write or remove anything.

    Raises:
        UsageError: the folder cannot be made, or, to read, does not exist.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        best: str | None = None,
        best_mode: Literal["max", "min"] = "max",
        read_only: bool = False,
    ):
        self.directory = _folder(directory)
        self.read_only = read_only
        if read_only and not self.directory.is_dir():
            raise UsageError(f"no checkpoints: no such folder: {self.directory}.")
        if keep < 1:
            raise UsageError(f"config.checkpoint.keep: {keep} must be 1 or above.")
        self._keep, self._best = keep, (best, best_mode)
        self._manager = None
        self._metrics: dict[int, dict[str, float]] = {}  # of what is on disk and what is being written
        if not read_only:
            with self._explaining_full_disks():
                self._manager = orbax_io.open_manager(self.directory, self._stays)
            for step in self.steps():
                with contextlib.suppress(Damaged):
                    self._metrics[step] = _read_record(self.directory / str(step))["metrics"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.close()
        except UsageError as error:
            if kind is None:
                raise
            logging.error("%s", error)  # the error that ended the `with` says more

    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> bool:
        """Begins to save and returns when the state may be donated or changed.

        Every process of a run calls it, with the same step. Of a step that is saved already nothing is written, but
        for its first metrics, which then come with their extras: a process that is told to end saves before it
        evaluates, and the next one does that for it.

        Args:
            step: names the checkpoint.
            state: pytree of (global) arrays; typed keys, None, empty containers and named tuples are welcome.
            metrics: scalars of this step's evaluation, for `best`.
            extras: what else to keep, as JSON.

        Returns:
            Whether there was something to write.

        Raises:
            UsageError: the disk is full or the folder not writable, found by this save or the one before it.
        """
        scalars = {name: float(value) for name, value in (metrics or {}).items() if np.ndim(value) == 0}
        record = checksums.sealed({"best": list(self._best), "metrics": scalars, "extras": dict(extras or {})})
        if step in self._manager.all_steps():  # those being written included
            return self._add_metrics(step, scalars, record)
        arrays, keys = flat_state.as_arrays(state)
        self._metrics[step] = scalars
        with self._explaining_full_disks():
            return orbax_io.save(self._manager, step, arrays, checksums.on_host(arrays, keys), record)

    def _add_metrics(self, step: int, metrics: dict[str, float], record: str) -> bool:
        if self._metrics.get(step) or not metrics:
            return False
        self.wait()  # it may be in the middle of being written
        if jax.process_index() == 0:
            with self._explaining_full_disks():
                checksums.replace(self.directory / str(step) / "checksums" / checksums.RECORD, record)
        self._metrics[step] = metrics
        return True

    def wait(self) -> None:
        """Returns when all that was begun is on disk. Raises UsageError when it could not be written."""
        if self._manager is None:
            return
        with self._explaining_full_disks():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """`wait`, and ends the background threads."""
        if self._manager is None:
            return
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it repeats what `wait` has raised
                self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are wholly on disk, rising."""
        from orbax.checkpoint.path import step as step_names

        # Not `all_steps(read=True)`: it makes the manager forget the save in flight, and what to remove after it.
        return sorted(found.step for found in step_names.standard_name_format().find_all(self.directory))

    def latest_step(self) -> int | None:
        """The newest checkpoint on disk."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The checkpoint on disk with the best metric; None or None. Damaged ones are named and left out."""
        return self._while_others_write(self._best_of)

    def restore(self, abstract_state: Any, which: str | int = "last") -> tuple[Any, dict[str, Any], int]:
        """(state, extras, step) of a checkpoint, verified.

        Of "last", damaged checkpoints are named in a warning, moved out of the way ("damaged-<step>") unless this is
        a reader, and the one before is used.

        Args:
            abstract_state: the state to be filled: `jax.ShapeDtypeStruct`s (or arrays) with the shardings wanted,
                which need not be those it was saved with.
            which: "last", "best" or a step.

        Raises:
            UsageError: no such checkpoint, none that is whole, or one of another network or optimiser.
        """

        def read(folder: epath.Path):
            saved, record = checksums.read(folder / "checksums"), _read_record(folder)
            wanted = parameter_paths(abstract_state)
            flat_state.check_fit(saved, wanted, f"checkpoint {folder}")
            values = orbax_io.read_arrays(folder, saved)
            leaves = [flat_state.place(values[path], leaf, saved[path]["key"]) for path, leaf in wanted.items()]
            return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), record["extras"]

        (state, extras), step = self._first_whole(read, which)
        return state, extras, step

    def restore_weights(self, which: str | int = "last") -> tuple[dict[str, Any], dict[str, Any], int]:
        """({"params", "model_state", "ema"}, extras, step) as NumPy arrays, without knowing the state's structure.

        Nothing else is read; "ema" is None where the run kept none. For `which` and errors see `restore`.
        """

        def read(folder: epath.Path):
            saved, record = checksums.read(folder / "checksums"), _read_record(folder)
            entries = {path: entry for path, entry in saved.items() if path.split("/")[0] in WEIGHTS}
            tree = flat_state.nest(orbax_io.read_arrays(folder, entries))
            weights = {"params": tree.get("params", {}), "model_state": tree.get("model_state", {})}
            return weights | {"ema": tree.get("ema") and {"model_state": {}} | tree["ema"]}, record["extras"]

        (weights, extras), step = self._first_whole(read, which)
        return weights, extras, step

    def _first_whole(self, read: Callable[[epath.Path], Any], which: str | int) -> tuple[Any, int]:
        """(read(folder), step) of the checkpoint asked for; of "last", the newest that is not damaged."""

        def first_of(steps: Sequence[int]) -> tuple[Any, int]:
            candidates = steps[::-1] if which == "last" else [self._resolve(which, steps)]
            for step in candidates:
                try:
                    return read(self.directory / str(step)), step
                except Damaged as error:
                    self._check_current(steps)
                    message = f"checkpoint {self.directory / str(step)} is damaged ({error})"
                    if which != "last":
                        raise UsageError(f"{message}; use another of {steps}, or 'last'.") from error
                    logging.warning("%s; using the one before it.", message)
                    self._move_away(step)
            found = f"none of {candidates} is whole" if candidates else "none was saved"
            raise UsageError(f"no checkpoint to restore in {self.directory}: {found}.")

        return self._while_others_write(first_of)

    def _while_others_write(self, read: Callable[[Sequence[int]], Any]) -> Any:
        """read(steps), again with those there are now when one of them was deleted meanwhile."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_Outdated):
                return read(self.steps())
        raise UsageError(f"the checkpoints in {self.directory} are deleted faster than they can be read.")

    def _check_current(self, steps: Sequence[int]) -> None:
        """Raises _Outdated unless these are the checkpoints there are."""
        if not self.read_only:
            return  # nobody else deletes
        for pause in (0, _DELETION):  # while it is deleted, a checkpoint is still there and no longer whole
            time.sleep(pause)
            if self.steps() != steps:
                raise _Outdated

    def _resolve(self, which: str | int, steps: Sequence[int]) -> int:
        step = self._best_of(steps) if which == "best" else which
        if step is None:
            raise UsageError(f"no best checkpoint in {self.directory}: none of {steps} has the metric that decides.")
        if step not in steps:
            raise UsageError(f"no checkpoint {step!r} in {self.directory}; there are {steps}, 'last' and 'best'.")
        return step

    def _best_of(self, steps: Sequence[int]) -> int | None:
        records = {}
        for step in steps:
            folder = self.directory / str(step)
            try:
                records[step] = _read_record(folder)
            except Damaged as error:
                self._check_current(steps)
                logging.warning("checkpoint %s is damaged (%s); it cannot be the best.", folder, error)
        best = self._best
        if self.read_only and best[0] is None and records:
            best = records[max(records)]["best"]
        return _best({step: record["metrics"] for step, record in records.items()}, *best)

    def _stays(self, steps: Sequence[int]) -> list[bool]:
        """Which of the checkpoints, on disk or being written, are not to be deleted: the newest and the best."""
        best = _best({step: self._metrics.get(step, {}) for step in steps}, *self._best)
        newest = sorted(steps)[-self._keep :]
        return [step == best or step in newest for step in steps]

    def _move_away(self, step: int) -> None:
        if self.read_only:
            return
        if jax.process_index() == 0:
            target = self.directory / f"damaged-{step}"
            if target.exists():
                target.rmtree()
            (self.directory / str(step)).rename(target)
        self._metrics.pop(step, None)
        self._manager.reload()

    @contextlib.contextmanager
    def _explaining_full_disks(self):
        try:
            yield
        except Exception as error:
            reason = _disk_trouble(error)
            if reason is None:
                raise
            safe = None
            with contextlib.suppress(Exception):
                safe = self.latest_step()
            state = (
                "nothing was saved" if safe is None else f"the run is safe at step {safe}, its last whole checkpoint"
            )
            mend = "make room or choose another folder, and start the same command again"
            raise UsageError(f"cannot write checkpoints to {self.directory}: {reason}; {state}; {mend}.") from error


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on, to be kept beside the weights."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "grain")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _best(metrics: Mapping[int, Mapping[str, float]], name: str | None, mode: str) -> int | None:
    """The step with the best value of a metric, of equals the later; None where none has it, or only as NaN."""
    sign = 1 if mode == "max" else -1
    scores = {step: sign * found[name] for step, found in metrics.items() if not math.isnan(found.get(name, math.nan))}
    return max(scores, key=lambda step: (scores[step], step), default=None)


def _folder(directory: str | os.PathLike) -> epath.Path:
    path = os.fspath(directory)
    return epath.Path(path if "://" in path else os.path.abspath(path))


def _read_record(folder: epath.Path) -> dict[str, Any]:
    """{"best", "metrics", "extras"} of a checkpoint. Raises Damaged."""
    return checksums.read_sealed(folder / "checksums" / checksums.RECORD)


def _disk_trouble(error: BaseException | None) -> str | None:
    """The operating system's word for a full or unwritable disk, found anywhere in a chain of errors."""
    codes = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EFBIG", "ENOTDIR", "EEXIST")
    reasons = [os.strerror(getattr(errno, code)) for code in codes if hasattr(errno, code)]
    while error is not None:
        reason = next((reason for reason in reasons if reason in str(error)), None)
        if reason:
            return reason
        error = error.__cause__ or error.__context__
    return None
