"""The optimiser of a config as one explicit chain, with a policy for every parameter chosen by regular expressions.

    clip the global norm -> the optimiser's direction and weight decay -> the rules' multipliers -> -learning rate

Frozen parameters take no part: no update, no decay, no memory, and their gradients do not count for clipping.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from vision import schema
from vision.errors import UsageError, pick
from vision.train import durations, schedules
from vision.train.durations import Clock, Duration
from vision.train.parameters import is_kernel, map_with_path, match, parameter_paths
from vision.train.update_rules import INJECTED as UPDATE_RULE_INJECTED
from vision.train.update_rules import OPTIMIZERS

INJECTED = ("name", "params", "clock", "where", "layer_numbers")


class Optimizer(NamedTuple):
    """What `create` gives.

    Attributes:
        transform: `init(params)`; `update(gradients, state, params, value=loss)`, whether or not it needs the loss.
        schedule: step -> learning rate, before the factor of `reduce_on_plateau` (see `current_learning_rate`).
        description: one line for people.
        frozen: paths of the parameters that stay as they are.
    """

    transform: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    description: str
    frozen: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a rule may say about the parameters it matches.

    Attributes:
        lr: multiplier of the learning rate.
        decay: multiplier of `weight_decay`; None: 1 for kernels, 0 for all else (biases, norm scales, embeddings).
        freeze: leave the parameters as they are; a batch norm then normalises with its stored statistics.
    """

    lr: float = 1.0
    decay: float | None = None
    freeze: bool = False


def create(
    name: str,
    learning_rate: float,
    *,
    params: Any,
    clock: Clock,
    where: str = "config.optimizer",
    schedule: str | dict = "constant",
    warmup: Duration = 0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    rules: tuple | list = (),
    layer_decay: float | None = None,
    layer_numbers: Mapping[str, int] | None = None,
    **arguments: Any,
) -> Optimizer:
    """The optimiser of a config section: `create(**config.optimizer, params=..., clock=...)`.

    Args:
        name: of the optimiser: sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, lamb, lars, lion,
            adafactor, muon.
        learning_rate: the schedule's height.
        params: pytree of parameters, or of their shapes.
        clock: lengths of the run.
        where: the section's place, for messages.
        schedule: constant, linear, cosine, piecewise, polynomial, rsqrt, one_cycle or reduce_on_plateau; or a section
            with `name` and that schedule's arguments.
        warmup: duration over which the learning rate first rises from 0.
        weight_decay: share of a weight that a step takes away, times the learning rate: decoupled from the gradient for
            every optimiser. By default of kernels only; see `rules`.
        clip_norm: largest global norm of the gradients of the trained parameters; None does not clip.
        accumulate: micro-batches a batch is cut into, to save memory; one update for all of them.
        ema: decay of a moving average of parameters and batch statistics, to evaluate with; None keeps none.
        l1: weight of the sum of |w| over kernels in the loss.
        l2: weight of half the sum of w^2 over kernels in the loss; unlike weight_decay, it goes through the optimiser.
        rules: ((regular expression, options), ...). Each parameter follows the first expression that matches its whole
            path, "stage_1/block_1/conv_1/kernel"; options are lr and decay, multipliers, and freeze=True.
        layer_decay: factor of the learning rate from each layer of the network to the one before it, for fine-tuning:
            with 0.75 the last layer, the head, learns at the full rate, the one before at 0.75 of it, and so on; None
            for one rate. Multiplies with the rules' `lr`.
        layer_numbers: path -> number of the layer that the parameter is in, from 0; needed for `layer_decay`.
        arguments: of the optimiser itself: momentum, b1, eps, ...

    Raises:
        UsageError: an unknown name or key, a value that makes no sense, or a rule that no parameter follows.
    """
    shared = {"learning_rate": learning_rate, "schedule": schedule, "warmup": warmup, "weight_decay": weight_decay}
    shared |= {"clip_norm": clip_norm, "accumulate": accumulate, "ema": ema, "l1": l1, "l2": l2, "rules": rules}
    check({"name": name, "layer_decay": layer_decay, **shared, **arguments}, where)
    policy = policies(rules, params, f"{where}.rules")
    frozen = frozenset(path for path, rule in policy.items() if rule.freeze)
    multipliers = {path: rule.lr for path, rule in policy.items()}
    if layer_decay is not None:
        last = max(layer_numbers.values())
        multipliers = {path: lr * layer_decay ** (last - layer_numbers[path]) for path, lr in multipliers.items()}
    rate = schedules.create(schedule, learning_rate=learning_rate, warmup=warmup, clock=clock, where=where)

    def add_decay(path, update, weight):
        return update + weight_decay * policy[path].decay * weight

    decay = _per_path(add_decay, needs_params=True) if weight_decay else optax.identity()
    steps = [OPTIMIZERS[name](decay, **arguments)]
    if clip_norm is not None:
        steps.insert(0, optax.clip_by_global_norm(clip_norm))
    if any(multiplier != 1.0 for multiplier in multipliers.values()):
        steps.append(_per_path(lambda path, update: multipliers[path] * update))
    plateau = schedules.plateau(schedule, clock, where)
    if plateau is not None:
        steps.append(plateau)
    steps.append(optax.scale_by_learning_rate(rate))
    transform = optax.chain(*steps)

    if frozen:
        transform = optax.partition(
            {"train": transform, "freeze": optax.set_to_zero()},
            partial(map_with_path, lambda path, _: "freeze" if path in frozen else "train"),
        )
    text = f"{name}, learning rate {learning_rate:g} ({schedules.check(schedule)[0]}"
    text += f", warm-up {clock.steps(warmup)} steps)" if warmup else ")"
    text += f"; x {layer_decay:g} from layer to layer, {last + 1} layers" if layer_decay is not None else ""
    text += f"; {_describe(policy, params, weight_decay)}"
    return Optimizer(optax.with_extra_args_support(transform), rate, text, frozen)


