"""A network as a table: each layer's output, parameters, multiply-adds, receptive field, stride and memory."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from vision.explain.trace import WHOLE, Field, Layer, trace


class Row(NamedTuple):
    """One layer.

    Attributes:
        layer: its path, "stage_1/block_1/conv_1".
        kind: name of its class; "max pooling", "average pooling"; `IDLE` for what runs while training only.
        output: shape of what it gives for one image, without the batch.
        parameters: number of trainable scalars.
        state: number of scalars that are not trained, such as a batch norm's running statistics.
        multiply_adds: of one image.
        receptive_field: (height, width) in pixels that one place of the output sees; "image" where it sees all of it.
        stride: (vertical, horizontal) pixels between places of the output; None where it has no places.
        memory: bytes of the output for one image, or of all outputs where a row stands for several modules.
    """

    layer: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    state: int
    multiply_adds: int
    receptive_field: tuple[int, int] | str
    stride: tuple[int, int] | None
    memory: int


class Summary(NamedTuple):
    """A network's rows and their sums.

    Attributes:
        rows: the layers in the order in which they run.
        parameters: number of trainable scalars.
        state: number of scalars that are not trained.
        multiply_adds: of one image.
        memory: bytes of all rows' outputs for one image: about what training keeps for each example.
    """

    rows: tuple[Row, ...]
    parameters: int
    state: int
    multiply_adds: int
    memory: int


def summarize(
    model: nn.Module, image_size: tuple[int, int] = (224, 224), channels: int = 3, depth: int | None = None
) -> Summary:
    """Counts what a network has and does, from its traced program; nothing is computed.

    Multiply-adds are those of convolutions and matrix products, also of products without parameters such as attention;
    with zeros of the padding counted, as published numbers do.

    Args:
        model: the network.
        image_size: (height, width) in pixels.
        channels: of the image.
        depth: modules nested more deeply than this are one row with the one that holds them; None shows all.

    Raises:
        UsageError: the network cannot take images of this size.
    """
    layers, shapes = trace(model, image_size, channels)
    scalars = {name: _own_scalars(shapes.get(name, {})) for name in shapes}
    trained = scalars.pop("params", {})
    state = {}
    for found in scalars.values():
        state = {path: state.get(path, 0) + found.get(path, 0) for path in {**state, **found}}
    rows = _rows(layers, trained, state, depth)
    return Summary(
        tuple(rows),
        sum(trained.values()),
        sum(state.values()),
        sum(layer.multiply_adds for layer in layers),
        sum(row.memory for row in rows),
    )


def _own_scalars(variables: Any) -> dict[str, int]:
    """Module's path -> number of scalars of its own."""
    counts: dict[str, int] = {}
    for path, leaf in flatten_dict(variables, sep="/").items():
        module = path.rpartition("/")[0]
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


IDLE = "(in training only)"


def _rows(layers: Sequence[Layer], trained: dict[str, int], state: dict[str, int], depth: int | None) -> list[Row]:
    """A row for each module that has or does something itself, or has none in it; those that do not run come last."""
    parents = {layer.path.rpartition("/")[0] for layer in layers if layer.path}
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        shown = "/".join(layer.path.split("/")[:depth]) if depth is not None else layer.path
        groups.setdefault(shown, []).append(layer)
    rows = []
    for path, group in groups.items():
        first = group[0]
        has = [sum(counts.get(layer.path, 0) for layer in group) for counts in (trained, state)]
        multiply_adds = sum(layer.multiply_adds for layer in group)
        leaves = [layer for layer in group if layer.shape is not None and layer.path not in parents]
        if first.shape is None or not (leaves or any(has) or multiply_adds):
            continue
        memory = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize * leaf.repeats for leaf in leaves)
        field, stride = _shown_field(first.field)
        rows.append(Row(path or "(network)", first.kind, first.shape[1:], *has, multiply_adds, field, stride, memory))
    idle: dict[str, list[int]] = {}  # has parameters, but does not run here: an auxiliary classifier
    for path in sorted({*trained, *state} - {layer.path for layer in layers}):
        counts = idle.setdefault("/".join(path.split("/")[:depth]), [0, 0])
        counts[0] += trained.get(path, 0)
        counts[1] += state.get(path, 0)
    return rows + [Row(path, IDLE, (), *counts, 0, "none", None, 0) for path, counts in idle.items()]


def _shown_field(field: Field | None) -> tuple[tuple[int, int] | str, tuple[int, int] | None]:
    if field is None or field is WHOLE:
        return "none" if field is None else "image", None
    return field.size, field.stride


HEADINGS = ("layer", "kind", "output", "parameters", "not trained", "multiply-adds", "sees", "stride", "memory")


def as_text(summary: Summary, title: str = "") -> str:
    """The table for a terminal."""
    lines = _cells(summary)
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    left = (0, 1)  # names to the left, numbers to the right
    aligned = [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    rule = "-" * len(aligned[0])
    return "\n".join([*([title] if title else []), aligned[0], rule, *aligned[1:-1], rule, aligned[-1]]) + "\n"


def as_markdown(summary: Summary, title: str = "") -> str:
    """The table in Markdown."""
    head, *lines = _cells(summary)
    lines[-1] = [f"**{cell}**" if cell else "" for cell in lines[-1]]
    ruler = ["---", "---", *["---:"] * (len(HEADINGS) - 2)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in (head, ruler, *lines))
    return f"### {title}\n\n{table}" if title else table


def as_json(summary: Summary, title: str = "") -> str:
    """All numbers, exactly: {"name", "parameters", "state", "multiply_adds", "memory", "rows": [...]}."""
    totals = {key: value for key, value in summary._asdict().items() if key != "rows"}
    return json.dumps({"name": title, **totals, "rows": [row._asdict() for row in summary.rows]}, indent=1) + "\n"


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}


def _cells(summary: Summary) -> list[list[str]]:
    """The table's cells: headings, rows, totals."""
    lines = [list(HEADINGS)]
    for row in summary.rows:
        sees = "" if row.receptive_field == "none" else row.receptive_field
        sees = sees if isinstance(sees, str) else _size(sees)
        stride = "" if row.stride is None else _size(row.stride)
        counts = [f"{n:,}" if n else "" for n in (row.parameters, row.state)]
        cost = count(row.multiply_adds) if row.multiply_adds else ""
        memory = f"{count(row.memory)}B" if row.memory else ""
        lines.append([row.layer, row.kind, "x".join(map(str, row.output)), *counts, cost, sees, stride, memory])
    totals = [f"{summary.parameters:,}", f"{summary.state:,}" if summary.state else "", count(summary.multiply_adds)]
    return [*lines, ["total", "", "", *totals, "", "", f"{count(summary.memory)}B"]]


def count(number: float) -> str:
    """A number as people say it: 15,470,264,320 is "15.47 G"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.{2 if number < 100 * size else 1}f} {unit}"
    return f"{number:g} "


def _size(pair: tuple[float, float]) -> str:
    height, width = (f"{side:g}" for side in pair)
    return height if height == width else f"{height}x{width}"
