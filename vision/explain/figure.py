"""The look that all figures share: fonts, colours that the colour-blind tell apart, and saving in one piece.

Figures are drawn without pyplot: no window system, no global state, the same from a thread or a notebook.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
_LEGEND_INCHES = 0.2  # a line
_LEGEND_CHARACTERS = 28

# Okabe and Ito (2008), "Color Universal Design".
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, GREY, FAINT = "#222222", "#777777", "#DDDDDD"

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 10,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # class and file names may hold dollar signs
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": DPI,
    "savefig.facecolor": "white",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextlib.contextmanager
def new_figure(path: str | Path, width: float, height: float) -> Iterator["Figure"]:
    """An empty figure to draw on; it is saved as PNG at the end, and a reader of the file never sees half of it.

    Args:
        path: the PNG file; its folder is made when missing.
        width: inches; 150 pixels each.
        height: inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        _canvas()(figure)
        yield figure
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            figure.savefig(temporary, format="png", dpi=DPI)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@functools.cache
def _canvas() -> type:
    """matplotlib's Agg canvas, which draws any text: file names may hold bytes that are not UTF-8, and stop its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

    class Renderer(RendererAgg):
        def draw_text(self, gc, x, y, s, *args, **kwargs):
            super().draw_text(gc, x, y, _printable(s), *args, **kwargs)

        def get_text_width_height_descent(self, s, *args, **kwargs):
            return super().get_text_width_height_descent(_printable(s), *args, **kwargs)

    class Canvas(FigureCanvasAgg):
        renderer = None

        def get_renderer(self):
            if self.renderer is None:
                self.renderer = Renderer(*self.get_width_height(physical=True), self.figure.dpi)
            return self.renderer

    return Canvas


def _printable(text: str) -> str:
    """Lone surrogates, which Python makes of the bytes of a file name that are not UTF-8, as question marks."""
    return text.encode("utf-8", "replace").decode()


def shorten(text: str, characters: int, ending: int = 0) -> str:
    """Text of at most so many characters, an ellipsis in place of what does not fit.

    Args:
        text: one line.
        characters: most characters of the result.
        ending: characters at the end that are kept, as a file name's number and extension.
    """
    if len(text) <= characters:
        return text
    ending = min(ending, max(0, characters - 2))
    start = text[: max(0, characters - 1 - ending)].rstrip(" ,;_-")
    return start + "…" + text[len(text) - ending :]


def legend_height(legend: Sequence[tuple[str, str]], width: float) -> float:
    """Inches that `draw_legend` takes below its top."""
    return _LEGEND_INCHES * (1 + max((line for *_, line in _legend_places(legend, width)), default=-1))


def draw_legend(figure: "Figure", legend: Sequence[tuple[str, str]], left: float, top: float, width: float) -> None:
    """Writes what colours mean: a square and a name each, in as many lines as are needed.

    Args:
        figure: where to.
        legend: (name, colour).
        left, top: inches from the figure's corner.
        width: inches of a line.
    """
    from matplotlib.patches import Rectangle

    inches = figure.dpi_scale_trans
    height = figure.get_figheight()
    for name, color, x, line in _legend_places(legend, width):
        x, y = left + x, height - top - line * _LEGEND_INCHES
        figure.add_artist(Rectangle((x, y - 0.12), 0.12, 0.12, transform=inches, facecolor=color, edgecolor="none"))
        figure.text(x + 0.18, y + 0.02, name, transform=inches, va="top", fontsize=9)


def _legend_places(legend: Sequence[tuple[str, str]], width: float) -> list[tuple[str, str, float, int]]:
    """(name, colour, inches from the left, line) of each entry, in columns of one width."""
    names = [shorten(name, _LEGEND_CHARACTERS, ending=5) for name, _ in legend]
    column = 0.36 + 0.075 * max(map(len, names), default=0)
    columns = max(1, int(width / column))
    return [
        (name, color, column * (number % columns), number // columns)
        for number, (name, (_, color)) in enumerate(zip(names, legend, strict=True))
    ]
