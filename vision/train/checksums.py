"""What a checkpoint was when it was saved, as JSON: shape, dtype and CRC-32 of every array, and CRC-32 of every file.

The arrays' checksums are taken in memory, so they vouch for all that lies between saving and restoring. A sharded array
has one per piece, so that no device or process needs to see all of it. The files' checksums also cover what TensorStore
wrote and no longer reads, and find damage before it is parsed.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

FILES = "files.json"


class Damaged(Exception):
    """A checkpoint's files are missing, truncated or changed."""


def crc32(array: np.ndarray) -> int:
    """Of an array's bytes. It changes with any flipped bit, and with any burst of up to 32 bits."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def json_crc32(value: Any) -> int:
    """Of a JSON value, whatever the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


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


def write(file: epath.Path, arrays: Mapping[str, dict[str, Any]], **others: Any) -> None:
    """Computes the checksums of what `on_host` gave and writes them, and other JSON, to one file."""
    described = {}
    for path, entry in arrays.items():
        pieces = {name: crc32(values) for name, values in entry["pieces"].items()}
        described[path] = {key: value for key, value in entry.items() if key != "pieces"} | {"crc32": pieces}
    content = others | {"arrays": described}
    file.write_text(json.dumps({"crc32": json_crc32(content), "content": content}))


def read(folder: epath.Path) -> dict[str, Any]:
    """What `write` wrote into the files of a folder, one a process. Raises Damaged."""
    contents = [_read(file) for file in sorted(folder.glob("*.json"))]
    if not contents:
        raise Damaged("it has no checksums")
    for other in contents[1:]:
        for path, entry in other["arrays"].items():
            contents[0]["arrays"][path]["crc32"] |= entry["crc32"]
    return contents[0]


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
    (folder / FILES).write_text(json.dumps({"crc32": json_crc32(found), "content": found}))


def verify_files(folder: epath.Path) -> None:
    """Raises Damaged unless all files that `write_files` saw are as they were."""
    for name, expected in _read(folder / FILES).items():
        try:
            found = _file_crc32(folder / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror or error}") from error
        if found != expected:
            raise Damaged(f"the checksum of {name} does not agree")


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


def _read(file: epath.Path) -> dict[str, Any]:
    """The content of a JSON file that has its own checksum. Raises Damaged."""
    try:
        record = json.loads(file.read_text())
        whole = record["crc32"] == json_crc32(record["content"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file.name} cannot be read: {error}") from error
    if not whole:
        raise Damaged(f"{file.name} has changed")
    return record["content"]


def _slices_name(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """(slice(0, 3), slice(None)) of shape (6, 4) -> "0:3,0:4"."""
    bounds = [slice_.indices(size)[:2] for slice_, size in zip(index, shape, strict=True)]
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def _named_slices(name: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, part.split(":"))) for part in name.split(",")) if name else ()
