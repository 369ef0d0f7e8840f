"""What the terminal shows: a header, a progress bar (plain lines when it is no terminal) and closing tables."""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision.train.writers import Console

_BOLD, _DIM, _GREEN, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"
_REDRAW_SECONDS = 0.1
_WIDEST_BAR = 28
_FURTHER = 10  # metrics after the first two: shown where there is room for them beside a bar


class Progress:
    """A progress bar on a terminal; elsewhere, and in log.txt, one plain line every few seconds."""

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        console: Console,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
    ):
        """Shows nothing yet.

        Args:
            total_steps: the step at which the run ends.
            start_step: the step that it starts from: 0, or the restored one.
            console: the terminal and log.txt.
            every_seconds: time between plain lines.
            clock: seconds, rising.
            width: columns of the terminal; None asks it.
        """
        self._total, self._console, self._every, self._clock = total_steps, console, every_seconds, clock
        self._width = width or (lambda: shutil.get_terminal_size((80, 24)).columns)
        self._unicode = console.can_show("━─·")
        self._step = self._first_step = start_step
        self._first_time: float | None = None
        self._drawn, self._logged = -math.inf, clock()
        self._metrics: dict[str, float] = {}
        self._rate: float | None = None
        self._wait: float | None = None

    def update(
        self,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        rate: float | None = None,
        wait_share: float | None = None,
    ) -> None:
        """Says that `step` steps are done; cheap enough for every step.

        Args:
            step: number of steps done.
            metrics: the newest training metrics, "train/loss" or "loss"; None keeps showing the last ones.
            rate: examples per second; None keeps the last one.
            wait_share: share of the time spent waiting for data, 0 to 1; None keeps the last one.
        """
        now = self._clock()
        self._step = step
        if metrics:
            self._metrics = _in_order(metrics)
        self._rate = self._rate if rate is None else rate
        self._wait = self._wait if wait_share is None else wait_share
        if self._first_time is None:  # the first step compiles: time left is counted from its end
            self._first_time, self._first_step = now, step
        if self._console.is_terminal and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._console.status(self.bar(now))
        if now - self._logged >= self._every and step < self._total:  # the last step's line is `close`'s
            self._logged = now
            self._plain(now)

    def close(self) -> None:
        """Leaves the last state as a plain line in place of the bar."""
        self._console.status("")
        if self._first_time is not None:
            self._plain(self._clock(), always=True)

    def bar(self, now: float) -> str:
        """The status line, one line that fits into the terminal: the bar takes what is left over."""
        width = max(1, self._width() - 1)  # the last column makes some terminals begin a new line
        share = min(1.0, self._step / self._total) if self._total else 1.0
        parts = self._parts(now)

        def room() -> int:
            return width - sum(2 + len(text) for text, _ in parts)

        # On a narrow terminal further metrics go first, then the bar, then the rest, the most dispensable first.
        for priority in sorted({priority for _, priority in parts if priority}, reverse=True):
            if room() < (_WIDEST_BAR // 3 if priority >= _FURTHER else -2):
                parts = [part for part in parts if part[1] != priority]
        tail = "  ".join(text for text, _ in parts)
        length = min(_WIDEST_BAR, room())
        if length < 4:
            return tail[:width]
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        filled = round(length * share)
        return f"{_GREEN}{full * filled}{_RESET}{_DIM}{empty * (length - filled)}{_RESET}  {tail}"

    def _parts(self, now: float) -> list[tuple[str, int]]:
        """(text, how dispensable it is), 0 for what always stays."""
        parts = [(f"{self._step:>{len(str(self._total))}}/{self._total}", 0)]
        for index, (name, value) in enumerate(self._metrics.items()):
            name = "acc" if name == "accuracy" else name
            parts.append((f"{name} {format_number(value)}", index if index < 2 else _FURTHER + index))
        if self._rate is not None:
            parts.append((f"{format_count(self._rate)} ex/s", 2))
        if self._wait is not None:
            parts.append((f"wait {100 * self._wait:.0f}%", 3))
        left = self.seconds_left(now)
        if left is not None:
            parts.append((f"{format_duration(left)} left", 0))
        return parts

    def seconds_left(self, now: float) -> float | None:
        """Estimate from all steps since the first; None before there is one, and at the end."""
        done = self._step - self._first_step
        if self._first_time is None or done <= 0 or self._step >= self._total:
            return None
        return (now - self._first_time) / done * (self._total - self._step)

    def _plain(self, now: float, always: bool = False) -> None:
        text = "step " + "  ".join(text for text, _ in self._parts(now))
        if self._console.is_terminal and not always:
            self._console.record(text)  # the terminal has the bar
        else:
            self._console.print(text)


def _in_order(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Training metrics by short name, the loss first, then accuracies, then the others as given."""
    short = {
        name.removeprefix("train/"): float(value)
        for name, value in metrics.items()
        if value is not None and ("/" not in name or name.startswith("train/"))
    }
    rank = {name: (name != "loss", "accuracy" not in name) for name in short}
    return {name: short[name] for name in sorted(short, key=rank.__getitem__)}


def header(rows: Sequence[tuple[str, Any]], title: str = "") -> str:
    """Lines of "label  value", the values in one column; several lines of a value stay in it.

    Args:
        rows: (label, value) pairs.
        title: a line above, in bold.
    """
    width = max((len(label) for label, _ in rows), default=0)
    lines = [f"{_BOLD}{title}{_RESET}"] if title else []
    for label, value in rows:
        for index, line in enumerate(str(value).splitlines() or [""]):
            lines.append(f"  {_DIM}{label if index == 0 else '':<{width}}{_RESET}  {line}".rstrip())
    return "\n".join(lines)


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """A table with a heading: first column to the left, the others to the right; floats as `format_number`.

    Args:
        rows: one sequence of cells per line; None is an empty cell.
        columns: headings, as many as cells in a row.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(columns), *cells]) for column in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        first = f"  {texts[0]:<{widths[0]}}"
        rest = (f"  {text:>{width}}" for text, width in zip(texts[1:], widths[1:], strict=True))
        return (first + "".join(rest)).rstrip()

    return "\n".join([f"{_DIM}{line(columns)}{_RESET}", *map(line, cells)])


def results_table(final: Mapping[str, float], best: Mapping[str, tuple[float, int]]) -> str:
    """The closing table: each metric's last value, its best one and the step of that.

    Args:
        final: name -> value at the end.
        best: name -> (value, step); metrics without a best are left blank.
    """
    rows = [(name, value, *best.get(name, (None, None))) for name, value in final.items()]
    return table(rows, ("metric", "final", "best", "at step"))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return format_number(float(value))


def format_metrics(metrics: Mapping[str, float]) -> str:
    """ "test/accuracy 0.9861  test/loss 0.0513"."""
    return "  ".join(f"{name} {format_number(value)}" for name, value in metrics.items())


def format_number(value: float) -> str:
    """About four digits, aligned for what is mostly shown: 0.9861, 1.000, 12.35, 3e-05, 12345, 1.23e+07."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == 0 or 1e-3 <= size < 1:
        return f"{value:.4f}"
    if 1 <= size < 1000:
        return f"{value:.{4 - len(str(int(size)))}f}"
    return f"{value:.0f}" if 1000 <= size < 1e6 else f"{value:.3g}"


def format_count(value: float) -> str:
    """A count as one reads it aloud: 980, 12.3k, 25.6M, 1.2G."""
    if not math.isfinite(value):
        return str(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}" if abs(value) / unit < 100 else f"{value / unit:.0f}{name}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """0:42, 12:05, 3:07:00, 2d 04:10."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
