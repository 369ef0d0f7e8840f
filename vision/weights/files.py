"""Files of weights -> names and arrays, whatever project wrote them; nothing in a file is executed."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from vision.errors import UsageError
from vision.models.transformer import unstack_blocks
from vision.weights import darknet, numpy_pickle, pth, safetensors
from vision.weights.sources import OURS, detect
from vision.weights.state_dict import from_state_dict, to_state_dict


def load(
    model: nn.Module,
    path: str | os.PathLike,
    source: str | None = None,
    *,
    checkpoint: str | int = "best",
    prefix: str = "",
    **options: Any,
) -> dict[str, Any]:
    """A network's variables from a file of another project, or from one of our own run folders.

    Args:
        model: the network: `vision.models.create("resnet101", num_classes=1000)`.
        path: `.safetensors`; PyTorch's `.pth`, `.pt` or `.bin`; `.npz` of big_vision or vision_transformer; Keras's
            `.h5`; TensorFlow.js's `model.json`; a pickled dict of NumPy arrays; Darknet's `.weights`; or a run folder.
        source: whose names these are, in `RULES`; None finds out from the names.
        checkpoint: of a run folder: "best" (the last one where it has no best), "last" or a step.
        prefix: take only what lies under this path, without it: "encoder" of an autoencoder's weights.
        **options: of `from_state_dict`: image_size, head, allow_missing, ...

    Returns:
        {"params": ..., "batch_stats": ...}: float32 arrays.

    Raises:
        UsageError: no such file, one that cannot be read, or weights of another network; the message has the names.
    """
    path = Path(path)
    try:
        if path.is_dir():
            tensors = read_run(path, checkpoint)[0]
        elif darknet.is_darknet(path):
            tensors, source = darknet.read(path, model), OURS
        else:
            tensors = read(path)
        tensors = below(tensors, prefix) if prefix else tensors
        return from_state_dict(model, tensors, source or detect(model, tensors), **options)
    except UsageError as error:
        message = str(error)
        raise error if str(path) in message else UsageError(f"{path}: {message}") from None


def save(path: str | os.PathLike, model: nn.Module, variables: Mapping[str, Any], format: str = "torchvision") -> None:
    """Writes a network's variables under another project's names, as `.safetensors`.

    `model.load_state_dict(safetensors.torch.load_file(FILE))` takes them in PyTorch; `load` gives them back exactly.

    Args:
        path: of the file, ending in .safetensors.
        model: the network.
        variables: {"params": ..., "batch_stats": ...}.
        format: whose names, in `RULES`: "torchvision", "timm", ...

    Raises:
        UsageError: another ending, or variables that this source has no name for.
    """
    if Path(path).suffix != ".safetensors":
        raise UsageError(f"{path}: weights are written as .safetensors; choose a name that ends so.")
    safetensors.write(path, to_state_dict(model, variables, format), {"source": format, "model": type(model).__name__})


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file by name; its format is known by its ending, or by its first bytes.

    Raises:
        UsageError: no such file, an unknown format, or a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file of weights.")
    reader = READERS.get(path.suffix.lower()) or _by_content(path)
    if reader is None:
        raise UsageError(f"{path}: not a known format of weights; known are {', '.join(READERS)}.")
    return _without_wrapper(reader(path))


def read_run(workdir: Path, checkpoint: str | int = "best") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The variables of one of our run folders, and what its checkpoint says besides: its config and data.

    The variables are by path, "params/head/kernel", and of the moving average where there is one.

    Raises:
        UsageError: not a run folder, or no checkpoint (of that step) in it.
    """
    from vision.train.checkpoints import Checkpoints

    if not (workdir / "checkpoints").is_dir():
        raise UsageError(f"{workdir}: not a run folder, for it has no checkpoints.")
    with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
        no_best = checkpoint == "best" and saved.best_step() is None
        weights, extras, _ = saved.restore_weights("last" if no_best else checkpoint)
    source = weights["ema"] if weights.get("ema") is not None else weights
    params = unstack_blocks(source["params"]) if "blocks" in source["params"] else source["params"]
    return flatten_dict({"params": params, **source["model_state"]}, sep="/"), extras


