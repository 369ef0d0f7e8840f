"""Pickles of NumPy arrays in nested dicts, as JAX projects keep weights, read without executing what is in them.

As in `pth`: the few names that such a file needs have inert stand-ins, and any other ends the reading.
"""

import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from vision.errors import UsageError

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class _Dtype:
    """`numpy.dtype(name, align, copy)`, with its byte order set by the state."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_):
        if name not in _DTYPES:
            raise UsageError(f"it holds an array of {name!r}, not of numbers")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = {"<": "<", ">": ">", "|": "|", "=": "="}[state[1]]


class _Array:
    """`numpy.ndarray`: its state is (version, shape, dtype, Fortran's order, bytes)."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        values = np.frombuffer(content, np.dtype(dtype.order + dtype.name))
        if values.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has {values.size} numbers")
        self.value = values.reshape(shape, order="F" if is_fortran else "C")


class _FromBuffer(_Array):
    """`numpy._core.numeric._frombuffer(bytes, dtype, shape, order)`, of pickles of protocol 5."""

    __slots__ = ()

    def __init__(self, content: Any, dtype: Any, shape: Any, order: Any):
        self.__setstate__((1, shape, dtype, order == "F", content))


_NAMES = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # (ndarray, (0,), b"b") makes an empty one
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
}


class _Unpickler(pickle.Unpickler):
    """Knows `_NAMES` and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise UsageError(
                f"it holds a {module}.{name}, and only arrays are read, for a pickle may run any code; save the arrays "
                "as .npz or .safetensors"
            ) from None


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a pickled (nested) dict by path: "VGG16_0/Conv_0/kernel".

    Raises:
        UsageError: the file is damaged, or holds something else than dicts, lists, arrays, numbers and texts.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
        arrays = dict(_flatten(content, ""))
    except UsageError as error:
        raise UsageError(f"{path}: {error}.") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken pickle leads to
        raise UsageError(f"{path}: not a whole pickle of arrays: {error}.") from error
    if not arrays:
        raise UsageError(f"{path}: it has no arrays.")
    return arrays


def _flatten(tree: Any, path: str):
    if isinstance(tree, _Array) and tree.value is not None:
        yield path, tree.value
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(value, f"{path}/{key}" if path else str(key))
