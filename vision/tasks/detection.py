"""What all detectors share: their predictions and the truth collected for the host, average precision, pictures."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.ops import boxes as box_ops
from vision.tasks.average_precision import average_precision
from vision.tasks.task import Apply, Batch, Mean, Outputs, Task

Detections = dict[str, jax.Array]

# Fields of a batch that say what is to be found, as far as it has them.
TRUTH = ("boxes", "classes", "valid", "crowd", "area", "masks", "keypoints")
# Fields of a batch that say where its image lies on the canvas.
PLACE = ("size", "placement", "file_size")


def detector(
    *,
    loss: Callable[[Outputs, Batch], dict[str, Mean]],
    detect: Callable[[Outputs], Detections],
    class_names: tuple[str, ...] = (),
    monitor: Callable[[Outputs, Batch], dict[str, Mean]] = lambda outputs, batch: {},
    inputs: Callable[[Batch, bool], dict[str, Any]] | None = None,
    forward: Callable[[Apply, Mapping[str, Any]], Outputs] | None = None,
) -> Task:
    """A task that finds objects.

    Args:
        loss: (outputs of training, batch) -> {name: Mean}.
        detect: outputs of evaluation -> the detections: `boxes` (B, D, 4) in pixels of the canvas, clipped to the image,
            `scores` (B, D) 0..1 in descending order, `classes` (B, D) and `valid` (B, D), and where the network has
            them `masks` (B, D, m, m), probabilities within the box, and `keypoints` (B, D, K, 3): x, y and score.
        class_names: of the data.
        monitor: as in `Task`.
        inputs: (batch, train) -> the model's arguments; by default the image alone, for networks that give what
            `detect` decodes. `outputs["size"]` is then the (B, 2) height and width of the images without padding.
        forward: as in `Task`; by default it adds `outputs["size"]`.
    """

    def collect(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        found = {f"found_{name}": value for name, value in detect(outputs).items()}
        return found | {name: batch[name] for name in (*TRUTH, *PLACE) if name in batch}

    return Task(
        loss=loss,
        metrics=lambda outputs, batch: {"examples": jnp.sum(batch["mask"])},
        summarize=lambda sums: {},
        predict=detect,
        inputs=inputs or _image_and_size,
        forward=forward or _size_of_images,
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


def clipped(boxes: jax.Array, outputs: Outputs, canvas: tuple[int, int]) -> jax.Array:
    """Boxes (B, D, 4) cut to their images, whose sizes are `outputs["size"]` (B, 2) or, without it, the canvas."""
    size = outputs.get("size")
    if size is None:
        return box_ops.clip(boxes, canvas)
    return jax.vmap(box_ops.clip)(boxes, size)


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


def _image_and_size(batch: Batch, train: bool) -> dict[str, Any]:
    del train
    return {name: batch[name] for name in ("image", "size") if name in batch}


def _size_of_images(apply: Apply, inputs: Mapping[str, Any]) -> Outputs:
    """The network's outputs, to which the size of the images is added, so that boxes end where images end."""
    outputs = apply({name: value for name, value in inputs.items() if name != "size"})
    return {**outputs, "size": inputs["size"]} if "size" in inputs else outputs
