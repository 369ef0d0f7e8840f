"""Autoencoders: dense (Hinton and Salakhutdinov 2006) and convolutional, as in denoising (Vincent et al. 2010).

The encoder of each is a classification network without its classifier, the submodule `encoder`: what it has learned
loads into that network as it is.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.models.mlp import MLP
from vision.models.resnet import ResNet


class Autoencoder(nn.Module):
    """Squeezes an image into a short code and rebuilds it; the encoder is `mlp`.

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
        network = functools.partial(MLP, None, activation=self.activation, dtype=self.dtype)
        x = network(hidden=self.hidden, name="encoder")(image, train)["pooled"]
        code = nn.Dense(self.latent, dtype=jnp.float32, name="code")(x)
        x = network(hidden=self.hidden[::-1], name="decoder")(code, train)["pooled"]
        pixels = nn.Dense(math.prod(image.shape[1:]), dtype=jnp.float32, name="pixels")(x).reshape(image.shape)
        return {"reconstruction": jax.nn.sigmoid(pixels), "reconstruction_logits": pixels, "code": code}


class Upsample(nn.Module):
    """Doubles height and width and brings the channels to `features`, in one of three ways.

    A transposed convolution whose kernel its stride does not divide writes more often into some pixels than into
    others, which leaves a checkerboard; hence a kernel of 4, or a resized map under a convolution (Odena et al. 2016,
    "Deconvolution and checkerboard artifacts").

    Attributes:
        features: channels of the result.
        method: "nearest" or "bilinear" resizing and a 3x3 convolution, or "transposed": a 4x4 transposed convolution.
        conv: factory of the convolution, given (features, kernel size, strides, padding, name).
        dtype: dtype of the computation.
    """

    features: int
    method: Literal["nearest", "bilinear", "transposed"]
    conv: Callable[..., nn.Module]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, 2 H, 2 W, features)."""
        if self.method == "transposed":
            options = dict(use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal, name="conv")
            return nn.ConvTranspose(self.features, (4, 4), (2, 2), "SAME", **options)(x)
        batch, height, width, channels = x.shape
        x = jax.image.resize(x, (batch, 2 * height, 2 * width, channels), self.method)
        return self.conv(self.features, (3, 3), 1, 1, name="conv")(x)


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to a code that is a small map, and convolutions with upsampling back up.

    The encoder is `resnet` with these fields; the decoder doubles its last map's sides as often as it halved them,
    through the same widths.

    Attributes:
        latent: channels of the code, at each place of the encoder's last map.
        stage_sizes: number of blocks of each stage of the encoder; a stage after the first halves the sides.
        block: the encoder's, "basic" or "bottleneck".
        width: channels of the encoder's stem; doubles from stage to stage.
        shortcut: the encoder's, "projection", "padding" or "none"; with "none" it is a plain stack of convolutions.
        small_images: a stem of stride 1, for images of about 32 pixels; else the stem divides the sides by 4.
        upsampling: how the decoder doubles the sides: "nearest" or "bilinear" resizing before a convolution, or a
            "transposed" convolution.
        activation: name in `ACTIVATIONS`; the code is linear.
        remat: compute the encoder's blocks again in the backward pass instead of keeping their intermediate results.
        dtype: dtype of the convolutions; norms, code and reconstruction are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    latent: int = 16
    stage_sizes: tuple[int, ...] = (1, 1, 1)
    block: Literal["basic", "bottleneck"] = "basic"
    width: int = 16
    shortcut: Literal["projection", "padding", "none"] = "projection"
    small_images: bool = True
    upsampling: Literal["nearest", "bilinear", "transposed"] = "nearest"
    activation: str = "relu"
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> reconstruction (B, H, W, C) in [0, 1], code (B, h, w, latent), features by stride,
        reconstruction_logits.

        Raises:
            UsageError: the sides are not divisible by the encoder's stride.
        """
        doublings = len(self.stage_sizes) - 1 + (0 if self.small_images else 2)
        _check_sides(image.shape[1:3], 2**doublings)
        same = ("stage_sizes", "block", "width", "shortcut", "small_images", "activation", "remat", "dtype")
        fields = {name: getattr(self, name) for name in (*same, "conv", "norm")}
        features = ResNet(None, **fields, name="encoder")(image, train)["features"]
        code = self.conv(self.latent, (1, 1), 1, 0, dtype=jnp.float32, name="code")(features[max(features)])

        conv = functools.partial(self.conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal)
        x, activate = code.astype(self.dtype), layers.activation(self.activation)
        for number in range(1, doublings + 1):
            width = self.width * 2 ** max(0, len(self.stage_sizes) - 1 - number)
            x = Upsample(width, self.upsampling, conv, self.dtype, name=f"upsample_{number}")(x)
            norm = self.norm(use_running_average=not train, dtype=self.dtype, name=f"norm_{number}")
            x = activate(norm(x))
        pixels = self.conv(image.shape[-1], (3, 3), 1, 1, dtype=jnp.float32, name="pixels")(x)
        outputs = {"reconstruction": jax.nn.sigmoid(pixels), "reconstruction_logits": pixels}
        return {**outputs, "code": code, "features": features}


def _check_sides(image_size: tuple[int, int], stride: int) -> None:
    """Raises UsageError unless the stride divides both sides (height, width): only then the way back is as long."""
    if any(side < 1 or side % stride for side in image_size):
        height, width = image_size
        raise UsageError(
            f"conv_autoencoder: the encoder divides sides by {stride}, which an image of {height}x{width} does not "
            f"allow; resize it to {layers.nearest_sizes(image_size, stride)}, or take fewer stages."
        )


VARIANTS: dict[str, Callable[..., nn.Module]] = {"autoencoder": Autoencoder, "conv_autoencoder": ConvAutoencoder}
