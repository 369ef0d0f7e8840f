"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), Mask R-CNN (He et al. 2017, arXiv:1703.06870): any backbone."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, fpn, layers, roi_heads, rpn
from vision.ops import anchors as anchor_ops
from vision.ops import masks_and_keypoints, roi

Truth = Mapping[str, jax.Array]
Number = int | float


class FasterRCNN(nn.Module):
    """Two-stage detector: regions that may hold an object, then class, box, mask and key points of each.

    With a ResNet-50 this is torchvision's `fasterrcnn_resnet50_fpn` or, with `masks` or `keypoints`, its
    `maskrcnn_resnet50_fpn` and `keypointrcnn_resnet50_fpn`; their batch norm is frozen by the optimiser's settings.

    Attributes:
        num_classes: number of classes without the background; None or 0 for the maps alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        strides: strides of the maps that regions are read from, finest first.
        pyramid: "fpn", a feature pyramid on the backbone's maps of these strides; "simple", one made of its last map,
            for a ViT; or "none", the backbone's own map of the one stride there is.
        channels: channels of the pyramid's maps.
        norms: whether batch norm follows the convolutions of the pyramid and of the heads, which helps without
            pre-training.
        anchor_sizes: for each map, the pyramid's extra one included, square roots of the anchors' areas in pixels.
        anchor_ratios: heights over widths of the anchors.
        rpn_widths: channels of the 3x3 convolutions before the anchors' scores; None for one with the maps' channels.
        rpn_softmax: whether an anchor has two scores, with a softmax over them, as in the first paper.
        rpn_matching: IoU from which an anchor holds an object, and IoU below which it is background; others are left
            out of the loss.
        rpn_inside: learn from those anchors alone that lie within the image, as in the first paper.
        rpn_samples: anchors of an image that the loss looks at, chosen by chance.
        rpn_positives: largest share of them with an object.
        before_nms: anchors of each map that may become proposals, in training and in evaluation.
        proposals: most proposals of an image, in training and in evaluation.
        proposal_nms: largest IoU of two proposals from one map.
        proposal_min_size: smallest side of a proposal in pixels.
        pooling: how a region is read: "align" as torchvision's RoIAlign, "align_aligned" the same with its shift of
            half a pixel put right, or "pool" for RoIPool, on a single map.
        canonical_size: side in pixels of the regions that are read at stride 16, half of it at stride 8, and so on.
        sampling_ratio: samples along each side of a bin of RoIAlign.
        roi_size: bins along each side of a region, for its box.
        roi_matching: IoU from which a proposal holds an object, and IoU below which it is background.
        roi_samples: proposals of an image that the heads learn from, chosen by chance.
        roi_positives: largest share of them with an object.
        box_convolutions: channels of the box head's 3x3 convolutions.
        box_hidden: units of the box head's dense layers.
        dropout: chance of one of these units to be zeroed while training.
        offset_weights: factors of the four offsets of a box from its proposal.
        masks: whether there is a mask head.
        mask_size: bins along each side of a region, for its mask, which has twice as many.
        mask_convolutions: channels of the mask head's 3x3 convolutions.
        keypoints: number of key points of an object; None for no such head.
        keypoint_size: bins along each side of a region, for its key points; the heat maps have four times as many.
        keypoint_convolutions: channels of the key point head's 3x3 convolutions.
        score_threshold: detections with scores up to it are left out.
        nms_threshold: largest IoU of two detections of a class.
        max_detections: most detections of an image.
        dtype: dtype of the convolutions and hidden dense layers; norms, scores and offsets are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers; the backbone's are given what it adds to the usual one.
    """

    num_classes: int | None = 90
    backbone: backbones.Section = "resnet50"
    strides: tuple[int, ...] = (4, 8, 16, 32)
    pyramid: Literal["fpn", "simple", "none"] = "fpn"
    channels: int = 256
    norms: bool = False
    anchor_sizes: tuple[tuple[Number, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    anchor_ratios: tuple[Number, ...] = (0.5, 1.0, 2.0)
    rpn_widths: tuple[int, ...] | None = None
    rpn_softmax: bool = False
    rpn_matching: tuple[float, float] = (0.7, 0.3)
    rpn_inside: bool = False
    rpn_samples: int = 256
    rpn_positives: float = 0.5
    before_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_nms: float = 0.7
    proposal_min_size: float = 1e-3
    pooling: roi_heads.Pooling = "align"
    canonical_size: float = 224.0
    sampling_ratio: int = 2
    roi_size: int = 7
    roi_matching: tuple[float, float] = (0.5, 0.5)
    roi_samples: int = 512
    roi_positives: float = 0.25
    box_convolutions: tuple[int, ...] = ()
    box_hidden: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.0
    offset_weights: tuple[Number, Number, Number, Number] = (10.0, 10.0, 5.0, 5.0)
    masks: bool = False
    mask_size: int = 14
    mask_convolutions: tuple[int, ...] = (256, 256, 256, 256)
    keypoints: int | None = None
    keypoint_size: int = 14
    keypoint_convolutions: tuple[int, ...] = (512,) * 8
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, truth: Truth | None = None, size: jax.Array | None = None
    ) -> dict[str, Any]:
        """Detections in evaluation, in training what the losses compare.

        Args:
            image: (B, H, W, C).
            train: whether to learn from `truth`; then the random stream "sample" is drawn from.
            truth: in training, `boxes` (B, N, 4), `classes` (B, N) and `valid` (B, N), and where there are heads for
                them `masks` (B, N, h, w) and `keypoints` (B, N, K, 3); perhaps `ignored` (B, M, 4), see `rpn.sample`.
            size: (B, 2) height and width of the images without padding; None where there is none.

        Returns:
            `features` by stride, and `proposals`: boxes (B, P, 4), scores and valid (B, P); in evaluation `logits`
            (B, P, 1 + classes) and `offsets` (B, P, 1 + classes, 4) of the proposals, and `detections`: boxes
            (B, D, 4), scores, classes and valid (B, D), and with those heads masks (B, D, 2 mask_size, 2 mask_size) as
            probabilities and keypoints (B, D, K, 3); in training `rpn`, see `_learn_anchors`, and what
            `_learn_regions` gives.
        """
        self._check(train, truth)
        maps = self._maps(image, train)
        result: dict[str, Any] = {"features": maps}
        if not self.num_classes:
            return result
        if size is None:
            size = jnp.broadcast_to(jnp.array(image.shape[1:3], jnp.int32), (len(image), 2))
        anchors, level_sizes = self._anchors(image.shape[1:3], maps)
        widths = (next(iter(maps.values())).shape[-1],) if self.rpn_widths is None else self.rpn_widths
        shapes = len(self.anchor_sizes[0]) * len(self.anchor_ratios)
        head = rpn.RPNHead(shapes, widths, self.rpn_softmax, self.dtype, self.conv, name="rpn")
        logits, offsets = head(list(maps.values()))
        propose = functools.partial(
            rpn.propose,
            level_sizes=level_sizes,
            before_nms=self.before_nms[0 if train else 1],
            num=self.proposals[0 if train else 1],
            threshold=self.proposal_nms,
            min_size=self.proposal_min_size,
        )
        proposals = jax.vmap(propose, (0, 0, None, 0))(logits, offsets, anchors, size)
        result["proposals"] = proposals._asdict()
        maps = {stride: maps[stride] for stride in self.strides}  # regions are not read from the extra level
        if train:
            truth = with_a_row(truth)
            keys = rpn.keys_of_images(self.make_rng("sample"), len(image))
            keys = jax.vmap(jax.random.split, out_axes=1)(keys)
            result["rpn"] = self._learn_anchors(keys[0], logits, offsets, anchors, truth, size)
            return result | self._learn_regions(keys[1], maps, proposals, truth, image.shape[1:3])
        return result | self._detect(maps, proposals, size)

    def _learn_anchors(
        self,
        keys: jax.Array,
        logits: jax.Array,
        offsets: jax.Array,
        anchors: jax.Array,
        truth: Truth,
        size: jax.Array,
    ) -> dict[str, jax.Array]:
        """Of S anchors of each image: logits, positive, filled (B, S), offsets and true_offsets (B, S, 4)."""
        usable = jnp.ones((len(size), len(anchors)), bool)
        if self.rpn_inside:
            limits = jnp.tile(size[:, None, ::-1], (1, 1, 2))  # x, y, x, y
            usable = jnp.all((anchors >= 0) & (anchors <= limits), axis=-1)
        draw = functools.partial(
            rpn.sample,
            num=self.rpn_samples,
            positive_fraction=self.rpn_positives,
            matching=self.rpn_matching,
            low_quality_matches=True,
        )
        drawn = jax.vmap(draw, (0, None, 0, 0))(keys, anchors, usable, truth)
        return {
            "logits": jnp.take_along_axis(logits, drawn.index, axis=1),
            "offsets": jnp.take_along_axis(offsets, drawn.index[..., None], axis=1),
            "true_offsets": drawn.offsets,
            "positive": drawn.positive,
            "filled": drawn.filled,
        }

    def _learn_regions(
        self,
        keys: jax.Array,
        maps: dict[int, jax.Array],
        proposals: rpn.Proposals,
        truth: Truth,
        canvas: tuple[int, int],
    ) -> dict[str, Any]:
        """What the heads say of R proposals of each image, and the truth.

        Returns:
            `rois`, see `roi_heads.learn`; for the F proposals that may hold objects, which come first, `masks`: logits
            and targets (B, F, M, M), and `keypoints`: logits (B, F, K, M * M), targets and valid (B, F, K).
        """
        # The true boxes are proposals too, so that the heads see objects from the first step on.
        boxes = jnp.concatenate([proposals.boxes, truth["boxes"]], axis=1)
        exists = jnp.concatenate([proposals.valid, truth["valid"]], axis=1)
        drawn, classes, rois = roi_heads.learn(
            lambda regions: self._box_head(maps, regions, train=True),
            keys,
            boxes,
            exists,
            truth,
            num=self.roi_samples,
            positive_fraction=self.roi_positives,
            matching=self.roi_matching,
            weights=self.offset_weights,
        )
        result: dict[str, Any] = {"rois": rois}
        foreground = max(int(self.roi_samples * self.roi_positives), 1)
        boxes, objects, classes = (x[:, :foreground] for x in (drawn.boxes, drawn.objects, classes))
        if self.masks:
            logits = self._mask_head(maps, boxes, classes, train=True)
            # The true masks may be smaller than the image.
            scale = jnp.array([m / side for m, side in zip(truth["masks"].shape[:1:-1], canvas[::-1], strict=True)])
            crop = functools.partial(roi.crop_masks, output_size=logits.shape[-1])
            targets = jax.vmap(crop)(truth["masks"], boxes * jnp.tile(scale, 2), objects)
            result["masks"] = {"logits": logits, "targets": targets}
        if self.keypoints:
            logits = self._keypoint_head(maps, boxes, train=True)
            points = jnp.take_along_axis(truth["keypoints"], objects[..., None, None], axis=1)
            encode = functools.partial(masks_and_keypoints.encode_keypoints, size=logits.shape[-1])
            targets, valid = jax.vmap(encode)(points, boxes)
            valid &= drawn.positive[:, :foreground, None]
            result["keypoints"] = {"logits": logits.reshape(*targets.shape, -1), "targets": targets, "valid": valid}
        return result

    def _detect(self, maps: dict[int, jax.Array], proposals: rpn.Proposals, size: jax.Array) -> dict[str, Any]:
        """Logits and offsets of all proposals, and the detections."""
        logits, offsets = self._box_head(maps, proposals.boxes, train=False)
        detect = functools.partial(
            roi_heads.detect,
            weights=self.offset_weights,
            score_threshold=self.score_threshold,
            threshold=self.nms_threshold,
            num=self.max_detections,
        )
        found = jax.vmap(detect)(logits, offsets, proposals.boxes, proposals.valid, size)
        if self.masks:
            masks = self._mask_head(maps, found["boxes"], found["classes"], train=False)
            found["masks"] = jnp.where(found["valid"][..., None, None], nn.sigmoid(masks), 0.0)
        if self.keypoints:
            heatmaps = self._keypoint_head(maps, found["boxes"], train=False)
            points = jax.vmap(masks_and_keypoints.decode_keypoints)(heatmaps, found["boxes"])
            found["keypoints"] = jnp.where(found["valid"][..., None, None], points, 0.0)
        return {"logits": logits, "offsets": offsets, "detections": found}

    def _maps(self, image: jax.Array, train: bool) -> dict[int, jax.Array]:
        """{stride: (B, h, w, C)}, finest first."""
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        if self.pyramid == "none":
            return dict(zip(self.strides, backbones.features(outputs, self.strides), strict=True))
        options = dict(channels=self.channels, extra="pool", dtype=self.dtype, conv=self.conv)
        return fpn.by_stride(outputs, self.strides, self.pyramid, train, self._norm(), **options)

    def _anchors(self, image_size: tuple[int, int], maps: dict[int, jax.Array]) -> tuple[jax.Array, list[int]]:
        """(A, 4) anchors of all maps, and the number of each map's."""
        if len(self.anchor_sizes) != len(maps):
            raise UsageError(
                f"rcnn: anchor_sizes has sizes for {len(self.anchor_sizes)} maps; there are {len(maps)}, of strides "
                f"{', '.join(map(str, maps))}."
            )
        map_sizes = [x.shape[1:3] for x in maps.values()]
        strides = anchor_ops.strides_of(image_size, map_sizes)
        ratios = [self.anchor_ratios] * len(maps)
        shapes = len(self.anchor_sizes[0]) * len(self.anchor_ratios)
        counts = [rows * columns * shapes for rows, columns in map_sizes]
        return anchor_ops.anchors(map_sizes, strides, self.anchor_sizes, ratios), counts

    def _box_head(self, maps: dict[int, jax.Array], boxes: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        options = dict(norm=self._norm(), dtype=self.dtype, conv=self.conv, name="box_head")
        head = roi_heads.BoxHead(self.num_classes, self.box_convolutions, self.box_hidden, self.dropout, **options)
        logits, offsets = head(self._regions(maps, boxes, self.roi_size), train)
        return logits.reshape(*boxes.shape[:2], -1), offsets.reshape(*boxes.shape[:2], -1, 4)

    def _mask_head(self, maps: dict[int, jax.Array], boxes: jax.Array, classes: jax.Array, train: bool) -> jax.Array:
        options = dict(norm=self._norm(), dtype=self.dtype, conv=self.conv, name="mask_head")
        head = roi_heads.MaskHead(self.num_classes, self.mask_convolutions, **options)
        logits = head(self._regions(maps, boxes, self.mask_size), classes.reshape(-1), train)
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def _keypoint_head(self, maps: dict[int, jax.Array], boxes: jax.Array, train: bool) -> jax.Array:
        widths = self.keypoint_convolutions
        head = roi_heads.KeypointHead(self.keypoints, widths, self.dtype, self.conv, name="keypoint_head")
        logits = head(self._regions(maps, boxes, self.keypoint_size), train)
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def _regions(self, maps: dict[int, jax.Array], boxes: jax.Array, output_size: int) -> jax.Array:
        how = (self.pooling, self.sampling_ratio, self.canonical_size)
        return roi_heads.features(maps, boxes, output_size, *how)

    def _norm(self) -> Callable[..., nn.Module] | None:
        return functools.partial(self.norm, dtype=self.dtype) if self.norms else None

    def _check(self, train: bool, truth: Truth | None) -> None:
        """Raises UsageError for values out of range, and training without what there is to learn from."""
        shares = ("rpn_positives", "roi_positives", "proposal_nms", "nms_threshold", "score_threshold")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"rcnn: {name} is a share, 0 to 1; given {getattr(self, name)}.")
        for name in ("rpn_matching", "roi_matching"):
            high, low = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UsageError(
                    f"rcnn: {name} is (at least, below) with 0 < below <= at least <= 1; given {high, low}."
                )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise UsageError(f"rcnn: anchor_sizes has as many sizes for each map; given {self.anchor_sizes}.")
        single = len(self.strides) == 1
        if (self.pyramid == "none" or self.pooling == "pool") and not single:
            raise UsageError(
                f"rcnn: pyramid={self.pyramid!r} with pooling={self.pooling!r} reads one map; given strides "
                f"{self.strides}. Give one stride, or a pyramid and RoIAlign."
            )
        if not train or not self.num_classes:
            return
        heads = {"masks": self.masks, "keypoints": bool(self.keypoints)}
        wanted = ["boxes", "classes", "valid", *(name for name, there in heads.items() if there)]
        missing = [name for name in wanted if name not in (truth or {})]
        if missing:
            raise UsageError(
                f"rcnn: training needs the true {', '.join(missing)}; the task 'rcnn' passes on what the data have "
                "(chosen by config.data.train.source.annotations where there are several kinds)."
            )
        if self.keypoints and truth["keypoints"].shape[2] != self.keypoints:
            raise UsageError(
                f"rcnn: the network has {self.keypoints} key points, the objects of the data have "
                f"{truth['keypoints'].shape[2]}; set config.model.keypoints={truth['keypoints'].shape[2]}."
            )


def with_a_row(truth: Truth) -> Truth:
    """The truth with room for one object at least."""
    if truth["valid"].shape[1]:
        return truth
    return {name: jnp.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2))) for name, x in truth.items()}


