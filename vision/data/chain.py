"""The chain of transforms of a configuration: "decode|random_resized_crop(224)|flip", read without evaluating it."""

import ast
import inspect
from typing import Any, NamedTuple

import numpy as np

from vision import schema
from vision.data.transforms import FIXED, TRANSFORMS, Example, is_random
from vision.errors import UsageError, pick

_INJECTED = ("example", "rng")


class Call(NamedTuple):
    """One transform of a chain: its name in TRANSFORMS and its keyword arguments."""

    name: str
    arguments: dict[str, Any]


def parse(text: str, where: str = "transforms") -> tuple[Call, ...]:
    """Reads a chain; nothing in it is evaluated, arguments are literals.

    Args:
        text: names of `TRANSFORMS`, with arguments in parentheses where wanted, joined by "|"; "" is an empty chain.
        where: the place of the text in the configuration, for messages.

    Raises:
        UsageError: not of this form, an unknown transform, or arguments it does not take.
    """
    if not text.strip():
        return ()
    try:
        expression = ast.parse(f"({text})", mode="eval").body  # in parentheses it may run over lines
    except (SyntaxError, ValueError):
        raise UsageError(
            f'{where}: {text!r} is not a chain of transforms, such as "decode|random_resized_crop(224)|flip".'
        ) from None
    return tuple(_call(node, where) for node in _links(expression))


def apply(chain: tuple[Call, ...], example: Example, rng: np.random.Generator) -> Example:
    """The example after all transforms, the random ones drawing from `rng` in turn."""
    for name, arguments in chain:
        function = TRANSFORMS[name]
        example = function(example, rng, **arguments) if is_random(function) else function(example, **arguments)
    return example


def deterministic(chain: tuple[Call, ...]) -> tuple[Call, ...]:
    """The chain without its random transforms."""
    return tuple(call for call in chain if not is_random(TRANSFORMS[call.name]))


def deterministic_text(transforms: str) -> str:
    """The chain without chance, as text: "decode|random_resized_crop(224)|flip" -> "decode|resize(size=224)".

    Random transforms are left out, but for those that decide the size of the image, which `FIXED` replaces.

    Args:
        transforms: a chain, as for `parse`.

    Raises:
        UsageError: as `parse`.
    """
    calls = []
    for name, arguments in parse(transforms):
        if name in FIXED:
            name = FIXED[name]
            accepted = inspect.signature(TRANSFORMS[name]).parameters
            arguments = {key: value for key, value in arguments.items() if key in accepted}
        elif is_random(TRANSFORMS[name]):
            continue
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        calls.append(f"{name}({given})" if given else name)
    return "|".join(calls)


def _links(node: ast.expr) -> list[ast.expr]:
    """a|b|c, which Python reads as (a|b)|c -> [a, b, c]."""
    links = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        links.append(node.right)
        node = node.left
    return [node, *reversed(links)]


def _call(node: ast.expr, where: str) -> Call:
    name, positional, keywords = node, [], []
    if isinstance(node, ast.Call):
        name, positional, keywords = node.func, node.args, node.keywords
    if not isinstance(name, ast.Name):
        raise UsageError(f"{where}: expected the name of a transform, given {ast.unparse(node)!r}.")
    function = pick(TRANSFORMS, "transform", name.id, where)
    place = f"{where}: {name.id}"
    names = [parameter for parameter in inspect.signature(function).parameters if parameter not in _INJECTED]
    if len(positional) > len(names):
        raise UsageError(f"{place} takes {len(names)} arguments ({', '.join(names)}), given {len(positional)}.")
    arguments = {key: _literal(value, place) for key, value in zip(names, positional, strict=False)}
    for keyword in keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise UsageError(f"{place}: {ast.unparse(keyword)!r} is given twice, or is not of the form name=value.")
        arguments[keyword.arg] = _literal(keyword.value, place)
    schema.check(function, arguments, place, injected=_INJECTED)
    return Call(name.id, arguments)


def _literal(node: ast.expr, place: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UsageError(
            f"{place}: arguments are numbers, strings, tuples or None, given {ast.unparse(node)!r}."
        ) from None
    return tuple(value) if isinstance(value, list) else value
