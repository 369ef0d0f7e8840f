"""Densely connected networks (Huang et al. 2017, arXiv:1608.06993) with bottlenecks and compression: DenseNet-BC."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers
from vision.models.dense_layers import check_image
from vision.ops.pooling import average_pool, max_pool


class NormReluConv(nn.Module):
    """Norm, ReLU and convolution of maps laid one behind the other: a composite function (section 3).

    Attributes:
        width: channels of the result.
        kernel: side of the kernel.
        conv: factory of the convolution, given (features, kernel size, strides, padding, name).
        norm: factory of the norm, given (use_running_average, name).
    """

    width: int
    kernel: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """maps, each (B, H, W, any channels) -> (B, H, W, width)."""
        x = self.norm(use_running_average=not train, name="norm")(jnp.concatenate(maps, axis=-1))
        return self.conv(self.width, (self.kernel,) * 2, 1, self.kernel // 2, name="conv")(nn.relu(x))


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolution of all earlier maps of a block (section 3, "Bottleneck layers").

    Attributes:
        growth: channels of the result; the 1x1 convolution has four times as many.
        dropout: chance of a value of the result to be zeroed while training.
        remat: compute concatenation, norm and 1x1 convolution again in the backward pass.
        conv: factory of the convolutions.
        norm: factory of the norms.
    """

    growth: int
    dropout: float
    remat: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """maps, each (B, H, W, any channels) -> (B, H, W, growth)."""
        # Only what reads all earlier maps is computed again: it is what makes memory grow with the square of the depth
        # (Pleiss et al. 2017, arXiv:1707.06990); the 3x3 convolution, most of the work, runs once.
        bottleneck = nn.remat(NormReluConv, static_argnums=(2,)) if self.remat else NormReluConv  # `train`, with self
        y = bottleneck(4 * self.growth, 1, self.conv, self.norm, name="bottleneck")(maps, train)
        y = NormReluConv(self.growth, 3, self.conv, self.norm, name="growth")((y,), train)
        return nn.Dropout(self.dropout)(y, deterministic=not train)


class DenseBlock(nn.Module):
    """Layers that each read the block's input and the results of all layers before (equation 2).

    Attributes:
        size: number of layers.
        layer: factory of the layers, given (name).
    """

    size: int
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) -> (B, H, W, C + size * growth)."""
        maps = (x,)
        for index in range(self.size):
            maps = (*maps, self.layer(name=f"layer_{index + 1}")(maps, train))
        return jnp.concatenate(maps, axis=-1)


class DenseNet(nn.Module):
    """DenseNet-BC of any depth and growth; padding as PyTorch's, so that weights of torchvision's networks can be used.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        block_sizes: number of layers of each block.
        growth: channels that each layer adds ("growth rate" k).
        width: channels of the stem; None for twice the growth.
        compression: share of the channels that is left between two blocks (theta in section 3).
        small_images: 3x3 stem of stride 1 without pooling, for images of about 32 pixels; features then have strides
            1, 2, 4, ... instead of 4, 8, 16, ....
        dropout: chance of a value to be zeroed while training, after each layer; the paper's is 0.2 where data are not
            augmented.
        remat: compute each layer's concatenation, norm and 1x1 convolution again in the backward pass instead of
            keeping them: memory then grows linearly with depth.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    block_sizes: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int | None = None
    compression: float = 0.5
    small_images: bool = False
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, last width), logits (B, num_classes).

        A block's features are its concatenated maps before any norm; the last block's are normalised and rectified.
        """
        last_stride = 2 ** (len(self.block_sizes) - 1)
        check_image("densenet", image.shape[1:3], last_stride if self.small_images else 4 * last_stride - 3)
        conv = functools.partial(self.conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal)
        norm = functools.partial(self.norm, dtype=self.dtype)
        layer = functools.partial(DenseLayer, self.growth, self.dropout, self.remat, conv, norm)

        x = image.astype(self.dtype)
        width = self.width or 2 * self.growth
        if self.small_images:
            x, stride = conv(width, (3, 3), 1, 1, name="stem_conv")(x), 1  # the first layer's norm follows
        else:
            x = conv(width, (7, 7), 2, 3, name="stem_conv")(x)
            x = nn.relu(norm(use_running_average=not train, name="stem_norm")(x))
            x, stride = max_pool(x, window=3, stride=2, padding=1), 4
        features = {}
        for number, size in enumerate(self.block_sizes, start=1):
            if number > 1:
                width = int(x.shape[-1] * self.compression)
                x = NormReluConv(width, 1, conv, norm, name=f"transition_{number - 1}")((x,), train)
                x, stride = average_pool(x, window=2, stride=2), 2 * stride
            x = DenseBlock(size, layer, name=f"block_{number}")(x, train)
            features[stride] = x
        x = features[stride] = nn.relu(norm(use_running_average=not train, name="norm")(x))

        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return {"features": features, "pooled": pooled, **layers.classifier(pooled, self.num_classes)}


# Table 1 of the paper; 161 is from the networks that its authors published.
VARIANTS: dict[str, Callable[..., DenseNet]] = {
    "densenet": DenseNet,
    "densenet121": functools.partial(DenseNet, block_sizes=(6, 12, 24, 16)),
    "densenet161": functools.partial(DenseNet, block_sizes=(6, 12, 36, 24), growth=48),
    "densenet169": functools.partial(DenseNet, block_sizes=(6, 12, 32, 32)),
    "densenet201": functools.partial(DenseNet, block_sizes=(6, 12, 48, 32)),
}
