"""Pyramids of maps with the same number of channels, which detectors read: FPN, and the plain ViT's simple pyramid."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers
from vision.models.upsampling import ConvTranspose
from vision.ops.pooling import max_pool
from vision.ops.upsampling import nearest

Maps = Mapping[int, jax.Array]
Kind = Literal["fpn", "simple"]
Extra = Literal["none", "pool", "convolutions", "convolutions_of_backbone"]

# The published networks' initialisation: uniform, of variance 1 / fan in, for maps that no ReLU follows.
_init = nn.initializers.lecun_uniform()


class FPN(nn.Module):
    """Feature pyramid network (Lin et al. 2017, arXiv:1612.03144, section 3), as torchvision's.

    A 1x1 convolution of each map, the coarser level added to it by nearest neighbours, and a 3x3 convolution.

    Attributes:
        channels: of every level.
        extra: coarser levels beyond the last: "none"; "pool", one more, every second place of the last (Faster R-CNN,
            section 4.1, footnote 1); "convolutions", two more by 3x3 convolutions of stride 2 from the last level, the
            second after a ReLU; or "convolutions_of_backbone", the same from the backbone's last map (RetinaNet,
            arXiv:1708.02002, section 4).
        norm: factory of the norms after the 1x1 and 3x3 convolutions, which then have no bias; None for none.
        dtype: dtype of the convolutions.
        conv: factory of the convolutions.
    """

    channels: int = 256
    extra: Extra = "pool"
    norm: Callable[..., nn.Module] | None = None
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, features: Maps, train: bool = False) -> dict[int, jax.Array]:
        """{stride: (B, h, w, any)} -> {stride: (B, h, w, channels)}, finest first, with the extra levels' strides."""
        unit = functools.partial(_Unit, self.channels, self.conv, self.norm, self.dtype)
        strides, levels, coarser = sorted(features), {}, None
        for stride in reversed(strides):
            lateral = unit(1, name=f"lateral_{stride}")(features[stride], train)
            if coarser is not None:
                lateral = lateral + nearest(coarser, lateral.shape[1:3])
            levels[stride], coarser = unit(3, name=f"output_{stride}")(lateral, train), lateral
        levels = {stride: levels[stride] for stride in strides}
        conv = functools.partial(self.conv, self.channels, dtype=self.dtype, kernel_init=_init)
        return levels | _extra_levels(levels, features[strides[-1]], self.extra, conv)


class SimplePyramid(nn.Module):
    """The simple feature pyramid of a plain vision transformer (Li et al. 2022, arXiv:2203.16527, section 3).

    Every level is made of the last map alone: finer ones by 2x2 transposed convolutions, coarser ones by max pooling,
    each followed by a 1x1 and a 3x3 convolution with layer norm.

    Attributes:
        strides: of the levels; each the map's own, times or by a power of two.
        channels: of every level.
        extra: as in `FPN`.
        dtype: dtype of the convolutions.
        conv: factory of the convolutions.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)
    channels: int = 256
    extra: Extra = "pool"
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, features: Maps, train: bool = False) -> dict[int, jax.Array]:
        """{stride: (B, h, w, any)}, of which the coarsest is read -> {stride: (B, h, w, channels)}, finest first."""
        own = max(features)
        norm = functools.partial(_ChannelNorm, dtype=self.dtype)
        unit = functools.partial(_Unit, self.channels, self.conv, norm, self.dtype)
        levels = {}
        for stride in sorted(self.strides):
            x = self._resized(features[own], own, stride)
            x = unit(1, name=f"lateral_{stride}")(x, train)
            levels[stride] = unit(3, name=f"output_{stride}")(x, train)
        conv = functools.partial(self.conv, self.channels, dtype=self.dtype, kernel_init=_init)
        return levels | _extra_levels(levels, features[own], self.extra, conv)

    def _resized(self, x: jax.Array, own: int, stride: int) -> jax.Array:
        """The map at another stride, its channels halved with every doubling of its sides."""
        larger, smaller = max(own, stride), min(own, stride)
        factor = larger // smaller
        if larger % smaller or factor & (factor - 1):
            raise UsageError(
                f"pyramid: the map of stride {own} gives strides times or by powers of two; given {stride}."
            )
        if stride >= own:
            return max_pool(x, window=factor, stride=factor) if factor > 1 else x
        for number in range(1, factor.bit_length()):
            name = f"upsample_{stride}_{number}"
            x = ConvTranspose(max(x.shape[-1] // 2, 1), (2, 2), 2, dtype=self.dtype, name=name)(x)
            if 2**number < factor:
                x = nn.gelu(_ChannelNorm(dtype=self.dtype, name=f"{name}_norm")(x), approximate=False)
        return x


def by_stride(
    outputs: Mapping[str, Any],
    strides: Sequence[int],
    kind: Kind,
    train: bool,
    norm: Callable[..., nn.Module] | None = None,
    where: str = "config.model.strides",
    **options: Any,
) -> dict[int, jax.Array]:
    """The pyramid, named `pyramid`, on a backbone's outputs. To be called inside a compact method.

    Args:
        outputs: of the backbone.
        strides: the levels' without the extra ones. For "fpn" the backbone has a map of each.
        kind: "fpn", or "simple" for networks that have one map, such as a ViT.
        train: whether norms take the statistics of the batch.
        norm: of `FPN`; the simple pyramid has layer norm always.
        where: place of `strides` in the configuration, for messages.
        **options: `channels`, `extra`, `dtype` and `conv` of the pyramid.

    Raises:
        UsageError: the backbone has no map of a stride, or none at all.
    """
    if kind == "simple":
        if not outputs.get("features"):
            raise UsageError(f"{where}: the backbone has no features by stride.")
        return SimplePyramid(tuple(strides), **options, name="pyramid")(outputs["features"], train)
    maps = dict(zip(strides, backbones.features(outputs, strides, where), strict=True))
    return FPN(norm=norm, **options, name="pyramid")(maps, train)


class _Unit(nn.Module):
    """A convolution, and its norm where there is one."""

    channels: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None
    dtype: str
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, bias = (self.kernel, self.kernel), self.norm is None
        options = dict(use_bias=bias, dtype=self.dtype, kernel_init=_init)
        x = self.conv(self.channels, size, padding=self.kernel // 2, **options, name="conv")(x)
        return x if bias else self.norm(use_running_average=not train, name="norm")(x)


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each place, called as a batch norm is."""

    dtype: str = "float32"
    use_running_average: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="layer_norm")(x).astype(self.dtype)


def _extra_levels(levels: Maps, last_map: jax.Array, extra: Extra, conv: Callable[..., nn.Module]) -> Maps:
    stride = max(levels)
    if extra == "none":
        return {}
    if extra == "pool":
        return {2 * stride: levels[stride][:, ::2, ::2]}
    first = levels[stride] if extra == "convolutions" else last_map
    first = conv((3, 3), 2, 1, name=f"extra_{2 * stride}")(first)
    return {2 * stride: first, 4 * stride: conv((3, 3), 2, 1, name=f"extra_{4 * stride}")(nn.relu(first))}
