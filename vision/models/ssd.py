"""SSD (Liu et al. 2016, arXiv:1512.02325): classes and offsets for default boxes on maps of several strides."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers
from vision.models.vgg import Stage
from vision.ops import anchors
from vision.ops.convolution import explicit_padding, output_shape
from vision.ops.pooling import max_pool


class DilatedVGG(nn.Module):
    """VGG whose first two dense layers are convolutions of fewer channels, the first one dilated (section 3.1).

    The third pooling keeps incomplete windows and the last one has stride 1, so that an image of 300 pixels gives maps
    of 38x38 and 19x19.

    Attributes:
        stage_sizes: number of convolutions of each of the five stages.
        width: channels of the first stage; doubles from stage to stage up to eight times.
        hidden: channels of the convolutions that were dense layers.
        dilation: step between the taps of the first of them.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the computation.
        conv: factory of the convolutions.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    hidden: int = 1024
    dilation: int = 6
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features at strides 1, 2, 4 and 8 (the stages' last maps) and 16 (the last layer)."""
        if len(self.stage_sizes) != 5:
            raise UsageError(f"vgg16_dilated: there are 5 stages; given stage_sizes={self.stage_sizes}.")
        if min(image.shape[1:3]) < 16:
            raise UsageError(f"vgg16_dilated: images have 16 pixels a side or more; given {_by(image.shape[1:3])}.")
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal_fan_out)
        stage = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage  # `train`, counted with self
        x, features = image.astype(self.dtype), {}
        for index, size in enumerate(self.stage_sizes):
            width = self.width * min(2**index, 8)
            x = stage(width, (3,) * size, conv, None, False, name=f"stage_{index + 1}")(x, train)
            if index < 4:
                features[2**index] = x
                x = max_pool(x, window=2, stride=2, ceil_mode=index == 2)
        x = max_pool(x, window=3, stride=1, padding=1)
        x = nn.relu(conv(self.hidden, (3, 3), padding=self.dilation, kernel_dilation=self.dilation, name="fc6")(x))
        features[16] = nn.relu(conv(self.hidden, (1, 1), padding=0, name="fc7")(x))
        return {"features": features}


