"""Local response normalisation against the paper's formula, channel by channel."""

import jax.numpy as jnp
import numpy as np
import pytest

from vision.ops.normalization import local_response_norm


@pytest.mark.parametrize("size, channels", [(5, 9), (5, 3), (4, 7), (1, 4)])
def test_equals_the_formula(size, channels):
    image = 20 * np.random.default_rng(0).standard_normal((2, 3, 4, channels))
    result = local_response_norm(jnp.asarray(image, jnp.float32), size, alpha=2e-2, beta=0.75, k=2.0)
    for i in range(channels):
        neighbours = image[..., max(0, i - size // 2) : i + (size - 1) // 2 + 1]
        expected = image[..., i] / (2 + 2e-2 * (neighbours**2).sum(-1)) ** 0.75
        np.testing.assert_allclose(result[..., i], expected, rtol=1e-5)


def test_computes_in_float32():
    image = jnp.full((1, 1, 1, 8), 3.0, jnp.bfloat16)
    result = local_response_norm(image, k=1.0)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, local_response_norm(image.astype(jnp.float32), k=1.0).astype(jnp.bfloat16))
