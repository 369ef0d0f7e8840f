"""Pooling over windows, formulated for the CPU and left to the compiler everywhere else."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[int, int]


def max_pool(
    image: Float[Array, "batch height width channels"],
    window: int,
    stride: int,
    padding: int = 0,
    ceil_mode: bool = False,
) -> Float[Array, "batch output_height output_width channels"]:
    """Maximum over square windows; `padding` pixels on every side never win (PyTorch's convention).

    The gradient goes to the first maximum of a window in row-major order. XLA's gradient on CPU is slow: 98 ms for
    8x112x112x64, window 3, stride 2, against 23 ms as maxima over rows, then columns, of shifted views (forward, 11 ms
    against 4). The numbers are the same.

    Args:
        image: (batch, height, width, channels).
        window: side of the window.
        stride: step between windows.
        padding: pixels added on each side, valued minus infinity.
        ceil_mode: whether a last window may reach beyond the bottom and the right edge, as PyTorch's `ceil_mode`: it
            must start inside the image or its first padding, and sees only the pixels that are there.

    Returns:
        (batch, output height, output width, channels).
    """
    around = [(padding, padding + _beyond(size, window, stride, padding, ceil_mode)) for size in image.shape[1:3]]

    def by_compiler(image):
        shape, strides = (1, window, window, 1), (1, stride, stride, 1)
        return lax.reduce_window(image, -jnp.inf, lax.max, shape, strides, ((0, 0), *around, (0, 0)))

    def on_cpu(image):
        image = jnp.pad(image, ((0, 0), *around, (0, 0)), constant_values=-jnp.inf)
        for axis in (2, 1):  # the first of the best columns in each row, then the first of the best rows
            end = (image.shape[axis] - window) // stride * stride + 1
            views = [lax.slice_in_dim(image, i, i + end, stride, axis) for i in range(window)]
            image = functools.reduce(_first_maximum, views)
        return image

    return lax.platform_dependent(image, cpu=on_cpu, default=by_compiler)


def average_pool(
    image: Float[Array, "batch height width channels"],
    window: int,
    stride: int,
    padding: int = 0,
    count_include_pad: bool = True,
) -> Float[Array, "batch output_height output_width channels"]:
    """Mean over square windows, summed in float32.

    Left to the compiler on CPU too: shifted views as in `max_pool` are faster forward (8x35x35x288, window 3: 1.0 ms
    against 3.7), but with the gradient they take 1.8 times as long (18 ms against 10).

    Args:
        image: (batch, height, width, channels).
        window: side of the window.
        stride: step between windows.
        padding: zeros added on each side.
        count_include_pad: whether the padding counts as pixels of value zero, as PyTorch's default has it; otherwise
            each mean is over the pixels that are there (TensorFlow's convention).

    Returns:
        (batch, output height, output width, channels), dtype of the image.
    """
    around, shape, strides = (padding, padding), (1, window, window, 1), (1, stride, stride, 1)
    total = lax.reduce_window(image.astype(jnp.float32), 0.0, lax.add, shape, strides, ((0, 0), around, around, (0, 0)))
    if count_include_pad or not padding:
        return (total / window**2).astype(image.dtype)
    rows, columns = (_pixels_inside(size, window, stride, padding) for size in image.shape[1:3])
    return (total / np.outer(rows, columns)[:, :, None]).astype(image.dtype)


def adaptive_average_pool(
    image: Float[Array, "batch height width channels"], output_size: int | Pair
) -> Float[Array, "batch output_height output_width channels"]:
    """Mean over windows that divide the image into `output_size` parts, as PyTorch's `AdaptiveAvgPool2d`.

    Output i of n is the mean of pixels floor(i H / n) to ceil((i + 1) H / n), the last not included; windows overlap
    where n does not divide H, and pixels are repeated where n is larger.

    Args:
        image: (batch, height, width, channels).
        output_size: (height, width) of the result, one number for both.

    Returns:
        (batch, output height, output width, channels), dtype of the image.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    batch, height, width, channels = image.shape
    if (height, width) == (rows, columns):
        return image
    result = image.astype(jnp.float32)
    if height % rows == 0 and width % columns == 0:  # windows that tile the image
        result = result.reshape(batch, rows, height // rows, columns, width // columns, channels).mean(axis=(2, 4))
    else:
        over_rows, over_columns = _averages(height, rows), _averages(width, columns)
        result = jnp.einsum("ih,bhwc->biwc", over_rows, result, precision=lax.Precision.HIGHEST)
        result = jnp.einsum("jw,biwc->bijc", over_columns, result, precision=lax.Precision.HIGHEST)
    return result.astype(image.dtype)


def _beyond(size: int, window: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Pixels that the last window of `ceil_mode` reaches beyond the padding."""
    if not ceil_mode:
        return 0
    last = math.ceil((size + 2 * padding - window) / stride)  # number of the last window, from 0
    if last * stride >= size + padding:  # it would start in the far padding: PyTorch leaves it out
        last -= 1
    return max(last * stride + window - (size + 2 * padding), 0)


def _first_maximum(first: Array, second: Array) -> Array:
    """The larger of two, the first where they are equal, NaN where one of them is NaN."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)


def _pixels_inside(size: int, window: int, stride: int, padding: int) -> np.ndarray:
    """(outputs,) number of pixels of each window along one axis that are not padding."""
    start = np.arange((size + 2 * padding - window) // stride + 1) * stride - padding
    return (np.minimum(start + window, size) - np.maximum(start, 0)).astype(np.float32)


def _averages(size: int, outputs: int) -> np.ndarray:
    """(outputs, size): the mean over each adaptive window along one axis, as a matrix."""
    index, pixel = np.arange(outputs)[:, None], np.arange(size)
    inside = (pixel >= index * size // outputs) & (pixel < -(-(index + 1) * size // outputs))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
