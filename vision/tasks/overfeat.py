"""OverFeat's detection (Sermanet et al. 2014, arXiv:1312.6229, sections 4 and 5): windows classified, boxes merged."""

import jax
import jax.numpy as jnp
import optax

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops import windows as window_ops
from vision.ops.detection_losses import smooth_l1
from vision.tasks import anchored, detection
from vision.tasks.detection import Detections
from vision.tasks.task import Batch, Mean, Outputs, Task

_CERTAIN = 1 - 1e-6  # the highest probability whose evidence is finite


def overfeat(
    *,
    class_names: tuple[str, ...] = (),
    visible: float = 0.5,
    box_weight: float = 5.0,
    beta: float = 0.1,
    score_threshold: float = 0.3,
    merge_threshold: float = 0.8,
    detections: int = 20,
) -> Task:
    """Finds objects from `score_map (B, h, w, classes)`, `box_map (B, h, w, 1 or classes, 4)`, `windows (h, w, 4)`.

    Each window learns the object of which it sees most, if it sees enough of it; the regressor learns from these alone
    (section 4.2). Classes are independent of each other, so that a window may hold none: in place of the paper's class
    for the background. At one scale; of each class, the boxes of all windows are merged (section 4.3), and where many
    windows agree the score is high: 1 less the product of 1 - probability, which adds up evidence.

    Args:
        class_names: names of the classes; taken from the data.
        visible: least share of an object's box within a window that learns it.
        box_weight: weight of the box's loss.
        beta: where its smooth L1 becomes a line, as a share of the window's side.
        score_threshold: probability up to which a window holds no object.
        merge_threshold: largest `match_score` of two boxes that are merged, see `vision.ops.windows`.
        detections: largest number of them in an image.
    """
    anchored.check_shares(visible=visible, score_threshold=score_threshold)
    anchored.check_counts(detections=detections)
    for name, value in (("box_weight", box_weight), ("beta", beta), ("merge_threshold", merge_threshold)):
        if value < 0:
            raise UsageError(f"config.task.{name}: expected 0 or more, given {value}.")

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        logits, shares, windows = _flat(outputs)

        def loss_of_image(logits: jax.Array, shares: jax.Array, truth: Batch, crowd: jax.Array) -> tuple:
            seen = jnp.where(truth["valid"][:, None], box_ops.covered(truth["boxes"], windows), 0.0)
            area = jnp.where(seen >= visible, seen * box_ops.area(truth["boxes"])[:, None], 0.0)  # of it in the window
            index, positive = jnp.argmax(area, axis=0), jnp.max(area, axis=0) > 0
            label = truth["classes"][index]
            target = jnp.where(positive[:, None], jax.nn.one_hot(label, logits.shape[1]), 0.0)
            entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
            box = _in_window(truth["boxes"][index], windows)
            distance = jnp.sum(smooth_l1(_of_class(shares, label), box, beta), axis=-1)
            return (
                jnp.sum(jnp.where(positive | ~crowd, entropy, 0.0)),
                jnp.sum(jnp.where(positive, distance, 0.0)),
                jnp.sum(positive, dtype=jnp.float32),
                jnp.sum(positive | ~crowd, dtype=jnp.float32),
            )

        truth, crowd = detection.truth(batch), anchored.in_crowd(windows, batch)
        sums = jax.vmap(loss_of_image)(logits, shares, truth, crowd)
        real = batch["mask"] > 0
        entropy, distance, positive, count = (jnp.sum(jnp.where(real, values, 0.0)) for values in sums)
        return {"class": Mean(entropy, count), "box": Mean(box_weight * distance, positive)}

    def detect(outputs: Outputs, batch: Batch) -> Detections:
        logits, shares, windows = _flat(outputs)
        number = logits.shape[-1]

        def detect_class(label: jax.Array, scores: jax.Array, shares: jax.Array, size: jax.Array) -> tuple:
            boxes = window_ops.from_windows(_of_class(shares, jnp.full(len(scores), label)), windows)
            boxes = box_ops.clip(boxes, size)
            evidence = -jnp.log1p(-jnp.minimum(scores, _CERTAIN))
            valid = (scores > score_threshold) & box_ops.is_valid(boxes)
            boxes, evidence, valid = window_ops.merge(boxes, evidence, valid, merge_threshold)
            return boxes, -jnp.expm1(-evidence), valid

        def detect_in_image(logits: jax.Array, shares: jax.Array, size: jax.Array) -> Detections:
            labels = jnp.arange(number, dtype=jnp.int32)
            found = jax.vmap(detect_class, (0, 1, None, None))(labels, jax.nn.sigmoid(logits), shares, size)
            boxes, scores, valid = (values.reshape(-1, *values.shape[2:]) for values in found)
            scores, index = jax.lax.top_k(jnp.where(valid, scores, 0.0), min(detections, len(scores)))
            valid = valid[index]
            return {
                "boxes": jnp.where(valid[:, None], boxes[index], 0.0),
                "scores": scores,
                "classes": jnp.where(valid, jnp.repeat(labels, len(windows))[index], 0),
                "valid": valid,
            }

        return jax.vmap(detect_in_image)(logits, shares, detection.image_sizes(batch))

    return detection.detector(loss=loss, detect=detect, class_names=class_names)


def _flat(outputs: Outputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits (B, W, classes), boxes (B, W, K, 4) as shares, and the W windows (W, 4).

    Raises:
        KeyError: the network is no OverFeat that is fully convolutional and has a box regressor.
    """
    shares, windows, logits = outputs["box_map"], outputs["windows"], outputs["score_map"]
    return (
        logits.reshape(len(logits), -1, logits.shape[-1]).astype(jnp.float32),
        shares.reshape(len(shares), -1, *shares.shape[3:]),
        windows.reshape(-1, 4),
    )


def _of_class(shares: jax.Array, label: jax.Array) -> jax.Array:
    """(W, K, 4), (W,) -> (W, 4): the box of that class, or the one for all."""
    index = label if shares.shape[1] > 1 else jnp.zeros_like(label)
    return jnp.take_along_axis(shares, index[:, None, None], axis=1)[:, 0]


def _in_window(boxes: jax.Array, windows: jax.Array) -> jax.Array:
    """Boxes (W, 4) in pixels as shares of their windows' sides."""
    corner, size = jnp.tile(windows[:, :2], 2), jnp.tile(windows[:, 2:] - windows[:, :2], 2)
    return (boxes - corner) / size
