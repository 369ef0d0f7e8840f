"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567); Inception-v4 and Inception-ResNet-v2 (2016, arXiv:1602.07261).

The networks are tables of layers, named as in the authors' published code: `conv_1a`, `mixed_5b`, ...
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError, pick
from vision.models import layers
from vision.models.branches import (
    Branch,
    Branches,
    ConvUnit,
    Fork,
    Pool,
    Residual,
    ResidualBranches,
    Unit,
    pool,
    scale_width,
    stride_of,
)
from vision.models.dense_layers import check_image
from vision.ops.pooling import average_pool

Layer = Unit | Pool | Residual | tuple[Branch, ...]
Layout = tuple[tuple[str, Layer], ...]

_HALVE = Pool("max", 3, 2)
_ACROSS, _DOWN = (1, 7), (7, 1)  # the factors of a 7x7 convolution (v3, section 3.2)
_AVERAGE = Pool("average", 3, 1, 1, count_include_pad=False)
_AVERAGE_V3 = Pool("average", 3, 1, 1)  # as in torchvision, whose weights are trained so


def _fork(width: int) -> Fork:
    return Fork((Unit(width, (1, 3)), Unit(width, (3, 1))))


def _block_35(pool_width: int) -> tuple[Branch, ...]:
    """Inception-v3 on 35x35 maps: figure 5, with a 5x5 convolution left whole."""
    return (
        (Unit(64),),
        (Unit(48), Unit(64, 5)),
        (Unit(64), Unit(96, 3), Unit(96, 3)),
        (_AVERAGE_V3, Unit(pool_width)),
    )


def _block_17(width: int) -> tuple[Branch, ...]:
    """Inception-v3 on 17x17 maps: figure 6 with n = 7."""
    return (
        (Unit(192),),
        (Unit(width), Unit(width, _ACROSS), Unit(192, _DOWN)),
        (Unit(width), Unit(width, _DOWN), Unit(width, _ACROSS), Unit(width, _DOWN), Unit(192, _ACROSS)),
        (_AVERAGE_V3, Unit(192)),
    )


_BLOCK_8 = (  # Inception-v3 on 8x8 maps: figure 7
    (Unit(320),),
    (Unit(384), _fork(384)),
    (Unit(448), Unit(384, 3), _fork(384)),
    (_AVERAGE_V3, Unit(192)),
)

_STEM: Layout = (
    ("conv_1a", Unit(32, 3, 2, valid=True)),
    ("conv_2a", Unit(32, 3, valid=True)),
    ("conv_2b", Unit(64, 3)),
)
_STEM_V3: Layout = (
    *_STEM,
    ("pool_3a", _HALVE),
    ("conv_3b", Unit(80)),
    ("conv_4a", Unit(192, 3, valid=True)),
    ("pool_5a", _HALVE),
)

# Table 1 of the paper on v3, in the numbers of the published network.
_V3: Layout = (
    *_STEM_V3,
    ("mixed_5b", _block_35(32)),
    ("mixed_5c", _block_35(64)),
    ("mixed_5d", _block_35(64)),
    (
        "mixed_6a",
        ((Unit(384, 3, 2, valid=True),), (Unit(64), Unit(96, 3), Unit(96, 3, 2, valid=True)), (_HALVE,)),
    ),
    ("mixed_6b", _block_17(128)),
    ("mixed_6c", _block_17(160)),
    ("mixed_6d", _block_17(160)),
    ("mixed_6e", _block_17(192)),
    (
        "mixed_7a",
        (
            (Unit(192), Unit(320, 3, 2, valid=True)),
            (Unit(192), Unit(192, _ACROSS), Unit(192, _DOWN), Unit(192, 3, 2, valid=True)),
            (_HALVE,),
        ),
    ),
    ("mixed_7b", _BLOCK_8),
    ("mixed_7c", _BLOCK_8),
)

