"""The first value of a network's variables."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def initialize(model: nn.Module, key: jax.Array, image_shape: tuple[int, ...], **inputs: Any) -> dict[str, Any]:
    """A new network's variables: `params`, and `batch_stats` where it has batch norm.

    The values depend on the key alone, not on the number of devices, the batch or the way of running in parallel.
    This is compiled, so that the forward pass, which Linen needs for the shapes, is traced but never run: what remains
    are the random numbers. Not to be called inside another `jit`.

    Args:
        model: the network.
        key: a typed key (`jax.random.key`).
        image_shape: (height, width, channels) of one image.
        **inputs: further keyword arguments of the network, such as a detector's ground truth for one image.

    Returns:
        {"params": ..., "batch_stats": ...}: float32 arrays on the default device.
    """
    return compute(_init(model, image_shape, inputs), key)


def compute(init: Callable[[jax.Array], Any], key: jax.Array) -> Any:
    """`init(key)`, always compiled in one way: other levels of optimisation round the same numbers differently."""
    # Nearly all the time goes to LLVM: ResNet-18 took 3.6 s to compile at its usual level and 1.6 s at this one.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(init).lower(key).compile(compiler_options=options)(key)


def variable_shapes(model: nn.Module, image_shape: tuple[int, ...], **inputs: Any) -> dict[str, Any]:
    """What `initialize` would give, as a tree of `jax.ShapeDtypeStruct`, without computing anything."""
    return jax.eval_shape(_init(model, image_shape, inputs), jax.random.key(0))


def _init(model: nn.Module, image_shape: tuple[int, ...], inputs: dict[str, Any]) -> Callable[[jax.Array], Any]:
    return lambda key: model.init(key, jnp.zeros((1, *image_shape)), train=False, **inputs)
