"""What a network makes of a data set's images: the features before its classifier, for other methods to learn from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision import experiment
from vision.errors import UsageError, unknown_name
from vision.run import Run
from vision.train import parallel, step


def extract(run: Run, path: str, output: str = "pooled") -> dict[str, np.ndarray]:
    """One pass over a split, in the order of the data set and without chance.

    Args:
        run: the network and its weights.
        path: of the split's section: "config.data.train" or "config.data.eval.LABEL".
        output: of the network: "pooled", "logits", or "features/32", the map of stride 32 averaged over its places.

    Returns:
        {"features": (N, width) float32, "label": (N,) where the data have labels, "index": (N,) place in the split}.

    Raises:
        UsageError: the network has no such output.
    """
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    pipeline = experiment.open_pipeline(run.config, path, in_order=True)
    network, variables = run.network, parallel.replicate(run.variables, mesh)

    @jax.jit
    def apply(variables, batch):
        outputs, _ = step.apply_model(network.model, network.task, network.preprocess, variables, batch, None)
        return vectors(outputs, output)

    parts: dict[str, list[np.ndarray]] = {}
    for batch in pipeline.batches():
        real = batch["mask"] > 0
        found = {"features": np.asarray(apply(variables, batch)), "index": batch["index"]}
        if "label" in batch:
            found["label"] = batch["label"]
        for name, values in found.items():
            parts.setdefault(name, []).append(values[real])
    return {name: np.concatenate(values) for name, values in parts.items()}


def vectors(outputs: dict[str, Any], name: str, flat: bool = False) -> jax.Array:
    """(B, width) float32: one output of a network as vectors.

    Args:
        outputs: of the network.
        name: "pooled", "logits", or "features/32" for the map of stride 32.
        flat: whether all places of a map stand one after the other, in place of their mean.

    Raises:
        UsageError: there is no such output.
    """
    flat = {key: value for key, value in outputs.items() if hasattr(value, "ndim")}
    flat |= {f"features/{stride}": value for stride, value in outputs.get("features", {}).items()}
    if name not in flat:
        raise unknown_name("output of the network", name, flat, "--output")
    values = flat[name].astype(jnp.float32)
    if values.ndim < 2:
        raise UsageError(
            f"--output={name}: it has the shape {values.shape}; expected a vector or a map for each image."
        )
    return values.mean(axis=(1, 2)) if values.ndim == 4 and not flat else values.reshape(len(values), -1)
