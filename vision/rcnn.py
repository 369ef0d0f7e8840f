"""R-CNN (Girshick et al. 2014, arXiv:1311.2524): selective search, features of any network, and an SVM for each class.

It is neither a model nor a task: the network stays as it is, and what is learnt on its features is scikit-learn's.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision import features
from vision.data import images, proposals
from vision.data.source import Source
from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.nms import nms_per_class
from vision.run import Run

Extract = Callable[[np.ndarray], np.ndarray]  # (n, side, side, C) uint8 -> (n, D) float32

_PUBLISHED_SIDE = 227  # of the network's input, for which the context is given
_MEAN_NORM = 20.0  # of the features, as the authors scale them, so that one C fits every network
_FIRST_NEGATIVES = 5  # for each positive: what the first round of an SVM learns from


@dataclasses.dataclass(frozen=True)
class Settings:
    """How regions are found, read, learnt and suppressed; the defaults are the paper's.

    Attributes:
        max_proposals: most regions of an image.
        width: wider images are searched at this width; None for their own.
        mode: of `vision.data.proposals.selective_search`.
        context: pixels around a region that the network sees as well, of an input of 227; in proportion for others.
        background_below: IoU with all objects of a class below which a region is a negative of its SVM; those above it
            are left out, for only the true boxes are positives (appendix B).
        regress_from: IoU with an object from which a region learns to become its box (appendix C).
        svm_c: the SVMs' C; smaller is more regular.
        rounds: how often an SVM is trained, each time with the negatives added that were not safely right (section
            2.3).
        ridge: weight of the square of the box regressors' weights.
        nms_threshold: largest IoU of two detections of a class.
        min_margin: detections are above it, of SVMs that separate at 0.
        max_detections: most detections of an image.
    """

    max_proposals: int = 2000
    width: int | None = 500
    mode: Literal["single", "fast", "quality"] = "fast"
    context: int = 16
    background_below: float = 0.3
    regress_from: float = 0.6
    svm_c: float = 1e-3
    rounds: int = 3
    ridge: float = 1000.0
    nms_threshold: float = 0.3
    min_margin: float = -1.0
    max_detections: int = 100


class Regions(NamedTuple):
    """What was made of one image.

    Attributes:
        size: (height, width) of the image.
        boxes: (n, 4) float32 in pixels of it; first the objects, where they are known, then the proposals.
        features: (n, D) float32.
        objects: (m,) classes of the objects, whose boxes are the first m.
        crowds: (k, 4) regions in which nothing is learnt.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    features: np.ndarray
    objects: np.ndarray
    crowds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Heads:
    """What is learnt: an SVM and a box regressor for each class, both linear in the features.

    Attributes:
        scale: factor of the features.
        weights: (D, classes) of the SVMs.
        biases: (classes,).
        offset_weights: (D, classes, 4) of the regressors, see `vision.ops.boxes.encode`.
        offset_biases: (classes, 4).
    """

    scale: float
    weights: np.ndarray
    biases: np.ndarray
    offset_weights: np.ndarray
    offset_biases: np.ndarray

    def scores(self, values: np.ndarray) -> np.ndarray:
        """(n, D) features -> (n, classes) distances from the SVMs' planes, in margins."""
        return (self.scale * values) @ self.weights + self.biases

    def offsets(self, values: np.ndarray) -> np.ndarray:
        """(n, D) features -> (n, classes, 4) offsets from the regions."""
        return np.einsum("nd,dck->nck", self.scale * values, self.offset_weights) + self.offset_biases


def extractor(run: Run, output: str = "pooled", batch_size: int = 64) -> Extract:
    """The function from warped regions to a network's features.

    Args:
        run: the network, with its weights and its preprocessing.
        output: of the network: "pooled", "logits", or "features/32", all places of the map of stride 32.
        batch_size: regions at a time.

    Raises:
        UsageError: the network has no such output, or does not take square images.
    """
    height, width, channels = run.image_shape
    if height != width:
        raise UsageError(f"R-CNN warps regions to squares; this network was evaluated on images of {height}x{width}.")
    network = run.network

    @jax.jit
    def apply(variables: Any, crops: jax.Array) -> jax.Array:
        outputs = network.model.apply(variables, network.preprocess(crops), train=False)
        return features.vectors(outputs, output, flat=True)

    def extract(crops: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, max(len(crops), 1), batch_size):
            part = crops[start : start + batch_size]
            padded = np.zeros((batch_size, height, width, channels), np.uint8)
            padded[: len(part)] = part
            parts.append(np.asarray(apply(run.variables, padded))[: len(part)])
        return np.concatenate(parts)

    return extract


