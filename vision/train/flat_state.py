"""A training state as plain arrays by path, and back: what a checkpoint holds, whatever containers the state has.

None, empty containers and named tuples have no arrays of their own; they come back from the state that is to be filled.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vision.errors import UsageError
from vision.train.parameters import parameter_paths


def as_arrays(state: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """(path -> array, path -> generator of those that were typed keys). Empty containers have no path."""
    arrays, keys = {}, {}
    for path, leaf in parameter_paths(state).items():
        if _is_key(leaf):
            arrays[path], keys[path] = jax.random.key_data(leaf), str(jax.random.key_impl(leaf))
        else:
            arrays[path] = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return arrays, keys


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}: how a state is on disk, whatever containers it has in memory."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[name] = value
    return tree


def check_fit(saved: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Raises UsageError unless paths, shapes and dtypes are the same."""
    differences = []
    for path, leaf in wanted.items():
        is_key = _is_key(leaf)
        here = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
        entry = saved.get(path)
        if entry is None:
            differences.append(f"{path} is not in it")
        elif tuple(entry["shape"]) != here.shape or entry["dtype"] != str(here.dtype) or is_key != bool(entry["key"]):
            there = f"{tuple(entry['shape'])} {'key' if entry['key'] else entry['dtype']}"
            differences.append(f"{path} is {there} in it, {here.shape} {'key' if is_key else here.dtype} here")
    differences += [f"{path} is only in it" for path in saved if path not in wanted]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        listing = "; ".join(differences[:3]) + more
        raise UsageError(f"{where} does not fit this model and optimiser: {listing}. Use another workdir.")


def place(value: np.ndarray, leaf: Any, key: str | None) -> jax.Array:
    """The values with the sharding of `leaf` (the default device without one), as a typed key where it was one."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or sharding.is_fully_addressable:
        array = jax.device_put(value, sharding)
    else:
        array = jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
    return jax.random.wrap_key_data(array, impl=key) if key else array
