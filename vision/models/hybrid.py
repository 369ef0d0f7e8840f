"""Vision transformers on the map of a residual network (Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1).

The class is `ViT`; its root is a ResNet of group norm and standardised kernels.
"""

import functools
from collections.abc import Callable

import flax.linen as nn

from vision.models.vit import ViT

_HYBRIDS = {
    "vit_tiny_r_s16_p8": functools.partial(ViT, variant="Ti", root_stages=(), patch_size=8),  # R+Ti/16
    "vit_small_r26_s32": functools.partial(ViT, variant="S", root_stages=(2, 2, 2, 2), patch_size=1),
    "vit_base_r26_s32": functools.partial(ViT, variant="B", root_stages=(2, 2, 2, 2), patch_size=1),
    # Three stages of which the last is longer: the fourth's blocks are moved there, for a map of stride 16.
    "vit_base_r50_s16": functools.partial(ViT, variant="B", root_stages=(3, 4, 9), patch_size=1),
    "vit_large_r50_s32": functools.partial(ViT, variant="L", root_stages=(3, 4, 6, 3), patch_size=1),
}

# timm's names end in an image size; the networks here take any.
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    f"{name}_{side}": network for name, network in _HYBRIDS.items() for side in (224, 384)
}
