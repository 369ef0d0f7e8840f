"""A number from 0 to 1 of each class as bars, the best on top."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision.explain.figure import BLUE, GREY, ORANGE, SKY, draw_legend, new_figure, shorten

_MOST_BARS = 40  # of more classes, the best and the worst are drawn
_PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def class_bars(
    path: str | Path,
    class_names: Sequence[str],
    values: np.ndarray,
    title: str,
    label: str,
    absent: str,
    behind: tuple[str, np.ndarray] | None = None,
) -> None:
    """Draws the bars and their mean; of many classes the best and the worst.

    Args:
        path: the PNG file.
        class_names: names of the classes.
        values: (classes,) 0..1, NaN where a class has none.
        title: over the bars.
        label: what the values are.
        absent: what is said of the classes without a value, before their names.
        behind: name and (classes,) values of paler bars behind the others, such as of a more lenient measure.
    """
    values = np.asarray(values, np.float64)
    order = np.argsort(-np.nan_to_num(values, nan=-1), kind="stable")
    known = [index for index in order if math.isfinite(values[index])]
    missing = [shorten(str(class_names[index]), 24) for index in order if not math.isfinite(values[index])]
    drawn = known if len(known) <= _MOST_BARS else [*known[: _MOST_BARS // 2], *known[-_MOST_BARS // 2 :]]
    mean = float(np.mean(values[known])) if known else math.nan
    names = [shorten(str(class_names[index]), 24) for index in drawn]

    subtitle = f"mean {mean:.3f} over {len(known)} classes"
    if len(drawn) < len(known):
        subtitle += f", of which the {_MOST_BARS // 2} best and the {_MOST_BARS // 2} worst"
    if missing:
        subtitle += f"; {absent}: {shorten(', '.join(missing), 60)}"
    left, bars = 0.35 + 0.085 * max(map(len, names), default=0), 0.26 * max(1, len(drawn))
    above, right = (0.25, 1.1) if behind else (0.0, 0.55)
    width, height = max(7.2, left + 5.0), bars + 1.35 + above
    with new_figure(path, width, height) as figure:
        axes = figure.add_axes((left / width, 0.5 / height, 1 - (left + right) / width, bars / height))
        places = np.arange(len(drawn))
        ends = values[drawn]
        if behind:
            ends = np.fmax(ends, np.asarray(behind[1], np.float64)[drawn])
            axes.barh(places, behind[1][drawn], height=0.72, color=SKY, alpha=0.45)
        axes.barh(places, values[drawn], height=0.4 if behind else 0.72, color=BLUE)
        for place, index in enumerate(drawn):
            text = f"{values[index]:.3f}" + (f" ({behind[1][index]:.3f})" if behind else "")
            axes.text(ends[place] + 0.008, place, text, va="center", fontsize=9, bbox=_PLAIN)
        if known:
            axes.axvline(mean, color=ORANGE, linewidth=1.6, linestyle="--", zorder=3)
            axes.text(mean, -0.65, "mean", ha="center", va="bottom", fontsize=9, color=GREY)
        axes.set_yticks(places, names)
        axes.set(xlim=(0, 1.0), ylim=(len(drawn) - 0.4, -0.6), xlabel=label)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        figure.text(0.15 / width, 1 - 0.15 / height, title, fontsize=12, weight="bold", va="top")
        figure.text(0.15 / width, 1 - 0.42 / height, subtitle, fontsize=9, color=GREY, va="top")
        if behind:
            draw_legend(figure, [(label, BLUE), (behind[0], SKY)], 0.15, 0.66, width - 0.3)
