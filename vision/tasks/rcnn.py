"""Two-stage detection: Faster R-CNN's four losses, of which Fast R-CNN has two, those of mask and key point heads."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.detection_losses import smooth_l1
from vision.tasks import detection
from vision.tasks.task import Batch, Mean, Outputs, Task


def rcnn(
    *,
    class_names: tuple[str, ...] = (),
    beta: float = 1 / 9,
    objectness: float = 1.0,
    rpn_box: float = 1.0,
    classification: float = 1.0,
    box: float = 1.0,
    mask: float = 1.0,
    keypoint: float = 1.0,
) -> Task:
    """Losses and detections of the networks in `vision.models.rcnn`, counted as in torchvision.

    The loss is the sum of these terms with the weights below, of which the last two are there where the network has
    such heads, and the first two where it makes proposals itself: Fast R-CNN reads them from the batch, `proposals`
    (B, P, 4) and `proposals_valid` (B, P), which the transform selective_search gives. Both box losses are divided by
    the number of all sampled regions, not only of those with an object.

    Args:
        class_names: of the data; taken from the data.
        beta: where the smooth L1 losses of boxes become lines.
        objectness: weight of the binary cross entropy of the sampled anchors.
        rpn_box: weight of the smooth L1 loss of the offsets of anchors that hold an object.
        classification: weight of the cross entropy of the sampled proposals, the background being a class.
        box: weight of the smooth L1 loss of the offsets of proposals that hold an object, for its class.
        mask: weight of the binary cross entropy of the pixels of an object's mask, for its class.
        keypoint: weight of the cross entropy of a key point's place among all places of its heat map.
    """
    weights = dict(
        objectness=objectness,
        rpn_box=rpn_box,
        classification=classification,
        box=box,
        mask=mask,
        keypoint=keypoint,
    )
    for name, value in (weights | {"beta": beta}).items():
        if value < 0:
            raise UsageError(f"config.task.{name}: expected 0 or more, given {value}.")

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        found = terms(outputs, batch, beta)
        return {name: Mean(weights[name] * term.total, term.count) for name, term in found.items()}

    return detection.detector(
        loss=loss,
        detect=detect,
        class_names=class_names,
        monitor=monitor,
        inputs=inputs,
    )


def inputs(batch: Batch, train: bool) -> dict[str, Any]:
    """The image, its size without padding and its proposals where there are such, and while training the truth.

    Of crowds the truth has the boxes alone, as `ignored`: what lies in them is no background.
    """
    given: dict[str, Any] = {"image": batch["image"]}
    given |= {name: batch[name] for name in ("size", "proposals", "proposals_valid") if name in batch}
    if train:
        given["truth"] = detection.truth(batch)
        if "crowd" in batch:
            ignored = batch["valid"].astype(bool) & batch["crowd"].astype(bool)
            given["truth"]["ignored"] = jnp.where(ignored[..., None], batch["boxes"], 0.0)
    return given


def detect(outputs: Outputs, batch: Batch) -> detection.Detections:
    """The detections, which the network itself makes.

    Raises:
        KeyError: the network makes no proposals, and the data have none.
    """
    del batch
    if "proposals" not in outputs:
        raise KeyError("proposals")
    return outputs["detections"]


def terms(outputs: Outputs, batch: Batch, beta: float) -> dict[str, Mean]:
    """Each loss as a sum and the number it is divided by."""
    found, rois = {}, outputs["rois"]
    if "rpn" in outputs:
        anchors = outputs["rpn"]
        right = anchors["positive"].astype(jnp.float32)
        entropy = optax.sigmoid_binary_cross_entropy(anchors["logits"], right)
        found["objectness"] = _mean(entropy, _counted(anchors["filled"], batch))
        found["rpn_box"] = _box_loss(anchors, batch, beta)
    found |= {
        "classification": _mean(
            optax.softmax_cross_entropy_with_integer_labels(rois["logits"], rois["labels"]),
            _counted(rois["filled"], batch),
        ),
        "box": _box_loss(rois, batch, beta),
    }
    if "masks" in outputs:
        logits, targets = outputs["masks"]["logits"], outputs["masks"]["targets"]
        pixels = optax.sigmoid_binary_cross_entropy(logits, targets)
        found["mask"] = _mean(jnp.mean(pixels, axis=(2, 3)), _counted(rois["positive"][:, : logits.shape[1]], batch))
    if "keypoints" in outputs:
        points = outputs["keypoints"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(points["logits"], points["targets"])
        found["keypoint"] = _mean(entropy, _counted(points["valid"], batch))
    return found


def monitor(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    """Shares: of sampled anchors and proposals with an object, of true boxes among the proposals, of right classes.

    `object_accuracy` is over the proposals with an object, `roi_accuracy` over the background too; `proposal_recall`
    counts the true boxes that overlap a proposal by an IoU of 0.5, before they are added to the proposals themselves.
    """
    rois, proposals = outputs["rois"], outputs["proposals"]
    right = jnp.argmax(rois["logits"], axis=-1) == rois["labels"]
    true = detection.truth(batch)
    overlaps = jax.vmap(box_ops.pairwise)(true["boxes"], proposals["boxes"])
    found = jnp.any((overlaps >= 0.5) & proposals["valid"][:, None], axis=2)
    shares = {}
    if "rpn" in outputs:
        anchors = outputs["rpn"]
        shares["rpn_positives"] = _mean(anchors["positive"], _counted(anchors["filled"], batch))
    return shares | {
        "proposal_recall": _mean(found, true["valid"]),
        "roi_positives": _mean(rois["positive"], _counted(rois["filled"], batch)),
        "roi_accuracy": _mean(right, _counted(rois["filled"], batch)),
        "object_accuracy": _mean(right, _counted(rois["positive"], batch)),
    }


def _box_loss(regions: dict[str, jax.Array], batch: Batch, beta: float) -> Mean:
    distance = jnp.sum(smooth_l1(regions["offsets"], regions["true_offsets"], beta), axis=-1)
    total, _ = _mean(distance, _counted(regions["positive"], batch))
    return Mean(total, jnp.sum(_counted(regions["filled"], batch), dtype=jnp.float32))


def _counted(there: jax.Array, batch: Batch) -> jax.Array:
    """(B, ...) bool, False in rows that are no examples."""
    real = batch["mask"] > 0
    return there & real.reshape(-1, *(1,) * (there.ndim - 1))


def _mean(values: jax.Array, counted: jax.Array) -> Mean:
    return Mean(jnp.sum(jnp.where(counted, values.astype(jnp.float32), 0.0)), jnp.sum(counted, dtype=jnp.float32))
