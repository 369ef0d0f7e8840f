"""What detectors that predict from every anchor share: where crowds are, the best boxes, checks of thresholds."""

import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.nms import nms_per_class
from vision.tasks.detection import Detections
from vision.tasks.task import Batch


def in_crowd(anchors: jax.Array, batch: Batch, share: float = 0.5) -> jax.Array:
    """(B, A): whether at least this share of an anchor (A, 4) lies in a crowd, where nothing is to be learnt."""
    if "crowd" not in batch:
        return jnp.zeros((len(batch["boxes"]), len(anchors)), bool)
    crowd = batch["crowd"].astype(bool) & batch["valid"].astype(bool)
    regions = jnp.where(crowd[..., None], batch["boxes"], 0.0)
    shares = jax.vmap(box_ops.covered, (None, 0))(anchors, regions)  # (B, A, N)
    return jnp.any(shares >= share, axis=-1)


def best_boxes(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    *,
    score_threshold: float,
    nms_threshold: float,
    detections: int,
) -> Detections:
    """The detections of one image among so many boxes (K, 4), each of one class.

    Args:
        boxes: (K, 4), clipped to the image; those without area are left out.
        scores: (K,) 0..1.
        classes: (K,) class ids.
        score_threshold: scores up to this are left out.
        nms_threshold: largest IoU of two detections of a class.
        detections: size of the result.
    """
    valid = (scores > score_threshold) & box_ops.is_valid(boxes)
    index, filled = nms_per_class(boxes, scores, classes, nms_threshold, detections, valid)
    return {
        "boxes": jnp.where(filled[:, None], boxes[index], 0.0),
        "scores": jnp.where(filled, scores[index], 0.0),
        "classes": jnp.where(filled, classes[index], 0).astype(jnp.int32),
        "valid": filled,
    }


def check_shares(**values: float) -> None:
    """Raises UsageError for a threshold that is not 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UsageError(f"config.task.{name}: expected a number from 0 to 1, given {value}.")


def check_counts(**values: int) -> None:
    """Raises UsageError for a number of boxes below 1."""
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"config.task.{name}: expected 1 or more, given {value}.")