def below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors under a path, without it: "params/encoder/x" becomes "params/x", another project's "encoder.x" "x".

    Raises:
        UsageError: there are none.
    """
    found, parts = {}, set()
    for name, value in tensors.items():
        collection, ours, rest = name.partition("/")
        if ours and rest.startswith(f"{prefix}/"):
            found[f"{collection}/{rest.removeprefix(f'{prefix}/')}"] = value
        elif name.startswith(f"{prefix}."):
            found[name.removeprefix(f"{prefix}.")] = value
        parts.add(rest.partition("/")[0] if ours else name.partition(".")[0])
    if not found:
        raise UsageError(f"prefix: nothing lies under {prefix!r}; there is {', '.join(sorted(parts)[:20])}.")
    return found


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """NumPy's archive: big_vision's and vision_transformer's "Transformer/encoderblock_0/..." as they are named there.

    Of a training checkpoint the network is under "params/" or "opt/target/". Blocks that big_vision keeps stacked
    ("encoderblock/...") are taken apart.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _known_dtype(archive[name]) for name in archive.files}
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"{path}: not a whole .npz file of arrays: {error}.") from error
    for prefix in ("params/", "opt/target/"):
        inner = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        arrays = inner or arrays
    result = {}
    for name, value in arrays.items():
        before, stacked, after = name.partition("encoderblock/")
        if stacked:
            result |= {f"{before}encoderblock_{i}/{after}": block for i, block in enumerate(value)}
        else:
            result[name] = value
    return result


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Keras's HDF5 of layers: "res2a_branch2a/kernel", whatever groups are around it.

    Keras 1 called the same "res2a_branch2a_W", and a batch norm's variance "running_std".
    """
    import h5py

    arrays = {}

    def visit(name: str, item: Any) -> None:
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and len(parts) > 1 and "optimizer_weights" not in parts:
            layer, variable = parts[-2], parts[-1].partition(":")[0]
            variable = re.sub(r"_\d+$", "", variable.removeprefix(f"{layer}_"))
            old = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
            arrays[f"{layer}/{old.get(variable, variable)}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise UsageError(f"{path}: not a whole HDF5 file: {error}.") from error
    return arrays


def read_tensorflow_js(path: Path) -> dict[str, np.ndarray]:
    """TensorFlow.js's layers model: `model.json` names the arrays, which lie one after the other in files beside it."""
    try:
        arrays: dict[str, np.ndarray] = {}
        for group in json.loads(path.read_text())["weightsManifest"]:
            files = [path.parent / Path(name).name for name in group["paths"]]
            content, start = b"".join(file.read_bytes() for file in files), 0
            for entry in group["weights"]:
                if "quantization" in entry:
                    raise UsageError(f"{path}: its weights are quantised, which is not read here.")
                dtype, count = np.dtype(entry["dtype"]), math.prod(entry["shape"])
                arrays[entry["name"]] = np.frombuffer(content, dtype, count, start).reshape(entry["shape"])
                start += count * dtype.itemsize
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not a TensorFlow.js model with its weights beside it: {error}.") from error
    return arrays


READERS = {
    ".safetensors": safetensors.read,
    ".pth": pth.read,
    ".pt": pth.read,
    ".bin": pth.read,
    ".npz": read_npz,
    ".h5": read_keras,
    ".hdf5": read_keras,
    ".json": read_tensorflow_js,
}


def _by_content(path: Path):
    """The reader for a file of another ending; None where its beginning says nothing."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"\x89HDF"):
        return read_keras
    if start.startswith((b"PK\x03\x04", pth.LEGACY)):
        return pth.read
    if start.startswith(b"\x80"):
        return numpy_pickle.read
    return safetensors.read if start[8:9] == b"{" else None


def _without_wrapper(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the "module." that PyTorch's data parallelism, or the "_orig_mod." that its compiler, puts before all."""
    for prefix in ("module.", "_orig_mod."):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): value for name, value in arrays.items()}
    return arrays


def _known_dtype(value: np.ndarray) -> np.ndarray:
    """NumPy's files keep bfloat16 as two nameless bytes."""
    import ml_dtypes

    return value.view(ml_dtypes.bfloat16) if value.dtype == np.dtype("V2") else value
