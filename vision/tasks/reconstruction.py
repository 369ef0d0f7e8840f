"""Reconstruction: the network gives its input image back, through a bottleneck (autoencoders)."""

from typing import Literal

import jax
import jax.numpy as jnp

from vision.tasks.task import Batch, Mean, Outputs, Task


def reconstruction(*, error: Literal["squared", "absolute", "cross_entropy"] = "squared") -> Task:
    """Error between `reconstruction (B, H, W, C)` in [0, 1] and the batch's own image, scaled from uint8 to [0, 1].

    Args:
        error: "squared", "absolute", or "cross_entropy" (pixels read as probabilities, as for Bernoulli decoders).
    """

    def target(batch: Batch) -> jax.Array:
        return batch["image"].astype(jnp.float32) / 255.0

    def per_image(outputs: Outputs, batch: Batch) -> jax.Array:
        predicted, truth = outputs["reconstruction"].astype(jnp.float32), target(batch)
        if error == "squared":
            values = jnp.square(predicted - truth)
        elif error == "absolute":
            values = jnp.abs(predicted - truth)
        else:
            predicted = jnp.clip(predicted, 1e-6, 1 - 1e-6)
            values = -(truth * jnp.log(predicted) + (1 - truth) * jnp.log1p(-predicted))
        return jnp.mean(values, axis=(1, 2, 3))

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        mask = batch["mask"]
        return {f"{error}_error": Mean(jnp.sum(per_image(outputs, batch) * mask), jnp.sum(mask))}

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        real = batch["mask"] > 0
        squared = jnp.mean(jnp.square(outputs["reconstruction"].astype(jnp.float32) - target(batch)), axis=(1, 2, 3))
        psnr = -10.0 * jnp.log10(jnp.maximum(squared, 1e-10))
        return {
            "loss": jnp.sum(jnp.where(real, per_image(outputs, batch), 0.0)),
            "mse": jnp.sum(jnp.where(real, squared, 0.0)),
            "psnr": jnp.sum(jnp.where(real, psnr, 0.0)),
            "examples": jnp.sum(real, dtype=jnp.int32),
        }

    def summarize(sums: dict[str, jax.Array]) -> dict[str, float]:
        """Mean loss, mean squared error, and mean over images of the peak signal-to-noise ratio in decibels."""
        examples = float(sums["examples"])
        return {name: float(sums[name]) / examples if examples else float("nan") for name in ("loss", "mse", "psnr")}

    return Task(
        loss=loss,
        metrics=metrics,
        summarize=summarize,
        predict=lambda outputs: {"reconstruction": outputs["reconstruction"]},
        plots=("reconstructions",),
        prediction_plot="reconstructions",
        best="mse",
        lower_is_better=("loss", "mse"),
    )
