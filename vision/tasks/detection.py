"""What all detectors share: their predictions and the truth collected for the host, average precision, pictures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.ops import boxes as box_ops
from vision.tasks.average_precision import average_precision
from vision.tasks.task import Batch, Mean, Outputs, Task, image_only

Detections = dict[str, jax.Array]

# Fields of a batch that say what is to be found, as far as it has them.
TRUTH = ("boxes", "classes", "valid", "crowd", "area", "masks", "keypoints")
# Fields of a batch that say where its image lies on the canvas.
PLACE = ("size", "placement", "file_size")


def detector(
    *,
    loss: Callable[[Outputs, Batch], dict[str, Mean]],
    detect: Callable[[Outputs, Batch], Detections],
    class_names: tuple[str, ...] = (),
    monitor: Callable[[Outputs, Batch], dict[str, Mean]] = lambda outputs, batch: {},
    inputs: Callable[[Batch, bool], dict[str, Any]] = image_only,
) -> Task:
    """A task that finds objects.

    Args:
        loss: (outputs of training, batch) -> {name: Mean}.
        detect: (outputs of evaluation, batch) -> the detections: `boxes` (B, D, 4) in pixels of the canvas, clipped to
            the image, `scores` (B, D) 0..1 in descending order, `classes` (B, D) and `valid` (B, D), and where the
            network has them `masks` (B, D, m, m), probabilities within the box, and `keypoints` (B, D, K, 3): x, y and
            score. Of the batch it reads `image_sizes`, no truth.
        class_names: of the data.
        monitor: as in `Task`.
        inputs: (batch, train) -> the model's arguments; by default the image alone, for networks whose outputs `detect`
            decodes.
    """

    def collect(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        found = {f"found_{name}": value for name, value in detect(outputs, batch).items()}
        return found | {name: batch[name] for name in (*TRUTH, *PLACE) if name in batch}

    return Task(
        loss=loss,
        metrics=lambda outputs, batch: {"examples": jnp.sum(batch["mask"])},
        summarize=lambda sums: {},
        predict=detect,
        inputs=inputs,
        collect=collect,
        summarize_collected=lambda examples: average_precision(examples, class_names),
        monitor=monitor,
        describe=describe,
        best="AP",
    )


def truth(batch: Batch) -> dict[str, jax.Array]:
    """The objects to learn from: those of real examples that are no crowds.

    Returns:
        The batch's fields of `TRUTH` with `valid` (B, N) bool False elsewhere, and `boxes` 0 there.
    """
    found = {name: batch[name] for name in TRUTH if name in batch}
    valid = found["valid"].astype(bool) & (batch["mask"] > 0)[:, None] & box_ops.is_valid(found["boxes"])
    if "crowd" in found:
        valid &= ~found["crowd"].astype(bool)
    return found | {"valid": valid, "boxes": jnp.where(valid[..., None], found["boxes"], 0.0)}


def image_sizes(batch: Batch) -> jax.Array:
    """(B, 2) height and width of the images without padding: where boxes end."""
    images = batch["image"]
    return batch.get("size", jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (len(images), 2)))


def describe(predictions: dict[str, np.ndarray], class_names: tuple[str, ...]) -> dict[str, Any]:
    """{"objects": [{"class", "score", "box": [x0, y0, x1, y1]}, ...]}, the most certain first."""
    valid = np.flatnonzero(predictions["valid"])
    return {
        "objects": [
            {
                "class": class_names[predictions["classes"][index]],
                "score": round(float(predictions["scores"][index]), 4),
                "box": [round(float(value), 2) for value in predictions["boxes"][index]],
            }
            for index in valid
        ]
    }
