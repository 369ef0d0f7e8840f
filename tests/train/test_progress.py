"""The terminal: a bar that fits any width and is drawn at most ten times a second, plain lines elsewhere."""

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.train import progress
from vision.train.writers import Console, strip_escapes


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def run(stream, log=None, steps=200, seconds_per_step=0.25, width=80, start=0, total=None):
    now = [0.0]
    console = Console(log, stream)
    bar = progress.Progress(total or steps, start, console, 10.0, clock=lambda: now[0], width=lambda: width)
    for step in range(start + 1, steps + 1):
        now[0] += seconds_per_step
        metrics = {"train/accuracy": 0.5, "train/loss": 1.25, "test/loss": 9.0} if step % 10 == 0 else None
        bar.update(step, metrics, rate=2133.0, wait_share=0.021)
    bar.close()
    console.close()


def test_without_a_terminal_plain_lines_every_ten_seconds(tmp_path):
    stream = io.StringIO()
    run(stream, tmp_path / "log.txt")
    text = stream.getvalue()
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 4 + 1  # at 10 to 40 seconds, and at the end once
    # 40 steps took 10 s: 160 to go take 40 s. The loss comes first; a test metric is no training metric.
    assert lines[0] == "step  40/200  loss 1.250  acc 0.5000  2.13k ex/s  wait 2%  0:40 left"
    assert lines[-1] == "step 200/200  loss 1.250  acc 0.5000  2.13k ex/s  wait 2%"
    assert (tmp_path / "log.txt").read_text() == text


def test_on_a_terminal_the_log_has_plain_lines_and_the_bar_is_not_drawn_too_often(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    run(stream, tmp_path / "log.txt", steps=2000, seconds_per_step=1 / 64)
    log = (tmp_path / "log.txt").read_text()
    assert "\r" not in log and "\x1b" not in log
    assert len(log.splitlines()) == 3 + 1
    assert 200 < stream.getvalue().count("\r") <= 31.25 * 10 + 2
    assert re.search(
        r"━+.*─+.* 1\d\d\d/2000  loss 1\.250  acc 0\.5000  2\.13k ex/s  wait 2%  0:0\d left", stream.getvalue()
    )
    assert stream.getvalue().splitlines()[-1].endswith("wait 2%")


@settings(deadline=None)
@given(
    width=st.integers(0, 200),
    step=st.integers(0, 10**7),
    total=st.integers(0, 10**7),
    loss=st.floats(),
    rate=st.none() | st.floats(),
    wait=st.none() | st.floats(0, 1),
)
def test_any_bar_fits_into_any_terminal(width, step, total, loss, rate, wait):
    now = [0.0]
    bar = progress.Progress(total, 0, Console(None, Terminal()), clock=lambda: now[0], width=lambda: width)
    bar.update(0)
    now[0] = 5.0
    bar.update(step, {"train/loss": loss, "train/accuracy": 0.5, "train/gradient_norm": 3.0}, rate, wait)
    assert len(strip_escapes(bar.bar(now[0]))) <= max(1, width - 1)
    bar.close()


def test_a_narrow_terminal_keeps_the_step_the_loss_and_the_time_left():
    shown = {}
    for width in (120, 80, 45):
        stream = Terminal()
        run(stream, steps=100, width=width, total=1000)
        shown[width] = strip_escapes(stream.getvalue().split("\r")[-2])
    assert all(part in shown[120] for part in ("━", "100/1000", "loss", "acc", "ex/s", "wait", "left"))
    assert "━" in shown[80] and "wait" in shown[80]
    assert "wait" not in shown[45]
    assert "100/1000" in shown[45] and "loss" in shown[45] and "left" in shown[45]


def test_time_left_of_a_resumed_run_counts_its_own_steps_only():
    stream = io.StringIO()
    run(stream, steps=945, start=900, total=1000)
    assert stream.getvalue().splitlines()[0].endswith("0:15 left")  # step 940 at 4 steps/s, 60 to go


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.98612, "0.9861"),
        (1.0, "1.000"),
        (12.345, "12.35"),
        (999.94, "999.9"),
        (12345.6, "12346"),
        (3e-5, "3e-05"),
        (2.5e7, "2.5e+07"),
        (-1.5, "-1.500"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers(value, text):
    assert progress.format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (980, "980"),
        (2133, "2.13k"),
        (123_456, "123k"),
        (25_557_032, "25.6M"),
        (4.1e9, "4.1G"),
        (math.inf, "inf"),
    ],
)
def test_counts(value, text):
    assert progress.format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (41.6, "0:42"),
        (725, "12:05"),
        (11220, "3:07:00"),
        (187_800, "2d 04:10"),
        (math.inf, "?"),
        (-5, "0:00"),
    ],
)
def test_durations(seconds, text):
    assert progress.format_duration(seconds) == text


def test_header_and_tables_line_up():
    header = strip_escapes(progress.header([("model", "lenet"), ("devices", "1 cpu\njit")], "digits"))
    assert header == "digits\n  model    lenet\n  devices  1 cpu\n           jit"
    table = strip_escapes(
        progress.results_table({"test/accuracy": 0.98, "test/n": 360}, {"test/accuracy": (0.99, 1200)})
    )
    assert table.splitlines() == [
        "  metric          final    best  at step",
        "  test/accuracy  0.9800  0.9900    1,200",
        "  test/n            360",
    ]
    assert progress.format_metrics({"test/loss": 0.05}) == "test/loss 0.0500"
    assert progress.header([]) == "" and strip_escapes(progress.table([], ("a", "b"))) == "  a  b"
