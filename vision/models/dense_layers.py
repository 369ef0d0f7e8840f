"""The dense layers that end AlexNet, OverFeat and VGG: on one map, or at every place of a larger one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.ops.convolution import convolve
from vision.ops.pooling import adaptive_average_pool


class WindowDense(nn.Module):
    """A dense layer on every window of a map, by one convolution (Sermanet et al. 2014, arXiv:1312.6229, section 3.5).

    The parameters are those of a dense layer on one flattened window, whatever the size of the map.

    Attributes:
        features: number of units.
        window: (height, width) of the windows.
        dtype: dtype of the product.
        kernel_init: initialiser of `kernel` (window height * window width * channels, features).
        bias_init: initialiser of `bias` (features,).
    """

    features: int
    window: tuple[int, int]
    dtype: str = "float32"
    kernel_init: layers.Initializer = layers.he_normal
    bias_init: layers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h - window height + 1, w - window width + 1, features)."""
        rows, columns, channels = *self.window, x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (rows * columns * channels, self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if x.shape[1:3] == self.window:
            return (x.reshape(len(x), -1) @ kernel + bias)[:, None, None]
        return convolve(x, kernel.reshape(rows, columns, channels, self.features), padding="VALID") + bias


def classify(
    x: jax.Array,
    num_classes: int | None,
    hidden: tuple[int, ...],
    window: int,
    train: bool,
    dropout: float,
    fully_convolutional: bool,
    dtype: str,
    kernel_init: layers.Initializer = layers.he_normal,
    bias_init: layers.Initializer = nn.initializers.zeros,
    head_init: layers.Initializer = nn.initializers.lecun_normal(),
) -> dict[str, jax.Array]:
    """Dense layers `dense_1`, ..., each with ReLU and dropout, and the classifier `head`, on the last map of a network.

    To be called inside a compact method; the layers belong to the calling module.

    Args:
        x: the last map (B, h, w, C).
        num_classes: number of classes; None or 0 for no classifier.
        hidden: units of the hidden dense layers; () for a classifier on the average over the map.
        window: side of the map that the first dense layer reads. Other maps are averaged to it (as torchvision's), or
            are read at every place.
        train: whether units are dropped.
        dropout: chance of a hidden unit to be zeroed while training.
        fully_convolutional: whether to apply the layers to every window of the map.
        dtype: dtype of the hidden layers; the logits are float32.
        kernel_init: initialiser of the hidden layers' kernels.
        bias_init: initialiser of the hidden layers' biases.
        head_init: initialiser of the classifier's kernel.

    Returns:
        pooled (B, units of the last hidden layer) and logits (B, num_classes), means over all places; if fully
        convolutional also score_map (B, h - window + 1, w - window + 1, num_classes), the logits of each place.
    """
    if hidden and not fully_convolutional:
        x = adaptive_average_pool(x, window)
    for number, units in enumerate(hidden, start=1):
        arguments: dict[str, Any] = dict(dtype=dtype, kernel_init=kernel_init, bias_init=bias_init)
        arguments["name"] = f"dense_{number}"
        dense = WindowDense(units, (window, window), **arguments) if number == 1 else nn.Dense(units, **arguments)
        x = nn.Dropout(dropout)(jax.nn.relu(dense(x)), deterministic=not train)
    outputs = {"pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32)}
    if not fully_convolutional:
        return {**outputs, **layers.classifier(outputs["pooled"], num_classes, head_init)}
    for scores in layers.classifier(x, num_classes, head_init).values():
        outputs |= {"score_map": scores, "logits": jnp.mean(scores, axis=(1, 2))}
    return outputs


def check_image(network: str, image_size: tuple[int, int], smallest: int) -> None:
    """Raises UsageError where an image (height, width) is smaller than a network's smallest square image."""
    if min(image_size) >= smallest:
        return
    height, width = (max(side, smallest) for side in image_size)
    raise UsageError(
        f"{network}: an image of {image_size[0]}x{image_size[1]} leaves nothing for its last layers; both sides need "
        f"at least {smallest} pixels. Resize it to {height}x{width}, the nearest size that works."
    )
