"""How deep in a network each parameter lies, for learning rates that decay from layer to layer."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models.initialize import variable_shapes

# A layer is a stem, one block of a stage or of a transformer, a dense layer, a head: what papers number.
LAYER = re.compile(r"(?:(?:encoder|backbone|root)/)*(?:stage_\d+/)?[^/]+")


def layer_numbers(model: nn.Module, image_shape: tuple[int, ...], **inputs: Any) -> dict[str, int]:
    """Path of each parameter -> the number of its layer, from 0 up, in the order in which the layers first run.

    Parameters of the network itself, such as position embeddings and class tokens, belong to layer 0, as do those of
    the first layer (Bao et al. 2022, arXiv:2106.08254, appendix). Blocks that are scanned over are one layer.

    Args:
        model: the network.
        image_shape: (height, width, channels) of one image.
        **inputs: further keyword arguments of the network.
    """
    order: dict[str, int] = {}

    def note(call, arguments, keywords, context):
        path = context.module.path
        if path:
            order.setdefault(layer_of("/".join((*path, ""))), len(order))
        return call(*arguments, **keywords)

    def run(key):
        with nn.intercept_methods(note):
            return model.init(key, jnp.zeros((1, *image_shape)), train=False, **inputs)

    jax.eval_shape(run, jax.random.key(0))
    params = variable_shapes(model, image_shape, **inputs)["params"]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
    weighted = {layer_of(path) for path in paths if path.endswith("/kernel")}
    numbers, number = {}, -1
    for layer in order:  # one without a kernel, a lone norm, counts with the layer before it
        number += layer in weighted
        numbers[layer] = max(number, 0)
    return {path: numbers[layer_of(path)] if "/" in path else 0 for path in paths}


def layer_of(path: str) -> str:
    """ "stage_2/block_1/conv_1/kernel" -> "stage_2/block_1": the layer of a parameter or module, by its path."""
    return LAYER.match(path)[0]
