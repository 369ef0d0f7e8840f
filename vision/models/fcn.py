"""Fully convolutional networks (Long et al. 2015, arXiv:1411.4038): maps of several strides, scored and added up."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers, vgg
from vision.models.dense_layers import WindowDense
from vision.models.upsampling import ConvTranspose, FixedMethod, Upsample, bilinear_init
from vision.ops.pooling import max_pool
from vision.ops.upsampling import bilinear_transposed


class Placed(NamedTuple):
    """A map with its place in the image.

    Attributes:
        values: (B, h, w, C).
        stride: pixels of the image between neighbouring places.
        first: row, and column, of the image in the middle of what the first place stands for; padding is negative.
    """

    values: jax.Array
    stride: int
    first: float


class FCN(nn.Module):
    """FCN-32s, FCN-16s and FCN-8s on VGG, for images of any size.

    The parameters of the trunk are those of `VGG`, dense layers included. As published, the image is padded so that the
    7x7 windows of the first dense layer see all of it, poolings keep incomplete windows, and each sum crops one of its
    maps to where the other lies. The published numbers of parameters are those with fixed upsampling, as in the
    authors' released models.

    Attributes:
        num_classes: number of classes; None or 0 for the trunk alone.
        stride: stride of the finest map that is scored: 32, 16 or 8.
        stage_sizes: number of convolutions of each of the trunk's five stages.
        width: channels of the first stage; doubles from stage to stage up to eight times.
        hidden: units of the two hidden dense layers.
        window: side of the windows that the first dense layer reads.
        padding: zeros around the image, the paper's are 100. Where these do not let the windows see all of the image,
            their own map is padded too; 1 is all that small images need.
        learned: which upsampling is learnt, starting as bilinear interpolation: "none"; "skips", the factors of 2
            before a sum, as the paper has it; or "all", the last one too.
        batch_norm: whether batch norm follows each convolution of the trunk's stages, which helps without pre-training.
        dropout: chance of a hidden unit to be zeroed while training.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the trunk; scores and logits are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 21
    stride: Literal[8, 16, 32] = 8
    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    hidden: int = 4096
    window: int = 7
    padding: int = 100
    learned: Literal["none", "skips", "all"] = "none"
    batch_norm: bool = False
    dropout: float = 0.5
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), features by stride.

        `features` has the poolings' results at strides 2 to 16 and the last hidden layer's at 32, with the padding.
        """
        if len(self.stage_sizes) != 5:
            raise UsageError(f"fcn: the trunk has 5 stages, strides 2 to 32; given stage_sizes={self.stage_sizes}.")
        maps = self._trunk(image, train)
        outputs: dict[str, Any] = {"features": {placed.stride: placed.values for placed in maps}}
        if not self.num_classes:
            return outputs
        *finer, last = (placed for placed in maps if placed.stride >= self.stride)
        # The paper starts all scores at zero (section 4.3).
        score = functools.partial(nn.Dense, self.num_classes, dtype=jnp.float32, kernel_init=nn.initializers.zeros)
        total = last._replace(values=score(name="head")(last.values))
        for placed in reversed(finer):
            stage = placed.stride.bit_length() - 1
            skip = placed._replace(values=score(name=f"score_{stage}")(placed.values))
            total = self._upsampled(total, 2, self.learned != "none", f"upsample_{stage}")
            total = _added(skip, total)
        total = self._upsampled(total, total.stride, self.learned == "all", "upsample")
        top = round(-total.first)  # the pixel of the scores that is the image's first
        return {**outputs, "logits": total.values[:, top : top + image.shape[1], top : top + image.shape[2]]}

    def _trunk(self, image: jax.Array, train: bool) -> list[Placed]:
        """The results of the poolings 1 to 4 and of the dense layers."""
        stage = nn.remat(vgg.Stage, static_argnums=(2,)) if self.remat else vgg.Stage  # `train`, counted with self
        stage = functools.partial(
            stage,
            conv=functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal_fan_out),
            norm=functools.partial(self.norm, dtype=self.dtype) if self.batch_norm else None,
            local_response_norm=False,
        )
        around = (self.padding - 1,) * 2  # the first convolution pads by one more
        x = jnp.pad(image.astype(self.dtype), ((0, 0), around, around, (0, 0)))
        maps, first = [], 1.0 - self.padding
        for index, size in enumerate(self.stage_sizes):
            x = stage(self.width * min(2**index, 8), (3,) * size, name=f"stage_{index + 1}")(x, train)
            x, first = max_pool(x, window=2, stride=2, ceil_mode=True), first + 2**index / 2
            maps.append(Placed(x, 2 ** (index + 1), first))

        # Unpadded windows begin 16 * (window - 1) pixels later, and upsampling by 32 begins 31.5 before that.
        inside = 16 * (self.window - 1)
        sees_all = first + inside - 31.5 <= 0
        if not sees_all:
            before, after = self.window // 2, (self.window - 1) // 2
            x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
            inside -= 32 * before
        for number in (1, 2):
            name = f"dense_{number}"
            window = (self.window, self.window)
            dense = (
                WindowDense(self.hidden, window, self.dtype, name=name)
                if number == 1
                else nn.Dense(self.hidden, dtype=self.dtype, kernel_init=layers.he_normal, name=name)
            )
            x = nn.Dropout(self.dropout)(nn.relu(dense(x)), deterministic=not train)
        return [*maps[:-1], Placed(x, 32, first + inside)]

    def _upsampled(self, placed: Placed, factor: int, learned: bool, name: str) -> Placed:
        """The map at a finer stride: bilinear interpolation, or what is learnt from there."""
        values, stride = placed.values, placed.stride // factor
        if learned:
            values = ConvTranspose(
                values.shape[-1],
                (2 * factor, 2 * factor),
                factor,
                use_bias=False,
                dtype=jnp.float32,
                kernel_init=bilinear_init,
                name=name,
            )(values)
        else:
            values = bilinear_transposed(values, factor)
        return Placed(values, stride, placed.first - stride * (factor - 0.5))


def _added(fine: Placed, coarse: Placed) -> Placed:
    """The sum of two maps of one stride where both are."""
    shift = round((coarse.first - fine.first) / fine.stride)
    one = fine.values[:, max(shift, 0) :, max(shift, 0) :]
    other = coarse.values[:, max(-shift, 0) :, max(-shift, 0) :]
    rows, columns = (min(sides) for sides in zip(one.shape[1:3], other.shape[1:3], strict=True))
    total = one[:, :rows, :columns] + other[:, :rows, :columns]
    return Placed(total, fine.stride, max(fine.first, coarse.first))


class BackboneFCN(nn.Module):
    """The scores of an FCN on any network with features by stride.

    The image is mirrored at the bottom and the right until the largest stride divides its sides.

    Attributes:
        num_classes: number of classes; None or 0 for the backbone alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        strides: strides of the maps that are scored, finest first, each a multiple of the one before.
        upsampling: how scores are enlarged before they are added and at the end: "bilinear", "nearest",
            "bed_of_nails", or "transposed", which is learnt and starts as bilinear interpolation.
        dropout: chance of a value of the maps to be zeroed while training.
        dtype: dtype of the backbone; scores and logits are float32.
        norm: what the backbone's norm layers are given besides their own arguments.
    """

    num_classes: int | None = 21
    backbone: backbones.Section = "resnet50"
    strides: tuple[int, ...] = (8, 16, 32)
    upsampling: FixedMethod | Literal["transposed"] = "bilinear"
    dropout: float = 0.0
    dtype: str = "float32"
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), the backbone's features by stride."""
        check_strides(self.strides)
        network = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")
        padded = backbones.pad_to_multiple(image, self.strides[-1])
        outputs = network(padded, train)
        result: dict[str, Any] = {"features": outputs.get("features", {})}
        maps = backbones.features(outputs, self.strides)
        if not self.num_classes:
            return result
        total, above = None, None
        for stride, x in sorted(zip(self.strides, maps, strict=True), key=lambda pair: -pair[0]):
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            name = "head" if total is None else f"score_{stride}"
            scores = nn.Dense(self.num_classes, dtype=jnp.float32, name=name)(x)
            if total is not None:
                scores += self._upsample(above // stride, f"upsample_{stride}")(total, scores.shape[1:3])
            total, above = scores, stride
        return {**result, "logits": self._upsample(above, "upsample")(total, image.shape[1:3])}

    def _upsample(self, factor: int, name: str) -> nn.Module:
        return Upsample(self.upsampling, factor, overlap=True, dtype=jnp.float32, name=name)


def check_strides(strides: tuple[int, ...], where: str = "config.model.strides") -> None:
    """Raises UsageError unless each stride is a multiple of the one before, and larger."""
    pairs = itertools.pairwise(strides)
    if not strides or any(larger % smaller or larger <= smaller for smaller, larger in pairs):
        raise UsageError(f"{where}: expected growing strides, each a multiple of the one before; given {strides}.")


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": functools.partial(FCN, stride=32),
    "fcn16s": functools.partial(FCN, stride=16),
    "fcn8s": functools.partial(FCN, stride=8),
    "fcn": BackboneFCN,
}
