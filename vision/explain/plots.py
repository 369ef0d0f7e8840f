"""Plots of a run: curves from metrics.jsonl, the confusion matrix, and the table of what a task can have drawn."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision.explain import detection, pictures, segmentation
from vision.explain.figure import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, new_figure, shorten
from vision.explain.results import Results

_ANNOTATED = 20  # classes up to which each cell of a confusion matrix carries its count
_NAMED = 40  # classes up to which each row and column carries its name
_MOST_CELLS = 1000  # rows drawn at most: more classes are added up in blocks of neighbours
_LISTED = 12  # mistakes, and hardest classes, listed beside the matrix
_EVALUATIONS = (ORANGE, GREEN, PURPLE, VERMILION, SKY)
_SHARES = ("accuracy", "iou", "AP", "AR")  # in the names of metrics that are at most 1, on an axis that is never bent
_WHITE_TO_BLUE = ("#FFFFFF", "#C6DCEC", "#5BA3CF", BLUE, "#003A5C")  # nothing is white, whatever occurs is tinted


def plot_curves(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    higher_is_better: bool = True,
) -> bool:
    """Draws one metric against the step: while training, faint as logged and bold smoothed; each evaluation, its best.

    Under the loss stands the learning rate, where it changes.

    Args:
        path: the PNG file.
        rows: the objects of metrics.jsonl.
        metric: the last part of the metric's name: "loss" draws "train/loss", "test/loss" and so on.
        higher_is_better: whether the best evaluation is the highest.

    Returns:
        Whether there was something to draw; otherwise no file is written.
    """
    series = {name: _series(rows, name) for name in _names(rows, metric)}
    series = {name: points for name, points in series.items() if len(points[0])}
    if not series:
        return False
    rate = _learning_rate(rows) if metric == "loss" else None
    above, height = 0.14 + 0.2 * len(series), 4.7 if rate else 4.0  # inches; the legend stands over the curves
    with new_figure(path, 7.2, height + above) as figure:
        axes, *rest = figure.subplots(*((2, 1) if rate else (1, 1)), sharex=True, squeeze=False, **_heights(rate))[:, 0]
        top = 1 - (above + 0.1) / (height + above)
        figure.subplots_adjust(left=0.1, right=0.97, top=top, bottom=0.5 / (height + above), hspace=0.12)
        evaluations = [name for name in series if not name.startswith("train/")]
        for name, points in series.items():
            if name in evaluations:
                color = _EVALUATIONS[evaluations.index(name) % len(_EVALUATIONS)]
                _draw_evaluation(axes, name, points, color, higher_is_better)
            else:
                _draw_training(axes, name, points)
        _scale(axes, np.concatenate([points[1] for points in series.values()]), metric)
        axes.set_title(metric.replace("_", " ").capitalize())
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), borderaxespad=0)
        if rate:
            _draw_learning_rate(rest[0], rate)
        below = rest[0] if rate else axes
        below.set_xlabel("step")
        steps = np.concatenate([points[0] for points in series.values()])
        span = np.ptp(steps)
        below.set_xlim(steps.min() - (0.01 * span or 1), steps.max() + (0.02 * span or 1))
        below.locator_params(axis="x", integer=True)
        below.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    return True


def _heights(rate: Any) -> dict[str, Any]:
    return {"height_ratios": (5, 1)} if rate else {}


def _draw_learning_rate(axes: Any, rate: tuple[np.ndarray, np.ndarray]) -> None:
    axes.plot(*rate, color=GREY, linewidth=1.4)
    axes.set_ylabel("learning\nrate", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set(fontsize=8, color=GREY)
    axes.locator_params(axis="y", nbins=3)


def _names(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Names of the series of a metric, training first, in the order in which they appear."""
    names = dict.fromkeys(name for row in rows for name in row if name == metric or name.endswith(f"/{metric}"))
    return sorted(names, key=lambda name: not name.startswith("train/"))


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of a metric."""
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    points = [point for point in points if math.isfinite(point[1])]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def _learning_rate(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray] | None:
    for name in _names(rows, "learning_rate"):
        steps, values = _series(rows, name)
        if len(values) > 1 and np.ptp(values) > 0:
            return steps, values
    return None


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average (N,), which does not lag behind; near an end, of the part of the window that there is.

    Args:
        values: (N,).
        window: number of values averaged, rounded up to an odd one.
    """
    values = np.asarray(values, np.float64)
    position = np.arange(len(values))
    start, stop = np.maximum(position - window // 2, 0), np.minimum(position + window // 2 + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[stop] - sums[start]) / (stop - start)


def _draw_training(axes: Any, name: str, points: tuple[np.ndarray, np.ndarray]) -> None:
    steps, values = points
    window = len(values) // 25
    if window < 2:
        axes.plot(steps, values, color=BLUE, linewidth=1.8, label=_label(name))
        return
    axes.plot(steps, values, color=BLUE, linewidth=0.8, alpha=0.25)
    axes.plot(steps, smooth(values, window), color=BLUE, linewidth=2.0, label=f"{_label(name)}, smoothed")


def _draw_evaluation(axes: Any, name: str, points: tuple[np.ndarray, np.ndarray], color: str, higher: bool) -> None:
    steps, values = points
    best = int(np.argmax(values) if higher else np.argmin(values))
    marker = {"marker": "o", "markersize": 3.5} if len(values) <= 60 else {}
    label = f"{_label(name)}, best {values[best]:.4g} at step {int(steps[best]):,}"
    axes.plot(steps, values, color=color, linewidth=1.8, label=label, **marker)
    axes.plot(steps[best], values[best], "*", color=color, markersize=14, markeredgecolor="white", zorder=5)


def _scale(axes: Any, values: np.ndarray, metric: str) -> None:
    """Logarithmic where positive values span far; a share of one never shows more than its range."""
    low, high = np.min(values), np.max(values)
    if any(word in metric for word in _SHARES) and low >= 0 and high <= 1:
        bottom = max(0.0, low - 0.05)
        axes.set_ylim(bottom, 1.0 + 0.03 * (1 - bottom))
    elif low > 0 and high / low > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label(name: str) -> str:
    return "training" if name.startswith("train/") else name.rpartition("/")[0] or name


def normalize_rows(confusion: np.ndarray) -> np.ndarray:
    """Counts (true, predicted) as shares of the true class, (C, C) in [0, 1]; a class without examples is all 0."""
    confusion = np.asarray(confusion, np.float64)
    totals = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, totals, out=np.zeros_like(confusion), where=totals > 0)


