"""Residual networks (He et al. 2016, arXiv:1512.03385), wide and grouped ones and their plain counterparts."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.ops.pooling import max_pool

Shortcut = Literal["projection", "padding", "none"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left).

    Attributes:
        features: channels of both convolutions and of the result.
        stride: stride of the first convolution and of the shortcut.
        conv: factory of the convolutions, given (features, kernel size, strides, padding, kernel_dilation, name).
        norm: factory of the norms, given (name) and for the last of the branch its `scale_init`.
        activate: the activation.
        last_scale_init: initialiser of the last norm's scale.
        drop_path: chance of the branch to be dropped while training.
        shortcut: what the branch is added to, see `ResNet`.
        dilations: step between the taps of a 3x3 kernel that has the stride, or would have it if it were not a dilation
            instead; and of one that comes after it.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]
    last_scale_init: layers.Initializer = nn.initializers.ones
    drop_path: float = 0.0
    shortcut: Shortcut = "projection"
    dilations: tuple[int, int] = (1, 1)
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(self.norm, use_running_average=not train)
        near, far = self.dilations
        y = self.conv(self.features, (3, 3), self.stride, near, kernel_dilation=near, name="conv_1")(x)
        y = self.activate(norm(name="norm_1")(y))
        y = self.conv(self.features, (3, 3), 1, far, kernel_dilation=far, name="conv_2")(y)
        y = norm(name="norm_2", scale_init=self.last_scale_init)(y)
        return self.activate(_add_shortcut(self, x, layers.DropPath(self.drop_path)(y, train), norm))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut (figure 5, right).

    Attributes:
        features: channels of the result.
        width: channels of the first two convolutions.
        stride: stride of the 3x3 convolution and of the shortcut.
        conv, norm, activate, last_scale_init, drop_path, shortcut, dilations: those of `BasicBlock`.
        groups: groups of channels of the 3x3 convolution (Xie et al. 2017, arXiv:1611.05431, figure 3c).
        stride_first: give the stride to the first 1x1 convolution.
    """

    features: int
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activate: Callable[[jax.Array], jax.Array]
    last_scale_init: layers.Initializer = nn.initializers.ones
    drop_path: float = 0.0
    shortcut: Shortcut = "projection"
    groups: int = 1
    stride_first: bool = False
    dilations: tuple[int, int] = (1, 1)
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(self.norm, use_running_average=not train)
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = self.conv(self.width, (1, 1), first, 0, name="conv_1")(x)
        y = self.activate(norm(name="norm_1")(y))
        dilation = self.dilations[1 if self.stride_first else 0]
        options = dict(kernel_dilation=dilation, feature_group_count=self.groups)
        y = self.conv(self.width, (3, 3), second, dilation, **options, name="conv_2")(y)
        y = self.activate(norm(name="norm_2")(y))
        y = self.conv(self.features, (1, 1), 1, 0, name="conv_3")(y)
        y = norm(name="norm_3", scale_init=self.last_scale_init)(y)
        return self.activate(_add_shortcut(self, x, layers.DropPath(self.drop_path)(y, train), norm))


def _add_shortcut(block: nn.Module, x: jax.Array, branch: jax.Array, norm: Callable[..., nn.Module]) -> jax.Array:
    """The branch plus the identity, or what stands for it where the block changes the shape (section 3.3)."""
    if block.shortcut == "none":
        return branch
    if x.shape == branch.shape:
        return x + branch
    if block.shortcut == "padding":
        x = x[:, :: block.stride, :: block.stride]
        return branch + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, branch.shape[-1] - x.shape[-1])))
    x = block.conv(branch.shape[-1], (1, 1), block.stride, 0, name="shortcut_conv")(x)
    return norm(name="shortcut_norm")(x) + branch


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
    """Blocks of one width; the first one brings the stride.

    Attributes:
        drop_path: chance of each block's branch to be dropped.
        stride: stride of the first block.
        block: factory of the blocks, given (stride, drop_path, name), and dilations where there are any.
        dilations: those of the first block; the others have the second of them for both.
    """

    drop_path: tuple[float, ...]
    stride: int
    block: Callable[..., nn.Module]
    dilations: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index, rate in enumerate(self.drop_path):
            stride, before = (self.stride, self.dilations[0]) if index == 0 else (1, self.dilations[1])
            dilated = {"dilations": (before, self.dilations[1])} if max(self.dilations) > 1 else {}
            x = self.block(stride=stride, drop_path=rate, name=f"block_{index + 1}", **dilated)(x, train)
        return x


