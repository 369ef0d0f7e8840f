"""The networks: Linen modules from an image to named arrays, by name."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision import schema
from vision.errors import UsageError, pick
from vision.models import (
    alexnet,
    autoencoder,
    backbones,
    darknet,
    deeplab,
    densenet,
    fast_rcnn,
    fcn,
    googlenet,
    hybrid,
    inception,
    layers,
    lenet,
    localizer,
    mae,
    overfeat,
    rcnn,
    resnet,
    resnet_cifar,
    resnet_v2,
    retinanet,
    ssd,
    unet,
    unpooling,
    vgg,
    vit,
    yolo,
)
from vision.models.depth import layer_numbers
from vision.models.initialize import initialize, variable_shapes
from vision.models.listing import list_models
from vision.models.mlp import MLP, Linear

MODELS = {
    "linear": Linear,
    "mlp": MLP,
    **autoencoder.VARIANTS,
    **mae.VARIANTS,
    **lenet.VARIANTS,
    **alexnet.VARIANTS,
    **overfeat.VARIANTS,
    **vgg.VARIANTS,
    **googlenet.VARIANTS,
    **inception.VARIANTS,
    **resnet.VARIANTS,
    **resnet_cifar.VARIANTS,
    **resnet_v2.VARIANTS,
    **densenet.VARIANTS,
    **darknet.VARIANTS,
    **vit.VARIANTS,
    **hybrid.VARIANTS,
    **fcn.VARIANTS,
    **deeplab.VARIANTS,
    **unpooling.VARIANTS,
    **unet.VARIANTS,
    **rcnn.VARIANTS,
    **ssd.VARIANTS,
    **retinanet.VARIANTS,
    **yolo.VARIANTS,
    **localizer.VARIANTS,
    **fast_rcnn.VARIANTS,
}

# Fields that hold factories of layers: the program passes them; a configuration can name the norm, see `keys`.
FACTORIES = ("conv", "norm")

__all__ = [
    "MODELS",
    "configured",
    "count_parameters",
    "create",
    "initialize",
    "keys",
    "layer_numbers",
    "list_models",
    "variable_shapes",
]

CHANCES = ("dropout", "attention_dropout", "drop_path")  # fields that are probabilities
DTYPES = ("float32", "bfloat16", "float16")


def create(
    name: str, num_classes: int | None = None, dtype: Any = "float32", where: str = "config.model", **arguments: Any
) -> nn.Module:
    """The network of that name.

    `model.apply(variables, image, train=False)` takes (B, H, W, C) floating-point images and gives a dict of arrays:
    `logits` (B, num_classes), or (B, H, W, num_classes) of networks that segment; `features` by stride; `pooled`
    (B, width), as far as the network has them.

    Args:
        name: a name in `MODELS`.
        num_classes: number of classes; None or 0 for no classifier. Left out for networks that do not classify.
        dtype: dtype of the computation, by name or as a dtype; parameters are float32 always.
        where: the place of these arguments in the configuration, for messages.
        **arguments: fields of the network.

    Raises:
        UsageError: an unknown name or field, or a value of another type than the field's.
    """
    return configured(name, num_classes, dtype, where, **arguments)()


def configured(
    name: str, num_classes: int | None = None, dtype: Any = "float32", where: str = "config.model", **arguments: Any
) -> functools.partial:
    """The factory of the network that `create` makes of these arguments, which are checked."""
    factory = pick(MODELS, "model", name, f"{where}.name")
    arguments["dtype"] = _dtype_name(dtype, f"{where}.dtype")
    valid = keys(factory)
    if "num_classes" in valid:
        arguments["num_classes"] = num_classes
    configuration = {key: value for key, value in arguments.items() if key not in FACTORIES or not callable(value)}
    schema.check_keys(valid, configuration, where)
    _check_ranges(configuration, where)
    if configuration.get("backbone") is not None:
        backbones.configured(configuration["backbone"], arguments["dtype"], where=f"{where}.backbone")
    if "norm" in configuration:
        name = arguments.pop("norm")
        arguments |= {} if name is None else {"norm": layers.NORMS[name]}
    return functools.partial(factory, **arguments)


def keys(factory: Callable) -> dict[str, schema.Key]:
    """The keys that the section of a network may have, see `schema.keys`."""
    found = schema.keys(factory, FACTORIES)
    if "norm" in inspect.signature(factory).parameters:
        meaning = "its norms, and a backbone's that states none; None: its own. Group norm suits small, mixed batches."
        found["norm"] = schema.Key(Literal[tuple(layers.NORMS)] | None, None, meaning)
    return found


def count_parameters(params: Any) -> int:
    """Number of scalars in a tree of arrays or of their shapes; give it the `params` collection alone."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _check_ranges(configuration: dict[str, Any], where: str) -> None:
    """Raises UsageError for a size below 1, a chance outside 0..1 or an unknown activation."""
    for key, value in configuration.items():
        sizes = value if isinstance(value, tuple) else (value,)
        if key != "num_classes" and any(type(size) is int and size < 1 for size in sizes):
            raise UsageError(f"{where}.{key}: sizes are 1 or more; given {value!r}.")
        if key in CHANCES and not 0 <= value < 1:
            raise UsageError(f"{where}.{key}: expected a chance of 0 or more and less than 1, given {value!r}.")
        if key == "activation":
            pick(layers.ACTIVATIONS, "activation", value, f"{where}.activation")


def _dtype_name(dtype: Any, where: str) -> str:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise UsageError(f"{where}: networks compute in {', '.join(DTYPES)}; given {dtype!r}.")
    return name


list = list_models  # vision.models.list("resnet*")
