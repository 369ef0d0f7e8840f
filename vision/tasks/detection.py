"""What all detectors share: their predictions and the truth collected for the host, average precision, pictures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.ops import boxes as box_ops
from vision.tasks import objects
from vision.tasks.average_precision import average_precision
from vision.tasks.task import Batch, Mean, Outputs, Task, image_only

Detections = dict[str, jax.Array]

# Fields of a batch that say what is to be found, as far as it has them.
TRUTH = ("boxes", "classes", "valid", "crowd", "area", "masks", "keypoints")
# IoU from which a detection is of an object, where only one number is asked for.
_RIGHT = 0.5


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

    def detections(outputs: Outputs, batch: Batch) -> Detections:
        return outputs["predictions"] if "predictions" in outputs else detect(outputs, batch)

    def collect(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        found = {f"found_{name}": value for name, value in detections(outputs, batch).items()}
        known = {name: batch[name] for name in (*TRUTH, "placement") if name in batch}
        return found | known | {"size": image_sizes(batch)}

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        real = batch["mask"] > 0
        found = detections(outputs, batch)["valid"] & real[:, None]
        return {"examples": jnp.sum(real), "detections": jnp.sum(found)}

    return Task(
        loss=loss,
        metrics=metrics,
        summarize=lambda sums: {"detections_per_image": float(sums["detections"]) / max(float(sums["examples"]), 1)},
        predict=detect,
        inputs=inputs,
        collect=collect,
        condense=objects.scene,
        summarize_collected=lambda scenes: average_precision(scenes, class_names),
        monitor=monitor,
        interest=lambda outputs, batch: mistakes(detections(outputs, batch), batch),
        describe=describe,
        plots=("detection_grid", "class_ap", "precision_recall"),
        prediction_plot="detection_overlays",
        prediction_files=("detection_overlay",),
        coco_results=coco_results,
        boxes=("boxes",),
        points=("keypoints",),
        best="AP",
        headlines=("AP", "AP50", "AP75", "mask_AP", "mask_AP50", "keypoint_AP", "keypoint_AP50", "voc07_mAP"),
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


def mistakes(found: Detections, batch: Batch) -> jax.Array:
    """(B,) how much is wrong with the detections of each image: what is missed, and what is found that is not there.

    Both count by scores: an object as one less the best score of a right detection, a wrong detection as its own score.
    A detection is right with a box of its class that it overlaps by half, a crowd's among them.
    """
    overlap = jax.vmap(box_ops.pairwise)(found["boxes"], batch["boxes"])
    there = batch["valid"].astype(bool)
    right = (overlap >= _RIGHT) & (found["classes"][:, :, None] == batch["classes"][:, None, :])
    right &= found["valid"][:, :, None] & there[:, None, :]
    crowd = batch["crowd"].astype(bool) if "crowd" in batch else jnp.zeros_like(there)
    certainty = jnp.max(right * found["scores"][:, :, None], axis=1, initial=0.0)
    missed = jnp.sum(jnp.where(there & ~crowd, 1 - certainty, 0.0), axis=1)
    wrong = jnp.sum(jnp.where(found["valid"] & ~jnp.any(right, axis=2), found["scores"], 0.0), axis=1)
    return missed + wrong


def describe(predictions: dict[str, np.ndarray], class_names: tuple[str, ...]) -> dict[str, Any]:
    """{"objects": [{"class", "score", "box": [x0, y0, x1, y1]}, ...]}, the most certain first.

    With "keypoints": [[x, y, score], ...] where the network finds them.
    """
    result = []
    for index in np.flatnonzero(predictions["valid"]):
        label = int(predictions["classes"][index])
        facts = {
            "class": class_names[label] if label < len(class_names) else str(label),
            "score": round(float(predictions["scores"][index]), 4),
            "box": [round(float(value), 2) for value in predictions["boxes"][index]],
        }
        if "keypoints" in predictions:
            points = np.asarray(predictions["keypoints"][index], np.float64)
            facts["keypoints"] = [[round(value, 2) for value in point] for point in points.tolist()]
        result.append(facts)
    return {"objects": result}


def coco_results(predictions: dict[str, np.ndarray], size: tuple[int, int], image_id: int) -> list[dict[str, Any]]:
    """One image's detections as COCO's files of results have them, see `objects.coco_entries`.

    Args:
        predictions: of one image, in pixels of its file.
        size: the file's (height, width); masks are of this size.
        image_id: the image's number.
    """
    return objects.coco_entries(objects.detections(predictions, size), image_id)
