"""The safetensors format: a JSON header with each tensor's type, shape and place, then their bytes; no code."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from vision.errors import UsageError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors by name, mapped from the file: their bytes are read when they are used.

    Raises:
        UsageError: the file is not in this format, or cut short.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise UsageError(f"{path}: not a safetensors file, or cut short.")
        header = file.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
        return {name: _tensor(data, **entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: not a safetensors file, or cut short: {error}.") from error


def _tensor(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    kind = np.dtype(DTYPES[dtype])
    start, stop = data_offsets
    if not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"bytes {start} to {stop} of {len(data)} are not a {dtype} tensor of shape {shape}")
    return np.asarray(data[start:stop]).view(kind).reshape(shape)


def write(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the tensors in the order of their names; PyTorch reads them with `safetensors.torch.load_file`.

    Args:
        path: of the file; whole or not there, also where writing is interrupted.
        tensors: name -> array.
        metadata: texts to go into the header; {"format": "pt"} is always there, which some readers want.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    arrays = {name: np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name])) for name in sorted(tensors)}
    start = 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    partial = Path(f"{os.fspath(path)}.partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.reshape(-1).view(np.uint8).data)
    partial.replace(path)