_A_V4 = (  # paper on v4, figure 4
    (Unit(96),),
    (Unit(64), Unit(96, 3)),
    (Unit(64), Unit(96, 3), Unit(96, 3)),
    (_AVERAGE, Unit(96)),
)
_B_V4 = (  # figure 5
    (Unit(384),),
    (Unit(192), Unit(224, _ACROSS), Unit(256, _DOWN)),
    (Unit(192), Unit(192, _DOWN), Unit(224, _ACROSS), Unit(224, _DOWN), Unit(256, _ACROSS)),
    (_AVERAGE, Unit(128)),
)
_C_V4 = (  # figure 6
    (Unit(256),),
    (Unit(384), _fork(256)),
    (Unit(384), Unit(448, (3, 1)), Unit(512, (1, 3)), _fork(256)),
    (_AVERAGE, Unit(256)),
)
_V4: Layout = (
    *_STEM,  # figure 3, to mixed_5a
    ("mixed_3a", ((_HALVE,), (Unit(96, 3, 2, valid=True),))),
    (
        "mixed_4a",
        (
            (Unit(64), Unit(96, 3, valid=True)),
            (Unit(64), Unit(64, _ACROSS), Unit(64, _DOWN), Unit(96, 3, valid=True)),
        ),
    ),
    ("mixed_5a", ((Unit(192, 3, 2, valid=True),), (_HALVE,))),
    *((f"mixed_5{letter}", _A_V4) for letter in "bcde"),
    (  # figure 7, with the numbers of table 1
        "mixed_6a",
        ((Unit(384, 3, 2, valid=True),), (Unit(192), Unit(224, 3), Unit(256, 3, 2, valid=True)), (_HALVE,)),
    ),
    *((f"mixed_6{letter}", _B_V4) for letter in "bcdefgh"),
    (  # figure 8
        "mixed_7a",
        (
            (Unit(192), Unit(192, 3, 2, valid=True)),
            (Unit(256), Unit(256, _ACROSS), Unit(320, _DOWN), Unit(320, 3, 2, valid=True)),
            (_HALVE,),
        ),
    ),
    *((f"mixed_7{letter}", _C_V4) for letter in "bcd"),
)

# Inception-ResNet-v2 as published with weights: the stem of v3, and scales that keep training stable (section 3.3).
_A_RESNET = Residual(((Unit(32),), (Unit(32), Unit(32, 3)), (Unit(32), Unit(48, 3), Unit(64, 3))), scale=0.17)
_B_RESNET = Residual(((Unit(192),), (Unit(128), Unit(160, _ACROSS), Unit(192, _DOWN))), scale=0.10)
_C_RESNET = Residual(((Unit(192),), (Unit(192), Unit(224, (1, 3)), Unit(256, (3, 1)))), scale=0.20)
_RESNET_V2: Layout = (
    *_STEM_V3,
    (
        "mixed_5b",
        ((Unit(96),), (Unit(48), Unit(64, 5)), (Unit(64), Unit(96, 3), Unit(96, 3)), (_AVERAGE, Unit(64))),
    ),
    *((f"block_35_{number}", _A_RESNET) for number in range(1, 11)),
    (
        "mixed_6a",
        ((Unit(384, 3, 2, valid=True),), (Unit(256), Unit(256, 3), Unit(384, 3, 2, valid=True)), (_HALVE,)),
    ),
    *((f"block_17_{number}", _B_RESNET) for number in range(1, 21)),
    (
        "mixed_7a",
        (
            (Unit(256), Unit(384, 3, 2, valid=True)),
            (Unit(256), Unit(288, 3, 2, valid=True)),
            (Unit(256), Unit(288, 3), Unit(320, 3, 2, valid=True)),
            (_HALVE,),
        ),
    ),
    *((f"block_8_{number}", _C_RESNET) for number in range(1, 10)),
    ("block_8_10", _C_RESNET._replace(scale=1.0, activate=False)),
    ("conv_7b", Unit(1536)),
)

LAYOUTS: dict[str, Layout] = {"v3": _V3, "v4": _V4, "resnet_v2": _RESNET_V2}


