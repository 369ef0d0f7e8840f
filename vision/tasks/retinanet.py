"""RetinaNet's task (Lin et al. 2017, arXiv:1708.02002): focal loss over all anchors, and its detections."""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.detection_losses import iou_loss, sigmoid_focal_loss, smooth_l1
from vision.ops.matching import BELOW, match_by_threshold
from vision.tasks import anchored, detection
from vision.tasks.detection import Detections
from vision.tasks.task import Batch, Mean, Outputs, Task


def retinanet(
    *,
    class_names: tuple[str, ...] = (),
    match_threshold: float = 0.5,
    background_threshold: float = 0.4,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_loss: Literal["l1", "smooth_l1", "giou"] = "l1",
    beta: float = 0.11,
    box_weight: float = 1.0,
    score_threshold: float = 0.05,
    candidates: int = 1000,
    nms_threshold: float = 0.5,
    detections: int = 300,
) -> Task:
    """Finds objects from `logits (B, A, classes)`, `offsets (B, A, 4)`, `anchors (A, 4)`, and `features` by stride.

    An anchor learns the object it overlaps most if by enough, or if no anchor overlaps the object more; anchors that
    overlap none count as background, those between are left out. The losses of an image are divided by its number of
    matched anchors, or by 1 where it has none, and averaged over images, as in torchvision.

    Args:
        class_names: names of the classes; taken from the data.
        match_threshold: least IoU of an anchor and its object, but for each object's best anchors.
        background_threshold: IoU below which an anchor is background.
        alpha: the focal loss's weight of what is to be found, and 1 less it of what is not.
        gamma: how much less the focal loss counts what is right already.
        box_loss: "l1" of the offsets; "smooth_l1", the paper's; or "giou" of the boxes.
        beta: difference of offsets where the smooth L1 loss turns from square to line.
        box_weight: weight of the boxes' loss.
        score_threshold: probability up to which boxes are no detections.
        candidates: boxes of each level, the most probable ones, that suppress each other.
        nms_threshold: largest IoU of two detections of a class.
        detections: largest number of them in an image.
    """
    anchored.check_shares(
        match_threshold=match_threshold,
        background_threshold=background_threshold,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
    )
    anchored.check_counts(candidates=candidates, detections=detections)
    if background_threshold > match_threshold:
        raise UsageError(
            f"config.task.background_threshold: expected match_threshold={match_threshold} or less, "
            f"given {background_threshold}."
        )
    for name, value in (("gamma", gamma), ("beta", beta), ("box_weight", box_weight)):
        if value < 0:
            raise UsageError(f"config.task.{name}: expected 0 or more, given {value}.")

    def distance(offsets: jax.Array, targets: jax.Array, anchors: jax.Array) -> jax.Array:
        """(A,) how far the boxes that offsets give are from their targets."""
        if box_loss == "giou":
            return iou_loss(box_ops.decode(offsets, anchors), targets)
        return jnp.sum(smooth_l1(offsets, box_ops.encode(targets, anchors), beta * (box_loss == "smooth_l1")), axis=-1)

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        anchors = outputs["anchors"]

        def loss_of_image(logits: jax.Array, offsets: jax.Array, truth: Batch, crowd: jax.Array) -> tuple:
            quality = box_ops.pairwise(truth["boxes"], anchors)
            matches = match_by_threshold(quality, truth["valid"], match_threshold, background_threshold, True)
            positive, index = matches >= 0, jnp.maximum(matches, 0)
            counted = positive | ((matches == BELOW) & ~crowd)
            label = jnp.where(positive, truth["classes"][index], -1)  # -1 is no class, all of its row zero
            focal = sigmoid_focal_loss(logits, jax.nn.one_hot(label, logits.shape[-1]), alpha, gamma)
            away = distance(offsets, truth["boxes"][index], anchors)
            count = jnp.maximum(jnp.sum(positive, dtype=jnp.float32), 1)
            return (
                jnp.sum(jnp.where(counted[:, None], focal, 0.0)) / count,
                jnp.sum(jnp.where(positive, away, 0.0)) / count,
            )

        truth, crowd = detection.truth(batch), anchored.in_crowd(anchors, batch)
        focal, away = jax.vmap(loss_of_image)(outputs["logits"], outputs["offsets"], truth, crowd)
        real = (batch["mask"] > 0).astype(jnp.float32)
        images = jnp.sum(real)
        return {"class": Mean(jnp.sum(focal * real), images), "box": Mean(box_weight * jnp.sum(away * real), images)}

    def detect(outputs: Outputs, batch: Batch) -> Detections:
        anchors, levels = outputs["anchors"], level_sizes(outputs)

        def detect_in_image(logits: jax.Array, offsets: jax.Array, size: jax.Array) -> Detections:
            found = []
            for start, end in itertools.pairwise((0, *itertools.accumulate(levels))):
                values = logits[start:end].reshape(-1)
                best, index = jax.lax.top_k(values, min(candidates, len(values)))
                found.append((best, start + index // logits.shape[-1], index % logits.shape[-1]))
            best, index, classes = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            return anchored.best_boxes(
                box_ops.clip(box_ops.decode(offsets[index], anchors[index]), size),
                jax.nn.sigmoid(best),
                classes,
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                detections=detections,
            )

        return jax.vmap(detect_in_image)(outputs["logits"], outputs["offsets"], detection.image_sizes(batch))

    return detection.detector(loss=loss, detect=detect, class_names=class_names)


def level_sizes(outputs: Outputs) -> list[int]:
    """Number of anchors of each level: as many at each place of all maps, finest first."""
    places = [x.shape[1] * x.shape[2] for _, x in sorted(outputs["features"].items())]
    return [count * (len(outputs["anchors"]) // sum(places)) for count in places]
