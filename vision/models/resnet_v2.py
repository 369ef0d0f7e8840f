"""Pre-activation residual networks (He et al. 2016, arXiv:1603.05027) with weight standardisation and group norm, as in
Big Transfer (BiT; Kolesnikov et al. 2020, arXiv:1912.11370)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers
from vision.models.resnet import BottleneckBlock, Stage
from vision.ops.convolution import Padding, convolve, explicit_padding
from vision.ops.pooling import max_pool


class StandardizedConv(nn.Module):
    """Convolution whose kernel is standardised per output channel (Qiao et al. 2019, arXiv:1903.10520).

    Attributes:
        features: number of output channels.
        kernel_size: (height, width) of the kernel.
        strides: step between outputs.
        padding: as in `layers.Conv`.
        kernel_dilation: step between the kernel's taps.
        feature_group_count: number of independent groups of channels.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; the kernel is standardised in float32.
        kernel_init: initialiser of `kernel`; its scale makes no difference.
        epsilon: added to the kernel's variance. timm's; small enough to match BiT's own 1e-10 too.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    kernel_dilation: int = 1
    feature_group_count: int = 1
    use_bias: bool = False
    dtype: layers.Dtype | None = None
    kernel_init: layers.Initializer = layers.he_normal_fan_out
    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, output height, output width, features)."""
        shape = (*self.kernel_size, image.shape[-1] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2))
        kernel = kernel * jax.lax.rsqrt(jnp.mean(kernel**2, axis=(0, 1, 2)) + self.epsilon)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        image, kernel, bias = nn.dtypes.promote_dtype(image, kernel, bias, dtype=self.dtype)
        groups = self.feature_group_count
        result = convolve(image, kernel, self.strides, self.padding, self.kernel_dilation, groups)
        return result if bias is None else result + bias


# In 32 groups whatever the width, of two channels in the narrowest maps.
group_norm = functools.partial(layers.GroupNorm, least=1)


class PreactivationBlock(nn.Module):
    """Norm and activation before each convolution, nothing after the sum (arXiv:1603.05027, figure 4e).

    Attributes:
        kernels: side of each convolution's kernel; one of them takes the stride, the first of 3x3.
        widths: channels of each convolution.
        stride: stride of the block.
        conv: factory of the convolutions, given (features, kernel size, strides, padding, name).
        norm: factory of the norms, given (name).
        activate: the activation.
        drop_path: chance of the branch to be dropped while training.
    """

    kernels: tuple[int, ...]
    widths: tuple[int, ...]
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(self.norm, use_running_average=not train)
        y = first = self.activate(norm(name="norm_1")(x))
        for index, (kernel, width) in enumerate(zip(self.kernels, self.widths, strict=True)):
            if index > 0:
                y = self.activate(norm(name=f"norm_{index + 1}")(y))
            stride = self.stride if index == self.kernels.index(3) else 1
            y = self.conv(width, (kernel, kernel), stride, kernel // 2, name=f"conv_{index + 1}")(y)
        if x.shape != y.shape:  # the projection reads the activated input, and has no norm
            x = self.conv(y.shape[-1], (1, 1), self.stride, 0, name="shortcut_conv")(first)
        return x + layers.DropPath(self.drop_path)(y, train)


class ResNetV2(nn.Module):
    """Pre-activation residual network; BiT's by default.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        stage_sizes: number of blocks of each stage.
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        width: channels of the first stage's 3x3 convolutions; doubles from stage to stage. A bottleneck gives four
            times as many.
        stem_width: channels of the stem where they are not `width`.
        small_images: 3x3 stem of stride 1 without pooling, for images of about 32 pixels; features then have strides
            1, 2, 4, 8 instead of 4, 8, 16, 32.
        activation: name in `ACTIVATIONS`.
        drop_path: stochastic depth, the chance of the last block to be dropped; grows linearly with depth.
        dropout: chance of a pooled feature to be zeroed while training.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    width: int = 64
    stem_width: int | None = None
    small_images: bool = False
    activation: str = "relu"
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = StandardizedConv
    norm: Callable[..., nn.Module] = group_norm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, last width), logits (B, num_classes).

        The last features are normalised and activated; those of earlier stages are sums, as the next block reads them.
        """
        conv = functools.partial(self.conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal_fan_out)
        norm = functools.partial(self.norm, dtype=self.dtype)
        activate = layers.activation(self.activation)
        kernel, stride = (3, 1) if self.small_images else (7, 2)
        stem = conv(self.stem_width or self.width, (kernel, kernel), stride, kernel // 2, name="stem_conv")
        x = stem(image.astype(self.dtype))
        if not self.small_images:  # zeros take part in the maximum, as in BiT
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), window=3, stride=2)

        rates = iter(layers.drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        block = nn.remat(PreactivationBlock, static_argnums=(2,)) if self.remat else PreactivationBlock
        stride, features = 1 if self.small_images else 4, {}
        for index, size in enumerate(self.stage_sizes):
            width = self.width * 2**index
            kernels, widths = (
                ((3, 3), (width,) * 2) if self.block == "basic" else ((1, 3, 1), (width, width, 4 * width))
            )
            stage_block = functools.partial(block, kernels, widths, conv=conv, norm=norm, activate=activate)
            stage_rates = tuple(next(rates) for _ in range(size))
            stage_stride = 1 if index == 0 else 2
            x = Stage(stage_rates, stage_stride, stage_block, name=f"stage_{index + 1}")(x, train)
            stride *= stage_stride
            features[stride] = x

        x = activate(norm(name="norm", use_running_average=not train)(x))
        features[stride] = x
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        dropped = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        logits = layers.classifier(dropped, self.num_classes, nn.initializers.zeros)
        return {"features": features, "pooled": pooled, **logits}


class ResNetRoot(nn.Module):
    """The residual network before a hybrid's transformer: BiT's layers, but activated after them as in ResNet v1.5.

    Pads as TensorFlow does ("SAME"), so the map's side is the image's divided by the stride, rounded up.

    Attributes:
        stage_sizes: number of bottleneck blocks of each stage; none at all for the stem alone.
        width: channels of the stem and of the first stage's 3x3 convolutions; a multiple of 32.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions.
    """

    stage_sizes: tuple[int, ...]
    width: int
    remat: bool
    dtype: str

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> dict[int, jax.Array]:
        """image (B, H, W, C) -> features by stride: 4 and then twice as much with each stage after the first."""

        def conv(features, kernel, strides, padding, **arguments):
            del padding  # the blocks' own is PyTorch's
            return StandardizedConv(features, kernel, strides, "SAME", dtype=self.dtype, **arguments)

        norm = functools.partial(group_norm, dtype=self.dtype)
        x = conv(self.width, (7, 7), 2, None, name="stem_conv")(image)
        x = jax.nn.relu(norm(name="stem_norm")(x))
        padding = explicit_padding("SAME", x.shape[1:3], (3, 3), (2, 2))
        x = max_pool(jnp.pad(x, ((0, 0), *padding, (0, 0))), window=3, stride=2)  # no negative values: zeros never win
        stride, features = 4, {4: x}
        block = nn.remat(BottleneckBlock, static_argnums=(2,)) if self.remat else BottleneckBlock
        for index, size in enumerate(self.stage_sizes):
            width = self.width * 2**index
            stage_block = functools.partial(
                block, features=4 * width, width=width, conv=conv, norm=norm, activate=jax.nn.relu
            )
            stage_stride = 1 if index == 0 else 2
            x = Stage((0.0,) * size, stage_stride, stage_block, name=f"stage_{index + 1}")(x, train)
            stride *= stage_stride
            features[stride] = x
        return features


def root_stride(stage_sizes: tuple[int, ...]) -> int:
    """The stride of the last features of a `ResNetRoot`."""
    return 4 * 2 ** max(len(stage_sizes) - 1, 0)


# timm's names: depth, and the factor on the width of every layer.
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnetv2_50x1_bit": functools.partial(ResNetV2, stage_sizes=(3, 4, 6, 3)),
    "resnetv2_50x3_bit": functools.partial(ResNetV2, stage_sizes=(3, 4, 6, 3), width=192),
    "resnetv2_101x1_bit": functools.partial(ResNetV2, stage_sizes=(3, 4, 23, 3)),
    "resnetv2_101x3_bit": functools.partial(ResNetV2, stage_sizes=(3, 4, 23, 3), width=192),
    "resnetv2_152x2_bit": functools.partial(ResNetV2, stage_sizes=(3, 8, 36, 3), width=128),
    "resnetv2_152x4_bit": functools.partial(ResNetV2, stage_sizes=(3, 8, 36, 3), width=256),
}
