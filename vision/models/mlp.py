"""Networks of dense layers: the linear classifier and the multilayer perceptron."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vision.models import layers


class Linear(nn.Module):
    """Multinomial logistic regression on the pixels.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        dtype: dtype of the features; the logits are float32.
    """

    num_classes: int | None = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> pooled (B, H * W * C), logits (B, num_classes)."""
        del train
        pixels = image.reshape(len(image), -1).astype(self.dtype)
        return {"pooled": pixels, **layers.classifier(pixels, self.num_classes)}


class MLP(nn.Module):
    """Multilayer perceptron on the pixels, of any depth.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        hidden: number of units of each hidden layer.
        activation: name in `ACTIVATIONS`. After crelu a layer has twice, after maxout half the units named in `hidden`.
        dropout: chance of a hidden unit to be zeroed while training.
        batch_norm: whether to normalise each hidden layer before its activation.
        dtype: dtype of the hidden layers; norms and logits are float32.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 10
    hidden: tuple[int, ...] = (512, 512)
    activation: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    dtype: str = "float32"
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> pooled (B, last hidden), logits (B, num_classes)."""
        activate, kernel_init = layers.activation(self.activation), layers.initializer_for(self.activation)
        x = image.reshape(len(image), -1).astype(self.dtype)
        for number, units in enumerate(self.hidden, start=1):
            bias = not self.batch_norm
            x = nn.Dense(units, bias, self.dtype, kernel_init=kernel_init, name=f"dense_{number}")(x)
            if self.batch_norm:
                x = self.norm(use_running_average=not train, dtype=self.dtype, name=f"norm_{number}")(x)
            x = activate(x)
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return {"pooled": x, **layers.classifier(x, self.num_classes)}
