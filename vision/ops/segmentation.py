"""Losses and measures of per-pixel class ids: cross entropy, focal and Dice losses, confusion, boundaries.

Class ids are 0 to num_classes - 1; `IGNORE` marks pixels that count nowhere: unknown ones, and the padding of an image.
Everything is computed in float32 or in integers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Integer

IGNORE = 255

Labels = Integer[Array, "batch height width"]
Logits = Float[Array, "batch height width classes"]
PerPixel = Float[Array, "batch height width"]
PerImage = Float[Array, " batch"]

_BACKGROUND_NAMES = ("background", "_background_", "bg")


def has_background(class_names: Sequence[str]) -> bool:
    """Whether the first class of a table is the background, by its name ("background" or "bg")."""
    return len(class_names) > 0 and str(class_names[0]).lower() in _BACKGROUND_NAMES


def pixel_weights(labels: Labels, class_weights: Float[Array, " classes"] | None = None) -> PerPixel:
    """The weight of each pixel: that of its class, 0 where it is ignored.

    Args:
        labels: (batch, height, width) class ids.
        class_weights: (classes,); None for 1 each.
    """
    valid = labels != IGNORE
    if class_weights is None:
        return valid.astype(jnp.float32)
    return jnp.where(valid, class_weights[jnp.where(valid, labels, 0)], 0.0)


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: float = 0.0) -> PerPixel:
    """Softmax cross entropy of each pixel; 0 where it is ignored.

    Args:
        logits: (batch, height, width, classes).
        labels: (batch, height, width) class ids.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    entropy = -_of_true_class(log_probabilities, labels)
    if label_smoothing:
        entropy = (1 - label_smoothing) * entropy - label_smoothing * jnp.mean(log_probabilities, axis=-1)
    return jnp.where(labels == IGNORE, 0.0, entropy)


def focal_loss(logits: Logits, labels: Labels, gamma: float = 2.0) -> PerPixel:
    """(1 - p)^gamma times the cross entropy, p the softmax probability of the true class; 0 where it is ignored.

    Lin et al. 2017, equation 4, for many exclusive classes; their alpha is a weight of classes (`pixel_weights`). With
    two classes of logits (0, x) it is their sigmoid form of the logit x.

    Args:
        logits: (batch, height, width, classes).
        labels: (batch, height, width) class ids.
        gamma: how much less the pixels count that are right already; 0 gives the cross entropy.
    """
    log_probability = _of_true_class(jax.nn.log_softmax(logits.astype(jnp.float32)), labels)
    # Kept off 0, where the gradient of a power below 1 is infinite.
    missing = jnp.maximum(-jnp.expm1(log_probability), 1e-7)
    return jnp.where(labels == IGNORE, 0.0, -(missing**gamma) * log_probability)


def dice_loss(logits: Logits, labels: Labels) -> tuple[PerImage, PerImage]:
    """1 - soft Dice coefficient of each image, averaged over the classes that are in its labels.

    For a class with true pixels g and softmax probabilities p: 1 - 2 sum(p g) / (sum p + sum g), over all pixels but
    ignored ones (Milletari et al. 2016, section 3, with plain sums in place of squares). Each image stands for itself,
    so that a mean over images is the same however they are spread over batches and devices. Classes that are not in
    an image have no term of their own; what is predicted of them is missing from the others.

    Args:
        logits: (batch, height, width, classes).
        labels: (batch, height, width) class ids.

    Returns:
        The loss (batch,), and (batch,) 1 where an image has any pixel to judge, else 0, where the loss is 0 as well.
    """
    valid = (labels != IGNORE)[..., None]
    probabilities = jnp.where(valid, jax.nn.softmax(logits.astype(jnp.float32)), 0.0)
    true = labels[..., None] == jnp.arange(logits.shape[-1])
    overlap = jnp.sum(jnp.where(true, probabilities, 0.0), axis=(1, 2))
    predicted_area, true_area = jnp.sum(probabilities, axis=(1, 2)), jnp.sum(true, axis=(1, 2), dtype=jnp.float32)
    present = true_area > 0
    dice = 2 * overlap / jnp.where(present, predicted_area + true_area, 1.0)
    classes = jnp.sum(present, axis=-1)
    loss = jnp.sum(jnp.where(present, 1 - dice, 0.0), axis=-1) / jnp.maximum(classes, 1)
    return loss, (classes > 0).astype(jnp.float32)