def current_learning_rate(optimizer: Optimizer, step: Any, opt_state: optax.OptState) -> jax.Array:
    """The learning rate of a step, the factor of `reduce_on_plateau` included; works inside a compiled step."""

    def is_plateau(node):
        return isinstance(node, optax.contrib.ReduceLROnPlateauState)

    states = [node for node in jax.tree.leaves(opt_state, is_leaf=is_plateau) if is_plateau(node)]
    scale = states[0].scale if states else 1.0
    return jnp.asarray(optimizer.schedule(step) * scale, jnp.float32)


def keys_for(name: str, where: str = "config.optimizer.name") -> dict[str, schema.Key]:
    """Every key a section for this optimiser may have besides `name`. Raises UsageError for an unknown optimiser."""
    own = schema.keys(pick(OPTIMIZERS, "optimizer", name, where), UPDATE_RULE_INJECTED)
    return schema.keys(create, INJECTED) | own


def check(section: Mapping[str, Any], where: str = "config.optimizer") -> None:
    """Raises UsageError unless `create(**section, ...)` is well formed; parameters and lengths are not needed.

    Args:
        section: the config section, `name` included.
        where: its place, for messages.
    """
    if "name" not in section:
        raise UsageError(f"{where}: missing 'name'. Valid: {', '.join(OPTIMIZERS)}.")
    own = {key: value for key, value in section.items() if key != "name"}
    schema.check_keys(keys_for(section["name"], f"{where}.name"), own, where)
    schedules.check(section.get("schedule", "constant"), f"{where}.schedule")
    durations.parse(section.get("warmup", 0), f"{where}.warmup")
    for key, valid_value, meaning in _RANGES:
        value = section.get(key)
        if value is not None and not valid_value(value):
            raise UsageError(f"{where}.{key}: {value} must be {meaning}.")
    for index, rule in enumerate(section.get("rules", ())):
        _parse_rule(rule, f"{where}.rules[{index}]")


_NOT_NEGATIVE = (lambda value: value >= 0, "0 or above")
_RANGES: list[tuple[str, Callable[[float], bool], str]] = [
    *((key, *_NOT_NEGATIVE) for key in ("learning_rate", "weight_decay", "l1", "l2")),
    *((key, lambda value: 0 <= value < 1, "0 or above and below 1") for key in ("b1", "b2", "momentum", "rho")),
    ("clip_norm", lambda value: value > 0, "above 0, or None"),
    ("accumulate", lambda value: value >= 1, "1 or above"),
    ("ema", lambda value: 0 < value < 1, "between 0 and 1, or None"),
    ("layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1, or None"),
]


def policies(rules: tuple | list, params: Any, where: str = "config.optimizer.rules") -> dict[str, Rule]:
    """Path -> the rule its parameter follows, `decay` filled in.

    Args:
        rules: ((regular expression, options), ...).
        params: pytree of parameters, or of their shapes.
        where: the rules' place, for messages.

    Raises:
        UsageError: a rule that is not well formed, or that no parameter follows.
    """
    parsed = [_parse_rule(rule, f"{where}[{index}]") for index, rule in enumerate(rules)]
    indices = match([pattern for pattern, _ in parsed], params, where)
    result = {}
    for path, index in indices.items():
        rule = Rule() if index is None else parsed[index][1]
        result[path] = rule if rule.decay is not None else dataclasses.replace(rule, decay=float(is_kernel(path)))
    return result


def _parse_rule(rule: Any, where: str) -> tuple[str, Rule]:
    if (
        not isinstance(rule, tuple | list)
        or len(rule) != 2
        or not isinstance(rule[0], str)
        or not hasattr(rule[1], "keys")
    ):
        raise UsageError(
            f"{where}: expected (regular expression, options) like ('.*/bias', {{'lr': 2.0}}), given {rule!r}."
        )
    options = dict(rule[1])
    schema.check(Rule, options, where)
    return rule[0], Rule(**options)


def _per_path(function: Callable, needs_params: bool = False) -> optax.GradientTransformation:
    """`function(path, update)`, or `(path, update, parameter)`, on every leaf; no state."""

    def update(updates, params):
        return map_with_path(function, updates, *([params] if needs_params else []))

    return optax.stateless(update)


def _describe(policy: dict[str, Rule], params: Any, weight_decay: float) -> str:
    """How many parameters each policy has: "1,000 parameters with decay 0.1; 20 frozen"."""
    counts: collections.Counter[str] = collections.Counter()
    for path, leaf in parameter_paths(params).items():
        rule = policy[path]
        text = f"decay {weight_decay * rule.decay:g}" + (f", learning rate x {rule.lr:g}" if rule.lr != 1.0 else "")
        counts["frozen" if rule.freeze else f"with {text}"] += int(np.prod(leaf.shape))
    return "; ".join(f"{count:,} parameters {text}" for text, count in counts.items())