def top_confusions(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (true, predicted, number of examples), the most frequent first.

    Args:
        confusion: (C, C) counts, rows true, columns predicted.
        count: most pairs to return; pairs that never occur are left out.
    """
    mistakes = np.array(confusion, copy=True)
    np.fill_diagonal(mistakes, 0)
    flat = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(flat, mistakes.shape), strict=True)
    return [(int(true), int(said), int(mistakes[true, said])) for true, said in pairs if mistakes[true, said] > 0]


def confusion_matrix(path: str | Path, results: Results) -> None:
    """The confusion matrix, each row as shares of its true class: with counts for few classes, colours for many.

    Args:
        path: the PNG file.
        results: with "confusion_matrix" (C, C) among the arrays, rows true and columns predicted.
    """
    counts = np.asarray(results.arrays["confusion_matrix"])
    classes = len(counts)
    names = [str(name) for name in results.class_names] or [str(index) for index in range(classes)]
    block = math.ceil(classes / _MOST_CELLS)
    side = min(7.0, max(3.4, 0.5 * classes)) if classes <= _ANNOTATED else 7.0
    name_width = 0.08 * min(max(map(len, names)), 18) if classes <= _NAMED else 0.35
    rotated = classes <= _NAMED and name_width > 0.9 * side / classes
    left, bottom = 0.6 + name_width, 0.55 + (name_width if rotated else 0.15)
    width, height = left + side + 3.0, bottom + side + 0.75
    with new_figure(path, width, height) as figure:
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        _draw_matrix(axes, counts, block)
        if classes <= _NAMED:
            short = [shorten(name, 18) for name in names]
            axes.set_xticks(range(classes), short, rotation=90 if rotated else 0)
            axes.set_yticks(range(classes), short)
            axes.tick_params(length=0)
        axes.set(xlabel="predicted class", ylabel="true class")
        shown = "share of the true class" + (f", {block} neighbouring classes a cell" if block > 1 else "")
        subtitle = f"{int(counts.sum()):,} examples, {_right(counts)}; colour: {shown}"
        title = f"Confusion matrix on {results.split}"
        figure.text(left / width, 1 - 0.2 / height, title, fontsize=12, weight="bold", va="top")
        figure.text(left / width, 1 - 0.45 / height, subtitle, fontsize=9, color=GREY, va="top")

        pairs = top_confusions(counts, _LISTED)
        lines = [(f"{n:,}", f"{shorten(names[true], 15)} → {shorten(names[said], 15)}") for true, said, n in pairs]
        beside = figure.add_axes(((left + side + 0.3) / width, bottom / height, 2.6 / width, side / height))
        y = _list(beside, 0.0, "Most frequent mistakes" if pairs else "No mistakes", "true → predicted", lines)
        if classes > _ANNOTATED:
            hardest = [
                (f"{100 * share:.0f}%", shorten(names[index], 30)) for index, share in hardest_classes(counts, _LISTED)
            ]
            _list(beside, y + 0.3, "Hardest classes", "share found", hardest)
        beside.set(xlim=(0, 2.6), ylim=(side, 0))
        beside.set_axis_off()


def hardest_classes(confusion: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The classes with the smallest share of examples found (recall), as (class, share), the smallest first.

    Args:
        confusion: (C, C) counts, rows true, columns predicted.
        count: most classes to return; those without examples are left out.
    """
    recall = np.diagonal(normalize_rows(confusion))
    present = np.flatnonzero(np.sum(confusion, axis=1) > 0)
    order = present[np.argsort(recall[present], kind="stable")][:count]
    return [(int(index), float(recall[index])) for index in order]


def _draw_matrix(axes: Any, counts: np.ndarray, block: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    few = len(counts) <= _ANNOTATED
    shares = normalize_rows(_in_blocks(counts, block))
    # For many classes a share of 1 % must be told from 0, hence the square root.
    colors = LinearSegmentedColormap.from_list("white to blue", _WHITE_TO_BLUE)
    axes.imshow(shares if few else np.sqrt(shares), cmap=colors, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)
    if few:
        _write_counts(axes, counts, shares)
    else:
        axes.locator_params(nbins=11, integer=True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda position, _: f"{position * block:.0f}")


def _right(counts: np.ndarray) -> str:
    total = counts.sum()
    return f"{100 * np.trace(counts) / total:.2f}% right" if total else "none"


def _in_blocks(counts: np.ndarray, block: int) -> np.ndarray:
    """Counts added up over squares of `block` neighbouring classes."""
    if block == 1:
        return counts
    starts = np.arange(0, len(counts), block)
    return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    size = 9 if len(counts) <= 12 else 7
    for true, said in np.argwhere(counts > 0):
        color = "white" if shares[true, said] > 0.55 else INK
        count = counts[true, said]
        text = f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"
        axes.text(said, true, text, ha="center", va="center", fontsize=size, color=color)


def _list(axes: Any, y: float, title: str, heading: str, lines: Sequence[tuple[str, str]]) -> float:
    """Writes a number and a text per line under a title, in inches from the top; returns where it ended."""
    axes.text(0, y, title, fontsize=10, weight="bold", va="top")
    if lines:
        axes.text(0.5, y + 0.22, heading, fontsize=8, color=GREY, va="top")
    for number, text in lines:
        axes.text(0.4, y + 0.44, number, fontsize=9, va="top", ha="right")
        axes.text(0.5, y + 0.44, text, fontsize=9, va="top")
        y += 0.22
    return y + 0.44


# What a task may name in its `plots`: (path of the PNG file, results) -> None.
PLOTS: dict[str, Callable[[str | Path, Results], None]] = {
    "class_ap": detection.class_ap,
    "confusion_matrix": confusion_matrix,
    "detection_grid": detection.detection_grid,
    "detection_overlays": detection.detection_overlays,
    "precision_recall": detection.precision_recall,
    "predictions": pictures.predictions,
    "prediction_grid": pictures.prediction_grid,
    "reconstructions": pictures.reconstructions,
    "class_iou": segmentation.class_iou,
    "segmentation_grid": segmentation.segmentation_grid,
    "segmentation_overlays": segmentation.segmentation_overlays,
}

# What a task may name in its `prediction_files`: (path without an ending, image, its predictions, class names) -> file.
FILES: dict[str, Callable[[Path, np.ndarray, dict[str, np.ndarray], Sequence[str]], Path]] = {
    "detection_overlay": detection.write_detections,
    "segmentation_mask": segmentation.write_mask,
    "segmentation_overlay": segmentation.write_overlay,
}