class L2Norm(nn.Module):
    """Divides the channels of each place by their Euclidean length and scales each channel (section 3.1).

    Attributes:
        start: first value of the channels' scales.
    """

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> (..., C), computed in float32."""
        scale = self.param("scale", nn.initializers.constant(self.start), x.shape[-1:])
        values = x.astype(jnp.float32)
        # The root of a sum kept off zero: its gradient there would be infinite.
        length = jnp.sqrt(jnp.maximum(jnp.sum(values**2, axis=-1, keepdims=True), 1e-24))
        return (scale * values / length).astype(x.dtype)


class ExtraLevel(nn.Module):
    """A smaller map: 1x1 convolution to half the channels, then a larger convolution.

    Attributes:
        width: channels of the result.
        shape: (kernel, stride, padding) of the second convolution.
        conv: factory of the convolutions.
        norm: factory of the norms; None for none.
    """

    width: int
    shape: tuple[int, int, int]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h', w', width)."""
        for number, (width, (kernel, stride, padding)) in enumerate(
            [(max(self.width // 2, 1), (1, 1, 0)), (self.width, self.shape)], start=1
        ):
            x = self.conv(width, (kernel, kernel), stride, padding, name=f"conv_{number}")(x)
            if self.norm is not None:
                x = self.norm(use_running_average=not train, name=f"norm_{number}")(x)
            x = nn.relu(x)
        return x


class LevelHeads(nn.Module):
    """A 3x3 convolution of its own for each map, which predicts so many values for each of its boxes.

    Attributes:
        values: numbers for each box.
        boxes: boxes at each place, of each map.
        conv: factory of the convolutions.
    """

    values: int
    boxes: Sequence[int]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps (B, h, w, C) -> (B, all boxes, values), float32."""
        predicted = [
            self.conv(count * self.values, (3, 3), padding=1, name=f"level_{level}")(x)
            for level, (x, count) in enumerate(zip(maps, self.boxes, strict=True), start=1)
        ]
        flat = [x.reshape(len(x), -1, self.values).astype(jnp.float32) for x in predicted]
        return jnp.concatenate(flat, axis=1)


class SSD(nn.Module):
    """Single shot detector on any backbone with features by stride.

    Further maps, each half as large, follow the backbone's last one; on each map a 3x3 convolution predicts, for each
    default box around each place, scores of the classes and of the background, and another one the offsets of the box.
    Scales of boxes are shares of the image's sides, so that the network takes images of any size.

    Attributes:
        num_classes: number of classes without the background; None or 0 for the maps alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        strides: of the backbone's maps that have boxes, finest first.
        extra: channels of each further map.
        extra_shapes: (kernel, stride, padding) of the convolution that leads to each further map; () for (3, 2, 1).
        extra_norm: whether a norm follows each convolution that leads to a further map.
        scales: side of the smallest square of each map's boxes as a share of the image's, and one number more, which
            the last map's larger square goes by; () for the paper's equation 4, 0.2 to 0.9 and 1.
        aspect_ratios: above 1, for each map, or once for all: each adds a wide and a tall box to the two squares.
        steps: pixels between the boxes' centres, of each map; () for the image's sides over the map's.
        l2_norm: start of the learnt scale of the first map, which is normalised in its channels at each place; 20 for
            VGG, whose fourth stage has larger values than the others. None leaves the map as it is.
        dtype: dtype of the convolutions; norms are computed in float32, logits and offsets are float32.
        conv: factory of the convolutions of the further maps and of the predictions.
        norm: factory of the norms of the further maps; the backbone's are given what it adds to the usual one.
    """

    num_classes: int | None = 20
    backbone: backbones.Section = "resnet50"
    strides: tuple[int, ...] = (8, 16, 32)
    extra: tuple[int, ...] = (512, 256, 256)
    extra_shapes: tuple[tuple[int, int, int], ...] = ()
    extra_norm: bool = True
    scales: tuple[float, ...] = ()
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2.0, 3.0),)
    steps: tuple[int, ...] = ()
    l2_norm: float | None = None
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, A, 1 + num_classes), the background first, offsets (B, A, 4), anchors.

        `anchors` (A, 4) are the default boxes in pixels, `features` the backbone's maps by stride. The offsets, divided
        by (10, 10, 5, 5), are those of `vision.ops.boxes.decode`.
        """
        scales, ratios, shapes = self._boxes()
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.xavier_uniform)
        norm = functools.partial(self.norm, dtype=self.dtype) if self.extra_norm else None
        maps = backbones.features(outputs, self.strides)
        x = maps[-1]
        for number, (width, shape) in enumerate(zip(self.extra, shapes, strict=True), start=1):
            self._check_size(x, shape, number, image)
            x = ExtraLevel(width, shape, conv, norm, name=f"extra_{number}")(x, train)
            maps.append(x)
        result: dict[str, Any] = {"features": outputs["features"]}
        if not self.num_classes:
            return result
        if self.l2_norm is not None:
            maps[0] = L2Norm(self.l2_norm, name="l2_norm")(maps[0])
        counts = [2 + 2 * len(level) for level in ratios]
        sizes = [x.shape[1:3] for x in maps]
        return result | {
            "logits": LevelHeads(1 + self.num_classes, counts, conv, name="head")(maps),
            "offsets": LevelHeads(4, counts, conv, name="box_head")(maps),
            "anchors": anchors.default_boxes(image.shape[1:3], sizes, scales, ratios, self.steps or None),
        }

    def _boxes(self) -> tuple[Sequence[float], Sequence[Sequence[float]], Sequence[tuple[int, int, int]]]:
        """(scales, aspect ratios of each map, shapes of the extra convolutions), defaults filled in and checked."""
        levels = len(self.strides) + len(self.extra)
        scales = self.scales or tuple(anchors.default_box_scales(levels))
        ratios = self.aspect_ratios * levels if len(self.aspect_ratios) == 1 else self.aspect_ratios
        shapes = self.extra_shapes or ((3, 2, 1),) * len(self.extra)
        maps = f"{levels} maps (strides {self.strides} and {len(self.extra)} extra)"
        for name, given, expected, of in (
            ("scales", scales, levels + 1, f"one for each of {maps} and one more"),
            ("aspect_ratios", ratios, levels, f"one tuple for all or one for each of {maps}"),
            ("steps", self.steps or ratios, levels, f"one for each of {maps}, or ()"),
            ("extra_shapes", shapes, len(self.extra), "one for each number of `extra`, or ()"),
        ):
            if len(given) != expected:
                raise UsageError(f"ssd: {name} has {of}; given {getattr(self, name)}.")
        if min(scales) <= 0:
            raise UsageError(f"ssd: scales are shares of the image, above 0; given {self.scales}.")
        if any(ratio <= 1 for level in ratios for ratio in level):
            raise UsageError(
                f"ssd: aspect_ratios are above 1, each standing for its inverse too; given {self.aspect_ratios}."
            )
        return scales, ratios, shapes

    def _check_size(self, x: jax.Array, shape: tuple[int, int, int], number: int, image: jax.Array) -> None:
        """Raises UsageError where nothing is left of a map."""
        kernel, stride, padding = shape
        around = explicit_padding(padding, x.shape[1:3], (kernel, kernel), (stride, stride))
        if min(output_shape(x.shape[1:3], (kernel, kernel), (stride, stride), around)) < 1:
            raise UsageError(
                f"ssd: images of {_by(image.shape[1:3])} are too small: the map before extra map {number} is "
                f"{_by(x.shape[1:3])}, smaller than its kernel {kernel}. Take larger images or fewer extra maps."
            )


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


# Scales are torchvision's and the authors' for COCO; for VOC theirs are 0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05.
_SSD300 = functools.partial(
    SSD,
    backbone="vgg16_dilated",
    strides=(8, 16),
    extra=(512, 256, 256, 256),
    extra_shapes=((3, 2, 1), (3, 2, 1), (3, 1, 0), (3, 1, 0)),
    extra_norm=False,
    scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    aspect_ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
    steps=(8, 16, 32, 64, 100, 300),
    l2_norm=20.0,
)
# Scales are the authors' for VOC; for COCO theirs are 0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06.
_SSD512 = functools.partial(
    SSD,
    backbone="vgg16_dilated",
    strides=(8, 16),
    extra=(512, 256, 256, 256, 256),
    extra_shapes=((3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1), (4, 1, 1)),
    extra_norm=False,
    scales=(0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
    aspect_ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
    steps=(8, 16, 32, 64, 128, 256, 512),
    l2_norm=20.0,
)

VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "vgg16_dilated": DilatedVGG,
    "ssd": SSD,
    "ssd300_vgg16": _SSD300,
    "ssd512_vgg16": _SSD512,
}
