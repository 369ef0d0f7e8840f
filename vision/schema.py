"""The signature is the schema: a config section is the keyword arguments of the function it names.

`check` compares a section with a signature before any work starts; `describe` reads the meaning of each key from the
function's own docstring, so that a key is documented in one place only.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from beartype import BeartypeConf
from beartype.door import is_bearable

from vision.errors import UsageError, nearest

_NUMERIC_TOWER = BeartypeConf(is_pep484_tower=True)  # an int is a fine float


class Key(NamedTuple):
    """One key of a section."""

    type: Any
    default: Any  # inspect.Parameter.empty where the key is required
    meaning: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def keys(function: Callable, injected: Collection[str] = ()) -> dict[str, Key]:
    """The keys a section for `function` may have: its named parameters, less those that the program itself passes.

    Args:
        function: a function, a class or a `functools.partial` of one.
        injected: names of parameters that are not configuration.
    """
    original = unwrap(function)
    hints = typing.get_type_hints(original.__init__ if inspect.isclass(original) else original)
    meanings = _documented(inspect.getdoc(original) or "")
    parameters = inspect.signature(function).parameters
    # Flax modules are dataclasses with two fields of Linen's own.
    skipped = {*injected, "parent", "name"} if "parent" in parameters else set(injected)
    result = {}
    for name, parameter in parameters.items():
        if name in skipped or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        result[name] = Key(hints.get(name, Any), parameter.default, meanings.get(name, ""))
    return result


def accepted(function: Callable, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `facts` that `function` has a parameter for, and that are known (not None)."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in facts.items() if name in parameters and value is not None}


def unwrap(function: Callable) -> Callable:
    """The function under any `functools.partial`."""
    while hasattr(function, "func"):
        function = function.func
    return function


def check(function: Callable, section: Mapping[str, Any], where: str, injected: Collection[str] = ()) -> None:
    """Raises UsageError unless `function(**section)` is well formed: known keys, required keys present, right types.

    Args:
        function: what the section configures.
        section: the section without its `name`.
        where: the section's place, for messages: "config.model".
        injected: names of parameters that the program itself passes.
    """
    check_keys(keys(function, injected), section, where)


def check_keys(valid: Mapping[str, Key], section: Mapping[str, Any], where: str) -> None:
    """`check`, for keys that are at hand."""
    check_names(section, valid, where)
    for name, value in section.items():
        check_type(value, valid[name].type, f"{where}.{name}")
    missing = [name for name, key in valid.items() if key.required and name not in section]
    if missing:
        raise UsageError(f"{where}: missing {', '.join(repr(name) for name in missing)}.")


def check_names(given: Iterable[str], valid: Collection[str], where: str) -> None:
    """Raises UsageError for a key that is not among the valid ones; offers the nearest."""
    for name in given:
        if name not in valid:
            close = nearest(name, valid)
            hint = f"did you mean {close!r}? " if close else ""
            raise UsageError(f"{where}.{name}: unknown key; {hint}Valid: {', '.join(valid) or 'none'}.")


def check_type(value: Any, expected: Any, where: str) -> None:
    """Raises UsageError unless `value` is of the annotated type; an int passes for a float, a bool not for an int."""
    is_number = isinstance(value, bool) and not _admits_bool(expected)
    if is_number or not is_bearable(value, expected, conf=_NUMERIC_TOWER):
        raise UsageError(f"{where}: expected {type_name(expected)}, given {value!r} ({type(value).__name__}).")


def type_name(annotation: Any) -> str:
    """An annotation as a reader would say it: "int or str", "'jit' or 'pmap'"."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in typing.get_args(annotation))
    if origin is typing.Literal:
        return " or ".join(repr(argument) for argument in typing.get_args(annotation))
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and origin is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _admits_bool(annotation: Any) -> bool:
    if annotation in (Any, bool, object):
        return True
    return any(
        _admits_bool(argument)
        for argument in typing.get_args(annotation)
        if isinstance(argument, type) or typing.get_args(argument)
    )


def _documented(docstring: str) -> dict[str, str]:
    """name -> meaning, from the "Args:" or "Attributes:" section of a Google-style docstring."""
    match = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if not match:
        return {}
    result: dict[str, str] = {}
    name = None
    indent = len(re.match(r"[ \t]*", match[1])[0])
    for line in match[1].splitlines():
        entry = re.match(rf"[ \t]{{{indent}}}(\w+)(?: \([^)]*\))?: (.*)", line)
        if entry:
            name = entry[1]
            result[name] = entry[2].strip()
        elif name and line.strip():
            result[name] += " " + line.strip()
    return result
