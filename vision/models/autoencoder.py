"""A small dense autoencoder (Hinton and Salakhutdinov 2006)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers


class Autoencoder(nn.Module):
    """Squeezes an image into a short code and rebuilds it.

    Attributes:
        hidden: number of units of each hidden layer of the encoder; the decoder mirrors them.
        latent: length of the code.
        activation: name in `ACTIVATIONS`, for the hidden layers; the code is linear.
        dtype: dtype of the hidden layers; code and reconstruction are float32.
    """

    hidden: tuple[int, ...] = (128,)
    latent: int = 16
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> reconstruction (B, H, W, C) in [0, 1], code (B, latent), reconstruction_logits."""
        del train
        activate, kernel_init = layers.activation(self.activation), layers.initializer_for(self.activation)

        def hidden_layers(x: jax.Array, sizes: tuple[int, ...], part: str) -> jax.Array:
            for number, units in enumerate(sizes, start=1):
                name = f"{part}_{number}"
                x = activate(nn.Dense(units, dtype=self.dtype, kernel_init=kernel_init, name=name)(x))
            return x

        x = hidden_layers(image.reshape(len(image), -1).astype(self.dtype), self.hidden, "encoder")
        code = nn.Dense(self.latent, dtype=jnp.float32, name="code")(x)
        x = hidden_layers(code, self.hidden[::-1], "decoder")
        pixels = nn.Dense(math.prod(image.shape[1:]), dtype=jnp.float32, name="pixels")(x).reshape(image.shape)
        return {"reconstruction": jax.nn.sigmoid(pixels), "reconstruction_logits": pixels, "code": code}
