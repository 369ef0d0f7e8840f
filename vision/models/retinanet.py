"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): dense anchors on a feature pyramid, one pair of subnets for all."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, fpn, layers
from vision.ops import anchors as anchor_ops

_init = nn.initializers.normal(0.01)  # section 4.1, initialisation


class Subnet(nn.Module):
    """3x3 convolutions with ReLU, and a last one that predicts; applied to every level of a pyramid (figure 3).

    Attributes:
        depth: number of convolutions before the last.
        outputs: channels of the last convolution.
        last: its name.
        bias_init: initialiser of its bias.
        norm: whether group norm follows each convolution but the last.
        conv: factory of the convolutions.
    """

    depth: int
    outputs: int
    last: str
    bias_init: layers.Initializer
    norm: bool
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, outputs)."""
        channels = x.shape[-1]
        for number in range(1, self.depth + 1):
            x = self.conv(channels, (3, 3), padding=1, use_bias=not self.norm, name=f"conv_{number}")(x)
            if self.norm:
                x = layers.GroupNorm(name=f"norm_{number}")(x)
            x = nn.relu(x)
        return self.conv(self.outputs, (3, 3), padding=1, bias_init=self.bias_init, name=self.last)(x)


class RetinaNet(nn.Module):
    """Feature pyramid on any backbone; two subnets that all its levels share predict classes and offsets of anchors.

    Attributes:
        num_classes: number of classes; None or 0 for the pyramid alone. Every class is judged for itself, there is no
            output for the background.
        backbone: the network to stand on: its name, or a section with its name and fields.
        strides: of the backbone's maps in the pyramid.
        pyramid: "fpn", or "simple" for networks with one map, such as a plain ViT.
        extra: coarser levels: "none"; "convolutions", two more from the pyramid's last level; or
            "convolutions_of_backbone", two more from the backbone's last map, as in the paper.
        channels: of the pyramid and the subnets.
        depth: convolutions of each subnet before the predicting one.
        head_norm: "none", or "group" for group norm in the subnets.
        sizes: of each level, square root of its smallest anchors' area in pixels; () for four times its stride.
        scales: factors of the sizes.
        aspect_ratios: heights over widths of the anchors.
        prior: probability of each class at the start; a small one keeps the many anchors of the background from
            drowning the others (section 3.3).
        dtype: dtype of the convolutions; logits and offsets are float32.
        conv: factory of the convolutions of pyramid and subnets.
        norm: what the backbone's norms are given; see `backbones.configured`.
    """

    num_classes: int | None = 80
    backbone: backbones.Section = "resnet50"
    strides: tuple[int, ...] = (8, 16, 32)
    pyramid: fpn.Kind = "fpn"
    extra: Literal["none", "convolutions", "convolutions_of_backbone"] = "convolutions"
    channels: int = 256
    depth: int = 4
    head_norm: Literal["none", "group"] = "none"
    sizes: tuple[float, ...] = ()
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    prior: float = 0.01
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, A, num_classes), offsets (B, A, 4), anchors (A, 4) in pixels.

        `features` are the pyramid's levels by stride. The anchors come level by level, as many at each place.
        """
        if not 0 < self.prior < 1:
            raise UsageError(f"retinanet: prior is a probability between 0 and 1, given {self.prior}.")
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        options = dict(channels=self.channels, extra=self.extra, dtype=self.dtype, conv=self.conv)
        levels = fpn.by_stride(outputs, self.strides, self.pyramid, train, **options)
        result: dict[str, Any] = {"features": levels}
        if not self.num_classes:
            return result
        subnet = functools.partial(
            Subnet,
            depth=self.depth,
            norm=self.head_norm == "group",
            conv=functools.partial(self.conv, dtype=self.dtype, kernel_init=_init),
        )
        boxes = len(self.scales) * len(self.aspect_ratios)
        prior = nn.initializers.constant(-math.log((1 - self.prior) / self.prior))
        classes = subnet(outputs=boxes * self.num_classes, last="head", bias_init=prior, name="class_head")
        offsets = subnet(outputs=boxes * 4, last="offsets", bias_init=nn.initializers.zeros, name="box_head")
        return result | {
            "logits": _flat([classes(x) for x in levels.values()], self.num_classes),
            "offsets": _flat([offsets(x) for x in levels.values()], 4),
            "anchors": self._anchors(image, levels),
        }

    def _anchors(self, image: jax.Array, levels: fpn.Maps) -> jax.Array:
        """(A, 4) boxes, places and rounding as torchvision's."""
        sizes = self.sizes or tuple(4 * stride for stride in levels)
        if len(sizes) != len(levels):
            raise UsageError(
                f"retinanet: sizes has one for each of the {len(levels)} levels, strides "
                f"{', '.join(map(str, levels))}; given {self.sizes}."
            )
        maps = [x.shape[1:3] for x in levels.values()]
        return anchor_ops.anchors(
            maps,
            anchor_ops.strides_of(image.shape[1:3], maps),
            [[int(size * scale) for scale in self.scales] for size in sizes],
            [self.aspect_ratios] * len(levels),
        )


def _flat(maps: list[jax.Array], values: int) -> jax.Array:
    """Maps (B, h, w, boxes x values) -> (B, all boxes, values), float32."""
    return jnp.concatenate([x.reshape(len(x), -1, values).astype(jnp.float32) for x in maps], axis=1)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "retinanet": RetinaNet,
    "retinanet_resnet50_fpn": functools.partial(RetinaNet, backbone="resnet50"),
    # torchvision's improved recipe; its boxes are learnt by generalised IoU.
    "retinanet_resnet50_fpn_v2": functools.partial(
        RetinaNet, backbone="resnet50", extra="convolutions_of_backbone", head_norm="group"
    ),
}
