"""Losses of detectors, one number for each element or box, to be weighted and summed by the caller; in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.boxes import AnyBoxes, Number, Values, giou

Elements = Float[Array, "*shape"]


def smooth_l1(predicted: Elements, target: Elements, beta: Number = 1.0) -> Elements:
    """Half the squared difference over beta where it is below beta, the difference less beta / 2 elsewhere.

    Girshick 2015, equation 3, has beta 1; 0 gives the absolute difference. Beta times Huber's loss.

    Args:
        predicted: numbers of any shape, offsets of boxes as a rule.
        target: of the same shape.
        beta: where the square becomes a line.
    """
    difference = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    if beta == 0:
        return difference
    return jnp.where(difference < beta, difference**2 / (2 * beta), difference - beta / 2)


def sigmoid_focal_loss(logits: Elements, targets: Elements, alpha: Number = 0.25, gamma: Number = 2.0) -> Elements:
    """Binary cross entropy, less of it for what is right already (Lin et al. 2017, arXiv:1708.02002, equation 5).

    Each class stands for itself, so that an anchor of the background is 0 in all; exclusive classes have their own
    focal loss, in `segmentation`.

    Args:
        logits: (..., classes).
        targets: of the same shape, 0 or 1.
        alpha: weight of targets 1, and 1 less it of targets 0; negative for none.
        gamma: how much less the elements count that are right already; 0 gives the cross entropy.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    wrong = jax.nn.sigmoid(logits) * (1 - targets) + jax.nn.sigmoid(-logits) * targets
    # Kept off 0, where the gradient of a power below 1 is infinite.
    loss = jnp.maximum(wrong, 1e-7) ** gamma * entropy
    return loss * (alpha * targets + (1 - alpha) * (1 - targets)) if alpha >= 0 else loss


def iou_loss(predicted: AnyBoxes, target: AnyBoxes, similarity: Callable[[Array, Array], Array] = giou) -> Values:
    """1 - IoU of each box with its target, or that of one of IoU's kin: 0 for equal boxes.

    Plain IoU has no gradient for boxes that do not overlap; generalised, distance and complete IoU have.

    Args:
        predicted: (..., 4) boxes.
        target: (..., 4) boxes.
        similarity: `iou`, `giou`, `diou` or `ciou` of `vision.ops.boxes`.
    """
    return 1 - similarity(predicted.astype(jnp.float32), target.astype(jnp.float32))
