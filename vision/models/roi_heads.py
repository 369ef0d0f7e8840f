"""What a two-stage detector does with a region: class and offsets of its box, its mask, its key points."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers, rpn
from vision.models.upsampling import ConvTranspose
from vision.ops import boxes as box_ops
from vision.ops import roi
from vision.ops.nms import nms_per_class
from vision.ops.upsampling import bilinear

Pooling = Literal["align", "align_aligned", "pool"]


class BoxHead(nn.Module):
    """Class scores and offsets of each region: convolutions, dense layers, and one dense layer for each of the two.

    Attributes:
        num_classes: number of classes without the background.
        convolutions: channels of the 3x3 convolutions.
        hidden: units of the dense layers.
        dropout: chance of a dense unit to be zeroed while training.
        norm: factory of the norms after the convolutions, which then have no bias; None for none.
        dtype: dtype of the hidden layers; the results are float32.
        conv: factory of the convolutions.
    """

    num_classes: int
    convolutions: tuple[int, ...]
    hidden: tuple[int, ...]
    dropout: float
    norm: Callable[..., nn.Module] | None
    dtype: str
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(regions, h, w, C) -> logits (regions, 1 + classes), background first, offsets (regions, 1 + classes, 4)."""
        x = _convolutions(self, self.convolutions)(x, train) if self.convolutions else x
        x = x.reshape(len(x), -1)
        for number, units in enumerate(self.hidden, start=1):
            dense = nn.Dense(units, dtype=self.dtype, kernel_init=layers.he_normal, name=f"dense_{number}")
            x = nn.Dropout(self.dropout)(nn.relu(dense(x)), deterministic=not train)
        return _BoxPredictor(1 + self.num_classes, name="head")(x.astype(jnp.float32))


class _BoxPredictor(nn.Module):
    """The layers that depend on the classes."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The widths of the first values are those of Girshick 2015 (Fast R-CNN), section 3.1.
        logits = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01), name="logits")(x)
        offsets = nn.Dense(self.outputs * 4, kernel_init=nn.initializers.normal(0.001), name="offsets")(x)
        return logits, offsets.reshape(len(x), self.outputs, 4)


class MaskHead(nn.Module):
    """The mask of each region for one class: 3x3 convolutions and a transposed one (He et al. 2017, figure 4, right).

    Attributes:
        num_classes: number of classes without the background.
        convolutions: channels of the 3x3 convolutions; the transposed one has as many as the last.
        norm, dtype, conv: those of `BoxHead`.
    """

    num_classes: int
    convolutions: tuple[int, ...]
    norm: Callable[..., nn.Module] | None
    dtype: str
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, classes: jax.Array, train: bool) -> jax.Array:
        """(regions, h, w, C), classes (regions,) from 0 -> logits (regions, 2 h, 2 w), float32."""
        x = _convolutions(self, self.convolutions)(x, train)
        init = layers.he_normal_fan_out
        upsample = ConvTranspose(
            self.convolutions[-1], (2, 2), 2, dtype=self.dtype, kernel_init=init, name="transposed"
        )
        x = nn.relu(upsample(x)).astype(jnp.float32)
        # The background, first, has scores as published; nothing asks for them.
        return _OneOfManyMaps(1 + self.num_classes, name="head")(x, classes + 1)


class _OneOfManyMaps(nn.Module):
    """One output of a 1x1 convolution for each example; the others are never computed."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """(N, h, w, C), index (N,) -> (N, h, w)."""
        kernel = self.param("kernel", layers.he_normal_fan_out, (x.shape[-1], self.outputs))
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
        return jnp.einsum("nhwc,cn->nhw", x, kernel[:, index]) + bias[index][:, None, None]


class KeypointHead(nn.Module):
    """A heat map for each key point of a region (He et al. 2017, section 5).

    Attributes:
        num_keypoints: number of key points of an object.
        convolutions: channels of the 3x3 convolutions.
        dtype: dtype of the 3x3 convolutions; the result is float32.
        conv: factory of the convolutions.
    """

    num_keypoints: int
    convolutions: tuple[int, ...]
    dtype: str
    conv: Callable[..., nn.Module]
    norm: None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(regions, h, w, C) -> logits (regions, K, 4 h, 4 w), float32."""
        x = _convolutions(self, self.convolutions)(x, train).astype(jnp.float32)
        init = layers.he_normal_fan_out
        x = ConvTranspose(self.num_keypoints, (4, 4), 2, padding=1, kernel_init=init, name="transposed")(x)
        x = bilinear(x, tuple(2 * side for side in x.shape[1:3]))
        return jnp.moveaxis(x, -1, 1)


