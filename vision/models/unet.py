"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597): an encoder, and a decoder that reads its map of each stride."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers
from vision.models.fcn import check_strides
from vision.models.layers import Convolutions
from vision.models.upsampling import FixedMethod, Upsample
from vision.ops.patches import depth_to_space, space_to_depth
from vision.ops.pooling import max_pool


class UNet(nn.Module):
    """U-Net with its own encoder or any other network's, for images of any size.

    The decoder doubles the map's side step by step; beside the encoder's map of the same stride, where there is one,
    two 3x3 convolutions reduce it to `width * stride` channels.

    Convolutions with padding="same" want sides that are multiples of the largest stride: the image is mirrored at the
    bottom and the right until they are, and the logits are cropped. With padding="valid", the paper's, maps shrink:
    with `mirror` the image is continued around its border (figure 2, the overlap-tile strategy) so that the logits
    still have its size; without, they have the size that is left in its middle.

    Attributes:
        num_classes: number of classes; None or 0 for the decoder's features alone.
        width: channels at stride 1; at stride s the decoder (and the network's own encoder) has s times as many.
        depth: number of poolings of the network's own encoder.
        patch_size: side in pixels of the squares that its first convolution is given as the channels of one place, and
            that its classifier answers for likewise. Above 1 there are no maps at the finest strides, which cost most
            of the time and have the fewest channels.
        padding: "same", or "valid" for convolutions without padding.
        mirror: with padding="valid", whether to mirror the image around its border.
        batch_norm: whether batch norm takes the place of the convolutions' biases.
        upsampling: "transposed", the paper's 2x2 up-convolution; or a fixed method after a 1x1 convolution.
        dropout: chance of a value of the encoder's last map to be zeroed while training; the paper has it, without a
            number.
        backbone: a network that takes the encoder's place: its name, or a section with its name and fields. `width` 16
            suits one with features at strides 4 to 32. None for the network's own encoder.
        strides: strides of the backbone's maps that are read, finest first, each a multiple of the one before.
        remat: compute each pair of convolutions again in the backward pass instead of keeping intermediate results.
        dtype: dtype of the convolutions; norms are computed in float32, and logits are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers; the backbone's are given what it adds to the usual one.
    """

    num_classes: int | None = 2
    width: int = 64
    depth: int = 4
    patch_size: int = 1
    padding: Literal["same", "valid"] = "same"
    mirror: bool = True
    batch_norm: bool = True
    upsampling: FixedMethod | Literal["transposed"] = "transposed"
    dropout: float = 0.0
    backbone: backbones.Section | None = None
    strides: tuple[int, ...] = (4, 8, 16, 32)
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), features: the decoder's map at each stride.

        Features have the padding that was added to the image, or lack the border that valid convolutions take.
        """
        x, crop = self._framed(image)
        encoded = self._encode(x, train)
        stride = max(encoded)
        x = nn.Dropout(self.dropout)(encoded[stride], deterministic=not train)
        features = {stride: x}
        while stride > self.patch_size:
            factor = 2 if stride % 2 == 0 else stride
            stride //= factor
            size = tuple(factor * side for side in x.shape[1:3])
            skip = encoded.get(stride)
            if skip is not None and self.padding == "same":
                size = skip.shape[1:3]
            width = self.width * stride
            x = Upsample(self.upsampling, factor, width, dtype=self.dtype, name=f"upsample_{stride}")(x, size)
            x = x if skip is None else jnp.concatenate([_middle(skip, size), x], axis=-1)
            x = self._pair()((width, width), name=f"decoder_{stride}")(x, train)
            features[stride] = x
        outputs = layers.classifier(x, (self.num_classes or 0) * self.patch_size**2)
        outputs = {name: depth_to_space(scores, self.patch_size) for name, scores in outputs.items()}
        if crop is not None:
            outputs = {name: scores[:, : crop[0], : crop[1]] for name, scores in outputs.items()}
        return {"features": features, **outputs}

    def _pair(self) -> Callable[..., nn.Module]:
        """The factory of two convolutions, which wants their widths and a name."""
        # Section 3: He et al.'s initialiser, with the fan in.
        use_bias = not self.batch_norm
        conv = functools.partial(self.conv, use_bias=use_bias, dtype=self.dtype, kernel_init=layers.he_normal)
        norm = functools.partial(self.norm, dtype=self.dtype) if self.batch_norm else None
        cls = nn.remat(Convolutions, static_argnums=(2,)) if self.remat else Convolutions  # `train`, with self
        return functools.partial(cls, conv=conv, norm=norm, padding=1 if self.padding == "same" else 0)

    def _encode(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
        """The encoder's maps by stride."""
        if self.backbone is not None:
            outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(x, train)
            return dict(zip(self.strides, backbones.features(outputs, self.strides), strict=True))
        x, encoded = space_to_depth(x, self.patch_size).astype(self.dtype), {}
        for level in range(self.depth + 1):
            stride = self.patch_size * 2**level
            x = max_pool(x, window=2, stride=2) if level else x
            x = self._pair()((self.width * stride,) * 2, name=f"encoder_{stride}")(x, train)
            encoded[stride] = x
        return encoded

    def _check(self) -> None:
        """Raises UsageError where attributes exclude each other."""
        if self.backbone is not None and self.padding == "valid":
            raise UsageError("unet: padding='valid' is for the network's own encoder; leave it out with a backbone.")
        if self.patch_size > 1 and (self.backbone is not None or self.padding == "valid"):
            raise UsageError(
                f"unet: patch_size={self.patch_size} is for the network's own encoder with padding='same'; leave it "
                "out with a backbone and with padding='valid'."
            )

    def _framed(self, image: jax.Array) -> tuple[jax.Array, tuple[int, int] | None]:
        """The image with what its border lacks, and the size of the logits to be kept, from the top left; None: all."""
        self._check()
        size = image.shape[1:3]
        if self.padding == "same":
            if self.backbone is not None:
                check_strides(self.strides)
            coarsest = self.patch_size * 2**self.depth if self.backbone is None else self.strides[-1]
            return backbones.pad_to_multiple(image, coarsest), size
        if self.mirror:
            around = [(0, 0)]
            for side in size:
                given, left = valid_size(side + lost_border(self.depth), self.depth)
                before = (given - left) // 2
                around.append((before, given - side - before))
            return jnp.pad(image, (*around, (0, 0)), mode="reflect"), size
        above = tuple(valid_size(side, self.depth)[0] for side in size)
        if above != size:
            below = tuple(valid_size(side - 2**self.depth + 1, self.depth)[0] for side in size)
            nearest = " or ".join(f"{height}x{width}" for height, width in dict.fromkeys((below, above)))
            raise UsageError(
                f"unet: an image of {size[0]}x{size[1]} does not halve {self.depth} times between valid convolutions; "
                f"resize it to {nearest}, or take mirror=True, which continues it around its border."
            )
        return image, None


def valid_size(side: int, depth: int) -> tuple[int, int]:
    """The least side of an image, in pixels, that valid convolutions can take, and that of its logits.

    The paper's are 572 and 388.

    Args:
        side: the result's least value.
        depth: number of poolings.
    """
    scale = 2**depth
    # Two convolutions take 4 from each map: 4 (scale - 1) pixels on the way down, from an image of scale * last.
    descent = 4 * (scale - 1)
    least = (lost_border(depth) - descent) // scale + 1  # side of the last map whose logits have a pixel
    last = max(-(-(side - descent) // scale), least)
    image = scale * last + descent
    return image, image - lost_border(depth)


def lost_border(depth: int) -> int:
    """Pixels by which the logits of valid convolutions are smaller than the image: 184 with the paper's 4 poolings."""
    scale = 2**depth
    return 8 * (scale - 1) + 4 * scale


def _middle(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of a map, of this size."""
    top, left = ((side - target) // 2 for side, target in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "unet_paper": functools.partial(UNet, padding="valid", batch_norm=False, dropout=0.5),
}
