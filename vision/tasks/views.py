"""Several views of an image at test time, windows, scales and mirror images, whose class probabilities are averaged.

Every shape is static: the windows of an image follow from its height and width.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vision.errors import UsageError
from vision.tasks.task import Apply, Outputs

Pair = tuple[int, int]
Probabilities = Callable[[jax.Array], jax.Array]  # image (B, H, W, C) -> class probabilities (B, H, W, classes)


def averaged_views(
    apply: Apply,
    inputs: Mapping[str, Any],
    *,
    window: Pair | None = None,
    stride: Pair | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> Outputs:
    """The model's outputs, or where more than the plain view is asked for, those of the mean class probabilities.

    Args:
        apply: inputs -> outputs, among them `logits (B, H, W, classes)` of the image's height and width.
        inputs: the model's, `image (B, H, W, C)` preprocessed.
        window: (height, width) of what the model sees at a time; None: the whole image.
        stride: (down, across) steps between windows; None: two thirds of a window.
        scales: factors by which the image is resized, bilinearly; the probabilities are resized back.
        flip: whether the mirror image is looked at as well.

    Returns:
        {"logits": the logarithm of the mean probabilities, so that their softmax is that mean}; or all outputs.
    """
    if window is None and tuple(scales) == (1.0,) and not flip:
        return apply(inputs)

    def probabilities(image: jax.Array) -> jax.Array:
        logits = apply({**inputs, "image": image})["logits"]
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    image = inputs["image"]
    see = probabilities if window is None else lambda image: in_windows(probabilities, image, window, stride)
    total = 0.0
    for scale, mirrored in itertools.product(scales, (False, True) if flip else (False,)):
        view = jnp.flip(image, axis=2) if mirrored else image
        found = _resized(see(_resized(view, _scaled(image.shape[1:3], scale))), image.shape[1:3])
        total += jnp.flip(found, axis=2) if mirrored else found
    mean = total / (len(scales) * (2 if flip else 1))
    return {"logits": jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))}


def in_windows(probabilities: Probabilities, image: jax.Array, window: Pair, stride: Pair | None = None) -> jax.Array:
    """Class probabilities (B, H, W, classes) from windows over the image, each pixel's the mean over its windows.

    A window is never larger than the image; the last one of a row ends at the image's edge. The windows are computed
    one after the other, in a loop of one compiled body.

    Args:
        probabilities: image of a window's size -> class probabilities.
        image: (B, H, W, C).
        window: (height, width).
        stride: (down, across); None: two thirds of a window, rounded up.
    """
    sides = image.shape[1:3]
    window = tuple(min(length, side) for length, side in zip(window, sides, strict=True))
    stride = stride or tuple(-(-2 * length // 3) for length in window)
    starts = [window_starts(*axis) for axis in zip(sides, window, stride, strict=True)]
    counts = np.zeros(sides, np.float32)
    for top, left in itertools.product(*starts):
        counts[top : top + window[0], left : left + window[1]] += 1

    batch, _, _, channels = image.shape
    seen = jax.eval_shape(probabilities, jax.ShapeDtypeStruct((batch, *window, channels), image.dtype))
    classes = seen.shape[-1]

    def add(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        place = (0, corner[0], corner[1], 0)
        found = probabilities(lax.dynamic_slice(image, place, (batch, *window, channels)))
        so_far = lax.dynamic_slice(total, place, (batch, *window, classes))
        return lax.dynamic_update_slice(total, so_far + found, place), None

    corners = jnp.array(list(itertools.product(*starts)), jnp.int32)
    total, _ = lax.scan(add, jnp.zeros((batch, *sides, classes), jnp.float32), corners)
    return total / counts[:, :, None]


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side, so that they cover every pixel and none reaches beyond it.

    Args:
        side: pixels.
        window: pixels, at most the side.
        stride: between windows, at most the window; the last two may be closer.
    """
    return [*range(0, side - window, stride), side - window]


def check(window: Any, stride: Any, scales: tuple[float, ...], where: str) -> tuple[Pair | None, Pair | None]:
    """The window and its stride as pairs. Raises UsageError where a value is out of range."""
    window, stride = _pair(window), _pair(stride)
    if window is not None and min(window) < 1:
        raise UsageError(f"{where}.window: expected sides of 1 pixel or more, given {window}.")
    if stride is not None and window is None:
        raise UsageError(f"{where}.window_stride: {stride} is given, but no window; give config.task.window as well.")
    if stride is not None and not all(1 <= step <= length for step, length in zip(stride, window, strict=True)):
        raise UsageError(
            f"{where}.window_stride: expected 1 to the window's side {window}, so that no pixel is left out, "
            f"given {stride}."
        )
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise UsageError(f"{where}.scales: expected factors above 0, such as (0.75, 1.0, 1.25), given {scales}.")
    return window, stride


def _pair(value: int | Pair | None) -> Pair | None:
    return (value, value) if isinstance(value, int) else value


def _scaled(sides: tuple[int, ...], scale: float) -> Pair:
    return tuple(max(1, round(side * scale)) for side in sides)


def _resized(image: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    if image.shape[1:3] == tuple(sides):
        return image
    return jax.image.resize(image, (len(image), *sides, image.shape[-1]), "bilinear")
