"""Branches of convolutions and poolings side by side, written as tables: what every Inception network is made of."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers
from vision.ops.pooling import average_pool, max_pool


class Unit(NamedTuple):
    """A convolution, its norm and a ReLU.

    Attributes:
        width: channels of the result.
        kernel: side of the kernel, or (height, width); odd.
        stride: step between outputs.
        valid: no padding; otherwise half the kernel on each side, which keeps the size at stride 1.
    """

    width: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    valid: bool = False


class Fork(NamedTuple):
    """Two units that read the same map, with their results concatenated: 1x3 beside 3x1."""

    units: tuple[Unit, Unit]


class Pool(NamedTuple):
    """Pooling over square windows; the fields are the arguments of `max_pool` and `average_pool`."""

    kind: Literal["max", "average"]
    window: int = 3
    stride: int = 1
    padding: int = 0
    ceil_mode: bool = False  # of a maximum
    count_include_pad: bool = True  # of an average


class Residual(NamedTuple):
    """Branches that are projected back to the width of their input, scaled and added to it.

    Attributes:
        branches: the branches.
        scale: factor of the branches.
        activate: whether a ReLU follows the sum.
    """

    branches: "tuple[Branch, ...]"
    scale: float
    activate: bool = True


Branch = tuple[Unit | Fork | Pool, ...]


class ConvUnit(nn.Module):
    """A `Unit`: convolution, norm, ReLU; without a norm the convolution has a bias.

    Attributes:
        unit: what to build.
        conv: factory of the convolution, given (features, kernel size, strides, padding, use_bias, name).
        norm: factory of the norm, given (use_running_average, name), or None.
    """

    unit: Unit
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width, kernel, stride, valid = self.unit
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else tuple(side // 2 for side in kernel)
        x = self.conv(width, kernel, stride, padding, use_bias=self.norm is None, name="conv")(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, name="norm")(x)
        return nn.relu(x)


class Branches(nn.Module):
    """Branches of one map, side by side, concatenated along the channels.

    Convolutions are named by branch and by their place among the branch's convolutions: `branch_2/unit_1`, and
    `unit_2a`, `unit_2b` in a fork.

    Attributes:
        branches: what to build; of each branch its layers, first to last.
        conv: factory of the convolutions, as in `ConvUnit`.
        norm: factory of the norms, or None.
    """

    branches: tuple[Branch, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) -> (B, H, W, sum of the branches' channels), H and W divided by the stride."""
        results = [
            Sequence(branch, self.conv, self.norm, name=f"branch_{number}")(x, train)
            for number, branch in enumerate(self.branches, start=1)
        ]
        return jnp.concatenate(results, axis=-1)


class Sequence(nn.Module):
    """One branch: its layers one after the other. The attributes are those of `Branches`."""

    branch: Branch
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        number = 0
        for layer in self.branch:
            if isinstance(layer, Pool):
                x = pool(x, layer)
                continue
            number += 1
            units = dict(zip("ab", layer.units, strict=True)) if isinstance(layer, Fork) else {"": layer}
            results = [
                ConvUnit(unit, self.conv, self.norm, name=f"unit_{number}{letter}")(x, train)
                for letter, unit in units.items()
            ]
            x = jnp.concatenate(results, axis=-1)
        return x


class ResidualBranches(nn.Module):
    """A `Residual`: x + scale * projection of its branches (Szegedy et al. 2016, arXiv:1602.07261, section 3.3).

    Attributes:
        block: what to build.
        drop_path: chance of the branches to be dropped while training.
        conv: factory of the convolutions, as in `ConvUnit`.
        norm: factory of the norms.
    """

    block: Residual
    drop_path: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) -> the same shape."""
        y = Branches(self.block.branches, self.conv, self.norm, name="branches")(x, train)
        y = self.conv(x.shape[-1], (1, 1), 1, 0, name="projection")(y)  # no norm, no ReLU: a linear "filter expansion"
        x = x + layers.DropPath(self.drop_path)(self.block.scale * y, train)
        return nn.relu(x) if self.block.activate else x


def pool(x: jax.Array, layer: Pool) -> jax.Array:
    """(B, H, W, C) pooled as the table says."""
    if layer.kind == "max":
        return max_pool(x, layer.window, layer.stride, layer.padding, layer.ceil_mode)
    return average_pool(x, layer.window, layer.stride, layer.padding, layer.count_include_pad)


def scale_width(layer: Any, factor: float) -> Any:
    """The same layer, or branches side by side, with `factor` times the channels, at least 8 of each."""
    if isinstance(layer, Unit):
        return layer._replace(width=max(round(layer.width * factor), min(layer.width, 8)))
    if isinstance(layer, Pool) or factor == 1.0:
        return layer
    if isinstance(layer, Fork):
        return Fork(tuple(scale_width(unit, factor) for unit in layer.units))
    if isinstance(layer, Residual):
        return layer._replace(branches=scale_width(layer.branches, factor))
    return tuple(scale_width(part, factor) for part in layer)


def stride_of(layer: Unit | Fork | Pool | Residual | tuple[Branch, ...]) -> int:
    """By how much a layer, or branches side by side, divide the height and width of their input."""
    if isinstance(layer, Unit | Pool):
        return layer.stride
    if isinstance(layer, Fork | Residual):
        return 1
    return math.prod(stride_of(step) for step in layer[0])  # the same in every branch