_vgg16 = functools.partial(
    FasterRCNN,
    num_classes=20,
    backbone="vgg16",
    strides=(16,),
    pyramid="none",
    anchor_sizes=((128, 256, 512),),
    rpn_widths=(512,),
    rpn_softmax=True,
    rpn_inside=True,
    before_nms=(12000, 6000),
    proposals=(2000, 300),
    proposal_min_size=16.0,
    pooling="pool",
    roi_samples=128,
    box_hidden=(4096, 4096),
    dropout=0.5,
)
# torchvision's second version: norms everywhere, deeper heads.
_second = functools.partial(
    FasterRCNN, norms=True, rpn_widths=(256, 256), box_convolutions=(256,) * 4, box_hidden=(1024,)
)
_keypoint = functools.partial(FasterRCNN, num_classes=1, keypoints=17)

VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": functools.partial(FasterRCNN, masks=True),
    "keypoint_rcnn": _keypoint,
    "fasterrcnn_resnet50_fpn": FasterRCNN,
    "fasterrcnn_resnet50_fpn_v2": _second,
    "fasterrcnn_vgg16": _vgg16,
    "maskrcnn_resnet50_fpn": functools.partial(FasterRCNN, masks=True),
    "maskrcnn_resnet50_fpn_v2": functools.partial(_second, masks=True),
    "keypointrcnn_resnet50_fpn": _keypoint,
}
