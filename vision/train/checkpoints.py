"""Checkpoints of a run: written in the background, verified bit for bit when read. The one module that knows Orbax.

A checkpoint is a folder named by its step, which Orbax renames into place when all of it is written:

    state/        the arrays
    checksums/    shape, dtype and CRC-32 of every array, because Orbax restores flipped bits without a word
    extras/       JSON: config, data description, library versions, ...
    metrics/      JSON: what `best` chooses by
"""

import contextlib
import dataclasses
import errno
import functools
import importlib.metadata
import json
import math
import os
import platform
import types
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from etils import epath

from vision.errors import UsageError
from vision.train import checksums, flat_state
from vision.train.checksums import Damaged
from vision.train.parameters import parameter_paths

WEIGHTS = ("params", "model_state", "ema")  # the parts of a state that evaluation and prediction need


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
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self.directory = _folder(directory)
        self.read_only = read_only
        if read_only and not self.directory.is_dir():
            raise UsageError(f"no checkpoints: no such folder: {self.directory}.")
        if keep < 1:
            raise UsageError(f"config.checkpoint.keep: {keep} must be 1 or above.")
        self._best = (best, best_mode)
        policy = policies.LatestN(keep)
        if best is not None:
            newest_and_best = [policy, policies.BestN(get_metric_fn=self._score, n=1)]
            policy = policies.AnyPreservationPolicy(newest_and_best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=self._score,  # or metrics are not saved
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        handlers = {
            # Weights hardly compress: without compression, 11 % larger and 2 to 4 times as fast.
            "state": _handlers().State(use_compression=False),
            "checksums": _handlers().Checksums(),
            "extras": ocp.JsonCheckpointHandler(),
        }
        with self._explaining_full_disks(), _without_notice_of_reading():
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        if read_only and best is None and self.steps():
            with contextlib.suppress(Damaged):
                self._best = tuple(_read_record(self.directory / str(self.latest_step()))["best"])

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
        """Begins to save and returns when the state may be donated or changed; False for a step that is saved already.

        Every process of a run calls it, with the same step.

        Args:
            step: names the checkpoint.
            state: pytree of (global) arrays; typed keys, None, empty containers and named tuples are welcome.
            metrics: scalars of this step's evaluation, for `best`.
            extras: what else to keep, as JSON.

        Raises:
            UsageError: the disk is full or the folder not writable, found by this save or the one before it.
        """
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():  # those being written included
            return False
        arrays, keys = flat_state.as_arrays(state)
        content = {"arrays": checksums.on_host(arrays, keys), "best": list(self._best)}
        content["extras_crc32"] = checksums.json_crc32(extras := dict(extras or {}))
        items = ocp.args.Composite(
            state=_handlers().StateArguments(flat_state.nest(arrays)),
            checksums=_handlers().ChecksumsArguments(content),
            extras=ocp.args.JsonSave(extras),
        )
        scalars = {name: float(value) for name, value in (metrics or {}).items() if np.ndim(value) == 0}
        with self._explaining_full_disks():
            return self._manager.save(step, args=items, metrics=scalars, force=True)

    def wait(self) -> None:
        """Returns when all that was begun is on disk. Raises UsageError when it could not be written."""
        with self._explaining_full_disks():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """`wait`, and ends the background threads."""
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
        """The checkpoint on disk with the best metric; None while there is none."""
        scores = {step: self._score(self._manager.metrics(step) or {}) for step in self.steps()}
        scores = {step: score for step, score in scores.items() if score > -math.inf}
        return max(scores, key=lambda step: (scores[step], step), default=None)

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
            record, wanted = _read_record(folder), parameter_paths(abstract_state)
            flat_state.check_fit(record["arrays"], wanted, f"checkpoint {folder}")
            values = _read_arrays(folder, record["arrays"])
            leaves = [
                flat_state.place(values[path], leaf, record["arrays"][path]["key"]) for path, leaf in wanted.items()
            ]
            return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), record["extras"]

        (state, extras), step = self._first_whole(read, which)
        return state, extras, step

    def restore_weights(self, which: str | int = "last") -> tuple[dict[str, Any], dict[str, Any], int]:
        """({"params", "model_state", "ema"}, extras, step) as NumPy arrays, without knowing the state's structure.

        Nothing else is read; "ema" is None where the run kept none. For `which` and errors see `restore`.
        """

        def read(folder: epath.Path):
            record = _read_record(folder)
            entries = {path: entry for path, entry in record["arrays"].items() if path.split("/")[0] in WEIGHTS}
            tree = flat_state.nest(_read_arrays(folder, entries))
            weights = {"params": tree.get("params", {}), "model_state": tree.get("model_state", {})}
            return weights | {"ema": tree.get("ema") and {"model_state": {}} | tree["ema"]}, record["extras"]

        (weights, extras), step = self._first_whole(read, which)
        return weights, extras, step

    def _first_whole(self, read, which: str | int):
        """(read(folder), step) of the checkpoint asked for; of "last", the newest that is not damaged."""
        candidates = list(reversed(self.steps())) if which == "last" else [self._resolve(which)]
        for step in candidates:
            try:
                return read(self.directory / str(step)), step
            except Damaged as error:
                message = f"checkpoint {self.directory / str(step)} is damaged ({error})"
                if which != "last":
                    raise UsageError(f"{message}; use another of {self.steps()}, or 'last'.") from error
                logging.warning("%s; using the one before it.", message)
                self._move_away(step)
        found = f"none of {candidates} is whole" if candidates else "none was saved"
        raise UsageError(f"no checkpoint to restore in {self.directory}: {found}.")

    def _resolve(self, which: str | int) -> int:
        steps = self.steps()
        step = self.best_step() if which == "best" else which
        if step is None:
            raise UsageError(
                f"no best checkpoint in {self.directory}: none of {steps} has the metric {self._best[0]!r}."
            )
        if step not in steps:
            raise UsageError(f"no checkpoint {which!r} in {self.directory}; there are {steps}, 'last' and 'best'.")
        return step

    def _move_away(self, step: int) -> None:
        if self.read_only:
            return
        if jax.process_index() == 0:
            target = self.directory / f"damaged-{step}"
            if target.exists():
                target.rmtree()
            (self.directory / str(step)).rename(target)
        self._manager.reload()

    def _score(self, metrics: Mapping[str, float]) -> float:
        """Higher is better; -inf without the metric, or where it is not a number."""
        name, mode = self._best
        value = metrics.get(name, math.nan)
        return -math.inf if math.isnan(value) else value if mode == "max" else -value

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


