"""The chain of transforms of a configuration: "decode|random_resized_crop(224)|flip", read without evaluating it."""

import ast
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision import schema
from vision.data.annotations import placed
from vision.data.arguments import INJECTED, Example
from vision.data.geometry import Shape
from vision.data.pending import Pending
from vision.data.transforms import FIXED, TRANSFORMS, asks_for, is_random
from vision.errors import UsageError, pick


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


def apply(
    chain: Sequence[Call],
    example: Example,
    rng: np.random.Generator | None,
    another: Callable[[Sequence[Call]], Example] | None = None,
) -> Example:
    """The example after all transforms, the random ones drawing from `rng` in turn.

    Geometry and colour are collected as one matrix each, and applied when a transform asks for the example itself, and
    at the end: the image is interpolated once and rounded once. See `vision.data.pending`.

    Args:
        chain: the transforms.
        example: as its record has it.
        rng: the example's own generator.
        another: draws one more example and gives it after some transforms, for those that make one of several; None
            where there are no others.
    """
    pending = Pending(example)
    for position, (name, arguments) in enumerate(chain):
        function = TRANSFORMS[name]
        asked = asks_for(function)
        facts = {"rng": rng, "others": functools.partial(_others, name, chain[:position], another)}
        if "example" in asked:
            facts["example"] = pending.settle()
        if "shape" in asked:
            facts["shape"] = pending.shape
        if "boxes" in asked:
            facts["boxes"] = pending.boxes()
        if "grey" in asked:
            facts["grey"] = pending.grey()
        result = function(**{fact: facts[fact] for fact in asked}, **arguments)
        if "example" in asked:
            pending = Pending(result)
        elif "shape" in asked:
            pending.move(result)
        else:
            pending.paint(result)
    return placed(pending.settle())


def _others(
    name: str, chain: Sequence[Call], another: Callable[[Sequence[Call]], Example] | None, count: int
) -> list[Example]:
    """So many more examples after this chain, for a transform of this name."""
    if another is None:
        raise UsageError(f"{name} makes one image of several, and here is but one.")
    return [another(chain) for _ in range(count)]


def output_shape(chain: Sequence[Call], shape: Shape, rng: np.random.Generator | None) -> Shape:
    """Height and width after all transforms of an image of this height and width, which itself is not needed.

    Random transforms draw from `rng` as in `apply`, but for those of whole examples, which are passed over.

    Raises:
        UsageError: a transform whose result depends on the objects, too.
    """
    for name, arguments in chain:
        function = TRANSFORMS[name]
        asked = asks_for(function)
        if "boxes" in asked or "others" in asked:
            raise UsageError(
                f"{name}: what size it gives an image cannot be told beforehand; let pad_to have one size."
            )
        if "example" in asked:
            continue
        facts = {"shape": shape, "grey": 0.0, "rng": rng}
        result = function(**{fact: facts[fact] for fact in asked}, **arguments)
        if "shape" in asked:
            shape = result.shape
    return shape


def deterministic(chain: tuple[Call, ...]) -> tuple[Call, ...]:
    """The chain without its random transforms."""
    return tuple(call for call in chain if not is_random(TRANSFORMS[call.name]))


def fixed(chain: Sequence[Call]) -> tuple[Call, ...]:
    """The chain without its random transforms, but for those that decide the image's size, which `FIXED` replaces."""
    calls = []
    for name, arguments in chain:
        if name in FIXED:
            accepted = inspect.signature(TRANSFORMS[FIXED[name]]).parameters
            calls.append(Call(FIXED[name], {key: value for key, value in arguments.items() if key in accepted}))
        elif not is_random(TRANSFORMS[name]):
            calls.append(Call(name, arguments))
    return tuple(calls)


def deterministic_text(transforms: str) -> str:
    """The `fixed` chain, as text: "decode|random_resized_crop(224)|flip" -> "decode|resize(size=224)".

    Args:
        transforms: a chain, as for `parse`.

    Raises:
        UsageError: as `parse`.
    """
    calls = []
    for name, arguments in fixed(parse(transforms)):
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
    names = [parameter for parameter in inspect.signature(function).parameters if parameter not in INJECTED]
    if len(positional) > len(names):
        raise UsageError(f"{place} takes {len(names)} arguments ({', '.join(names)}), given {len(positional)}.")
    arguments = {key: _literal(value, place) for key, value in zip(names, positional, strict=False)}
    for keyword in keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise UsageError(f"{place}: {ast.unparse(keyword)!r} is given twice, or is not of the form name=value.")
        arguments[keyword.arg] = _literal(keyword.value, place)
    schema.check(function, arguments, place, injected=INJECTED)
    return Call(name.id, arguments)


def _literal(node: ast.expr, place: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UsageError(
            f"{place}: arguments are numbers, strings, tuples or None, given {ast.unparse(node)!r}."
        ) from None
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
