"""One pass over an evaluation split: sums from the device, and what cannot be summed collected on the host."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vision.train import parallel


@dataclasses.dataclass
class Evaluation:
    """What one pass found.

    Attributes:
        metrics: scalars, by name.
        arrays: per-class values, the confusion matrix and the like.
        shown: the examples most worth looking at: {"batch", "predictions", "interest"} each, the first the most.
        count: how many examples they are chosen from, those of this host.
    """

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray]
    shown: list[dict[str, np.ndarray]]
    count: int


def evaluate(
    step: Callable,
    variables: Any,
    pipeline: Any,
    task: Any,
    mesh: jax.sharding.Mesh,
    show: int = 0,
    stop: Callable[[], Any] = lambda: None,
) -> Evaluation | None:
    """Every real example of the split once.

    Args:
        step: compiled `(variables, batch) -> (sums, collected, predictions, interest)`.
        variables: the model's.
        pipeline: evaluation batches, the last one padded.
        task: a `vision.tasks.Task`.
        mesh: the devices.
        show: how many examples to keep for pictures, by the task's `interest`.
        stop: whether to give up, asked between batches; then the result is None.
    """
    sums, collected, shown, count = None, {}, [], 0
    waiting = []  # results one batch behind, so that the device computes while the host adds up

    def take(batch, results):
        nonlocal sums, shown, count
        new_sums, new_collected, predictions, interest = jax.device_get(results)
        sums = _add(sums, new_sums)
        count += np.count_nonzero(batch["mask"])
        if new_collected:
            mask, index = _all_hosts(batch["mask"]), _all_hosts(batch["index"])
            kept = map(task.condense, _examples(new_collected, mask))
            collected.update(zip(index[mask > 0].tolist(), kept, strict=True))
        if show:
            examples = _examples(
                {
                    "batch": {k: v for k, v in batch.items() if k != "mask"},
                    "predictions": predictions,
                    "interest": interest,
                },
                batch["mask"],
            )
            # NaN, which sorts anywhere, counts as the most interesting.
            shown = sorted(shown + examples, key=lambda example: -np.nan_to_num(example["interest"], nan=np.inf))[:show]

    for batch in pipeline.batches():
        if stop():
            return None
        results = step(variables, parallel.put_batch(batch, mesh))
        if not show:
            results = (*results[:2], {}, 0)
        waiting.append((batch, results))
        if len(waiting) > 1:
            take(*waiting.pop(0))
    for batch, results in waiting:
        take(batch, results)

    values = dict(task.summarize(sums))
    if task.summarize_collected:
        # Batches of one shape each do not come in the order of the data set.
        values |= task.summarize_collected([collected[index] for index in sorted(collected)])
    scalars, arrays = split_scalars(values)
    return Evaluation(scalars, arrays, shown, count)


def metric_names(step: Callable, variables: Any, batch_spec: Any, task: Any) -> tuple[str, ...]:
    """Names of the scalars that `evaluate` will give, without computing anything.

    Args:
        step: pure evaluation step.
        variables, batch_spec: trees of shapes.
        task: a `vision.tasks.Task`.
    """
    sums, collected, *_ = jax.eval_shape(step, variables, batch_spec)
    values = dict(task.summarize(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sums)))
    if task.summarize_collected:
        # What metrics there are depends on what is collected: those of masks, for instance.
        blank = jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), collected)
        values |= task.summarize_collected([task.condense(blank)])
    return tuple(split_scalars(values)[0])


def split_scalars(values: dict[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalars as floats, and the rest as arrays."""
    scalars = {name: float(value) for name, value in values.items() if np.ndim(value) == 0}
    return scalars, {name: np.asarray(value) for name, value in values.items() if np.ndim(value) > 0}


def _add(sums: Any, new: Any) -> Any:
    """Adds on the host in 64 bits: a float32 sum over 50,000 examples would lose digits."""
    wide = jax.tree.map(lambda x: x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64), new)
    return wide if sums is None else jax.tree.map(np.add, sums, wide)


def _all_hosts(array: np.ndarray) -> np.ndarray:
    """This host's rows -> the rows of all hosts, in the global batch's order."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def _examples(arrays: dict[str, Any], mask: np.ndarray) -> list[dict[str, Any]]:
    """{name: (B, ...)} -> one dict for each real example."""
    if not arrays:
        return []
    # Copies: a view of a row would keep the whole batch in memory.
    return [jax.tree.map(lambda x, i=i: np.array(x[i]), arrays) for i in np.flatnonzero(mask)]