@contextlib.contextmanager
def _without_notice_of_reading():
    """Orbax warns that a manager opened to read only will only read."""

    def is_news(record) -> bool:
        return "read only" not in record.getMessage()

    logger = logging.get_absl_logger()
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def read_extras(directory: str | os.PathLike, step: int) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint; reads no arrays. Raises UsageError where it is missing or damaged."""
    folder = _folder(directory) / str(step)
    try:
        return _read_record(folder)["extras"]
    except Damaged as error:
        raise UsageError(f"checkpoint {folder} is missing or damaged: {error}.") from error


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on, to be kept beside the weights."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "grain")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _folder(directory: str | os.PathLike) -> epath.Path:
    path = os.fspath(directory)
    return epath.Path(path if "://" in path else os.path.abspath(path))


@functools.cache
def _handlers() -> Any:
    """Our Orbax handlers: checksums are computed in the background, and are there before the checkpoint is renamed."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals

    class State(ocp.PyTreeCheckpointHandler):
        def finalize(self, directory):
            super().finalize(directory)
            if jax.process_index() == 0:
                checksums.write_files(epath.Path(directory))

    @ocp.args.register_with_handler(State, for_save=True, for_restore=True)
    class StateArguments(ocp.args.PyTreeSave):
        pass

    class Checksums(ocp.AsyncCheckpointHandler):
        async def async_save(self, directory, args):
            return [CommitFutureAwaitingContractedSignals(self._write(directory, args.content), name="checksums")]

        async def _write(self, directory, content):
            checksums.write(directory / f"process_{jax.process_index()}.json", **content)

        def save(self, directory, args):
            raise NotImplementedError("saving is asynchronous")

        def restore(self, directory, args=None):
            raise NotImplementedError("read by checksums.read")

    @ocp.args.register_with_handler(Checksums, for_save=True, for_restore=True)
    @dataclasses.dataclass
    class ChecksumsArguments(ocp.args.CheckpointArgs):
        content: dict[str, Any] | None = None

    return types.SimpleNamespace(
        State=State, StateArguments=StateArguments, Checksums=Checksums, ChecksumsArguments=ChecksumsArguments
    )


def _read_record(folder: epath.Path) -> dict[str, Any]:
    """Checksums and extras of a checkpoint. Raises Damaged."""
    record = checksums.read(folder / "checksums")
    try:
        extras = json.loads((folder / "extras" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise Damaged(f"the extras cannot be read: {error}") from error
    if checksums.json_crc32(extras) != record["extras_crc32"]:
        raise Damaged("the extras have changed")
    return record | {"extras": extras}


def _read_arrays(folder: epath.Path, entries: Mapping[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Path -> values of the arrays with these checksums, verified. Every process reads whole arrays. Raises Damaged."""
    import orbax.checkpoint as ocp

    item = {path: jax.ShapeDtypeStruct(tuple(entry["shape"]), entry["dtype"]) for path, entry in entries.items()}
    as_numpy = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in entries}
    checksums.verify_files(folder / "state")
    arguments = ocp.args.PyTreeRestore(
        item=flat_state.nest(item), restore_args=flat_state.nest(as_numpy), partial_restore=True
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            values = parameter_paths(checkpointer.restore(folder / "state", args=arguments))
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken file leads Orbax and TensorStore to
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise Damaged(f"the arrays cannot be read: {reason}") from error
    values = {path: np.asarray(value) for path, value in values.items()}
    for path, entry in entries.items():
        checksums.verify(path, values.get(path), entry)
    return values


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
