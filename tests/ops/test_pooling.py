"""Poolings against their definitions: gradients, ties and NaN, windows beyond the edge, padding, uneven windows."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops.pooling import adaptive_average_pool, average_pool, max_pool


def pool_by_definition(image, window, stride, padding):
    """Maxima, and how often each pixel is the first maximum of a window (the gradient of their sum)."""
    batch, height, width, channels = image.shape
    padded = np.full((batch, height + 2 * padding, width + 2 * padding, channels), -np.inf, np.float32)
    padded[:, padding : padding + height, padding : padding + width] = image
    rows, columns = ((side + 2 * padding - window) // stride + 1 for side in (height, width))
    result, gradient = np.zeros((batch, rows, columns, channels), np.float32), np.zeros_like(padded)
    for b, row, column, c in np.ndindex(result.shape):
        view = padded[b, row * stride : row * stride + window, column * stride : column * stride + window, c]
        i, j = np.unravel_index(np.argmax(view), view.shape)  # the first in row-major order
        result[b, row, column, c] = view[i, j]
        gradient[b, row * stride + i, column * stride + j, c] += 1
    return result, gradient[:, padding : padding + height, padding : padding + width]


@hypothesis.given(st.integers(3, 8), st.integers(3, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1))
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
def test_equals_definition(height, width, window, stride, padding):
    hypothesis.assume(2 * padding <= window)
    random = np.random.default_rng(0)
    image = random.integers(0, 3, (2, height, width, 3)).astype(np.float32)  # few values: many ties

    @jax.jit
    def pooled(image):
        result, pull_back = jax.vjp(lambda image: max_pool(image, window, stride, padding), image)
        return result, pull_back(jnp.ones_like(result))[0]

    result, slope = pooled(image)
    expected, gradient = pool_by_definition(image, window, stride, padding)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(slope, gradient)


def test_nan_is_not_lost():
    image = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert np.isnan(max_pool(image, 3, 1)).all()


def random_image(height, width):
    return np.random.default_rng(height * 31 + width).standard_normal((2, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "size, window, stride, padding, outputs",
    [
        (112, 3, 2, 0, 56),  # GoogLeNet: 55 without the last window
        (14, 3, 2, 0, 7),
        (7, 3, 2, 0, 3),  # fits exactly
        (5, 2, 2, 1, 3),  # 4 windows would fit, but the last one would start in the far padding
        (6, 3, 3, 1, 3),
        (6, 2, 3, 0, 2),
        (7, 1, 3, 0, 3),
    ],
)
def test_ceil_mode(size, window, stride, padding, outputs):
    image = random_image(size, size + stride)
    result, pull_back = jax.vjp(lambda x: max_pool(x, window, stride, padding, ceil_mode=True), jnp.asarray(image))
    assert result.shape == (2, outputs, outputs + 1, 3)
    for row, column in np.ndindex(outputs, outputs + 1):
        top, left = row * stride - padding, column * stride - padding
        view = image[:, max(top, 0) : top + window, max(left, 0) : left + window]
        np.testing.assert_array_equal(result[:, row, column], view.max(axis=(1, 2)))
    assert float(pull_back(jnp.ones_like(result))[0].sum()) == result.size


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("window, stride, padding", [(3, 1, 1), (2, 2, 0), (5, 3, 2), (3, 2, 1)])
def test_average_pool(window, stride, padding, count_include_pad):
    image = random_image(8, 11)
    result = average_pool(jnp.asarray(image), window, stride, padding, count_include_pad)
    assert result.shape[1:3] == tuple((size + 2 * padding - window) // stride + 1 for size in (8, 11))
    for row, column in np.ndindex(result.shape[1:3]):
        top, left = row * stride - padding, column * stride - padding
        view = image[:, max(top, 0) : top + window, max(left, 0) : left + window]
        pixels = window**2 if count_include_pad else view.shape[1] * view.shape[2]
        np.testing.assert_allclose(result[:, row, column], view.sum(axis=(1, 2)) / pixels, rtol=1e-5, atol=1e-6)


@hypothesis.given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 8), st.integers(1, 8))
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.example(14, 14, 7, 7)
@hypothesis.example(13, 3, 6, 6)
def test_adaptive_average_pool(height, width, rows, columns):
    image = random_image(height, width)
    result = np.asarray(jax.jit(lambda image: adaptive_average_pool(image, (rows, columns)))(image))
    assert result.shape == (2, rows, columns, 3)
    for row, column in np.ndindex(rows, columns):
        top, bottom = row * height // rows, -((row + 1) * height // -rows)
        left, right = column * width // columns, -((column + 1) * width // -columns)
        expected = image[:, top:bottom, left:right].mean(axis=(1, 2))
        np.testing.assert_allclose(result[:, row, column], expected, rtol=1e-5, atol=1e-6)


def test_means_of_many_bfloat16_values_are_summed_in_float32():
    image = jnp.full((1, 32, 32, 1), 1.0078125, jnp.bfloat16)  # 1 + 2 ** -7: sums of a thousand lose it in bfloat16
    for result in (average_pool(image, 32, 32), adaptive_average_pool(image, 1), adaptive_average_pool(image, 3)):
        assert result.dtype == jnp.bfloat16 and np.all(np.asarray(result, np.float32) == 1.0078125)
