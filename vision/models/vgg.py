"""VGG networks (Simonyan and Zisserman 2015, arXiv:1409.1556): stages of 3x3 convolutions, then dense layers."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vision.models import layers
from vision.models.dense_layers import check_image, classify
from vision.ops.normalization import local_response_norm
from vision.ops.pooling import max_pool


class Stage(nn.Module):
    """Convolutions of one width, each with its norm and ReLU.

    Attributes:
        width: channels of the convolutions.
        kernels: side of each convolution's kernel.
        conv: factory of the convolutions, given (features, kernel size, padding, name).
        norm: factory of the norms, given (name); None for none.
        local_response_norm: whether local response normalisation follows each ReLU.
    """

    width: int
    kernels: tuple[int, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None
    local_response_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, width)."""
        for number, kernel in enumerate(self.kernels, start=1):
            x = self.conv(self.width, (kernel, kernel), padding=kernel // 2, name=f"conv_{number}")(x)
            if self.norm is not None:
                x = self.norm(name=f"norm_{number}", use_running_average=not train)(x)
            x = jax.nn.relu(x)
            if self.local_response_norm:
                x = local_response_norm(x)
        return x


class VGG(nn.Module):
    """VGG of any configuration of the paper's table 1, with or without batch norm.

    An image of any size of 32 pixels and more: the last map is averaged to the 7x7 that the dense layers read, as in
    torchvision, or read at every place. Dropout follows the hidden dense layers' ReLU. With batch norm the convolutions
    keep their biases, as in torchvision.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        stage_sizes: number of convolutions of each stage; max pooling halves the map after each.
        pointwise: whether the third convolution of a stage has a 1x1 kernel (configuration C).
        local_response_norm: whether local response normalisation follows the first stage's convolutions (A-LRN).
        batch_norm: whether batch norm follows each convolution.
        width: channels of the first stage; doubles from stage to stage up to eight times.
        hidden: units of the hidden dense layers; () for a classifier on the average over the last map.
        window: side of the map that the dense layers read.
        fully_convolutional: apply the dense layers, with the same weights, to every window of the last map instead of
            averaging it to one window; the images then have at least `window` times 32 pixels on a side. The outputs
            gain a `score_map`, and the logits are its mean (section 3.2).
        dropout: chance of a hidden dense unit to be zeroed while training.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions and hidden dense layers; norms, pooled features and logits are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    pointwise: bool = False
    local_response_norm: bool = False
    batch_norm: bool = False
    width: int = 64
    hidden: tuple[int, ...] = (4096, 4096)
    window: int = 7
    fully_convolutional: bool = False
    dropout: float = 0.5
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, hidden), logits (B, num_classes), perhaps a score_map.

        `features` holds each stage's last convolution at strides 1, 2, 4, 8, 16 and the last pooling at 32.
        """
        least_map = self.window if self.fully_convolutional and self.hidden else 1
        check_image("vgg", image.shape[1:3], 2 ** len(self.stage_sizes) * least_map)
        stage = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage  # `train`, counted with self
        stage = functools.partial(
            stage,
            # He et al. 2015, as in torchvision; the paper's own way was to grow networks from a trained shallow one.
            conv=functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal_fan_out),
            norm=functools.partial(self.norm, dtype=self.dtype) if self.batch_norm else None,
        )
        x, features = image.astype(self.dtype), {}
        for index, size in enumerate(self.stage_sizes):
            kernels = tuple(1 if self.pointwise and number == 3 else 3 for number in range(1, size + 1))
            width, normalize = self.width * min(2**index, 8), self.local_response_norm and index == 0
            x = stage(width, kernels, local_response_norm=normalize, name=f"stage_{index + 1}")(x, train)
            features[2**index] = x
            x = max_pool(x, window=2, stride=2)
        features[2 ** len(self.stage_sizes)] = x
        return {
            "features": features,
            **classify(
                x,
                self.num_classes,
                self.hidden,
                self.window,
                train,
                self.dropout,
                self.fully_convolutional,
                self.dtype,
            ),
        }


# The columns of table 1: A, A-LRN, B, C, D and E.
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "vgg11": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2)),
    "vgg11_lrn": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2), local_response_norm=True),
    "vgg13": functools.partial(VGG, stage_sizes=(2, 2, 2, 2, 2)),
    "vgg16_1x1": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3), pointwise=True),
    "vgg16": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3)),
    "vgg19": functools.partial(VGG, stage_sizes=(2, 2, 4, 4, 4)),
    "vgg11_bn": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2), batch_norm=True),
    "vgg13_bn": functools.partial(VGG, stage_sizes=(2, 2, 2, 2, 2), batch_norm=True),
    "vgg16_1x1_bn": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3), pointwise=True, batch_norm=True),
    "vgg16_bn": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3), batch_norm=True),
    "vgg19_bn": functools.partial(VGG, stage_sizes=(2, 2, 4, 4, 4), batch_norm=True),
}
