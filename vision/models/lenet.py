"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), as it is built today."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers

_SMALLEST = 16  # (16 - 4) / 2 = 6, (6 - 4) / 2 = 1: the least that both convolutions and poolings leave a pixel of


class LeNet(nn.Module):
    """LeNet-5 with a full C3, plain average pooling and a linear classifier: 61,706 parameters on 32x32x1, 10 classes.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        activation: name in `ACTIVATIONS`; the paper's is a scaled tanh.
        field: images smaller than this many pixels on a side are centred in zeros, as the paper centres its digits in
            a field of 32 (section II-B); at least 16.
        dropout: chance of a unit of the dense layers to be zeroed while training.
        dtype: dtype of the hidden layers; the logits are float32.
        conv: factory of the convolutions.
    """

    num_classes: int | None = 10
    activation: str = "tanh"
    field: int = 32
    dropout: float = 0.0
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features {2, 4}, pooled (B, 84), logits (B, num_classes)."""
        if self.field < _SMALLEST:
            raise UsageError(f"lenet: field {self.field} is too small for two 5x5 convolutions; at least {_SMALLEST}.")
        activate, kernel_init = layers.activation(self.activation), layers.initializer_for(self.activation)
        x = _centre(image, self.field).astype(self.dtype)
        features = {}
        for number, channels in enumerate((6, 16), start=1):  # C1 and S2, C3 and S4 in the paper
            name = f"conv_{number}"
            x = self.conv(channels, (5, 5), padding="VALID", dtype=self.dtype, kernel_init=kernel_init, name=name)(x)
            x = nn.avg_pool(activate(x), (2, 2), strides=(2, 2))
            features[2**number] = x
        x = x.reshape(len(x), -1)
        for number, units in enumerate((120, 84), start=1):  # C5 and F6
            x = nn.Dense(units, dtype=self.dtype, kernel_init=kernel_init, name=f"dense_{number}")(x)
            x = nn.Dropout(self.dropout)(activate(x), deterministic=not train)
        return {"features": features, "pooled": x, **layers.classifier(x, self.num_classes)}


def _centre(image: jax.Array, side: int) -> jax.Array:
    """The image with zeros around it up to `side` pixels in height and width; larger images stay as they are."""
    missing = [max(side - size, 0) for size in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))
