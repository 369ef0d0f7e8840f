"""Running one pure step on many devices: `jit` over global arrays on a mesh, or `pmap`.

The same numbers either way, but for dropout: under `pmap` every device draws its own.

Between steps the state is a tree of global, replicated arrays in both modes, so that checkpoints and evaluation do not
care which one trains.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vision.errors import UsageError
from vision.train.meters import compiled_flops

AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (or the given ones) along one data axis."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh, where: str, accumulate: int = 1) -> None:
    """Raises UsageError unless a batch can be cut evenly over devices, and there into micro-batches."""
    parts = mesh.size * accumulate
    if batch_size < 1:
        raise UsageError(f"{where}.batch_size: expected at least 1, given {batch_size}.")
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        nearest = f"{below} or {above}" if below > 0 else f"{above}"
        cut = f"{mesh.size} device(s)" + (f" x accumulate={accumulate}" if accumulate > 1 else "")
        raise UsageError(f"{where}.batch_size: {batch_size} cannot be divided over {cut}; the nearest are {nearest}.")


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree as global arrays, one copy a device; on several hosts, each gives the same values."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def spread(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(spread(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(spread, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, mode: str = "jit") -> dict[str, jax.Array]:
    """This host's rows of the global batch -> global arrays, spread over the data axis.

    Shapes stay (B, ...) for `jit`; for `pmap` they become (devices, B / devices, ...).
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    if mode == "pmap":
        local = len(mesh.local_devices)
        batch = {name: x.reshape(local, x.shape[0] // local, *x.shape[1:]) for name, x in batch.items()}
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def compile_train_step(make_step: Callable[[str | None], Callable], mode: str, mesh: Mesh) -> Callable:
    """A function `(state, batch) -> (state, metrics)` that can be `.lower`ed; the old state is donated.

    Args:
        make_step: axis name -> pure step; the name is None where arrays are global.
        mode: "jit" or "pmap".
        mesh: the devices.
    """
    if mode == "jit":
        replicated, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
        shardings = {"in_shardings": (replicated, by_row), "out_shardings": (replicated, replicated)}
        return jax.jit(make_step(None), donate_argnums=0, **shardings)
    return jax.pmap(
        make_step(AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),  # every device computes the same: one replicated global array, no leading device axis
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )


class CompiledStep:
    """A jitted step, compiled once for each shape of batch, and what that cost.

    Attributes:
        compile_seconds: time spent compiling, all shapes together.
        flops: floating-point operations of the last step on one device; None where unknown.
    """

    def __init__(self, step: Callable, repeats: int = 1):
        """Compiles nothing yet.

        Args:
            step: `(state, batch) -> (state, metrics)`, jitted or pmapped.
            repeats: micro-batches a step loops over: XLA counts the body of a loop once.
        """
        self.compile_seconds = 0.0
        self.flops: float | None = None
        self._step, self._repeats, self._compiled = step, repeats, {}

    def is_new(self, batch: dict[str, jax.Array]) -> bool:
        """Whether this shape of batch has not been compiled yet."""
        return _shapes(batch) not in self._compiled

    def compile(self, state: Any, batch: dict[str, jax.Array]) -> None:
        """Compiles the step for this shape of batch."""
        start = time.perf_counter()
        compiled = self._step.lower(state, batch).compile()
        self.compile_seconds += time.perf_counter() - start
        flops = compiled_flops(compiled)
        self._compiled[_shapes(batch)] = compiled, flops * self._repeats if flops else None

    def __call__(self, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        """One step."""
        compiled, self.flops = self._compiled[_shapes(batch)]
        return compiled(state, batch)


def _shapes(batch: dict[str, jax.Array]) -> tuple:
    return tuple((name, array.shape, str(array.dtype)) for name, array in sorted(batch.items()))


def compile_evaluation_step(step: Callable, mesh: Mesh) -> Callable:
    """The evaluation step on global arrays; what it gives is replicated, for every host to read."""
    replicated, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.jit(step, in_shardings=(replicated, by_row), out_shardings=replicated)


def with_axis(model: Any, axis_name: str | None) -> Any:
    """The model with batch statistics taken over the mapped axis (under `jit` they are global already)."""
    norm = getattr(model, "norm", None)
    if axis_name is None or norm is None:
        return model
    return model.clone(norm=partial(norm, axis_name=axis_name))