def features(
    maps: Mapping[int, jax.Array],
    boxes: jax.Array,
    output_size: int,
    pooling: Pooling,
    sampling_ratio: int,
    canonical_size: float,
) -> jax.Array:
    """Features of the regions of a batch of images.

    Args:
        maps: {stride: (B, h, w, C)}; of several, each region reads the one for its size.
        boxes: (B, R, 4).
        output_size: side of the result.
        pooling: "align", torchvision's RoIAlign; "align_aligned", with the half pixel put right; or "pool", RoIPool.
        sampling_ratio: samples along each side of a bin of RoIAlign.
        canonical_size: of `vision.ops.roi.pyramid_level`.

    Returns:
        (B * R, output_size, output_size, C).
    """
    if len(maps) == 1:
        ((stride, single),) = maps.items()
        if pooling == "pool":
            one = functools.partial(roi.roi_pool, output_size=output_size, spatial_scale=1 / stride)
        else:
            options = dict(sampling_ratio=sampling_ratio, aligned=pooling == "align_aligned")
            one = functools.partial(roi.roi_align, output_size=output_size, spatial_scale=1 / stride, **options)
        result = jax.vmap(one)(single, boxes)
    else:
        one = functools.partial(
            roi.roi_align_pyramid,
            output_size=output_size,
            sampling_ratio=sampling_ratio,
            aligned=pooling == "align_aligned",
            canonical_size=canonical_size,
        )
        result = jax.vmap(one)(dict(maps), boxes)
    return result.reshape(-1, *result.shape[2:])


def learn(
    head: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    keys: jax.Array,
    boxes: jax.Array,
    exists: jax.Array,
    truth: Mapping[str, jax.Array],
    **options: Any,
) -> tuple[rpn.Sample, jax.Array, dict[str, jax.Array]]:
    """Draws R regions of each image, and compares what the box head says of them with the truth.

    Args:
        head: regions (B, R, 4) -> logits (B, R, 1 + classes), offsets (B, R, 1 + classes, 4).
        keys: (B,) of the images.
        boxes: (B, P, 4) to draw from.
        exists: (B, P) False for those that are not to be drawn.
        truth: `boxes` (B, N, 4), `classes` and `valid` (B, N), perhaps `ignored` (B, M, 4).
        **options: further arguments of `rpn.sample`.

    Returns:
        The sample; the class of each region's object (B, R); and logits (B, R, 1 + classes), labels (B, R), 0 for the
        background, positive and filled (B, R), offsets, those of the true class, and true_offsets (B, R, 4), boxes
        (B, R, 4).
    """
    drawn = jax.vmap(functools.partial(rpn.sample, **options))(keys, boxes, exists, truth)
    classes = jnp.take_along_axis(truth["classes"], drawn.objects, axis=1)
    labels = jnp.where(drawn.positive, classes + 1, 0)
    logits, offsets = head(drawn.boxes)
    compared = {
        "logits": logits,
        "labels": labels,
        "offsets": jnp.take_along_axis(offsets, labels[..., None, None], axis=2)[:, :, 0],
        "true_offsets": drawn.offsets,
        "positive": drawn.positive,
        "filled": drawn.filled,
        "boxes": drawn.boxes,
    }
    return drawn, classes, compared


def detect(
    logits: jax.Array,
    offsets: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    image_size: jax.Array,
    *,
    weights: box_ops.Four,
    score_threshold: float,
    threshold: float,
    num: int,
) -> dict[str, jax.Array]:
    """One image's detections: every proposal with every class, non-maximum suppression within each class.

    Args:
        logits: (P, 1 + classes), background first.
        offsets: (P, 1 + classes, 4) of each class's box from its proposal.
        proposals: (P, 4).
        valid: (P,) False for empty places.
        image_size: (height, width) of the image without padding.
        weights: of the offsets.
        score_threshold: scores up to it are left out.
        threshold: largest IoU of two detections of a class.
        num: most detections.

    Returns:
        boxes (num, 4), scores (num,) descending, classes (num,) int32 from 0, valid (num,); zeros in empty places.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, 1:]
    boxes = box_ops.clip(box_ops.decode(offsets[:, 1:], proposals[:, None], weights), image_size)
    classes = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape).reshape(-1)
    exists = (valid[:, None] & (scores > score_threshold) & box_ops.is_valid(boxes, 1e-2)).reshape(-1)
    boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)
    kept, filled = nms_per_class(boxes, scores, classes, threshold, num, exists)
    return {
        "boxes": jnp.where(filled[:, None], boxes[kept], 0.0),
        "scores": jnp.where(filled, scores[kept], 0.0),
        "classes": jnp.where(filled, classes[kept], 0),
        "valid": filled,
    }


def _convolutions(head: nn.Module, widths: tuple[int, ...]) -> nn.Module:
    """3x3 convolutions as `vision.models.layers` has them, without bias where a norm follows."""
    conv = functools.partial(
        head.conv, dtype=head.dtype, use_bias=head.norm is None, kernel_init=layers.he_normal_fan_out
    )
    return layers.Convolutions(widths, conv, head.norm, name="convolutions")
