"""What `vision.train.checkpoints` asks of Orbax: a folder of checkpoints, saving into it, and reading arrays back."""

import asyncio
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from vision.train import checksums, flat_state
from vision.train.checksums import Damaged
from vision.train.parameters import parameter_paths


def open_manager(directory: epath.Path, stays: Callable[[Sequence[int]], Sequence[bool]]) -> Any:
    """The `orbax.checkpoint.CheckpointManager` that writes into a folder, made if missing.

    Args:
        directory: of the checkpoints.
        stays: steps -> which of them are not deleted when the next one is written.
    """
    import orbax.checkpoint as ocp

    def should_preserve(found, *, context):
        del context
        return stays([checkpoint.step for checkpoint in found])

    options = ocp.CheckpointManagerOptions(
        preservation_policy=types.SimpleNamespace(should_preserve=should_preserve), cleanup_tmp_directories=True
    )
    handlers = {
        # Weights hardly compress: without compression, 11 % larger and 2 to 4 times as fast.
        "state": _handlers().State(use_compression=False),
        "checksums": _handlers().Checksums(),
    }
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def save(
    manager: Any, step: int, arrays: Mapping[str, Any], on_host: Mapping[str, dict[str, Any]], record: str
) -> bool:
    """Begins to write arrays by path, the checksums of what `checksums.on_host` gave of them, and the sealed record."""
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(
        state=_handlers().StateArguments(flat_state.nest(arrays)),
        checksums=_handlers().ChecksumsArguments(on_host, record),
    )
    return manager.save(step, args=items, force=True)


def read_arrays(folder: epath.Path, entries: Mapping[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Path -> values of the arrays with these checksums, verified. Every process reads whole arrays. Raises Damaged."""
    import orbax.checkpoint as ocp

    item = {path: jax.ShapeDtypeStruct(tuple(entry["shape"]), entry["dtype"]) for path, entry in entries.items()}
    as_numpy = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in entries}
    checksums.verify_files(folder / "state")
    arguments = ocp.args.PyTreeRestore(
        item=flat_state.nest(item), restore_args=flat_state.nest(as_numpy), partial_restore=True
    )
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _handlers().Arrays()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as checkpointer:
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
            return [CommitFutureAwaitingContractedSignals(self._write(directory, args), name="checksums")]

        async def _write(self, directory, args):
            checksums.write(directory / f"process_{jax.process_index()}.json", args.arrays)
            if jax.process_index() == 0:
                (directory / checksums.RECORD).write_text(args.record)

        def save(self, directory, args):
            raise NotImplementedError("saving is asynchronous")

        def restore(self, directory, args=None):
            raise NotImplementedError("read by checksums.read")

    @ocp.args.register_with_handler(Checksums, for_save=True, for_restore=True)
    @dataclasses.dataclass
    class ChecksumsArguments(ocp.args.CheckpointArgs):
        arrays: Mapping[str, dict[str, Any]] | None = None
        record: str = ""

    class Arrays(ocp.type_handlers.NumpyHandler):
        async def deserialize(self, infos, args=None):
            """Waits for all arrays before it raises: those still on their way would find Orbax's event loop closed."""
            read = ocp.type_handlers.NumpyHandler.deserialize
            args = args or [ocp.RestoreArgs()] * len(infos)
            reads = [read(self, [info], [arg]) for info, arg in zip(infos, args, strict=True)]
            found = await asyncio.gather(*reads, return_exceptions=True)
            for result in found:
                if isinstance(result, BaseException):
                    raise result
            return [array for [array] in found]

    return types.SimpleNamespace(
        State=State,
        StateArguments=StateArguments,
        Checksums=Checksums,
        ChecksumsArguments=ChecksumsArguments,
        Arrays=Arrays,
    )
