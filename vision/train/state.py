"""The state of a run: everything that training N steps depends on, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """What a checkpoint holds. `batch(step)` is a function of the config, so this is all a run needs to go on.

    Attributes:
        step: () int32, updates made so far.
        params: parameters, float32.
        model_state: the model's other collections, such as {"batch_stats": ...}; {} without any.
        opt_state: the optimiser's state.
        ema: {"params", "model_state"} averaged over steps, or None.
        rng: typed key of the run; a step uses `fold_in(rng, step)`.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: optax.OptState
    ema: Any
    rng: jax.Array


def create(variables: dict[str, Any], optimizer: optax.GradientTransformation, rng: jax.Array, ema: bool) -> TrainState:
    """The state before step 1.

    Args:
        variables: what `model.init` gave: "params" and other collections.
        optimizer: gives the optimiser state.
        rng: typed key.
        ema: whether to keep a moving average of the weights.
    """
    model_state = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    # Copies, because the step donates the state: two of its leaves must never share a buffer.
    average = jax.tree.map(jnp.copy, {"params": params, "model_state": model_state}) if ema else None
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        ema=average,
        rng=rng,
    )


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """The variables to evaluate and to predict with: the moving average where there is one."""
    if state.ema is not None:
        return {"params": state.ema["params"], **state.ema["model_state"]}
    return {"params": state.params, **state.model_state}
