"""Residual and plain networks for 32x32 images: He et al. 2016 (arXiv:1512.03385), section 4.2; wide ones of 2016."""

import functools
from collections.abc import Callable

import flax.linen as nn

from vision.models.layers import BatchNorm, Conv
from vision.models.resnet import ResNet
from vision.models.resnet_v2 import ResNetV2


def _of_depth(depth: int, shortcut: str) -> Callable[..., nn.Module]:
    """6n + 2 layers: a 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, and the classifier."""
    sizes = ((depth - 2) // 6,) * 3
    return functools.partial(ResNet, stage_sizes=sizes, block="basic", width=16, small_images=True, shortcut=shortcut)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": _of_depth(depth, "padding") for depth in (20, 32, 44, 56, 110)},
    **{f"plain{depth}": _of_depth(depth, "none") for depth in (20, 32, 44, 56)},
    # Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 1: 28 layers, 10 times as wide, pre-activation.
    "wide_resnet28_10": functools.partial(
        ResNetV2,
        stage_sizes=(4, 4, 4),
        block="basic",
        width=160,
        stem_width=16,
        small_images=True,
        conv=Conv,
        norm=BatchNorm,
    ),
}
