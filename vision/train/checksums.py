"""What a checkpoint was when it was saved, as JSON: shape, dtype and CRC-32 of every array, and CRC-32 of every file.

The arrays' checksums are taken in memory, so they vouch for all that lies between saving and restoring. A sharded array
has one per piece, so that no device or process needs to see all of it. The files' checksums also cover what TensorStore
wrote and no longer reads, and find damage before it is parsed.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

FILES, RECORD = "files.json", "record.json"


class Damaged(Exception):
    """A checkpoint's files are missing, truncated or changed."""


def crc32(array: np.ndarray) -> int:
    """Of an array's bytes. It changes with any flipped bit, and with any burst of up to 32 bits."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def on_host(arrays: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Path -> shape, dtype, key and `pieces` {slices: this process's values}, each value in one process only.

    On CPU the values are views, which JAX does not overwrite when the array is donated.

    Args:
        arrays: path -> global `jax.Array` or NumPy array.
        keys: path -> name of the generator, for the data of typed keys.
    """
    shards = {}
    for path, array in arrays.items():
        if isinstance(array, jax.Array):
            shards[path] = [(shard.index, shard.data) for shard in array.addressable_shards if shard.replica_id == 0]
            for _, data in shards[path]:
                data.copy_to_host_async()
        else:
            shards[path] = [((slice(None),) * array.ndim, array)] if jax.process_index() == 0 else []
    result = {}
    for path, array in arrays.items():
        pieces = {_slices_name(index, array.shape): np.asarray(data) for index, data in shards[path]}
        description = {"shape": list(array.shape), "dtype": str(array.dtype), "key": keys.get(path)}
        result[path] = description | {"pieces": pieces}
    return result


def write(file: epath.Path, arrays: Mapping[str, dict[str, Any]]) -> None:
    """Computes the checksums of what `on_host` gave and writes them to one file."""
    described = {}
    for path, entry in arrays.items():
        pieces = {name: crc32(values) for name, values in entry["pieces"].items()}
        described[path] = {key: value for key, value in entry.items() if key != "pieces"} | {"crc32": pieces}
    file.write_text(sealed(described))


def read(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Path -> shape, dtype, key and checksums, which `write` wrote into one file a process. Raises Damaged."""
    first, *others = [read_sealed(file) for file in sorted(folder.glob("process_*.json"))] or [None]
    if first is None:
        raise Damaged("it has no checksums")
    for other in others:
        for path, entry in other.items():
            first[path]["crc32"] |= entry["crc32"]
    return first


def verify(path: str, array: np.ndarray | None, entry: Mapping[str, Any]) -> None:
    """Raises Damaged unless the whole array is what its entry says."""
    if array is None or list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise Damaged(f"{path} is not what was saved")
    for name, expected in entry["crc32"].items():
        if crc32(array[_named_slices(name)]) != expected:
            raise Damaged(f"the checksum of {path} does not agree")


def write_files(folder: epath.Path) -> None:
    """Writes the checksum of every file in a folder to its `files.json`."""
    found = {str(file.relative_to(folder)): _file_crc32(file) for file in _files_under(folder)}
    (folder / FILES).write_text(sealed(found))


def verify_files(folder: epath.Path) -> None:
    """Raises Damaged unless all files that `write_files` saw are as they were."""
    for name, expected in read_sealed(folder / FILES).items():
        try:
            found = _file_crc32(folder / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror or error}") from error
        if found != expected:
            raise Damaged(f"the checksum of {name} does not agree")


def sealed(content: Any) -> str:
    """JSON with its own checksum."""
    content = json.loads(json.dumps(content))  # what will be read: keys are strings, tuples are lists
    return json.dumps({"crc32": _json_crc32(content), "content": content})


def read_sealed(file: epath.Path) -> Any:
    """The content of a file that holds what `sealed` gave. Raises Damaged."""
    try:
        record = json.loads(file.read_text())
        whole = record["crc32"] == _json_crc32(record["content"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file.name} cannot be read: {error}") from error
    if not whole:
        raise Damaged(f"{file.name} has changed")
    return record["content"]


def replace(file: epath.Path, text: str) -> None:
    """Rewrites a file so that whoever reads it, even after the machine was switched off, finds all or nothing of it."""
    temporary = file.parent / f".{file.name}.tmp"
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        if "://" not in os.fspath(file):  # what lies in an object store is there as a whole or not at all
            os.fsync(stream.fileno())
    temporary.replace(file)


def _json_crc32(value: Any) -> int:
    """Of a JSON value, whatever the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _files_under(folder: epath.Path) -> Iterator[epath.Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files_under(entry)
        else:
            yield entry


def _file_crc32(file: epath.Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _slices_name(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """(slice(0, 3), slice(None)) of shape (6, 4) -> "0:3,0:4"."""
    bounds = [slice_.indices(size)[:2] for slice_, size in zip(index, shape, strict=True)]
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def _named_slices(name: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, part.split(":"))) for part in name.split(",")) if name else ()
