"""State dicts of other projects -> our variables, and back: every tensor on both sides is accounted for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vision.errors import UsageError
from vision.models import variable_shapes
from vision.models.initialize import compute
from vision.models.transformer import stack_blocks, unstack_blocks
from vision.weights.positions import fit
from vision.weights.rules import Rule, our_path, their_name
from vision.weights.sources import rules_for

HEAD = r"params/(?:.*/)?head/.*"  # the classifier, and those of auxiliary outputs
AUXILIARY = (
    r"\w+/auxiliary(?:_\d+)?/.*"  # what leads to an auxiliary classifier, which a network without classes has not
)
POSITIONS = r"params/(?:.*/)?positions"
_NAMES_SHOWN = 8


def from_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    source: str = "torchvision",
    *,
    image_size: tuple[int, int] = (224, 224),
    channels: int = 3,
    head: Literal["keep", "new"] = "keep",
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """A network's variables from another project's tensors.

    Position embeddings of another image size are resampled; a network without a classifier (`num_classes=None`) leaves
    theirs out.

    Args:
        model: the network: `vision.models.create("resnet101", num_classes=1000)`.
        state_dict: their names -> arrays (of NumPy or PyTorch).
        source: whose names these are, in `RULES`: "torchvision", "timm", ...
        image_size: (height, width) in pixels that the network will see.
        channels: of the images.
        head: "keep" their classifier, or take a "new" one, freshly initialised.
        allow_missing: regular expressions for variables of ours ("params/auxiliary_1/.*") that may stay fresh.
        allow_unused: regular expressions for names of theirs that may be left out.
        key: of the fresh values; `jax.random.key(0)` where not given.

    Returns:
        {"params": ..., "batch_stats": ...}: float32 arrays.

    Raises:
        UsageError: no rules for this network and source, tensors without a place, variables without a tensor, or
            shapes that differ; the message has the names.
    """
    _check_expressions(allow_missing=allow_missing, allow_unused=allow_unused)
    scanned = getattr(model, "scan", False)  # then its blocks are stacked, and the rules speak of single ones
    model = model.clone(scan=False) if scanned else model
    shapes = flatten_dict(variable_shapes(model, (*image_size, channels)), sep="/")
    found, unused = translate(state_dict, rules_for(model, source))
    has_head = any(re.fullmatch(HEAD, path) for path in shapes)
    if head == "new" or not has_head:
        left_out = HEAD if has_head else f"{HEAD}|{AUXILIARY}"
        found = {path: tensor for path, tensor in found.items() if not re.fullmatch(left_out, path)}
        allow_missing = (*allow_missing, HEAD)
    has_token = "params/class_token" in shapes
    misfits, values = [], {}
    for path, shape in shapes.items():
        if path in found:
            try:
                values[path] = _fit(found[path], shape.shape, path, has_token, image_size)
            except ValueError as error:
                misfits.append(str(error))
    surplus = [f"{tensor.name} (would be {path})" for path, tensor in found.items() if path not in shapes]
    unused = _not_allowed([*unused, *surplus], allow_unused)
    missing = _not_allowed([path for path in shapes if path not in found], allow_missing)
    problems = [_listing(misfits, "; ")] if misfits else []
    if unused:
        problems.append(f"{len(unused)} of their tensors have no place in it: {_listing(unused)}")
    if missing:
        problems.append(f"{len(missing)} of its variables are not in the weights: {_listing(missing)}")
    if problems:
        mend = "; what may be left out is named by allow_missing and allow_unused" if unused or missing else ""
        raise UsageError(f"weights of {source} for {type(model).__name__}: {'; '.join(problems)}{mend}.")
    fresh = [path for path in shapes if path not in found]
    if fresh:
        values |= _fresh(model, fresh, jax.random.key(0) if key is None else key, (*image_size, channels))
    variables = unflatten_dict({path: values[path] for path in shapes}, sep="/")
    return {**variables, "params": stack_blocks(variables["params"])} if scanned else variables


def to_state_dict(model: nn.Module, variables: Mapping[str, Any], source: str = "torchvision") -> dict[str, np.ndarray]:
    """Another project's tensors from our variables; undoes `from_state_dict` exactly.

    Counters of batches, which PyTorch's batch norm has and we have not, are zero.

    Args:
        model: the network.
        variables: {"params": ..., "batch_stats": ...}.
        source: whose names are wanted, in `RULES`.

    Raises:
        UsageError: variables that this source has no name for.
    """
    if getattr(model, "scan", False):
        model = model.clone(scan=False)
        variables = {**variables, "params": unstack_blocks(variables["params"])}
    rules = rules_for(model, source)
    left = {path: np.asarray(value) for path, value in flatten_dict(dict(variables), sep="/").items()}
    parts: dict[str, dict[int, np.ndarray]] = {}
    for rule in rules:
        for path in list(left):
            name = their_name(rule, path)
            if name is not None:
                index, _ = rule.kind.part or (0, 1)
                parts.setdefault(name, {})[index] = rule.kind.to_theirs(left.pop(path))
    if left:
        what = f"{len(left)} variables of {type(model).__name__}"
        raise UsageError(f"{source} has no names for {what}: {_listing(left)}.")
    result = {name: _joined([pieces[i] for i in sorted(pieces)]) for name, pieces in parts.items()}
    for name in list(result):
        counter = name.removesuffix("running_mean") + "num_batches_tracked"
        if name.endswith("running_mean") and any(r.path is None and re.fullmatch(r.pattern, counter) for r in rules):
            result[counter] = np.zeros((), np.int64)
    return result


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """One array of the parts of it; contiguous, as files want it."""
    whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return whole if whole.flags.c_contiguous else np.ascontiguousarray(whole)


class Tensor(NamedTuple):
    """One of their tensors, on its way to a variable of ours."""

    name: str
    value: np.ndarray
    splits: bool


def translate(state_dict: Mapping[str, Any], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """(our path -> tensor, names that no rule matches). The first rule that matches a name takes it.

    Raises:
        UsageError: a tensor that does not have the axes its rule speaks of, or two of them for one path.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    found: dict[str, Tensor] = {}
    unused = []
    for name, value in state_dict.items():
        matching = [rule for pattern, rule in compiled if pattern.fullmatch(name)]
        if not matching:
            unused.append(name)
            continue
        parts = [rule for rule in matching if rule.kind.part] if matching[0].kind.part else matching[:1]
        for rule in parts:
            path = our_path(rule, name)
            if path is None:
                continue
            if path in found:
                raise UsageError(f"weights: both {found[path].name} and {name} are {path}.")
            found[path] = Tensor(name, _converted(name, as_numpy(value), rule), rule.kind.splits)
    return found, unused


