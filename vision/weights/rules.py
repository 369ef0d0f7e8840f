"""Weights of other projects as rules: a pattern for their names, a template for our paths, and how the array changes.

A list of rules must cover both sides: every tensor of theirs matches a rule, and every variable of ours is filled.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """How an array changes on its way, and back.

    Attributes:
        to_ours: their array -> our array.
        to_theirs: our array -> their array; exactly undoes `to_ours`.
        part: (index, count) where ours is one of `count` equal parts of theirs, cut along its first axis; see `part`.
        splits: whether an axis of `to_ours`'s result is several axes of ours, such as (heads, head width).
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]
    part: tuple[int, int] | None = None
    splits: bool = False


def _moved(order: tuple[int, ...]) -> Kind:
    back = tuple(np.argsort(order))
    return Kind(lambda x: np.transpose(x, order), lambda x: np.transpose(x, back))


SAME = Kind(lambda x: x, lambda x: x)
CONV = _moved((2, 3, 1, 0))  # PyTorch's (out, in, height, width) -> (height, width, in, out)
TRANSPOSED = _moved((2, 3, 0, 1))  # PyTorch's transposed convolution, (in, out, height, width) -> (h, w, in, out)
DENSE = _moved((1, 0))  # PyTorch's (out, in) -> (in, out)
DENSE_OF_1X1 = Kind(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a dense layer kept as a convolution

# Attention keeps its heads apart where PyTorch has one axis: a kernel (in, heads, head width) and a bias
# (heads, head width) to the heads, a kernel (heads, head width, out) from them.
TO_HEADS = Kind(lambda x: x.T, lambda x: x.reshape(len(x), -1).T, splits=True)
TO_HEADS_BIAS = Kind(lambda x: x, lambda x: x.reshape(-1), splits=True)
FROM_HEADS = Kind(lambda x: x.T, lambda x: x.reshape(-1, x.shape[-1]).T, splits=True)


def part(index: int, count: int, kind: Kind) -> Kind:
    """One of `count` equal parts of their array along its first axis, then `kind`.

    As many rules with the same pattern take the others: query, key and value of a fused projection are
    `part(0, 3, TO_HEADS)`, `part(1, 3, TO_HEADS)` and `part(2, 3, TO_HEADS)`.
    """
    return kind._replace(part=(index, count))


def leading(axes: int) -> Kind:
    """Their array has so many more axes of length 1 in front: a class token (1, 1, width)."""
    return Kind(lambda x: x.reshape(x.shape[axes:]), lambda x: x.reshape((1,) * axes + x.shape))


def dense_after_map(channels: int, height: int, width: int) -> Kind:
    """A dense layer on a flattened map: PyTorch flattens (channels, height, width), we (height, width, channels)."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        by_map = x.reshape(-1, channels, height, width)
        return by_map.transpose(2, 3, 1, 0).reshape(height * width * channels, -1)

    def to_theirs(x: np.ndarray) -> np.ndarray:
        by_map = x.reshape(height, width, channels, -1)
        return by_map.transpose(3, 2, 0, 1).reshape(-1, channels * height * width)

    return Kind(to_ours, to_theirs)


class Rule(NamedTuple):
    """One rule.

    Attributes:
        pattern: regular expression for the whole of their name: r"layer(\\d)\\.(\\d+)\\.conv(\\d)\\.weight".
        path: our path, collection first, where <1> is the pattern's first group and <2+1> its second plus one:
            "params/stage_<1>/block_<2+1>/conv_<3>/kernel". None: a tensor we have no use for (a counter of batches).
        kind: how the array changes.
    """

    pattern: str
    path: str | None
    kind: Kind = SAME


def our_path(rule: Rule, name: str) -> str | None:
    """Our path for their name by this rule. Call it for a name that matches."""
    match = re.fullmatch(rule.pattern, name)
    if rule.path is None:
        return None

    def group(found: re.Match) -> str:
        text = match[int(found[1])] or ""
        return str(int(text) + int(found[2])) if found[2] else text

    return re.sub(r"<(\d+)([+-]\d+)?>", group, rule.path)


def their_name(rule: Rule, path: str) -> str | None:
    """Their name for our path by this rule; None where the rule is not for it, or cannot be followed backwards.

    It can where the pattern is plain text around its groups, and the path uses every group. Of `(?:a|b)` the first is
    taken, and `(?:a)?` is left out.
    """
    inverse = _inverse(rule.pattern, rule.path)
    match = inverse and inverse.path.fullmatch(path)
    if not match:
        return None
    pieces = [inverse.literals[0]]
    for index, literal in enumerate(inverse.literals[1:], start=1):
        offset = inverse.offsets[index]
        pieces += [str(int(match[f"g{index}"]) - offset) if offset else match[f"g{index}"], literal]
    name = "".join(pieces)
    fits = re.fullmatch(rule.pattern, name) and our_path(rule, name) == path
    return name if fits else None


class _Inverse(NamedTuple):
    """A rule read backwards: a regular expression for our path, and what stands around the groups of their name."""

    path: re.Pattern
    literals: tuple[str, ...]
    offsets: dict[int, int]


@functools.lru_cache(maxsize=4096)
def _inverse(pattern: str, path: str | None) -> _Inverse | None:
    found = _split(pattern) if path is not None else None
    if found is None:
        return None
    literals, groups = found
    offsets: dict[int, int] = {}

    def as_group(place: re.Match) -> str:
        index, offset = int(place[1]), int(place[2] or 0)
        if index in offsets:  # `their_name` checks the result, so that a second place need not be exact
            return ".*"
        offsets[index] = offset
        return rf"(?P<g{index}>\d+)" if offset else rf"(?P<g{index}>{groups[index - 1]})"

    pieces = re.split(r"(<\d+(?:[+-]\d+)?>)", path)
    expression = "".join(
        re.sub(r"<(\d+)([+-]\d+)?>", as_group, piece) if number % 2 else re.escape(piece)
        for number, piece in enumerate(pieces)
    )
    if len(offsets) < len(groups):
        return None
    return _Inverse(re.compile(expression), tuple(literals), offsets)


def _split(pattern: str) -> tuple[list[str], list[str]] | None:
    """(texts around the capturing groups, expressions of the groups) of a pattern; None where it is not that plain."""
    literals, groups, at = [""], [], 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\" and not pattern[at + 1].isalnum():
            literals[-1] += pattern[at + 1]
            at += 2
        elif character == "(":
            end = _closing(pattern, at)
            optional = pattern[end + 1 : end + 2] == "?"
            inner = pattern[at + 1 : end]
            if inner.startswith("?:"):
                first = _split(inner[2:].split("|")[0])
                if first is None or first[1]:
                    return None
                literals[-1] += "" if optional else first[0][0]
            elif inner.startswith("?") or re.compile(inner).groups:
                return None
            else:
                groups.append(f"(?:{inner})?" if optional else inner)
                literals.append("")
            at = end + 1 + optional
        elif character in "\\.[]{}*+?|^$":
            return None
        else:
            literals[-1] += character
            at += 1
    return literals, groups


def _closing(pattern: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth, at = 0, start
    while True:
        at += 2 if pattern[at] == "\\" else 0
        depth += {"(": 1, ")": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
        at += 1


def layer(pattern: str, path: str, kernel: Kind) -> tuple[Rule, ...]:
    """The rules of a PyTorch layer with a bias at `pattern`, a regular expression without its last dot, and ours."""
    return (
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", kernel),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
    )


def norm(pattern: str, path: str) -> tuple[Rule, ...]:
    """The rules of a PyTorch batch norm at `pattern`, a regular expression without its last dot, and ours at `path`."""
    return (
        Rule(rf"{pattern}\.weight", f"params/{path}/scale"),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
        Rule(rf"{pattern}\.running_mean", f"batch_stats/{path}/mean"),
        Rule(rf"{pattern}\.running_var", f"batch_stats/{path}/var"),
        Rule(rf"{pattern}\.num_batches_tracked", None),
    )


def nested(rules: Sequence[Rule], pattern: str, path: str) -> tuple[Rule, ...]:
    """The rules of a network that is part of another: their names begin with `pattern`, our paths with `path`."""

    def ours(rule: Rule) -> str | None:
        collection, _, rest = (rule.path or "").partition("/")
        return f"{collection}/{path}/{rest}" if rest else None

    return tuple(rule._replace(pattern=pattern + rule.pattern, path=ours(rule)) for rule in rules)
