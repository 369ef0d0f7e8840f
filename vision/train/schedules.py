"""Learning-rate schedules by name. Every one begins with a linear warm-up from 0 and is a function of the step only.

A schedule here is a *shape*: (step, ...) -> a factor, 1 at its height. The learning rate of a step is

    learning_rate * min(1, step / warmup) * shape(max(step, warmup)).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from vision import schema
from vision.errors import UsageError, pick
from vision.train.durations import Clock, Duration

Shape = Callable[[Any], Any]  # step >= warmup -> factor
INJECTED = ("clock", "warmup")


def constant(clock: Clock, warmup: int) -> Shape:
    """The learning rate stays."""
    del clock, warmup
    return lambda step: jnp.ones_like(step, jnp.float32)


def linear(clock: Clock, warmup: int, final: float = 0.0) -> Shape:
    """A straight line from the end of the warm-up to the end of the run.

    Args:
        final: learning rate at the end, as a share of `learning_rate`.
    """
    return polynomial(clock, warmup, power=1.0, final=final)


def cosine(clock: Clock, warmup: int, final: float = 0.0) -> Shape:
    """Half a cosine wave from the end of the warm-up to the end of the run (Loshchilov and Hutter 2017, eq. 5).

    Args:
        final: learning rate at the end, as a share of `learning_rate`.
    """
    progress = _progress(clock, warmup)
    return lambda step: final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress(step)))


def polynomial(clock: Clock, warmup: int, power: float = 0.9, final: float = 0.0) -> Shape:
    """(1 - progress) ** power, known as "poly" in segmentation (Chen et al. 2018, DeepLab, section 4.1).

    Args:
        power: 1 is a straight line; above it, the learning rate falls early; below, late.
        final: learning rate at the end, as a share of `learning_rate`.
    """
    progress = _progress(clock, warmup)
    return lambda step: final + (1 - final) * (1 - progress(step)) ** power


def piecewise(
    clock: Clock, warmup: int, boundaries: tuple[Duration, ...], factor: float | tuple[float, ...] = 0.1
) -> Shape:
    """Multiplied by a factor at each boundary (steps).

    Args:
        boundaries: durations since the start of the run, warm-up included, such as ("30 epochs", "75%").
        factor: what each boundary multiplies the learning rate with; one number for all, or one for each.
    """
    del warmup
    steps = [clock.steps(boundary, "boundaries") for boundary in boundaries]
    factors = factor if isinstance(factor, tuple | list) else [factor] * len(steps)
    if len(factors) != len(steps) or sorted(set(steps)) != steps:
        raise UsageError(f"boundaries {boundaries} must rise (in steps: {steps}), with as many factors: {factor}.")
    values = np.cumprod([1.0, *factors]).astype(np.float32)
    return lambda step: jnp.asarray(values)[jnp.searchsorted(jnp.asarray(steps, jnp.int32), step, side="right")]


def rsqrt(clock: Clock, warmup: int, timescale: Duration | None = None) -> Shape:
    """Reciprocal square root, for runs whose end is open (Vaswani et al. 2017, eq. 3; Zhai et al. 2022, section 3.5).

    Args:
        timescale: duration after which the learning rate has fallen to 1 / sqrt(2); None: the length of the warm-up.
    """
    scale = warmup if timescale is None else clock.steps(timescale, "timescale")
    if scale < 1:
        raise UsageError('rsqrt without a warm-up needs a timescale, such as timescale="10000 steps".')
    return lambda step: jnp.sqrt(scale / (scale + jnp.maximum(step - warmup, 0)))


def one_cycle(clock: Clock, warmup: int, peak: Duration = "30%", initial: float = 0.04, final: float = 4e-6) -> Shape:
    """Up to the learning rate and down again, both along half a cosine wave (Smith and Topin 2019, section 3).

    It is a warm-up of its own; with `warmup` set, it is preceded by one from 0 to `initial`.

    Args:
        peak: duration since the start of the run after which the learning rate is highest.
        initial: learning rate at the start, as a share of `learning_rate`.
        final: learning rate at the end, as a share of `learning_rate`.
    """
    total, top = _total(clock), clock.steps(peak, "peak")
    if not warmup < top < total:
        raise UsageError(
            f"peak={peak!r} is step {top}; it must lie between the warm-up's {warmup} and the run's {total}."
        )

    def shape(step):
        up = 0.5 * (1 - jnp.cos(jnp.pi * jnp.clip((step - warmup) / (top - warmup), 0, 1)))
        down = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((step - top) / (total - top), 0, 1)))
        return jnp.where(step < top, initial + (1 - initial) * up, final + (1 - final) * down)

    return shape


def reduce_on_plateau(
    clock: Clock,
    warmup: int,
    factor: float = 0.1,
    every: Duration = "1 epochs",
    patience: int = 10,
    cooldown: int = 0,
    tolerance: float = 1e-4,
    final: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Multiplied by a factor when the training loss stops falling.

    Not a shape but a transformation of the updates, which is told the loss as `value`. What it remembers is part of the
    optimiser's state, so that a resumed run falls at the same step.

    Args:
        factor: what the learning rate is multiplied with.
        every: duration over which the training loss is averaged before it is compared with the best one so far.
        patience: comparisons without improvement before the learning rate falls.
        cooldown: comparisons that are skipped after it fell.
        tolerance: a loss has improved when it is lower by this share of the best.
        final: lowest learning rate, as a share of `learning_rate`.
    """
    del warmup
    if not 0 < factor < 1 or not 0 < tolerance < 1 or patience < 1:
        raise UsageError(
            f"factor={factor}, tolerance={tolerance} must lie between 0 and 1, patience={patience} above 0."
        )
    return optax.contrib.reduce_on_plateau(
        factor=factor,
        patience=patience,
        rtol=tolerance,
        cooldown=cooldown,
        accumulation_size=max(1, clock.steps(every, "every")),
        min_scale=final,
    )


