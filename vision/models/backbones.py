"""Networks to stand on: any network that gives features by stride, from a section of a configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers

# A name in `MODELS`, or a section with the name and the network's fields: {"name": "resnet18", "width": 32}.
Section = str | Mapping[str, Any]


def configured(
    section: Section,
    dtype: Any = "float32",
    norm: Callable[..., nn.Module] = layers.BatchNorm,
    where: str = "config.model.backbone",
) -> Callable[..., nn.Module]:
    """The factory of a backbone: a network without a classifier, its fields checked. Call it with a name.

    Of networks whose classifier begins with dense layers (`hidden`), these are left out too.

    Within a compact method:

        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        maps = backbones.features(outputs, (8, 16, 32))

    Args:
        section: a name in `MODELS`, or a mapping of that `name` and the network's fields.
        dtype: dtype of the computation, where the section has none.
        norm: the norm of the network that stands on it. What was added to the usual batch norm (the axis over which
            devices share statistics) is added to the backbone's own norm; any other norm replaces it, unless the
            section has a `norm`: weights that were trained with batch norm want it under any head.
        where: the section's place in the configuration, for messages.

    Raises:
        UsageError: an unknown name or field, a wrong value, or a classifier.
    """
    from vision import models

    fields = {"name": section} if isinstance(section, str) else dict(section)
    if "name" not in fields:
        raise UsageError(f"{where}: missing 'name', the network to stand on, such as 'resnet50'.")
    if fields.get("num_classes"):
        raise UsageError(f"{where}.num_classes: a backbone has no classifier; leave it out.")
    fields = {"dtype": dtype, **fields, "num_classes": None, "where": where}
    factory = models.configured(**fields)
    parameters = inspect.signature(factory).parameters
    if "hidden" in parameters and "hidden" not in fields and isinstance(parameters["hidden"].default, tuple):
        factory = functools.partial(factory, hidden=())
    if "norm" in parameters:
        own, stated = parameters["norm"].default, fields.get("norm") is not None
        factory = functools.partial(factory, norm=_merged(own, norm, stated))
    return factory


def features(
    outputs: Mapping[str, Any], strides: Sequence[int], where: str = "config.model.strides"
) -> list[jax.Array]:
    """A backbone's maps (B, h, w, C) at these strides, in their order.

    Raises:
        UsageError: the backbone has no map of a stride.
    """
    found = outputs.get("features", {})
    missing = [stride for stride in strides if stride not in found]
    if missing:
        has = f"has features at strides {', '.join(map(str, sorted(found)))}" if found else "has no features by stride"
        raise UsageError(f"{where}: the backbone {has}; given {', '.join(map(str, strides))}.")
    return [found[stride] for stride in strides]


def stages(outputs: Mapping[str, Any], count: int, where: str = "config.model.backbone") -> tuple[jax.Array, ...]:
    """A backbone's last maps, finest first; those of dilated stages share a stride.

    Raises:
        UsageError: it has fewer than `count` maps.
    """
    found = outputs.get("features", {})
    maps = outputs.get("stages") or tuple(found[stride] for stride in sorted(found))
    if len(maps) < count:
        raise UsageError(f"{where}: expected a network with features at {count} strides or more; this has {len(maps)}.")
    return maps[-count:]


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    """Mirrors an image (B, H, W, C) at its bottom and right edge until both sides are multiples."""
    missing = [(0, -side % multiple) for side in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), *missing, (0, 0)), mode="reflect") if any(map(any, missing)) else image


def _merged(own: Callable[..., nn.Module], given: Callable[..., nn.Module], stated: bool) -> Callable[..., nn.Module]:
    """The backbone's own norm with what `given` adds to the usual one.

    Where `given` is another kind of norm, it takes its place; or, if the section has stated its own, that one shares
    its statistics over the devices that `given` shares its own over.
    """
    usual, keywords = layers.BatchNorm, getattr(given, "keywords", {})
    if getattr(given, "func", None) is usual.func:
        added = {key: value for key, value in keywords.items() if usual.keywords.get(key) != value}
    elif stated:
        added = {key: value for key, value in keywords.items() if key == "axis_name"}
    else:
        return given
    return functools.partial(own, **added)