def _of_true_class(values: Logits, labels: Labels) -> PerPixel:
    """The value of each pixel's own class; a masked sum fuses with the softmax, and its gradient is no scatter."""
    return jnp.sum(jnp.where(labels[..., None] == jnp.arange(values.shape[-1]), values, 0.0), axis=-1)


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> Int[Array, "classes classes"]:
    """Pixel counts, rows true and columns predicted classes; exact, as int32, for up to 2^31 - 1 pixels a call.

    As a scatter, which the CPU does in 5 ms for 8x512x512 pixels, whatever the number of classes; a product of one-hot
    matrices takes 410 ms for 21 classes and rounds above 2^24 pixels.

    Args:
        labels: (batch, height, width) class ids.
        predicted: (batch, height, width) class ids.
        num_classes: classes.
    """
    cell = labels.astype(jnp.int32) * num_classes + predicted.astype(jnp.int32)
    cell = jnp.where(labels == IGNORE, num_classes**2, cell)  # out of bounds, which is dropped
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell.reshape(-1)].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def boundaries(labels: Labels) -> Bool[Array, "batch height width"]:
    """Pixels that have a neighbour of another class above, below, left or right.

    Neither the edge of the image nor that of an ignored area is a boundary.

    Args:
        labels: (batch, height, width) class ids.
    """
    result = jnp.zeros(labels.shape, bool)
    for axis in (1, 2):
        one, other = lax.slice_in_dim(labels, 0, -1, axis=axis), lax.slice_in_dim(labels, 1, None, axis=axis)
        differs = (one != other) & (one != IGNORE) & (other != IGNORE)
        before, after = [(0, 0)] * 3, [(0, 0)] * 3
        before[axis], after[axis] = (0, 1), (1, 0)
        result |= jnp.pad(differs, before) | jnp.pad(differs, after)
    return result


def boundary_f1(
    labels: Labels,
    predicted: Labels,
    num_classes: int,
    tolerance: PerImage,
    max_tolerance: float,
) -> tuple[PerImage, PerImage]:
    """How well the outlines agree: F1 of boundary pixels, averaged over the classes of each image (Csurka et al. 2013).

    Precision of a class is the share of its predicted boundary pixels with a true one of the same class within the
    tolerance, recall the share of true ones with a predicted one. Averaged are the classes with a boundary in the truth
    or in the prediction. Where labels are ignored, the prediction is as well.

    Args:
        labels: (batch, height, width) class ids.
        predicted: (batch, height, width) class ids.
        num_classes: classes.
        tolerance: (batch,) largest distance in pixels, Euclidean; Csurka et al.: 0.0075 of the image's diagonal.
        max_tolerance: the largest of them: it bounds the neighbourhood that is searched.

    Returns:
        The score (batch,), 0 to 1, and (batch,) 1 where an image has any boundary, else 0, as is the score then.
    """
    predicted = jnp.where(labels == IGNORE, IGNORE, predicted.astype(labels.dtype))
    true_edge, predicted_edge = boundaries(labels), boundaries(predicted)

    def share_found(classes, edge, other_classes, other_edge):
        """(batch, classes) pixels on the edge, and the share of them with another edge's pixel nearby."""
        near = _class_nearby(classes, _class_bits(other_classes, other_edge, num_classes), tolerance, max_tolerance)
        count = _count_per_class(classes, edge, num_classes)
        return count, _count_per_class(classes, edge & near, num_classes) / jnp.maximum(count, 1)

    predicted_count, precision = share_found(predicted, predicted_edge, labels, true_edge)
    true_count, recall = share_found(labels, true_edge, predicted, predicted_edge)
    present = (predicted_count + true_count) > 0
    f1 = 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)
    classes = jnp.sum(present, axis=-1)
    score = jnp.sum(jnp.where(present, f1, 0.0), axis=-1) / jnp.maximum(classes, 1)
    return score, (classes > 0).astype(jnp.float32)


def _class_bits(classes: Array, chosen: Array, num_classes: int) -> Array:
    """(batch, height, width, words) uint32: the bit of its class at each chosen pixel.

    Sets of classes as bits make one dilation do for 32 classes.
    """
    word, bit = classes.astype(jnp.uint32) // 32, classes.astype(jnp.uint32) % 32
    words = jnp.arange(-(-num_classes // 32), dtype=jnp.uint32)
    here = (word[..., None] == words) & chosen[..., None]
    return jnp.where(here, jnp.left_shift(jnp.uint32(1), bit)[..., None], jnp.uint32(0))


def _class_nearby(classes: Array, bits: Array, tolerance: Array, max_tolerance: float) -> Array:
    """(batch, height, width): whether a pixel's own class is among the bits within its image's tolerance."""
    reach = int(max_tolerance)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = rows**2 + columns**2 <= max_tolerance**2
    rows, columns = jnp.asarray(rows[disk]), jnp.asarray(columns[disk])
    padded = jnp.pad(bits, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    squared = jnp.square(tolerance)[:, None, None, None]

    def add(index, found):
        row, column = rows[index], columns[index]
        shifted = lax.dynamic_slice(padded, (0, reach + row, reach + column, 0), bits.shape)
        within = (row**2 + column**2).astype(jnp.float32) <= squared
        return found | jnp.where(within, shifted, jnp.uint32(0))

    found = lax.fori_loop(0, len(rows), add, jnp.zeros_like(bits))
    return jnp.any((found & _class_bits(classes, jnp.ones_like(classes, bool), 32 * bits.shape[-1])) != 0, axis=-1)


def _count_per_class(classes: Array, chosen: Array, num_classes: int) -> Array:
    """(batch, classes): chosen pixels of each class; ignored ones are never chosen."""
    image = jnp.arange(len(classes))[:, None, None]
    cell = jnp.where(chosen, image * num_classes + classes.astype(jnp.int32), len(classes) * num_classes)
    counts = jnp.zeros(len(classes) * num_classes, jnp.int32).at[cell.reshape(-1)].add(1, mode="drop")
    return counts.reshape(len(classes), num_classes)
