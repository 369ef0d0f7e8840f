"""Our convolution against XLA's: layer by layer for two ResNets, and whole training steps, interleaved in one run.

    python -m benchmarks.convolution [--parts=layers,steps] [--models=resnet18,resnet50] [--repeats=5]

Times are medians in milliseconds. `lax` is `lax.conv_general_dilated` in the layers and `flax.linen.Conv` in the steps.
"""

import collections
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.timing import medians
from vision import models
from vision.models import layers
from vision.ops import convolution

PARTS = flags.DEFINE_list("parts", ["layers", "steps"], "What to measure: layers, steps.")
MODELS = flags.DEFINE_list("models", ["resnet18", "resnet50"], "Which networks: resnet18 at 64 px, resnet50 at 224 px.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each; the median counts.", lower_bound=1)

BATCHES = {"resnet18": (64, 64, 64, 3), "resnet50": (8, 224, 224, 3)}
LEARNING_RATE = 0.01


class Layer(NamedTuple):
    """The static shapes of a convolution."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int


def conv_layers(name: str) -> dict[Layer, int]:
    """The distinct convolutions of a network, and how often each occurs."""
    found = collections.Counter()

    def record(call, arguments, keywords, context):
        conv = context.module
        if isinstance(conv, layers.Conv) and context.method_name == "__call__":
            shape = arguments[0].shape
            found[Layer(shape, (*conv.kernel_size, shape[-1], conv.features), conv.strides, conv.padding)] += 1
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        jax.eval_shape(models.create(name, 1000).init, jax.random.key(0), jnp.zeros(BATCHES[name]))
    return found


def by_lax(image, kernel, stride, padding):
    """The convolution as XLA gets it from `flax.linen.Conv`."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        image, kernel, (stride,) * 2, [(padding,) * 2] * 2, dimension_numbers=dimensions
    )


def compare_layer(layer: Layer, repeats: int) -> tuple[list[float], list[float]]:
    """Medians (lax, ours) of the forward pass, and of the gradient for image and kernel."""
    random = np.random.default_rng(0)
    image, kernel = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in (layer.image, layer.kernel))
    forward, gradient = [], []
    for function in (by_lax, convolution.convolve):
        convolve = functools.partial(function, **{"strides" if function is not by_lax else "stride": layer.stride})
        convolve = functools.partial(convolve, padding=layer.padding)
        cotangent = jnp.ones(jax.eval_shape(convolve, image, kernel).shape)

        def pull_back(image, kernel, cotangent, convolve=convolve):
            return jax.vjp(convolve, image, kernel)[1](cotangent)

        forward.append(functools.partial(jax.jit(convolve), image, kernel))
        gradient.append(functools.partial(jax.jit(pull_back), image, kernel, cotangent))
    return medians(forward, repeats), medians(gradient, repeats)


def print_layers(name: str, repeats: int) -> None:
    """One line per distinct layer."""
    print(f"\n{name}, images {BATCHES[name]}: milliseconds\n")
    print(f"{'map':>9} {'channels':>12} {'kernel':>8}  times | {'forward':^23} | {'gradient':^23} | route")
    print(f"{'':39} | {'lax':>7} {'ours':>7} {'ratio':>7} | {'lax':>7} {'ours':>7} {'ratio':>7} |")
    for layer, count in conv_layers(name).items():
        forward, gradient = compare_layer(layer, repeats)
        strides, padding = (layer.stride,) * 2, ((layer.padding,) * 2,) * 2
        route = convolution.formulation(layer.image, layer.kernel, strides, padding)
        print(
            f"{layer.image[1]:>4}x{layer.image[2]:<4} {layer.kernel[2]:>5}->{layer.kernel[3]:<5} "
            f"{layer.kernel[0]}x{layer.kernel[1]} /{layer.stride}  x{count:<4} | "
            + " | ".join(f"{lax:7.1f} {ours:7.1f} {lax / ours:6.1f}x" for lax, ours in (forward, gradient))
            + f" | {route.__name__ if route else 'lax'}",
            flush=True,
        )


def training_step(name: str, conv: Callable[..., nn.Module]) -> tuple[Callable, float]:
    """A function of no arguments that runs one training step of the network, and the seconds it took to compile."""
    model = models.create(name, 1000, conv=conv)
    random = np.random.default_rng(0)
    image = jnp.asarray(random.standard_normal(BATCHES[name]), jnp.float32)
    label = jnp.asarray(random.integers(0, 1000, len(image)))
    variables = models.initialize(model, jax.random.key(0), image.shape[1:])

    def loss(params, model_state):
        outputs, model_state = model.apply(
            {"params": params, **model_state}, image, train=True, mutable=list(model_state)
        )
        log_probability = jax.nn.log_softmax(outputs["logits"])
        return -jnp.mean(jnp.take_along_axis(log_probability, label[:, None], axis=1)), model_state

    @jax.jit
    def step(params, model_state):
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params, model_state)
        params = jax.tree.map(lambda parameter, slope: parameter - LEARNING_RATE * slope, params, gradient)
        return params, model_state, value

    params = variables.pop("params")
    start = time.perf_counter()
    compiled = step.lower(params, variables).compile()
    return functools.partial(compiled, params, variables), time.perf_counter() - start


def print_steps(name: str, repeats: int) -> None:
    """Medians of whole training steps with either layer."""
    (theirs, theirs_compiling), (ours, ours_compiling) = (training_step(name, conv) for conv in (nn.Conv, layers.Conv))
    lax, own = medians([theirs, ours], repeats)
    print(
        f"\n{name}, images {BATCHES[name]}: a training step takes {lax:.0f} ms with flax.linen.Conv, {own:.0f} ms with "
        f"ours: {lax / own:.2f}x faster. Compiling took {theirs_compiling:.1f} s and {ours_compiling:.1f} s.",
        flush=True,
    )


def main(arguments: list[str]) -> None:
    del arguments
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, medians of {REPEATS.value} runs")
    for name in MODELS.value:
        if "layers" in PARTS.value:
            print_layers(name, REPEATS.value)
        if "steps" in PARTS.value:
            print_steps(name, REPEATS.value)


if __name__ == "__main__":
    app.run(main)
