"""Semantic segmentation: one class for each pixel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UsageError
from vision.ops import segmentation as ops
from vision.ops.segmentation import IGNORE
from vision.tasks import views
from vision.tasks.task import Batch, Mean, Outputs, Task

Side = int | tuple[int, int]


def segmentation(
    *,
    num_classes: int,
    class_names: tuple[str, ...] = (),
    cross_entropy: float = 1.0,
    dice: float = 0.0,
    focal: float = 0.0,
    focal_gamma: float = 2.0,
    auxiliary_weight: float = 0.4,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    boundary_tolerance: float | None = 0.0075,
    window: Side | None = None,
    window_stride: Side | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> Task:
    """Losses and scores of `logits (B, H, W, num_classes)` against `segmentation (B, H, W)`, 255 where it is ignored.

    The logits are of the image's height and width, and so are the scores: nothing is scaled down to be compared. The
    loss in training is the sum of three terms with the weights below; cross entropy and focal loss are means over the
    valid pixels of a batch, the Dice loss is a mean over its images.

    Args:
        num_classes: number of classes; taken from the data.
        class_names: their names; taken from the data.
        cross_entropy: weight of the softmax cross entropy.
        dice: weight of the Dice loss: 1 - soft Dice coefficient, averaged over the classes of an image, then images.
        focal: weight of the focal loss (Lin et al. 2017).
        focal_gamma: how much less the focal loss counts pixels that are right already; 0 makes it the cross entropy.
        auxiliary_weight: weight of the cross entropy of each auxiliary head, for networks that train with such heads
            (`aux_logits`): 0.4 as in Zhao et al. 2017 (PSPNet); torchvision's FCN and DeepLab train with 0.5.
        class_weights: one for each class, of its pixels in the cross entropy and the focal loss, which become weighted
            means; None for 1 each.
        label_smoothing: share of the target of the cross entropy spread evenly over all classes.
        boundary_tolerance: how far boundary pixels may be apart to match in `boundary_f1`: a share of the image's
            diagonal where below 1, else pixels; None leaves the measure out.
        window: in evaluation and prediction, the side or (height, width) of the windows that the network sees one at a
            time, their probabilities averaged where they overlap; None: the whole image.
        window_stride: pixels from one window to the next, or (down, across); None: two thirds of a window.
        scales: in evaluation and prediction, factors by which the image is resized; the probabilities are averaged.
        flip: in evaluation and prediction, whether the mirror image is averaged in as well.
    """
    where = "config.task"
    _check_classes(num_classes, class_weights, where)
    weights_of = {"cross_entropy": cross_entropy, "dice": dice, "focal": focal, "auxiliary_weight": auxiliary_weight}
    for name, value in weights_of.items():
        if not value >= 0:
            raise UsageError(f"{where}.{name}: expected a weight of 0 or more, given {value}.")
    if not cross_entropy + dice + focal:
        raise UsageError(f"{where}: cross_entropy, dice and focal are all 0; nothing would be learnt. Raise one.")
    if focal_gamma < 0:
        raise UsageError(f"{where}.focal_gamma: expected 0 or more, given {focal_gamma}.")
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"{where}.label_smoothing: expected 0 or more and less than 1, given {label_smoothing}.")
    if boundary_tolerance is not None and not boundary_tolerance > 0:
        raise UsageError(
            f"{where}.boundary_tolerance: expected a share of the diagonal or pixels, above 0, or None, "
            f"given {boundary_tolerance}."
        )
    window, window_stride = views.check(window, window_stride, scales, where)
    background = ops.has_background(class_names)
    weights = None if class_weights is None else np.asarray(class_weights, np.float32)

    def pixel_mean(values: jax.Array, labels: jax.Array, scale: float) -> Mean:
        counted = ops.pixel_weights(labels, None if weights is None else jnp.asarray(weights))
        return Mean(scale * jnp.sum(counted * values), jnp.sum(counted))

    def terms(logits: jax.Array, labels: jax.Array) -> dict[str, Mean]:
        result = {}
        if cross_entropy:
            values = ops.cross_entropy(logits, labels, label_smoothing)
            result["cross_entropy"] = pixel_mean(values, labels, cross_entropy)
        if focal:
            result["focal"] = pixel_mean(ops.focal_loss(logits, labels, focal_gamma), labels, focal)
        if dice:
            values, judged = ops.dice_loss(logits, labels)
            result["dice"] = Mean(dice * jnp.sum(values), jnp.sum(judged))
        return result

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        labels = true_labels(outputs["logits"], batch)
        result = terms(outputs["logits"], labels)
        for index, logits in enumerate(outputs.get("aux_logits", ())):
            values = ops.cross_entropy(logits, labels, label_smoothing)
            result[f"auxiliary_{index + 1}"] = pixel_mean(values, labels, auxiliary_weight)
        return result

    def monitor(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        labels = true_labels(outputs["logits"], batch)
        right, valid = jnp.argmax(outputs["logits"], axis=-1) == labels, labels != IGNORE
        return {"pixel_accuracy": Mean(jnp.sum(right & valid).astype(jnp.float32), jnp.sum(valid).astype(jnp.float32))}

    def image_counts(labels: jax.Array, predicted: jax.Array) -> jax.Array:
        """(B, classes, classes): each image's confusion matrix; of `metrics` and `interest`, compiled as one."""
        return jax.vmap(lambda *pair: ops.confusion_matrix(*(x[None] for x in pair), num_classes))(labels, predicted)

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Any]:
        labels = true_labels(outputs["logits"], batch)
        predicted = jnp.argmax(outputs["logits"], axis=-1)
        sums = {
            "loss": {name: term._asdict() for name, term in terms(outputs["logits"], labels).items()},
            "confusion_matrix": jnp.sum(image_counts(labels, predicted), axis=0),
        }
        if boundary_tolerance is not None:
            tolerances = _tolerances(boundary_tolerance, batch)
            score, judged = ops.boundary_f1(labels, predicted, num_classes, *tolerances)
            sums["boundary_f1"] = {"total": jnp.sum(score), "count": jnp.sum(judged)}
        return sums

    def interest(outputs: Outputs, batch: Batch) -> jax.Array:
        """1 less the mean IoU of each image over the classes in its truth or prediction; 0 with nothing to compare."""
        counts = image_counts(true_labels(outputs["logits"], batch), jnp.argmax(outputs["logits"], axis=-1))
        right = jnp.diagonal(counts, axis1=1, axis2=2)
        union = jnp.sum(counts, axis=1) + jnp.sum(counts, axis=2) - right
        lost = jnp.where(union > 0, 1 - right / jnp.maximum(union, 1), 0.0)
        return jnp.sum(lost, axis=1) / jnp.maximum(jnp.sum(union > 0, axis=1), 1)

    def forward(apply: Any, inputs: Any) -> Outputs:
        return views.averaged_views(apply, inputs, window=window, stride=window_stride, scales=scales, flip=flip)

    return Task(
        loss=loss,
        metrics=metrics,
        summarize=lambda sums: summarize(sums, background),
        predict=predict,
        interest=interest,
        forward=forward,
        monitor=monitor,
        describe=describe,
        plots=("class_iou", "segmentation_grid"),
        prediction_plot="segmentation_overlays",
        prediction_files=("segmentation_mask", "segmentation_overlay"),
        maps=("segmentation", "confidence"),
        best="mean_iou",
    )


