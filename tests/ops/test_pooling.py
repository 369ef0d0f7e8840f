"""Max pooling and its gradient against the definition, ties and NaN included."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from vision.ops.pooling import max_pool


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
    result, pull_back = jax.vjp(lambda image: max_pool(image, window, stride, padding), jnp.asarray(image))
    expected, gradient = pool_by_definition(image, window, stride, padding)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(pull_back(jnp.ones_like(result))[0], gradient)


def test_nan_is_not_lost():
    image = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert np.isnan(max_pool(image, 3, 1)).all()