class ResNet(nn.Module):
    """Residual network of any depth and width.

    Padding is explicit, as PyTorch's, so that weights of torchvision's networks can be used.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        stage_sizes: number of blocks of each stage.
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        width: channels of the stem and of the first stage's 3x3 convolutions; doubles from stage to stage. A bottleneck
            gives four times as many.
        bottleneck_width: channels within the first stage's bottlenecks where they are not `width`; doubles likewise.
        groups: groups of channels of a bottleneck's 3x3 convolution (ResNeXt).
        stride_first: give a bottleneck's stride to its first 1x1 convolution, as published ("v1"), and not to the
            3x3 ("v1.5", torchvision's, about half a percent better on ImageNet).
        shortcut: what stands for the identity where a block changes the shape: a 1x1 convolution, "projection"
            (section 3.3, option B), or the map subsampled and its channels filled up with zeros, "padding" (option A).
            "none" leaves out all shortcuts: the paper's plain networks.
        conv_bias: add biases in the convolutions, as the networks of 2015 and Keras do.
        small_images: 3x3 stem of stride 1 without pooling, for images of about 32 pixels; features then have strides
            1, 2, 4, 8 instead of 4, 8, 16, 32.
        dilate: for each stage after the first, whether its stride becomes a dilation of all 3x3 kernels from there on,
            so that its map is as fine as the one before (Chen et al. 2017, arXiv:1706.05587, figure 3b); () for none.
        activation: name in `ACTIVATIONS`.
        norm_epsilon: added to the variance in the norms; Keras has 1e-3.
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
    bottleneck_width: int | None = None
    groups: int = 1
    stride_first: bool = False
    shortcut: Shortcut = "projection"
    conv_bias: bool = False
    small_images: bool = False
    dilate: tuple[bool, ...] = ()
    activation: str = "relu"
    norm_epsilon: float = 1e-5
    zero_init_residual: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, stages, pooled (B, last width), logits (B, num_classes).

        `stages` are the maps of all stages, of which dilated ones share a stride; `features` has the last of each.
        """
        # He et al. 2015, as in torchvision: fan out keeps the scale of the gradients.
        conv = functools.partial(
            self.conv, use_bias=self.conv_bias, dtype=self.dtype, kernel_init=layers.he_normal_fan_out
        )
        norm = functools.partial(self.norm, dtype=self.dtype, epsilon=self.norm_epsilon)
        activate = layers.activation(self.activation)
        x = Stem(self.width, self.small_images, conv, norm, activate, name="stem")(image.astype(self.dtype), train)

        last_scale_init = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        options = dict(conv=conv, norm=norm, activate=activate, last_scale_init=last_scale_init, shortcut=self.shortcut)
        rates = iter(layers.drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        stride, features, stages = 1 if self.small_images else 4, {}, ()
        for index, (size, (stage_stride, dilations)) in enumerate(zip(self.stage_sizes, self._steps(), strict=True)):
            stage_rates = tuple(next(rates) for _ in range(size))
            block = self._block(index, options)
            x = Stage(stage_rates, stage_stride, block, dilations, name=f"stage_{index + 1}")(x, train)
            stride *= stage_stride
            features[stride], stages = x, (*stages, x)

        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        dropped = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        logits = layers.classifier(dropped, self.num_classes)
        return {"features": features, "stages": stages, "pooled": pooled, **logits}

    def _steps(self) -> list[tuple[int, tuple[int, int]]]:
        """Each stage's stride, and its dilations: where the stride would be, and after it."""
        dilate, dilation = (False, *(self.dilate or (False,) * (len(self.stage_sizes) - 1))), 1
        if len(dilate) != len(self.stage_sizes):
            raise UsageError(
                f"resnet: dilate has one value for each of the {len(self.stage_sizes)} stages but the first; "
                f"given {self.dilate}."
            )
        steps = []
        for index, dilated in enumerate(dilate):
            before, dilation = dilation, dilation * (2 if dilated else 1)
            steps.append((1 if dilated or index == 0 else 2, (before, dilation)))
        return steps

    def _block(self, stage: int, options: dict[str, Any]) -> Callable[..., nn.Module]:
        """The factory of a stage's blocks, which wants a stride, a chance to be dropped and a name."""
        block = BLOCKS[self.block]
        features = self.width * 2**stage * block.expansion
        if self.block == "bottleneck":
            width = (self.bottleneck_width or self.width) * 2**stage
            options = options | dict(width=width, groups=self.groups, stride_first=self.stride_first)
        elif self.bottleneck_width or self.groups > 1 or self.stride_first:
            raise UsageError(
                "resnet: bottleneck_width, groups and stride_first are for block='bottleneck'; "
                f"given {self.bottleneck_width}, {self.groups} and {self.stride_first} with block='basic'."
            )
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))  # `train`, counted with self
        return functools.partial(block, features=features, **options)


_basic = functools.partial(ResNet, block="basic")
_bottleneck = functools.partial(ResNet, block="bottleneck")
_SIZES_50, _SIZES_101, _SIZES_152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

# Names are torchvision's and timm's, but for "plain" (section 4.1) and "v1" (see `stride_first`).
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnet": ResNet,
    "resnet18": functools.partial(_basic, stage_sizes=(2, 2, 2, 2)),
    "resnet34": functools.partial(_basic, stage_sizes=(3, 4, 6, 3)),
    "resnet50": functools.partial(_bottleneck, stage_sizes=_SIZES_50),
    "resnet101": functools.partial(_bottleneck, stage_sizes=_SIZES_101),
    "resnet152": functools.partial(_bottleneck, stage_sizes=_SIZES_152),
    "resnet50_v1": functools.partial(_bottleneck, stage_sizes=_SIZES_50, stride_first=True),
    "resnet101_v1": functools.partial(_bottleneck, stage_sizes=_SIZES_101, stride_first=True),
    "resnet152_v1": functools.partial(_bottleneck, stage_sizes=_SIZES_152, stride_first=True),
    "wide_resnet50_2": functools.partial(_bottleneck, stage_sizes=_SIZES_50, bottleneck_width=128),
    "wide_resnet101_2": functools.partial(_bottleneck, stage_sizes=_SIZES_101, bottleneck_width=128),
    "resnext50_32x4d": functools.partial(_bottleneck, stage_sizes=_SIZES_50, bottleneck_width=128, groups=32),
    "resnext101_32x8d": functools.partial(_bottleneck, stage_sizes=_SIZES_101, bottleneck_width=256, groups=32),
    "resnext101_64x4d": functools.partial(_bottleneck, stage_sizes=_SIZES_101, bottleneck_width=256, groups=64),
    "plain18": functools.partial(_basic, stage_sizes=(2, 2, 2, 2), shortcut="none"),
    "plain34": functools.partial(_basic, stage_sizes=(3, 4, 6, 3), shortcut="none"),
}
