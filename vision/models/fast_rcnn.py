"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): classes and boxes of regions that come with the image."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers, roi_heads, rpn
from vision.models.rcnn import Truth, with_a_row
from vision.ops import boxes as box_ops

Number = int | float


class FastRCNN(nn.Module):
    """One pass over the image; of each proposal RoIPool reads a part of the map, dense layers give class and box.

    Attributes:
        num_classes: number of classes without the background; None or 0 for the map alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        stride: stride of the map that regions are read from.
        pooling: how a region is read: "pool" for RoIPool, "align" and "align_aligned" for RoIAlign.
        sampling_ratio: samples along each side of a bin of RoIAlign.
        roi_size: bins along each side of a region.
        roi_matching: IoU from which a proposal holds an object, and IoU below which it is background.
        background_from: IoU below which a proposal is no background either but left out: what overlaps no object at all
            is too easy (section 2.3). Images without objects have background everywhere.
        roi_samples: proposals of an image to learn from, chosen by chance.
        roi_positives: largest share of them with an object.
        hidden: units of the dense layers.
        dropout: chance of one of these units to be zeroed while training.
        offset_weights: factors of the four offsets of a box from its proposal.
        score_threshold: detections with scores up to it are left out.
        nms_threshold: largest IoU of two detections of a class.
        max_detections: most detections of an image.
        dtype: dtype of the convolutions and hidden dense layers; scores and offsets are float32.
        conv: factory of the heads' convolutions; the backbone has its own.
        norm: what the backbone's norms are given; see `backbones.configured`.
    """

    num_classes: int | None = 20
    backbone: backbones.Section = "vgg16"
    stride: int = 16
    pooling: roi_heads.Pooling = "pool"
    sampling_ratio: int = 2
    roi_size: int = 7
    roi_matching: tuple[float, float] = (0.5, 0.5)
    background_from: float = 0.1
    roi_samples: int = 64
    roi_positives: float = 0.25
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5
    offset_weights: tuple[Number, Number, Number, Number] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.05
    nms_threshold: float = 0.3
    max_detections: int = 100
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        train: bool = False,
        truth: Truth | None = None,
        size: jax.Array | None = None,
        proposals: jax.Array | None = None,
        proposals_valid: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Detections in evaluation, in training what the losses compare.

        Args:
            image: (B, H, W, C).
            train: whether to learn from `truth`; then the random stream "sample" is drawn from.
            truth: in training, `boxes` (B, N, 4), `classes` and `valid` (B, N), perhaps `ignored` (B, M, 4).
            size: (B, 2) height and width of the images without padding; None where there is none.
            proposals: (B, P, 4) regions in pixels; None for the whole image as the only one, in evaluation.
            proposals_valid: (B, P) False for empty places; None where all are filled.

        Returns:
            `features` by stride, and `proposals` as they were given: boxes (B, P, 4), valid (B, P); in evaluation
            `logits` (B, P, 1 + classes), `offsets` (B, P, 1 + classes, 4) and `detections`: boxes (B, D, 4), scores,
            classes and valid (B, D); in training `rois` as `vision.models.rcnn.FasterRCNN` gives them.
        """
        self._check(train, truth, proposals)
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        maps = {self.stride: backbones.features(outputs, (self.stride,), "config.model.stride")[0]}
        result: dict[str, Any] = {"features": maps}
        if not self.num_classes:
            return result
        if size is None:
            size = jnp.broadcast_to(jnp.array(image.shape[1:3], jnp.int32), (len(image), 2))
        if proposals is None:
            whole = jnp.concatenate([jnp.zeros_like(size), size[:, ::-1]], axis=1)[:, None].astype(jnp.float32)
            boxes, exists = whole, jnp.ones((len(image), 1), bool)
        else:
            boxes, exists = proposals.astype(jnp.float32), box_ops.is_valid(proposals)
            exists = exists if proposals_valid is None else exists & proposals_valid.astype(bool)
            result["proposals"] = {"boxes": boxes, "valid": exists}
        if train:
            return result | {"rois": self._learn(maps, boxes, exists, with_a_row(truth))}
        logits, offsets = self._head(maps, boxes, train=False)
        detect = functools.partial(
            roi_heads.detect,
            weights=self.offset_weights,
            score_threshold=self.score_threshold,
            threshold=self.nms_threshold,
            num=self.max_detections,
        )
        found = jax.vmap(detect)(logits, offsets, boxes, exists, size)
        return result | {"logits": logits, "offsets": offsets, "detections": found}

    def _learn(self, maps: dict[int, jax.Array], boxes: jax.Array, exists: jax.Array, truth: Truth) -> dict[str, Any]:
        """What the losses compare, for R regions of each image, the true boxes among them, drawn by chance."""
        boxes = jnp.concatenate([boxes, truth["boxes"]], axis=1)
        exists = jnp.concatenate([exists, truth["valid"]], axis=1)
        overlaps = jnp.where(truth["valid"][..., None], jax.vmap(box_ops.pairwise)(truth["boxes"], boxes), 0.0)
        hard = jnp.max(overlaps, axis=1) >= self.background_from
        exists &= hard | ~jnp.any(truth["valid"], axis=1, keepdims=True)
        _, _, rois = roi_heads.learn(
            lambda regions: self._head(maps, regions, train=True),
            rpn.keys_of_images(self.make_rng("sample"), len(boxes)),
            boxes,
            exists,
            truth,
            num=self.roi_samples,
            positive_fraction=self.roi_positives,
            matching=self.roi_matching,
            weights=self.offset_weights,
        )
        return rois

    def _head(self, maps: dict[int, jax.Array], boxes: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Logits (B, R, 1 + classes) and offsets (B, R, 1 + classes, 4) of regions (B, R, 4)."""
        regions = roi_heads.features(maps, boxes, self.roi_size, self.pooling, self.sampling_ratio, 224.0)
        options = dict(norm=None, dtype=self.dtype, conv=self.conv, name="box_head")
        head = roi_heads.BoxHead(self.num_classes, (), self.hidden, self.dropout, **options)
        logits, offsets = head(regions, train)
        return logits.reshape(*boxes.shape[:2], -1), offsets.reshape(*boxes.shape[:2], -1, 4)

    def _check(self, train: bool, truth: Truth | None, proposals: jax.Array | None) -> None:
        """Raises UsageError for values out of range, and training without what there is to learn from."""
        for name in ("roi_positives", "nms_threshold", "score_threshold", "background_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"fast_rcnn: {name} is a share, 0 to 1; given {getattr(self, name)}.")
        high, low = self.roi_matching
        if not 0 < low <= high <= 1:
            raise UsageError(
                f"fast_rcnn: roi_matching is (at least, below) with 0 < below <= at least <= 1; given {high, low}."
            )
        if not train or not self.num_classes:
            return
        if truth is None:
            raise UsageError("fast_rcnn: training needs the true boxes and classes; the task 'rcnn' passes them on.")
        if proposals is None:
            raise UsageError(
                "fast_rcnn: training needs proposals; add the transform selective_search to "
                "config.data.train.transforms, as in 'decode|selective_search(300)|resize(600)'."
            )


VARIANTS: dict[str, Callable[..., nn.Module]] = {"fast_rcnn": FastRCNN}