def as_numpy(value: Any) -> np.ndarray:
    """An array of NumPy, JAX or PyTorch as one of NumPy; bfloat16 of PyTorch, which NumPy does not know, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)


def _converted(name: str, value: np.ndarray, rule: Rule) -> np.ndarray:
    try:
        if rule.kind.part:
            index, count = rule.kind.part
            value = np.split(value, count)[index]
        return rule.kind.to_ours(value)
    except (ValueError, IndexError) as error:
        raise UsageError(f"weights: {name} has the shape {value.shape}, which does not become {rule.path}.") from error


def _fit(tensor: Tensor, shape: tuple[int, ...], path: str, has_token: bool, image_size: tuple[int, int]) -> jax.Array:
    """The tensor as a float32 array of our shape. Raises ValueError where it has another."""
    value = tensor.value
    if re.fullmatch(POSITIONS, path) and value.ndim == len(shape) == 2 and value.shape[1] == shape[1]:
        if value.shape != shape:
            value = fit(np.asarray(value, np.float32), shape[0], has_token, image_size)
    elif tensor.splits and _splits_into(value.shape, shape):
        value = value.reshape(shape)
    if value.shape != tuple(shape):
        more = "; take head='new' for other classes" if re.fullmatch(HEAD, path) else ""
        raise ValueError(f"{path} is {tuple(shape)}, but their {tensor.name} gives {value.shape}{more}")
    return jnp.array(value, jnp.float32)  # a copy: the file it is mapped from may change


def _splits_into(shape: tuple[int, ...], finer: tuple[int, ...]) -> bool:
    """Whether each axis of `shape` is the product of consecutive axes of `finer`."""
    axes = list(finer)
    for size in shape:
        product = axes.pop(0) if axes else 0
        while axes and product < size:
            product *= axes.pop(0)
        if product != size:
            return False
    return not axes


def _fresh(model: nn.Module, paths: Sequence[str], key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The first values of these variables; the compiler drops all that they do not need, the network included."""

    def init(key: jax.Array) -> dict[str, Any]:
        variables = flatten_dict(model.init(key, jnp.zeros((1, *image_shape)), train=False), sep="/")
        return {path: variables[path] for path in paths}

    return compute(init, key)


def _check_expressions(**options: Sequence[str]) -> None:
    """Raises UsageError for what is no regular expression."""
    for name, patterns in options.items():
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{name}: {pattern!r} is no regular expression: {error}.") from error


def _not_allowed(names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    return [name for name in names if not any(re.fullmatch(pattern, name.split(" ")[0]) for pattern in allowed)]


def _listing(names: Iterable[str], separator: str = ", ") -> str:
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return separator.join(names[:_NAMES_SHOWN]) + more
