"""Residual networks (He et al. 2016, arXiv:1512.03385) with the stride in the 3x3 convolution ("v1.5")."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers
from vision.ops.pooling import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left).

    Attributes:
        width: channels of the convolutions and of the result.
        stride: stride of the first convolution and of the shortcut.
        conv: factory of the convolutions, given (features, kernel size, strides, padding, name).
        norm: factory of the norms, given (name) and for the last of the branch its `scale_init`.
        activate: the activation.
        last_scale_init: initialiser of the last norm's scale.
        drop_path: chance of the branch to be dropped while training.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]
    last_scale_init: layers.Initializer
    drop_path: float
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(self.norm, use_running_average=not train)
        y = self.conv(self.width, (3, 3), self.stride, 1, name="conv_1")(x)
        y = self.activate(norm(name="norm_1")(y))
        y = self.conv(self.width, (3, 3), 1, 1, name="conv_2")(y)
        y = norm(name="norm_2", scale_init=self.last_scale_init)(y)
        return self.activate(_shortcut(self, x, y.shape, norm) + layers.DropPath(self.drop_path)(y, train))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut (figure 5, right); the attributes are those of `BasicBlock`."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]
    last_scale_init: layers.Initializer
    drop_path: float
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(self.norm, use_running_average=not train)
        y = self.conv(self.width, (1, 1), 1, 0, name="conv_1")(x)
        y = self.activate(norm(name="norm_1")(y))
        y = self.conv(self.width, (3, 3), self.stride, 1, name="conv_2")(y)
        y = self.activate(norm(name="norm_2")(y))
        y = self.conv(self.width * self.expansion, (1, 1), 1, 0, name="conv_3")(y)
        y = norm(name="norm_3", scale_init=self.last_scale_init)(y)
        return self.activate(_shortcut(self, x, y.shape, norm) + layers.DropPath(self.drop_path)(y, train))


def _shortcut(block: nn.Module, x: jax.Array, shape: tuple[int, ...], norm: Callable[..., nn.Module]) -> jax.Array:
    """The identity, or a 1x1 projection where the block changes the shape (section 3.3, option B)."""
    if x.shape == shape:
        return x
    x = block.conv(shape[-1], (1, 1), block.stride, 0, name="shortcut_conv")(x)
    return norm(name="shortcut_norm")(x)


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class Stem(nn.Module):
    """The first layers: 7x7 convolution and max pooling to stride 4, or one 3x3 convolution for small images."""

    width: int
    small_images: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel, stride, padding = ((3, 3), 1, 1) if self.small_images else ((7, 7), 2, 3)
        x = self.conv(self.width, kernel, stride, padding, name="conv")(x)
        x = self.activate(self.norm(name="norm", use_running_average=not train)(x))
        return x if self.small_images else max_pool(x, window=3, stride=2, padding=1)


class Stage(nn.Module):
    """Blocks of one width; the first one brings the stride."""

    drop_path: tuple[float, ...]
    stride: int
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index, rate in enumerate(self.drop_path):
            stride = self.stride if index == 0 else 1
            x = self.block(stride=stride, drop_path=rate, name=f"block_{index + 1}")(x, train)
        return x


class ResNet(nn.Module):
    """Residual network of any depth and width.

    Padding is explicit, as PyTorch's, so that weights of torchvision's networks can be used.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        stage_sizes: number of blocks of each stage.
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        width: channels of the stem and of the first stage's 3x3 convolutions; doubles from stage to stage.
        small_images: 3x3 stem of stride 1 without pooling, for images of about 32 pixels; features then have strides
            1, 2, 4, 8 instead of 4, 8, 16, 32.
        activation: name in `ACTIVATIONS`.
        zero_init_residual: start the last norm of each branch at zero, so that each block starts as its shortcut
            (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        drop_path: stochastic depth, the chance of the last block to be dropped; grows linearly with depth.
        dropout: chance of a pooled feature to be zeroed while training.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: Literal["basic", "bottleneck"] = "basic"
    width: int = 64
    small_images: bool = False
    activation: str = "relu"
    zero_init_residual: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, last width), logits (B, num_classes)."""
        # He et al. 2015, as in torchvision: fan out keeps the scale of the gradients.
        conv = functools.partial(self.conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal_fan_out)
        norm = functools.partial(self.norm, dtype=self.dtype)
        activate = layers.activation(self.activation)
        x = Stem(self.width, self.small_images, conv, norm, activate, name="stem")(image.astype(self.dtype), train)

        block = BLOCKS[self.block]
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))  # `train`, counted with self
        last_scale_init = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        block = functools.partial(block, conv=conv, norm=norm, activate=activate, last_scale_init=last_scale_init)
        rates = iter(layers.drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        stride, features = 1 if self.small_images else 4, {}
        for index, size in enumerate(self.stage_sizes):
            stage_rates = tuple(next(rates) for _ in range(size))
            stage_stride = 1 if index == 0 else 2
            stage_block = functools.partial(block, width=self.width * 2**index)
            x = Stage(stage_rates, stage_stride, stage_block, name=f"stage_{index + 1}")(x, train)
            stride *= stage_stride
            features[stride] = x

        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        dropped = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        return {"features": features, "pooled": pooled, **layers.classifier(dropped, self.num_classes)}


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block="basic")
resnet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block="basic")
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block="bottleneck")
resnet101 = functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), block="bottleneck")
resnet152 = functools.partial(ResNet, stage_sizes=(3, 8, 36, 3), block="bottleneck")