def regions(
    record: Mapping[str, Any],
    extract: Extract,
    image_shape: Sequence[int],
    settings: Settings,
    with_objects: bool = False,
) -> Regions:
    """Proposals of one image and their features.

    Args:
        record: of a source, with `image`; for `with_objects` also `boxes`, `classes` and `valid`, perhaps `crowd`.
        extract: the network.
        image_shape: (side, side, channels) of its images.
        settings: of the search and the warping.
        with_objects: whether the true boxes are put in front of the proposals.
    """
    image = images.decode(record["image"], image_shape[2])
    options = dict(max_proposals=settings.max_proposals, width=settings.width, mode=settings.mode)
    searched = proposals.selective_search({"image": images.decode(record["image"])}, **options)
    boxes = searched["proposals"][searched["proposals_valid"]]
    objects, crowds = np.zeros(0, np.int32), np.zeros((0, 4), np.float32)
    if with_objects:
        valid = np.asarray(record["valid"], bool)
        crowd = np.asarray(record.get("crowd", np.zeros_like(valid)), bool) & valid
        objects, crowds = record["classes"][valid & ~crowd], record["boxes"][crowd]
        boxes = np.concatenate([record["boxes"][valid & ~crowd], boxes]).astype(np.float32)
    side = image_shape[0]
    context = round(settings.context * side / _PUBLISHED_SIDE)
    fill = tuple(image.reshape(-1, image.shape[-1]).mean(axis=0).tolist()) if image.shape[-1] == 3 else image.mean()
    crops = np.zeros((len(boxes), side, side, image.shape[-1]), np.uint8)
    for crop, box in zip(crops, boxes, strict=True):
        crop[...] = proposals.warped(image, box, side, context, fill)
    return Regions(image.shape[:2], boxes, extract(crops), objects, crowds)


def fit(examples: Sequence[Regions], num_classes: int, settings: Settings) -> Heads:
    """Trains the SVMs and the box regressors.

    Args:
        examples: of images with their objects.
        num_classes: number of classes; one without objects is never found.
        settings: of the training.

    Raises:
        UsageError: the images have no objects at all.
    """
    if not any(len(one.objects) for one in examples):
        raise UsageError("R-CNN: the training images have no objects to learn from.")
    values = np.concatenate([one.features for one in examples])
    scale = _MEAN_NORM / max(float(np.linalg.norm(values, axis=1).mean()), 1e-6)
    values = values * np.float32(scale)
    boxes = np.concatenate([one.boxes for one in examples])
    weights, biases = np.zeros((values.shape[1], num_classes), np.float32), np.full(num_classes, -np.inf, np.float32)
    offset_weights = np.zeros((values.shape[1], num_classes, 4), np.float32)
    offset_biases = np.zeros((num_classes, 4), np.float32)
    for label in range(num_classes):
        is_object, overlap, target = (np.concatenate(parts) for parts in zip(*_matched(examples, label), strict=True))
        if not is_object.any():
            continue
        weights[:, label], biases[label] = _svm(
            values[is_object], values[overlap < settings.background_below], settings
        )
        near = overlap >= settings.regress_from
        targets = np.asarray(box_ops.encode(jnp.asarray(target[near]), jnp.asarray(boxes[near])))
        offset_weights[:, label], offset_biases[label] = _ridge(values[near], targets, settings.ridge)
    return Heads(scale, weights, biases, offset_weights, offset_biases)


def detect(one: Regions, heads: Heads, settings: Settings) -> dict[str, np.ndarray]:
    """The detections of one image: every region with every class, non-maximum suppression within each class.

    Args:
        one: regions of the image.
        heads: what was learnt.
        settings: of the suppression.

    Returns:
        boxes (D, 4) in pixels of the image, scores (D,), the logistic function of the SVMs' margins, in descending
        order, classes (D,) and valid (D,): the detections as all detectors give them.
    """
    start, room = len(one.objects), settings.max_proposals
    boxes, values = one.boxes[start:][:room], one.features[start:][:room]
    missing = ((0, room - len(boxes)), (0, 0))  # one shape for all images, so that one program is compiled
    margins = np.pad(heads.scores(values), missing, constant_values=-np.inf)
    offsets = np.pad(heads.offsets(values), (*missing, (0, 0)))
    suppress = _suppressor(settings.nms_threshold, settings.max_detections)
    found = suppress(
        np.pad(boxes, missing), margins, offsets, jnp.array(one.size, jnp.int32), jnp.float32(settings.min_margin)
    )
    return jax.device_get(found)


