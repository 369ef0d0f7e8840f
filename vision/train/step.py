"""One training step and one evaluation step, as pure functions of arrays; the same for every task and network.

The loss is a sum of terms, each a total over a count. Counts add up over devices *before* the division, so that the
gradient of a batch does not depend on how the batch is spread.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vision.train.freezing import stop_gradients, stored_statistics
from vision.train.optimizer import Optimizer, current_learning_rate
from vision.train.parameters import is_kernel, parameter_paths
from vision.train.state import TrainState

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]]


class StepOptions(NamedTuple):
    """What a step does besides forward, backward and update.

    Attributes:
        accumulate: micro-batches a batch is cut into; their gradients are averaged before the one update. Each one
            divides by its own count: exact where counts are equal, as without skipped images in classification.
        ema: decay of the moving average of parameters and batch statistics; None keeps none.
        l1: weight of the sum of |w| over all kernels in the loss.
        l2: weight of half the sum of w^2 over all kernels in the loss.
    """

    accumulate: int = 1
    ema: float | None = None
    l1: float = 0.0
    l2: float = 0.0


def make_train_step(
    model: Any,
    task: Any,
    preprocess: Callable[[jax.Array], jax.Array],
    optimizer: Optimizer,
    options: StepOptions = StepOptions(),
    axis_name: str | None = None,
) -> Step:
    """`train_step(state, batch) -> (state, metrics)`, where metrics are {name: (total, count)}.

    Args:
        model: Linen module.
        task: a `vision.tasks.Task`.
        preprocess: uint8 images -> what the network sees.
        optimizer: what `vision.train.optimizer.create` gives.
        options: accumulation, moving average, penalties.
        axis_name: the mapped axis under `pmap`, where a batch is one device's share; None under `jit`.
    """

    def add_up(tree):
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def loss_and_aux(params, model_state, batch, rng):
        variables = {"params": stop_gradients(params, optimizer.frozen), **model_state}
        with stored_statistics(optimizer.frozen):
            outputs, new_state = apply_model(model, task, preprocess, variables, batch, rng)
        terms = task.loss(outputs, batch)
        monitored = task.monitor(outputs, batch)
        counts = {name: jnp.maximum(add_up(jax.lax.stop_gradient(term.count)), 1e-12) for name, term in terms.items()}
        # This device's share of the loss of the whole batch: the shares add up to it.
        share = sum(term.total / counts[name] for name, term in terms.items())
        metrics = {name: (term.total, term.count) for name, term in (terms | monitored).items()}
        return share, (new_state, metrics)

    def gradients(state: TrainState, batch: Batch, rng: jax.Array):
        """(gradients, model_state, loss, metrics) of a batch, cut into micro-batches where asked for."""
        differentiate = jax.value_and_grad(loss_and_aux, has_aux=True)
        if options.accumulate == 1:
            (share, (model_state, metrics)), grads = differentiate(state.params, state.model_state, batch, rng)
            grads, share, metrics = add_up((grads, share, metrics))
            return grads, model_state, share, metrics

        def micro_step(carry, inputs):
            grads, model_state, share = carry
            micro_batch, index = inputs
            micro_rng = jax.random.fold_in(rng, index)
            (new_share, (model_state, metrics)), new = differentiate(state.params, model_state, micro_batch, micro_rng)
            return (jax.tree.map(jnp.add, grads, new), model_state, share + new_share), metrics

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        micro_batches = jax.tree.map(lambda x: _micro_batches(x, options.accumulate), batch)
        (grads, model_state, share), metrics = jax.lax.scan(
            micro_step, (zeros, state.model_state, jnp.float32(0)), (micro_batches, jnp.arange(options.accumulate))
        )
        metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
        grads, share, metrics = add_up((grads, share, metrics))
        return jax.tree.map(lambda x: x / options.accumulate, grads), model_state, share / options.accumulate, metrics

    def train_step(state: TrainState, batch: Batch):
        rng = jax.random.fold_in(state.rng, state.step)
        if axis_name is not None:
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
        grads, model_state, loss, metrics = gradients(state, batch, rng)
        if options.l1 or options.l2:  # not a function of the batch: added once, whatever the number of devices
            penalty, penalty_grads = jax.value_and_grad(_penalty)(state.params, options.l1, options.l2)
            grads, loss = jax.tree.map(jnp.add, grads, penalty_grads), loss + penalty
        updates, opt_state = optimizer.transform.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if options.ema is not None:
            ema = _average(ema, {"params": params, "model_state": model_state}, options.ema, state.step)
        one = jnp.float32(1)
        metrics |= {
            "loss": (loss, one),
            "grad_norm": (optax.tree.norm(grads), one),
            "learning_rate": (current_learning_rate(optimizer, state.step, opt_state), one),
        }
        state = TrainState(state.step + 1, params, model_state, opt_state, ema, state.rng)
        return state, metrics

    return train_step


def make_evaluation_step(model: Any, task: Any, preprocess: Callable[[jax.Array], jax.Array]) -> Callable:
    """`(variables, batch) -> (sums, collected, predictions, interest)`; `collected` is {} for most tasks."""

    def evaluation_step(variables, batch):
        outputs, _ = apply_model(model, task, preprocess, variables, batch, None)
        predictions = task.predict(outputs, batch)
        outputs = {**outputs, "predictions": predictions}
        collected = task.collect(outputs, batch) if task.collect else {}
        return task.metrics(outputs, batch), collected, predictions, task.interest(outputs, batch)

    return evaluation_step


def apply_model(model, task, preprocess, variables, batch: Batch, rng: jax.Array | None):
    """The model's outputs on a batch, and its new state: training with a key, evaluation without one."""
    train = rng is not None
    inputs = dict(task.inputs(batch, train))
    inputs["image"] = preprocess(inputs["image"])
    if not train:
        return task.forward(lambda inputs: model.apply(variables, **inputs, train=False), inputs), None
    collections = [name for name in variables if name != "params"]
    dropout, sample = jax.random.split(rng)
    return model.apply(
        variables, **inputs, train=True, rngs={"dropout": dropout, "sample": sample}, mutable=collections
    )


def _micro_batches(x: jax.Array, count: int) -> jax.Array:
    """(B, ...) -> (count, B / count, ...), strided: every device has the same share of each micro-batch."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)


def _penalty(params: Any, l1: float, l2: float) -> jax.Array:
    weights = [leaf for path, leaf in parameter_paths(params).items() if is_kernel(path)]
    return l1 * sum(jnp.sum(jnp.abs(w)) for w in weights) + 0.5 * l2 * sum(jnp.sum(jnp.square(w)) for w in weights)


def _average(ema: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average; its decay starts low, so that the first weights are soon forgotten."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def one(old, value):
        # In this form a value that stays is kept to the last bit.
        return old + (1.0 - decay) * (value - old) if jnp.issubdtype(value.dtype, jnp.floating) else value

    return jax.tree.map(one, ema, new)
