"""Reconstruction: the network gives an image back, from a short code, from noise, or from a few of its patches."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.ops import patches
from vision.tasks.task import Batch, Mean, Outputs, Task


def reconstruction(
    *, error: Literal["squared", "absolute", "cross_entropy"] = "squared", normalize_targets: bool = False
) -> Task:
    """Error between `reconstruction (B, H, W, C)` in [0, 1] and the truth, scaled from uint8 to [0, 1].

    The truth is the batch's `target`, which the transform keep_clean leaves, or else its own image. Where the network
    says which patches it did not see, `masked (B, h, w)`, errors and metrics are of those pixels alone.

    Args:
        error: "squared", "absolute", or "cross_entropy" (pixels read as probabilities, as for Bernoulli decoders).
        normalize_targets: for masked autoencoders, compare with patches of which each is less its mean and divided by
            its standard deviation (He et al. 2022, section 4.1, "Reconstruction target"). The network's linear outputs
            then predict those; a picture takes mean and deviation from the truth.
    """
    if normalize_targets and error == "cross_entropy":
        raise UsageError("config.task.error: normalised targets are no probabilities; take 'squared' or 'absolute'.")

    def truth_of(batch: Batch) -> jax.Array:
        return jnp.asarray(batch.get("target", batch["image"]), jnp.float32) / 255.0

    def moments(outputs: Outputs, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
        return patches.moments(truth, *outputs["masked"].shape[1:])

    def per_image(outputs: Outputs, batch: Batch) -> jax.Array:
        """(B,): the error that is trained on."""
        truth, predicted = truth_of(batch), outputs["reconstruction"].astype(jnp.float32)
        if normalize_targets:
            mean, deviation = moments(outputs, truth)
            truth, predicted = (truth - mean) / deviation, outputs["reconstruction_logits"].astype(jnp.float32)
        if error == "squared":
            values = jnp.square(predicted - truth)
        elif error == "absolute":
            values = jnp.abs(predicted - truth)
        else:
            predicted = jnp.clip(predicted, 1e-6, 1 - 1e-6)
            values = -(truth * jnp.log(predicted) + (1 - truth) * jnp.log1p(-predicted))
        return _mean(values, outputs)

    def restored(outputs: Outputs, batch: Batch) -> jax.Array:
        """(B, H, W, C) in [0, 1]: the image that the network means."""
        if not normalize_targets:
            return outputs["reconstruction"].astype(jnp.float32)
        mean, deviation = moments(outputs, truth_of(batch))
        return jnp.clip(outputs["reconstruction_logits"] * deviation + mean, 0.0, 1.0)

    def squared_errors(outputs: Outputs, batch: Batch) -> jax.Array:
        """(B,): the mean squared error of each image."""
        return _mean(jnp.square(restored(outputs, batch) - truth_of(batch)), outputs)

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        mask = batch["mask"]
        return {f"{error}_error": Mean(jnp.sum(per_image(outputs, batch) * mask), jnp.sum(mask))}

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        real, truth, squared = batch["mask"] > 0, truth_of(batch), squared_errors(outputs, batch)
        values = {"loss": per_image(outputs, batch), "mse": squared, "psnr": _decibels(squared)}
        if "target" in batch:
            given = jnp.square(batch["image"].astype(jnp.float32) / 255.0 - truth)
            values["input_psnr"] = _decibels(_mean(given, outputs))
        sums = {name: jnp.sum(jnp.where(real, value, 0.0)) for name, value in values.items()}
        return {**sums, "examples": jnp.sum(real, dtype=jnp.int32)}

    def predict(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """`reconstruction`, or of normalised targets `normalized_reconstruction`; `masked`, where there is."""
        normal = {"reconstruction": outputs["reconstruction"]}
        chosen = {"normalized_reconstruction": outputs["reconstruction_logits"]} if normalize_targets else normal
        return chosen | {name: outputs[name] for name in ("masked",) if name in outputs}

    return Task(
        loss=loss,
        metrics=metrics,
        summarize=summarize,
        predict=predict,
        interest=squared_errors,
        plots=("reconstructions",),
        prediction_plot="reconstructions",
        best="mse",
        lower_is_better=("loss", "mse"),
    )


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over images: loss, mean squared error, peak signal-to-noise ratio in decibels (of a noisy input, too)."""
    examples = float(sums["examples"])
    names = [name for name in sums if name != "examples"]
    return {name: float(sums[name]) / examples if examples else float("nan") for name in names}


def _mean(values: jax.Array, outputs: Outputs) -> jax.Array:
    """(B, H, W, C) -> (B,): the mean over an image's pixels; of a masked autoencoder, over those it did not see."""
    if "masked" not in outputs:
        return jnp.mean(values, axis=(1, 2, 3))
    hidden = patches.spread(jnp.asarray(outputs["masked"], jnp.float32), *values.shape[1:3])
    count = jnp.maximum(jnp.sum(hidden, axis=(1, 2, 3)), 1.0)
    return jnp.sum(jnp.mean(values, axis=-1, keepdims=True) * hidden, axis=(1, 2, 3)) / count


def _decibels(squared: jax.Array) -> jax.Array:
    """The peak signal-to-noise ratio of images in [0, 1], from their mean squared errors; at most 100."""
    return -10.0 * jnp.log10(jnp.maximum(squared, 1e-10))
