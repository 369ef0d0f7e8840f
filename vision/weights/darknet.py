"""Darknet's files of weights: a header, then float32 numbers in the order in which the layers run, without names."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vision.errors import UsageError
from vision.models import variable_shapes
from vision.models.darknet import Convolution

_IMAGE = (64, 64, 3)  # that the order and the shapes of the layers are found with


def is_darknet(path: Path) -> bool:
    """Whether a file's name is one that Darknet gives: yolov3.weights, darknet53.conv.74."""
    return path.suffix == ".weights" or ".conv." in path.name


def read(path: Path, model: nn.Module) -> dict[str, np.ndarray]:
    """The variables in a file by our paths, "params/backbone/stem/conv/kernel".

    A file may end after any convolution, as darknet53.conv.74 does where the classifier begins; what a network without
    classes has no use for is left out. The classifiers have as many classes as the file, and the shapes that go with
    them.

    Args:
        path: of the file.
        model: a network of convolutions alone: `Darknet`, `PlainDarknet` with batch norm, or `YOLOv3` on one of them.

    Raises:
        UsageError: no such file or a damaged one, another network, or more or fewer numbers than its layers take.
    """
    numbers = _numbers(path)
    if getattr(model, "num_classes", None):
        one, two = (sum(map(_size, _arrays(model.clone(num_classes=count)))) for count in (1, 2))
        classes, left = divmod(len(numbers) - one, two - one)
        if classes >= 0 and not left:
            model = model.clone(num_classes=classes + 1)
    found, start = {}, 0
    arrays = _arrays(model)
    for name, shape in arrays:
        size = _size((name, shape))
        if start == len(numbers) and name.endswith("/bias"):
            break
        if start + size > len(numbers):
            raise UsageError(f"{path}: ends within {name}; the file is cut off, or of another network.")
        found[name] = _ours(numbers[start : start + size], shape)
        start += size
    if start < len(numbers) and getattr(model, "num_classes", None):
        raise UsageError(f"{path}: has {len(numbers):,} numbers, and the network's layers take {start:,}.")
    return found


def _numbers(path: Path) -> np.ndarray:
    """All that follows the header: three numbers of the version, and how many images the network has seen."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file of weights.")
    content = path.read_bytes()
    if len(content) < 12:
        raise UsageError(f"{path}: too short for a file of Darknet's.")
    major, minor, _ = np.frombuffer(content, "<i4", 3)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise UsageError(f"{path}: version {major}.{minor} is none of Darknet's that are read here.")
    start = 20 if major * 10 + minor >= 2 else 16
    if len(content) < start or (len(content) - start) % 4:
        raise UsageError(f"{path}: not a whole number of float32 numbers after the header; the file is cut off.")
    return np.frombuffer(content, "<f4", offset=start)


def _arrays(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Our path and shape of each array, in the file's order.

    Raises:
        UsageError: a network with layers that such a file does not have in this form.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(variable_shapes(model, _IMAGE), sep="/").items()}
    order: list[tuple[str, ...]] = []

    def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        module = context.module
        is_layer = isinstance(module, Convolution) or module.name == "head"
        if is_layer and context.method_name == "__call__" and module.path not in order:
            order.append(module.path)
        return call(*arguments, **keywords)

    def run(key: jax.Array) -> Any:
        with nn.intercept_methods(note):
            return model.init(key, jnp.zeros((1, *_IMAGE)), train=False)

    jax.eval_shape(run, jax.random.key(0))
    found = []
    for place in map("/".join, order):
        with_norm = (
            f"params/{place}/norm/bias",
            f"params/{place}/norm/scale",
            f"batch_stats/{place}/norm/mean",
            f"batch_stats/{place}/norm/var",
            f"params/{place}/conv/kernel",
        )
        plain = (f"params/{place}/conv/bias", f"params/{place}/conv/kernel")
        linear = (f"params/{place}/bias", f"params/{place}/kernel")
        found += next(names for names in (with_norm, plain, linear) if names[0] in shapes)
    if set(found) != set(shapes):
        raise UsageError(
            f"{type(model).__name__} has layers besides convolutions, whose weights are not read from Darknet's files: "
            f"{', '.join(sorted(set(shapes) - set(found))[:3])}."
        )
    return [(name, shapes[name]) for name in found]


def _size(array: tuple[str, tuple[int, ...]]) -> int:
    return int(np.prod(array[1]))


def _ours(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Kernels (out, in, height, width) -> (height, width, in, out), or (in, out) of a 1x1 one that we keep as dense."""
    if len(shape) == 1:
        return values.astype(np.float32)
    *places, inputs, outputs = shape
    theirs = values.reshape(outputs, inputs, *places)
    return np.ascontiguousarray(np.moveaxis(theirs, (0, 1), (-1, -2)), np.float32)