class AuxiliaryHead(nn.Module):
    """A classifier on the last map of stride 16 (v3, section 4 and figure 8).

    Attributes:
        num_classes: number of classes.
        conv: factory of the convolutions, as in `ConvUnit`.
        norm: factory of the norms.
    """

    num_classes: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) -> logits (B, num_classes)."""
        x = average_pool(x, window=5, stride=3)
        x = ConvUnit(Unit(128), self.conv, self.norm, name="unit_1")(x, train)
        x = ConvUnit(Unit(768, 5, valid=True), self.conv, self.norm, name="unit_2")(x, train)
        return layers.classifier(jnp.mean(x, axis=(1, 2), dtype=jnp.float32), self.num_classes)["logits"]


class Inception(nn.Module):
    """Inception-v3, -v4 or Inception-ResNet-v2.

    Padding is the published one: the stem and the reductions have none, so that a feature map of stride s is somewhat
    smaller than the image's sides divided by s (299 pixels give maps of 147, 71, 35, 17 and 8).

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        variant: "v3", "v4" or "resnet_v2".
        auxiliary: whether there is an auxiliary classifier, whose logits are in the outputs while training; it needs
            images of 299 pixels or more to train. Its logits are to count 0.4 in the loss.
        width: factor of the channels of all layers, for small networks.
        repeats: how many of the modules of one kind in a row are kept at most, for shallow networks; None: all.
        small_images: a stem of stride 1 with padding, for images of about 32 pixels; features then have strides 1, 2,
            4 instead of 2, 4, 8, 16, 32.
        dropout: chance of a pooled feature to be zeroed while training; the papers' is 0.2.
        drop_path: stochastic depth of "resnet_v2", the chance of the last residual block to be dropped; grows linearly
            with depth.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    variant: Literal["v3", "v4", "resnet_v2"] = "v3"
    auxiliary: bool = False
    width: float = 1.0
    repeats: int | None = None
    small_images: bool = False
    dropout: float = 0.2
    drop_path: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = functools.partial(layers.BatchNorm, epsilon=1e-3)

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, last width), logits (B, num_classes).

        While training with the auxiliary classifier also `aux_logits`, a tuple of one (B, num_classes).
        """
        head = bool(self.auxiliary and self.num_classes)
        self._check_size(image.shape[1:3], head and train)
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal)
        norm = functools.partial(self.norm, dtype=self.dtype)
        rates = iter(self._drop_path_rates())
        remat = functools.partial(nn.remat, static_argnums=(2,)) if self.remat else lambda module: module  # `train`

        x, stride, features = image.astype(self.dtype), 1, {}
        for name, layer in self.layout():
            if isinstance(layer, Pool):
                x = pool(x, layer)
            elif isinstance(layer, Unit):
                x = ConvUnit(layer, conv, norm, name=name)(x, train)
            elif isinstance(layer, Residual):
                x = remat(ResidualBranches)(layer, next(rates), conv, norm, name=name)(x, train)
            else:
                x = remat(Branches)(layer, conv, norm, name=name)(x, train)
            stride *= stride_of(layer)
            features[stride] = x

        outputs: dict[str, Any] = {"features": features, "pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32)}
        if head and (train or self.is_initializing()):
            module = AuxiliaryHead(self.num_classes, conv, norm, name="auxiliary")
            aux_logits = (module(features[stride // 2], train),)
            outputs |= {"aux_logits": aux_logits} if train else {}
        dropped = nn.Dropout(self.dropout)(outputs["pooled"], deterministic=not train)
        return {**outputs, **layers.classifier(dropped, self.num_classes)}

    def layout(self) -> Layout:
        """The variant's layers, scaled in width and depth, with a stem of stride 1 for small images."""
        layout = pick(LAYOUTS, "variant", self.variant, "inception.variant")
        layout = tuple((name, scale_width(layer, self.width)) for name, layer in layout)
        if self.repeats is not None:
            layout = _shortened(layout, self.repeats)
        if not self.small_images:
            return layout
        end = [name for name, _ in layout].index("mixed_5b")
        return tuple((name, _same_size(layer) if i < end else layer) for i, (name, layer) in enumerate(layout))

    def _drop_path_rates(self) -> tuple[float, ...]:
        depth = sum(isinstance(layer, Residual) for _, layer in self.layout())
        if self.drop_path and not depth:
            raise UsageError(f"inception: {self.variant} has no residual blocks to drop; leave drop_path at 0.")
        return layers.drop_path_rates(self.drop_path, depth)

    def _check_size(self, image_size: tuple[int, int], train_head: bool) -> None:
        """Raises UsageError where a map would be empty: 8x8 maps of 299x299 shrink to one pixel at 75x75."""
        smallest, smallest_for_head = (7, 35) if self.small_images else (75, 299)
        if train_head:
            check_image("inception with auxiliary=True", image_size, smallest_for_head)
        check_image("inception", image_size, smallest)


def _shortened(layout: Layout, repeats: int) -> Layout:
    """The layout with at most so many modules of one kind in a row; those that reduce the map stay."""
    kept, kind, count = [], None, 0
    for name, layer in layout:
        if isinstance(layer, Unit | Pool) or stride_of(layer) > 1:
            kind = None
        elif type(layer) is kind:
            count += 1
        else:
            kind, count = type(layer), 1
        if kind is None or count <= repeats:
            kept.append((name, layer))
    return tuple(kept)


def _same_size(layer: Layer | Fork) -> Layer | Fork:
    """The layer with stride 1 and padding, so that its result has the size of its input."""
    if isinstance(layer, Unit):
        return layer._replace(stride=1, valid=False)
    if isinstance(layer, Pool):
        return layer._replace(stride=1, padding=layer.window // 2)
    return tuple(tuple(_same_size(step) for step in branch) for branch in layer)


VARIANTS: dict[str, Callable[..., Inception]] = {
    "inception_v3": functools.partial(Inception, variant="v3", auxiliary=True, dropout=0.5),
    "inception_v4": functools.partial(Inception, variant="v4"),
    "inception_resnet_v2": functools.partial(Inception, variant="resnet_v2"),
}
