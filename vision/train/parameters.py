"""The one way to address parameters: their path, "stage_1/block_1/conv_1/kernel", and regular expressions over it.

Learning-rate multipliers, weight decay, freezing, sharding and weight loading all use it.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vision.errors import UsageError


def path_name(path: tuple) -> str:
    """A JAX key path, as from `jax.tree_util.tree_map_with_path`, joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_paths(params: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`. Works for any pytree: parameters, optimiser states, shapes."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def map_with_path(function: Callable, params: Any, *rest: Any) -> Any:
    """`jax.tree.map` with the path first: `function(path, leaf, *other_leaves)`."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), params, *rest)


def is_kernel(path: str) -> bool:
    """Whether a parameter is a weight matrix or convolution kernel: by its name, for that is what biases, norm scales,
    position embeddings and class tokens do not share, while the number of axes they do."""
    return path.rpartition("/")[2] == "kernel"


def match(patterns: Sequence[str], params: Any, where: str) -> dict[str, int | None]:
    """Path -> the index of the first pattern that matches the whole path (`re.fullmatch`), None where none does.

    Args:
        patterns: regular expressions, the most specific first.
        params: pytree of parameters or of their shapes.
        where: the patterns' place in the config, for messages: "config.optimizer.rules".

    Raises:
        UsageError: not a regular expression, or one that decides about no parameter, which is nearly always a typo.
    """
    compiled = [_compile(pattern, f"{where}[{index}]") for index, pattern in enumerate(patterns)]
    paths = list(parameter_paths(params))
    result = {path: next((i for i, regex in enumerate(compiled) if regex.fullmatch(path)), None) for path in paths}
    for index in sorted(set(range(len(compiled))) - set(result.values())):
        raise UsageError(f"{where}[{index}]: {_why_dead(compiled[index], paths, result, patterns)}")
    return result


def _compile(pattern: str, where: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(f"{where}: {pattern!r} is not a regular expression: {error}.") from error


def _why_dead(regex: re.Pattern, paths: list[str], taken: dict[str, int | None], patterns: Sequence[str]) -> str:
    covered = [path for path in paths if regex.fullmatch(path)]
    if covered:
        first = patterns[taken[covered[0]]]
        return f"{regex.pattern!r} never applies: an earlier rule, {first!r}, matches first, as for {covered[0]!r}."
    parts = [path for path in paths if regex.search(path)]
    if parts:
        hint = f"it matches only a part of {_some(parts)}; write '.*' around it to match the whole path"
    else:
        hint = f"the nearest are {_some(difflib.get_close_matches(regex.pattern, paths, n=3, cutoff=0.0))}"
    return f"{regex.pattern!r} matches no parameter; {hint}."


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
