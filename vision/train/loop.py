"""The loop: batches through the step; logging, evaluation and checkpoints at their times. Nothing task-specific."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from vision.errors import UsageError
from vision.train.meters import Meter
from vision.train.parallel import CompiledStep
from vision.train.state import TrainState

# Steps the host may be ahead of the device: enough that the device never idles, few enough that their batches fit.
RUN_AHEAD = 4
# Steps whose metrics may stay on the device, and whose loss may stay unchecked.
LONGEST_PENDING = 512


class Times(NamedTuple):
    """When things happen, in steps; 0 for never (all of them happen at the end).

    Attributes:
        total: the run's length.
        log, evaluate, save: intervals.
    """

    total: int
    log: int
    evaluate: int
    save: int


class Hooks(NamedTuple):
    """What the loop calls.

    Attributes:
        write: (step, metrics): to metrics.jsonl and the other writers; once a step at most.
        evaluate: state -> metrics of every evaluation split, None where it was told to stop; or None without a split.
        improved: metrics -> whether they are the best so far.
        save: (step, state, metrics, progress): a checkpoint; `progress` is what `fit` needs to go on.
        show: (step, metrics, report): to the progress bar; metrics and the meter's report are None between logs.
        stop: step -> the name of the signal that asks to stop, or None.
    """

    write: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[TrainState], dict[str, float] | None] | None
    improved: Callable[[dict[str, float]], bool]
    save: Callable[[int, TrainState, dict[str, float], dict[str, Any]], None]
    show: Callable[[int, dict[str, float] | None, dict[str, float] | None], None]
    stop: Callable[[int], str | None]


class Outcome(NamedTuple):
    """How the loop ended.

    Attributes:
        state: the last state.
        step: its step.
        stopped_by: the signal that stopped it before its end, or None.
        progress: what `fit` needs to go on.
    """

    state: TrainState
    step: int
    stopped_by: str | None
    progress: dict[str, Any]


def fit(
    state: TrainState,
    train_step: CompiledStep,
    batches: Iterator[tuple[dict[str, jax.Array], int]],
    times: Times,
    hooks: Hooks,
    meter: Meter,
    progress: dict[str, Any] | None = None,
) -> Outcome:
    """Trains from `state.step` to `times.total`.

    The logged metrics of a step are means since the last logged step. Those since then are part of a checkpoint, so
    that a resumed run logs the very same numbers.

    Args:
        state: the state to start from.
        train_step: `(state, batch) -> (state, {name: (total, count)})`; the state is donated.
        batches: (batch on the devices, real examples in it), from the step after `state.step` on.
        times: when things happen.
        hooks: what is called.
        meter: times the loop.
        progress: what a checkpoint of an earlier process held: metrics since the last log, seconds trained, and
            whether the log or evaluation of its last step is still owed.

    Raises:
        UsageError: a loss that is not finite.
    """
    start = int(state.step)
    progress = progress or {}
    pending = [(step, {k: tuple(v) for k, v in values.items()}) for step, values in progress.get("pending", [])]
    seconds_before, began = progress.get("seconds", 0.0), time.perf_counter()
    last_saved = start or None
    reported_compiling = None

    def now(owed: bool = False) -> dict[str, Any]:
        seconds = seconds_before + time.perf_counter() - began
        return {"pending": list(pending), "seconds": seconds, "owed": owed}

    def finish_step(step: int, stopping: bool) -> bool:
        """What is due after a step: evaluate, log, save. A process that is to end only saves, and owes the rest.

        False where it was told to stop, before or during the evaluation.
        """
        nonlocal pending, last_saved, reported_compiling
        last = step == times.total
        log, evaluate, save = (last or _due(step, every) for every in (times.log, times.evaluate, times.save))
        if log or evaluate or save or stopping or _due(step, LONGEST_PENDING):
            pending = _fetch(pending, last_saved)
        evaluation = {}
        if evaluate and hooks.evaluate and not stopping:
            with meter.excluded():
                evaluation = hooks.evaluate(state)
            stopping = evaluation is None
        if stopping:
            hooks.save(step, state, {}, now(owed=log or evaluate))
            return False
        row, means, report = {}, None, None
        if log:
            means, report = _means(pending), meter.report()
            if train_step.compile_seconds != reported_compiling:  # a batch of a new shape may come at any time
                reported_compiling = train_step.compile_seconds
                report["compile_seconds"] = round(reported_compiling, 3)
            row = {f"train/{name}": value for name, value in means.items()}
            row |= {f"perf/{name}": value for name, value in report.items()}
            pending = []
        hooks.show(step, means, report)
        row |= evaluation
        with meter.excluded():
            if row:
                hooks.write(step, {"time": round(now()["seconds"], 3), **row})
            if hooks.improved(evaluation) or save:
                hooks.save(step, state, evaluation, now())
                last_saved = step
        return True

    if progress.get("owed") and not finish_step(start, stopping=False):
        return Outcome(state, start, hooks.stop(start), now(owed=True))
    for step in range(start + 1, times.total + 1):
        with meter.waiting():
            batch, examples = next(batches)
        if train_step.is_new(batch):
            with meter.excluded():
                train_step.compile(state, batch)
        state, metrics = train_step(state, batch)
        meter.flops_per_step = train_step.flops
        meter.tick(examples)
        pending.append((step, metrics))
        if len(pending) > RUN_AHEAD:
            # Not a wait for this step's result: it keeps the queue of dispatched steps, and their memory, bounded.
            jax.block_until_ready(pending[-RUN_AHEAD - 1][1])
        signal = hooks.stop(step) if step < times.total else None
        if not finish_step(step, stopping=bool(signal)):
            return Outcome(state, step, signal or hooks.stop(step), now())
    return Outcome(state, max(start, times.total), None, now())


def prefetch_to_device(
    batches: Iterator[dict[str, Any]], put: Callable[[dict[str, Any]], dict[str, jax.Array]], ahead: int = 2
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Host batches -> (batch on the devices, real examples in it), sent `ahead` of their use."""
    queue: deque = deque()
    for batch in batches:
        queue.append((put(batch), int(batch["mask"].sum()) * jax.process_count()))
        if len(queue) >= ahead:
            yield queue.popleft()
    yield from queue


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _fetch(pending: list, last_saved: int | None) -> list:
    """Metrics of the steps since the last log as numbers of the host; here the loop waits for the device."""
    fetched = [
        (step, {name: (float(total), float(count)) for name, (total, count) in jax.device_get(values).items()})
        for step, values in pending
    ]
    for step, values in fetched:
        for name, (total, _) in values.items():
            if not math.isfinite(total):
                good = (
                    f"the checkpoint of step {last_saved} is the last good one" if last_saved else "no checkpoint yet"
                )
                raise UsageError(
                    f"step {step}: {name} is {total}; stopped ({good}). Lower config.optimizer.learning_rate, set "
                    f"config.optimizer.clip_norm, or look at the data: --show_batch={step}."
                )
    return fetched


def _means(pending: list) -> dict[str, float]:
    """Metrics of several steps -> {name: mean over their examples}; the learning rate is the last one."""
    means = {}
    for name in pending[-1][1] if pending else ():
        totals, counts = zip(*(values[name] for _, values in pending if name in values), strict=True)
        means[name] = math.fsum(totals) / max(math.fsum(counts), 1e-12)
    if "learning_rate" in means:
        means["learning_rate"] = pending[-1][1]["learning_rate"][0]
    return means
