"""PyTorch's zip files (`torch.save` since 1.6), read without PyTorch and without executing what is in them.

A pickle may call any function it names. The reader below knows the few names that a state dict needs and gives them
inert stand-ins of its own; whatever else the file asks for ends the reading.
"""

import io
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vision.errors import UsageError

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MOST_PICKLE_BYTES = 100_000_000  # names and shapes; the tensors themselves are beside it
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files from before 1.6 begin


class _Storage(NamedTuple):
    """Numbers that tensors are views of; several may share one."""

    values: np.ndarray


class _Tensor(NamedTuple):
    """A tensor as the file describes it: a view of a storage, in elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Dict(dict):
    """Stands for OrderedDict; PyTorch hangs a `_metadata` on it, which is let go."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Allowed:
    """A function or class that a file may name. Without attributes, so that a file cannot change it either."""

    __slots__ = ()


class _Rebuild(_Allowed):
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)`."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *_):
        return _Tensor(storage, offset, shape, strides)


class _RebuildParameter(_Allowed):
    """`torch._utils._rebuild_parameter(data, requires_grad, backward_hooks)`."""

    __slots__ = ()

    def __call__(self, data, *_):
        return data


class _NewDict(_Allowed):
    """`collections.OrderedDict(pairs)`."""

    __slots__ = ()

    def __call__(self, *pairs):
        return _Dict(*pairs)


_NAMES = {
    ("collections", "OrderedDict"): _NewDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): name for name in STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Knows `_NAMES` and nothing else."""

    def __init__(self, content: bytes, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._archive, self._folder, self._storages = archive, folder, {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise UsageError(
                f"it holds a {module}.{name}, and only tensors are read, for a pickle may run any code; save the "
                "state dict alone: torch.save(model.state_dict(), FILE)"
            ) from None

    def persistent_load(self, identity: Any) -> _Storage:
        """('storage', type, key, device, number of elements) -> the numbers in data/<key>."""
        kind, storage, key, _, count = identity
        if kind != "storage" or storage not in STORAGES:
            raise UsageError(f"it holds a {kind} of {storage}, which is not known")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}/data/{key}")
            dtype = np.dtype(STORAGES[storage]).newbyteorder(self._byte_order())
            if len(content) < count * dtype.itemsize:
                raise UsageError(f"data/{key} is cut short")
            self._storages[key] = _Storage(np.frombuffer(content, dtype, count).astype(STORAGES[storage], copy=False))
        return self._storages[key]

    def _byte_order(self) -> str:
        try:
            return {b"little": "<", b"big": ">"}[self._archive.read(f"{self._folder}/byteorder").strip()]
        except KeyError:
            return "<"


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file by name, where it is a state dict or a dict with one.

    Raises:
        UsageError: the file is damaged, of the format before PyTorch 1.6, or holds something else than tensors,
            numbers and texts.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if start == LEGACY:
        raise UsageError(
            f"{path}: PyTorch's format from before version 1.6, which is not read here; save it again with a newer "
            "one, torch.save(torch.load(FILE, weights_only=True), NEW_FILE), or as .safetensors."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1 or archive.getinfo(names[0]).file_size > _MOST_PICKLE_BYTES:
                raise UsageError("it is a zip file, but not one of torch.save")
            folder = names[0].removesuffix("/data.pkl")
            content = _Unpickler(archive.read(names[0]), archive, folder).load()
        return {str(name): _array(value) for name, value in state_dict_in(content).items()}
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).rstrip('.')}.") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken pickle or archive leads to
        raise UsageError(f"{path}: not a whole file of torch.save: {error}.") from error


def state_dict_in(content: Any) -> dict[str, Any]:
    """The state dict, or the one under "state_dict", "model" or the like in a training checkpoint."""
    nested = ("state_dict", "model_state_dict", "model", "net", "params")
    for candidate in (content, *(content.get(key) for key in nested if isinstance(content, dict))):
        if isinstance(candidate, dict):
            tensors = {name: value for name, value in candidate.items() if isinstance(value, _Tensor)}
            if tensors:
                return tensors
    raise UsageError("it has no state dict")


def _array(tensor: _Tensor) -> np.ndarray:
    """The view that a tensor is. Raises UsageError where it would reach outside of its storage."""
    storage, offset, shape, strides = tensor
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise UsageError("a tensor is described wrongly")
    values = storage.values
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) == 0:
        return np.zeros(shape, values.dtype)
    if last >= len(values):
        raise UsageError("a tensor reaches outside of its storage")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