SCHEDULES: dict[str, Callable[..., Shape | optax.GradientTransformationExtraArgs]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
    "piecewise": piecewise,
    "polynomial": polynomial,
    "reduce_on_plateau": reduce_on_plateau,
    "rsqrt": rsqrt,
}


def create(
    schedule: str | Mapping[str, Any],
    *,
    learning_rate: float,
    warmup: Duration,
    clock: Clock,
    where: str = "config.optimizer",
) -> optax.Schedule:
    """step -> learning rate, a float32 scalar; also for arrays of steps, to plot it.

    Args:
        schedule: a name of `SCHEDULES`, or {"name": ..., **its arguments}.
        learning_rate: its height.
        warmup: duration of the linear rise from 0, which the first step has.
        clock: lengths of the run.
        where: the section's place, for messages.

    Raises:
        UsageError: an unknown name or argument, or durations that do not fit the run.
    """
    rise = clock.steps(warmup, f"{where}.warmup")
    if clock.total_steps is not None and rise > clock.total_steps:
        raise UsageError(f"{where}.warmup: {warmup!r} is {rise} steps, the whole run has {clock.total_steps}.")
    shape = _build(schedule, clock, rise, where)
    if isinstance(shape, optax.GradientTransformation):
        shape = constant(clock, rise)

    def rate(step):
        height = learning_rate * shape(jnp.maximum(step, rise))
        return height * jnp.minimum(1.0, step / rise) if rise else height

    return rate


def check(schedule: str | Mapping[str, Any], where: str = "config.optimizer.schedule") -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a config's schedule. Raises UsageError unless the name and the arguments are valid."""
    section = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
    if "name" not in section:
        raise UsageError(f"{where}: missing 'name'. Valid: {', '.join(SCHEDULES)}.")
    keys = schema.keys(pick(SCHEDULES, "schedule", section["name"], where), INJECTED)
    schema.check_keys({"name": schema.Key(str, "", "")} | keys, section, where)
    name = section.pop("name")
    return name, section


def plateau(
    schedule: str | Mapping[str, Any], clock: Clock, where: str = "config.optimizer"
) -> optax.GradientTransformationExtraArgs | None:
    """The transformation of `reduce_on_plateau`; None for the schedules that are functions of the step alone."""
    if check(schedule, f"{where}.schedule")[0] != "reduce_on_plateau":
        return None
    return _build(schedule, clock, 0, where)


def _build(schedule, clock: Clock, warmup: int, where: str) -> Shape | optax.GradientTransformationExtraArgs:
    name, arguments = check(schedule, f"{where}.schedule")
    try:
        return SCHEDULES[name](clock, warmup, **arguments)
    except UsageError as error:
        raise UsageError(f"{where}.schedule: {error}") from error


def _total(clock: Clock) -> int:
    if clock.total_steps is None:
        raise UsageError("this schedule needs to know the length of the run.")
    return clock.total_steps


def _progress(clock: Clock, warmup: int) -> Callable[[Any], Any]:
    """Step -> 0 at the end of the warm-up, 1 at the end of the run and after it."""
    length = max(1, _total(clock) - warmup)
    return lambda step: jnp.clip((step - warmup) / length, 0.0, 1.0)