def detections(
    source: Source,
    indices: Iterable[int],
    extract: Extract,
    image_shape: Sequence[int],
    heads: Heads,
    settings: Settings,
) -> Iterable[dict[str, np.ndarray]]:
    """What is found in some images of a split beside what is there, as `vision.tasks.objects.scene` takes it.

    Args:
        source: the split.
        indices: places of the images.
        extract: the network.
        image_shape: (side, side, channels) of its images.
        heads: what was learnt.
        settings: as those of the training.
    """
    for index in indices:
        record = source.records[index]
        one = regions(record, extract, image_shape, settings)
        found = {f"found_{name}": value for name, value in detect(one, heads, settings).items()}
        known = {name: record[name] for name in ("boxes", "classes", "valid", "crowd", "area") if name in record}
        yield known | found | {"size": np.array(one.size)}


def _matched(examples: Sequence[Regions], label: int) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each image, for its regions: whether it is an object of the class, the best IoU with one, and that one's box.

    Within crowds no overlap is told: it is NaN, which is neither high nor low.
    """
    for one in examples:
        is_object = np.zeros(len(one.boxes), bool)
        is_object[: len(one.objects)] = one.objects == label
        overlaps = _iou(one.boxes, one.boxes[is_object])
        best = overlaps.max(axis=1, initial=0.0)
        if len(one.crowds):
            in_crowd = np.asarray(box_ops.covered(jnp.asarray(one.boxes), jnp.asarray(one.crowds))).max(axis=1) > 0.5
            best = np.where(in_crowd & ~is_object, np.nan, best)
        target = one.boxes[is_object][overlaps.argmax(axis=1)] if is_object.any() else one.boxes
        yield is_object, best, target


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m)."""
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=2)
    areas, other_areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.prod(others[:, 2:] - others[:, :2], axis=1)
    return both / np.maximum(areas[:, None] + other_areas - both, 1e-6)


def _svm(positives: np.ndarray, negatives: np.ndarray, settings: Settings) -> tuple[np.ndarray, float]:
    """Weights (D,) and bias of a linear SVM, trained with hard negatives.

    It starts with some of the negatives; in each further round those are added that it does not get right by a margin.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    if not len(negatives):
        return np.zeros(positives.shape[1], np.float32), 0.0
    order = np.random.default_rng(0).permutation(len(negatives))
    chosen = np.zeros(len(negatives), bool)
    chosen[order[: max(_FIRST_NEGATIVES * len(positives), 100)]] = True
    for _ in range(settings.rounds):
        values = np.concatenate([positives, negatives[chosen]])
        labels = np.repeat([1, -1], [len(positives), chosen.sum()])
        # A positive weighs as two, and the bias is hardly held back: both as in the authors' code.
        svm = LinearSVC(
            C=settings.svm_c, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10.0, random_state=0, max_iter=2000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            svm.fit(values, labels)
        hard = svm.decision_function(negatives) > -1.0
        if not (hard & ~chosen).any():
            break
        chosen |= hard
    return svm.coef_[0].astype(np.float32), float(svm.intercept_[0])


def _ridge(values: np.ndarray, targets: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, 4) and biases (4,) of the least squares with a penalty (appendix C, equation 5)."""
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=weight).fit(values, targets)
    return fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)


@functools.cache
def _suppressor(threshold: float, num: int) -> Callable[..., dict[str, jax.Array]]:
    """`detect` for one shape, compiled."""

    @jax.jit
    def suppress(boxes, margins, offsets, size, min_margin):
        boxes = box_ops.clip(box_ops.decode(offsets, boxes[:, None]), size)
        classes = jnp.broadcast_to(jnp.arange(margins.shape[1], dtype=jnp.int32), margins.shape).reshape(-1)
        exists = (jnp.isfinite(margins) & (margins > min_margin) & box_ops.is_valid(boxes, 1.0)).reshape(-1)
        boxes, scores = boxes.reshape(-1, 4), jax.nn.sigmoid(margins).reshape(-1)
        kept, filled = nms_per_class(boxes, scores, classes, threshold, num, exists)
        return {
            "boxes": jnp.where(filled[:, None], boxes[kept], 0.0),
            "scores": jnp.where(filled, scores[kept], 0.0),
            "classes": jnp.where(filled, classes[kept], 0),
            "valid": filled,
        }

    return suppress
