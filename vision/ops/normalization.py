"""Normalisation of a map by its own values."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def local_response_norm(
    image: Float[Array, "*batch channels"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Float[Array, "*batch channels"]:
    """Local response normalisation (Krizhevsky et al. 2012, section 3.3), computed in float32.

    Each value is divided by (k + alpha * sum of squares over `size` neighbouring channels) ** beta; channels beyond the
    first and last count as zero. Caffe and PyTorch divide the sum by `size` first: their alpha is `size` times the one
    here.

    Args:
        image: (..., channels).
        size: number of neighbouring channels, the value's own included; an even number has one more below than above.
        alpha: weight of the sum of squares.
        beta: exponent.
        k: the constant added to the sum.

    Returns:
        The same shape and dtype.
    """
    values = image.astype(jnp.float32)
    channels = values.shape[-1]
    none = [(0, 0)] * (values.ndim - 1)
    squares = jnp.pad(jnp.square(values), [*none, (size // 2, (size - 1) // 2)])
    total = sum(lax.slice_in_dim(squares, i, i + channels, axis=-1) for i in range(size))
    return (values * (k + alpha * total) ** -beta).astype(image.dtype)
