"""Classification and localisation: the class and the box of the one object that an image shows."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.detection_losses import iou_loss, smooth_l1
from vision.tasks import detection
from vision.tasks.detection import Detections
from vision.tasks.task import Batch, Mean, Outputs, Task

_RIGHT = 0.5  # IoU from which a box is right: the ImageNet challenge's


def localization(
    *,
    num_classes: int,
    class_names: tuple[str, ...] = (),
    label_smoothing: float = 0.0,
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1",
    beta: float = 0.02,
    box_weight: float = 5.0,
) -> Task:
    """Class and box of one object from `logits (B, num_classes)` and `boxes (B, 1 or num_classes, 4)`.

    The boxes are shares of the width and height of the network's input. The object is the first one of the image that
    is no crowd; images without any, such as those that a crop has emptied, are neither learnt nor counted. The loss is
    the cross entropy of the class, and the distance of the box, of the true class where each has its own.

    Args:
        num_classes: number of classes; taken from the data.
        class_names: their names; taken from the data.
        label_smoothing: share of the class's target spread evenly over all classes.
        box_loss: "smooth_l1", summed over a box's four sides as shares of the image's; or "giou", 1 - generalised IoU.
        beta: where the smooth L1 loss becomes a line, as a share of the image's sides.
        box_weight: weight of the box's loss.
    """
    if num_classes < 2:
        raise UsageError(f"config.task: localization needs at least two classes; the data have {num_classes}.")
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"config.task.label_smoothing: expected 0 or more and less than 1, given {label_smoothing}.")
    for name, value in (("beta", beta), ("box_weight", box_weight)):
        if value < 0:
            raise UsageError(f"config.task.{name}: expected 0 or more, given {value}.")

    def losses(outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(B,) of each image the class's loss, the box's, and 1 where it has an object or else 0."""
        label, box, there = the_object(batch)
        targets = optax.smooth_labels(jax.nn.one_hot(label, num_classes), label_smoothing)
        entropy = optax.softmax_cross_entropy(outputs["logits"], targets)
        predicted, true = _of_class(outputs["boxes"], label), box / _scale(batch)
        if box_loss == "giou":
            distance = iou_loss(predicted, true)
        else:
            distance = jnp.sum(smooth_l1(predicted, true, beta), axis=-1)
        return entropy, box_weight * distance, there.astype(jnp.float32)

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        entropy, distance, there = losses(outputs, batch)
        count = jnp.sum(there)
        return {"class": Mean(jnp.sum(entropy * there), count), "box": Mean(jnp.sum(distance * there), count)}

    def monitor(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        known = scores(detect(outputs, batch), batch)
        count = jnp.sum(the_object(batch)[2], dtype=jnp.float32)
        return {name: Mean(known[name], count) for name in ("accuracy", "mean_iou")}

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        found = outputs["predictions"] if "predictions" in outputs else detect(outputs, batch)
        entropy, distance, there = losses(outputs, batch)
        label, _, _ = the_object(batch)
        cell = label * num_classes + found["classes"][:, 0]
        confusion = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(there.astype(jnp.int32))
        return scores(found, batch) | {
            "loss": jnp.sum((entropy + distance) * there),
            "examples": jnp.sum(there),
            "confusion_matrix": confusion.reshape(num_classes, num_classes),
        }

    task = detection.detector(loss=loss, detect=detect, class_names=class_names, monitor=monitor)
    return dataclasses.replace(
        task,
        metrics=metrics,
        summarize=summarize,
        collect=None,
        condense=lambda example: example,
        summarize_collected=None,
        plots=("detection_grid", "confusion_matrix"),
        best="localization_accuracy",
        headlines=(),
    )


def the_object(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Class (B,), box (B, 4) in pixels, and whether there is one (B,), of the first object of each real example."""
    truth = detection.truth(batch)
    first = jnp.argmax(truth["valid"], axis=1)[:, None]
    label = jnp.take_along_axis(truth["classes"], first, axis=1)[:, 0]
    box = jnp.take_along_axis(truth["boxes"], first[..., None], axis=1)[:, 0]
    return label, box, jnp.any(truth["valid"], axis=1)


def detect(outputs: Outputs, batch: Batch) -> Detections:
    """One detection an image: the most probable class, its probability and its box, clipped to the image."""
    probabilities = jax.nn.softmax(outputs["logits"].astype(jnp.float32), axis=-1)
    label = jnp.argmax(probabilities, axis=-1).astype(jnp.int32)
    boxes = _of_class(outputs["boxes"], label) * _scale(batch)
    boxes = jax.vmap(box_ops.clip)(boxes, detection.image_sizes(batch))
    valid = box_ops.is_valid(boxes)
    return {
        "boxes": jnp.where(valid[:, None], boxes, 0.0)[:, None],
        "scores": jnp.max(probabilities, axis=-1)[:, None],
        "classes": label[:, None],
        "valid": valid[:, None],
    }


def scores(found: Detections, batch: Batch) -> dict[str, jax.Array]:
    """Sums over images with an object: right classes, IoU, boxes above an IoU of 0.5, those with the right class."""
    label, box, there = the_object(batch)
    overlap = jnp.where(there, box_ops.iou(found["boxes"][:, 0], box), 0.0)
    named = there & (found["classes"][:, 0] == label)
    placed = there & (overlap >= _RIGHT)
    return {
        "accuracy": jnp.sum(named, dtype=jnp.float32),
        "mean_iou": jnp.sum(overlap),
        "localization_accuracy": jnp.sum(placed, dtype=jnp.float32),
        "top1_localization": jnp.sum(named & placed, dtype=jnp.float32),
    }


def summarize(sums: dict[str, Any]) -> dict[str, float | np.ndarray]:
    """Sums -> means over the images with an object, and the confusion matrix; NaN where there is no such image."""
    examples = float(sums["examples"])
    names = ("loss", "accuracy", "mean_iou", "localization_accuracy", "top1_localization")
    means = {name: float(sums[name]) / examples if examples else float("nan") for name in names}
    return means | {"confusion_matrix": np.asarray(sums["confusion_matrix"])}


def _of_class(boxes: jax.Array, label: jax.Array) -> jax.Array:
    """(B, K, 4) -> (B, 4): the box of that class, or the one for all."""
    index = label if boxes.shape[1] > 1 else jnp.zeros_like(label)
    return jnp.take_along_axis(boxes, index[:, None, None], axis=1)[:, 0]


def _scale(batch: Batch) -> jax.Array:
    """(4,) width, height, width, height of the network's input."""
    height, width = batch["image"].shape[1:3]
    return jnp.array((width, height, width, height), jnp.float32)
