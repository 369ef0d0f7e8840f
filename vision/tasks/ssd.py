"""SSD's task (Liu et al. 2016, arXiv:1512.02325): default boxes matched with objects, hard negatives, detections."""

import jax
import jax.numpy as jnp
import optax

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.detection_losses import smooth_l1
from vision.ops.matching import hard_negatives, match_bipartite
from vision.tasks import anchored, detection
from vision.tasks.detection import Detections
from vision.tasks.task import Batch, Mean, Outputs, Task

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the offsets; the authors' variances 0.1, 0.1, 0.2, 0.2


def ssd(
    *,
    class_names: tuple[str, ...] = (),
    match_threshold: float = 0.5,
    negatives: float = 3.0,
    box_weight: float = 1.0,
    score_threshold: float = 0.01,
    candidates: int = 400,
    nms_threshold: float = 0.45,
    detections: int = 200,
) -> Task:
    """Finds objects from `logits (B, A, 1 + classes)`, the background first, `offsets (B, A, 4)`, `anchors (A, 4)`.

    Each object gets the default box that overlaps it most, and all others above a threshold. The loss is the softmax
    cross entropy of the matched boxes and of the worst of the others, and the smooth L1 distance of the matched boxes'
    offsets, both divided by the number of matched boxes in the batch (equation 1). Images without objects teach
    nothing, as published.

    Args:
        class_names: names of the classes; taken from the data.
        match_threshold: least IoU of a default box and its object, beyond each object's best one.
        negatives: boxes of the background in the loss for each that is matched.
        box_weight: weight of the offsets' loss.
        score_threshold: probability up to which boxes are no detections.
        candidates: boxes of each class, the most probable ones, that suppress each other.
        nms_threshold: largest IoU of two detections of a class.
        detections: largest number of them in an image.
    """
    anchored.check_shares(match_threshold=match_threshold, score_threshold=score_threshold, nms_threshold=nms_threshold)
    anchored.check_counts(candidates=candidates, detections=detections)
    for name, value in (("negatives", negatives), ("box_weight", box_weight)):
        if value < 0:
            raise UsageError(f"config.task.{name}: expected 0 or more, given {value}.")

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        boxes = outputs["anchors"]

        def loss_of_image(logits: jax.Array, offsets: jax.Array, truth: Batch, crowd: jax.Array) -> tuple:
            matches = match_bipartite(box_ops.pairwise(truth["boxes"], boxes), truth["valid"], match_threshold)
            positive, index = matches >= 0, jnp.maximum(matches, 0)
            label = jnp.where(positive, 1 + truth["classes"][index], 0)
            # By one-hot labels: the gradient of picking one logit for each box is a scatter, slow on CPU and TPU.
            entropy = optax.softmax_cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1]))
            hard = hard_negatives(entropy, positive, ~positive & ~crowd, negatives)
            target = box_ops.encode(truth["boxes"][index], boxes, WEIGHTS)
            distance = jnp.sum(smooth_l1(offsets, target), axis=-1)
            return (
                jnp.sum(jnp.where(positive | hard, entropy, 0.0)),
                jnp.sum(jnp.where(positive, distance, 0.0)),
                jnp.sum(positive, dtype=jnp.float32),
            )

        truth, crowd = detection.truth(batch), anchored.in_crowd(boxes, batch)
        sums = jax.vmap(loss_of_image)(outputs["logits"], outputs["offsets"], truth, crowd)
        entropy, distance, count = (jnp.sum(values) for values in sums)
        return {"class": Mean(entropy, count), "box": Mean(box_weight * distance, count)}

    def detect(outputs: Outputs, batch: Batch) -> Detections:
        def detect_in_image(logits: jax.Array, offsets: jax.Array, size: jax.Array) -> Detections:
            probabilities = jax.nn.softmax(logits, axis=-1)[:, 1:]
            boxes = box_ops.clip(box_ops.decode(offsets, outputs["anchors"], WEIGHTS), size)
            scores, index = jax.lax.top_k(probabilities.T, min(candidates, len(boxes)))  # (classes, candidates)
            classes = jnp.broadcast_to(jnp.arange(len(scores))[:, None], scores.shape)
            return anchored.best_boxes(
                boxes[index.reshape(-1)],
                scores.reshape(-1),
                classes.reshape(-1),
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                detections=detections,
            )

        return jax.vmap(detect_in_image)(outputs["logits"], outputs["offsets"], detection.image_sizes(batch))

    return detection.detector(loss=loss, detect=detect, class_names=class_names)
