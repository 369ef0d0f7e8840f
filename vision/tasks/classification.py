"""Image classification: one label for each image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.errors import UsageError
from vision.tasks.task import Batch, Mean, Outputs, Task


def classification(
    *, num_classes: int, label_smoothing: float = 0.0, top_k: int = 5, auxiliary_weight: float = 0.3
) -> Task:
    """Softmax cross entropy on `logits (B, num_classes)` against `label (B,)`.

    Args:
        num_classes: number of classes; taken from the data.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
        top_k: an image also counts as right in `top{k}_accuracy` when its label is among the k most probable classes.
        auxiliary_weight: weight of the cross entropy of each auxiliary head, for networks that train with such heads
            (`aux_logits`): 0.3 for GoogLeNet (Szegedy et al. 2015, section 5), 0.4 for Inception-v3 in practice.
    """
    if num_classes < 2:
        raise UsageError(f"config.task: classification needs at least two classes; the data have {num_classes}.")
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"config.task.label_smoothing: expected 0 or more and less than 1, given {label_smoothing}.")
    if top_k < 1:
        raise UsageError(f"config.task.top_k: expected 1 or more, given {top_k}.")
    top_k = min(top_k, num_classes)

    def cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
        targets = jax.nn.one_hot(batch["label"], num_classes)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        mask = batch["mask"]
        terms = {"cross_entropy": Mean(jnp.sum(cross_entropy(outputs["logits"], batch) * mask), jnp.sum(mask))}
        for index, logits in enumerate(outputs.get("aux_logits", ())):
            total = auxiliary_weight * jnp.sum(cross_entropy(logits, batch) * mask)
            terms[f"auxiliary_{index + 1}"] = Mean(total, jnp.sum(mask))
        return terms

    def monitor(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        mask = batch["mask"]
        right = jnp.argmax(outputs["logits"], axis=-1) == batch["label"]
        return {"accuracy": Mean(jnp.sum(right * mask), jnp.sum(mask))}

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        logits, label = outputs["logits"], batch["label"]
        real = batch["mask"] > 0
        # A label is in the top k when fewer than k classes score higher; ties go to the lower index, as in argmax.
        own = jnp.take_along_axis(logits, label[:, None], axis=-1)
        earlier = jnp.arange(num_classes) < label[:, None]
        rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
        # A diverged network ranks nothing: comparisons with NaN are all false, which would read as rank 0.
        rank = jnp.where(jnp.isfinite(own[:, 0]), rank, num_classes)
        cell = label * num_classes + jnp.argmax(logits, axis=-1)
        confusion = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(real.astype(jnp.int32))
        return {
            "loss": jnp.sum(jnp.where(real, cross_entropy(logits, batch), 0.0)),
            "top_k": jnp.sum((rank < top_k) & real, dtype=jnp.int32),
            "examples": jnp.sum(real, dtype=jnp.int32),
            "confusion_matrix": confusion.reshape(num_classes, num_classes),
        }

    def interest(outputs: Outputs, batch: Batch) -> jax.Array:
        """Mistakes first, the most confident ones at the top; then the right answers that were least sure."""
        probabilities = jax.nn.softmax(outputs["logits"], axis=-1)
        wrong = jnp.argmax(probabilities, axis=-1) != batch["label"]
        confidence = jnp.max(probabilities, axis=-1)
        return jnp.where(wrong, 1.0 + confidence, 1.0 - confidence)

    return Task(
        loss=loss,
        monitor=monitor,
        metrics=metrics,
        summarize=lambda sums: summarize(sums, top_k),
        predict=lambda outputs, batch: {"probabilities": jax.nn.softmax(outputs["logits"], axis=-1)},
        interest=interest,
        describe=lambda predictions, class_names: describe(predictions["probabilities"], class_names),
        plots=("confusion_matrix", "predictions"),
        prediction_plot="prediction_grid",
        best="accuracy",
    )


def summarize(sums: dict[str, Any], top_k: int) -> dict[str, float | np.ndarray]:
    """Sums -> loss, accuracy, top-k accuracy, macro F1, and per class: precision, recall, F1; the confusion matrix.

    Rows of the confusion matrix are true classes, columns predicted ones. A ratio without cases (a class that is never
    predicted has no precision) is NaN per class, and left out of `macro_f1`.
    """
    confusion = np.asarray(sums["confusion_matrix"])
    examples = float(sums["examples"])
    right = np.diagonal(confusion).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = right / confusion.sum(axis=0), right / confusion.sum(axis=1)
        f1 = 2 * right / (confusion.sum(axis=0) + confusion.sum(axis=1))
    result = {
        "loss": float(sums["loss"]) / examples if examples else float("nan"),
        "accuracy": right.sum() / examples if examples else float("nan"),
        "macro_f1": float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan"),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "confusion_matrix": confusion,
    }
    if top_k > 1:
        result[f"top{top_k}_accuracy"] = float(sums["top_k"]) / examples if examples else float("nan")
    return result


def describe(probabilities: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Class probabilities (num_classes,) -> {"class", "probability", "top5": [{"class", "probability"}, ...]}.

    The list is shorter where there are fewer than five classes.
    """
    order = np.argsort(-probabilities, kind="stable")[:5]
    top = [{"class": class_names[i], "probability": float(probabilities[i])} for i in order]
    return {**top[0], "top5": top}