def true_labels(logits: jax.Array, batch: Batch) -> jax.Array:
    """The batch's (B, H, W) class ids, all ignored in rows that are no examples.

    Raises:
        UsageError: the logits are of another height and width.
    """
    labels = batch["segmentation"]
    if logits.shape[:3] != labels.shape:
        raise UsageError(
            f"The network gives logits of shape {logits.shape} for a segmentation of shape {labels.shape}; "
            "a network for segmentation gives (B, H, W, classes) at the height and width of its image."
        )
    return jnp.where(batch["mask"][:, None, None] > 0, labels, jnp.asarray(IGNORE, labels.dtype))


def predict(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
    """The most probable class of each pixel, (B, H, W) uint8, and its probability, (B, H, W) float32."""
    del batch
    probabilities = jax.nn.softmax(outputs["logits"].astype(jnp.float32), axis=-1)
    return {
        "segmentation": jnp.argmax(outputs["logits"], axis=-1).astype(jnp.uint8),
        "confidence": jnp.max(probabilities, axis=-1),
    }


def summarize(sums: dict[str, Any], background: bool = False) -> dict[str, float | np.ndarray]:
    """Sums -> loss, mean_iou, pixel_accuracy, mean_class_accuracy, frequency_weighted_iou and, per class, iou.

    The intersection over union of a class is over the pixels of the whole split. A class that is neither in the truth
    nor predicted has none (NaN in `iou`) and is left out of `mean_iou`; a class that is not in the truth is left out
    of `mean_class_accuracy`, the mean over classes of the share of pixels found. `frequency_weighted_iou` weights each
    class by its share of the true pixels. `boundary_f1` is a mean over images. `foreground_iou` is that of all classes
    but the first, taken as one.

    Args:
        sums: what the task's `metrics` add up to.
        background: whether the first class is the background, so that there is a `foreground_iou`.
    """
    confusion = np.asarray(sums["confusion_matrix"]).astype(np.float64)
    right, true, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    total = confusion.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, recall = right / (true + predicted - right), right / true
    result = {
        "loss": sum(_ratio(term["total"], term["count"]) for term in sums["loss"].values()),
        "mean_iou": _mean(iou),
        "pixel_accuracy": _ratio(right.sum(), total),
        "mean_class_accuracy": _mean(recall),
        "frequency_weighted_iou": _ratio(np.nansum(true * iou), total),
    }
    if background:
        result["foreground_iou"] = _ratio(confusion[1:, 1:].sum(), total - confusion[0, 0])
    if "boundary_f1" in sums:
        result["boundary_f1"] = _ratio(sums["boundary_f1"]["total"], sums["boundary_f1"]["count"])
    return result | {"iou": iou, "class_accuracy": recall, "confusion_matrix": np.asarray(sums["confusion_matrix"])}


def describe(predictions: dict[str, np.ndarray], class_names: tuple[str, ...]) -> dict[str, Any]:
    """{"classes": {name: share of the image's pixels}}, the largest first, and the mean "confidence"."""
    ids = np.asarray(predictions["segmentation"])
    counts = np.bincount(ids.ravel())
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    shares = {class_names[index]: round(float(counts[index] / ids.size), 6) for index in order}
    return {"classes": shares, "confidence": round(float(np.mean(predictions["confidence"])), 6)}


def _check_classes(num_classes: int, class_weights: tuple[float, ...] | None, where: str) -> None:
    if not 2 <= num_classes <= IGNORE:
        raise UsageError(
            f"{where}: segmentation takes 2 to {IGNORE} classes, for {IGNORE} marks ignored pixels; "
            f"the data have {num_classes}."
        )
    if class_weights is None:
        return
    if len(class_weights) != num_classes:
        raise UsageError(
            f"{where}.class_weights: {len(class_weights)} weights are given, and the data have {num_classes} classes."
        )
    if not all(weight >= 0 for weight in class_weights) or not max(class_weights) > 0:
        raise UsageError(f"{where}.class_weights: expected 0 or more, and some above 0, given {class_weights}.")


def _tolerances(tolerance: float, batch: Batch) -> tuple[jax.Array, float]:
    """(B,) distance in pixels within which boundaries match, and its bound.

    A share is that of each image's own diagonal, without padding where the batch says the size.
    """
    height, width = batch["segmentation"].shape[1:]
    if tolerance >= 1:
        return jnp.full(len(batch["mask"]), tolerance, jnp.float32), float(tolerance)
    padded = jnp.broadcast_to(jnp.array([height, width]), (len(batch["mask"]), 2))
    sides = batch.get("size", padded).astype(jnp.float32)
    return tolerance * jnp.sqrt(jnp.sum(jnp.square(sides), axis=-1)), tolerance * float(np.hypot(height, width))


def _ratio(total: Any, count: Any) -> float:
    return float(total) / float(count) if count else float("nan")


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
