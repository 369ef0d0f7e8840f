"""Metrics are written once a step whatever is killed when; events are what TensorBoard reads; the log is plain text."""

import io
import json
import os
import struct
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UsageError
from vision.train import writers


def log_steps(path, restored, steps):
    writer = writers.jsonl_writer(path, restored)
    for step in steps:
        writer.write(step, {"train/loss": 1 / step, "time": step * 0.1})
    writer.close()


def test_one_object_a_line_step_and_time_first(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = writers.jsonl_writer(path)
    writer.write(100, {"train/loss": np.float32(0.5), "time": 12.25, "test/accuracy": 0.75, "examples": np.int64(3)})
    written = path.read_text()  # flushed at once, before the writer is closed
    writer.close()
    assert written == '{"step": 100, "time": 12.25, "train/loss": 0.5, "test/accuracy": 0.75, "examples": 3}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_what_json_does_not_have_becomes_null(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    writer = writers.jsonl_writer(path)
    writer.write(1, {"train/loss": value})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {"step": 1, "train/loss": None}


@pytest.mark.parametrize("again", [5, 4])
def test_a_step_is_not_written_twice(tmp_path, again):
    writer = writers.jsonl_writer(tmp_path / "metrics.jsonl")
    writer.write(5, {})
    with pytest.raises(ValueError, match="once"):
        writer.write(again, {})
    writer.close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), restored=st.integers(0, 7))
def test_killed_at_any_byte_and_resumed_equals_straight_through(tmp_path_factory, cut, restored):
    folder = tmp_path_factory.mktemp("run")
    log_steps(folder / "straight", None, range(1, 11))
    log_steps(folder / "killed", None, range(1, 9))
    whole = (folder / "killed").read_bytes()
    after_checkpoint = sum(len(line) + 1 for line in whole.splitlines()[:restored])
    # A checkpoint is saved after the lines up to its step were written.
    (folder / "killed").write_bytes(whole[: max(after_checkpoint, min(cut, len(whole)))])
    log_steps(folder / "killed", restored, range(restored + 1, 11))
    assert (folder / "killed").read_text() == (folder / "straight").read_text()


def test_truncation_returns_the_rows_kept_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "time": 1.5}\n{"step": 20, "time": 3.0}\n{"step": 30, "ti')
    assert writers.truncate_after(path, 20)[-1] == {"step": 20, "time": 3.0}
    assert path.read_text() == '{"step": 10, "time": 1.5}\n{"step": 20, "time": 3.0}\n'
    assert writers.truncate_after(path, 9) == [] and path.read_text() == ""
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert writers.truncate_after(tmp_path / "none", 5) == []


def test_a_complete_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}')
    log_steps(path, 10, [11])
    assert [row["step"] for row in writers.read_metrics(path)] == [10, 11]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"time": 3}', '{"step": "one"}', "\xff"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2"):
        writers.read_metrics(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    writers.write_json(path, {"step": 1, "final": {"test/loss": float("nan")}, "shape": np.arange(3), "n": np.int32(7)})
    assert json.loads(path.read_text()) == {"step": 1, "final": {"test/loss": None}, "shape": [0, 1, 2], "n": 7}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writers.write_json(path, {"step": 2})
    assert json.loads(path.read_text())["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


# TFRecord: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the data.


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    from tensorboardX.proto.event_pb2 import Event

    data, position = path.read_bytes(), 0
    while position < len(data):
        (length, length_crc) = struct.unpack_from("<QI", data, position)
        assert masked(data[position : position + 8]) == length_crc
        record = data[position + 12 : position + 12 + length]
        assert struct.unpack_from("<I", data, position + 12 + length) == (masked(record),)
        position += 16 + length
        yield Event.FromString(record)


def shown_by_tensorboard(folder):
    """tag -> {step: value}, forgetting as TensorBoard does: a session's start takes back that step and later ones."""
    result = {}
    for path in sorted(folder.glob("events.out.*")):
        for event in read_events(path):
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                for points in result.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                points = result.setdefault(value.tag, {})
                assert event.step not in points
                points[event.step] = value.simple_value
    return result


def test_crc_by_its_published_check_value():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4


@pytest.mark.parametrize("restored", [None, 2])
def test_events_after_a_resume(tmp_path, restored):
    writer = writers.open_writers(tmp_path, None)
    for step in (1, 2, 3, 4):
        writer.write(step, {"train/loss": 0.5, "time": 1.0})
    writer.close()
    writer = writers.open_writers(tmp_path, restored)
    for step in range((restored or 0) + 1, 6):
        writer.write(step, {"train/loss": 0.25, "time": 1.0, "test/accuracy": None})
    writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    loss = shown_by_tensorboard(tmp_path)["train/loss"]
    assert loss == {step: 0.5 if step <= (restored or 0) else 0.25 for step in (1, 2, 3, 4, 5)}
    assert {row["step"]: row["train/loss"] for row in writers.read_metrics(tmp_path / "metrics.jsonl")} == loss


def test_events_are_left_out_on_request(tmp_path):
    writer = writers.open_writers(tmp_path, None, tensorboard=False)
    writer.write(1, {"time": 0.5})
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_missing_weights_and_biases_says_what_to_do_and_touches_nothing(tmp_path, monkeypatch):
    log_steps(tmp_path / "metrics.jsonl", None, [1, 2])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        writers.open_writers(tmp_path, None, wandb=True)
    assert len(writers.read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    ids, logged = [], []

    def init(**arguments):
        ids.append(arguments["id"])
        return types.SimpleNamespace(log=lambda data, step: logged.append((step, data)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for restored in (None, 5, None):
        writers.wandb_writer(tmp_path, restored, {"seed": 0}).write(6, {"loss": float("nan")})
    assert ids[0] == ids[1] != ids[2]
    assert logged[0] == (6, {"loss": None})


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_the_log_is_what_the_terminal_showed_without_escapes(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    console = writers.Console(tmp_path / "log.txt", terminal)
    console.status("\x1b[32m━━\x1b[0m 3/10")
    console.print("\x1b[1mhello\x1b[0m")
    console.close()
    assert (tmp_path / "log.txt").read_text() == "hello\n"
    # The status is wiped, the line printed, the status drawn again below it, and wiped at the end.
    assert terminal.getvalue().split("\x1b[K") == [
        "\r\x1b[32m━━\x1b[0m 3/10",
        "\r",
        "\x1b[1mhello\x1b[0m\n\r\x1b[32m━━\x1b[0m 3/10",
        "\r",
        "",
    ]


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminals_without_colour(monkeypatch, variable):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(*variable)
    terminal = Terminal()
    writers.Console(None, terminal).print("\x1b[1mhello\x1b[0m")
    assert terminal.getvalue() == "hello\n"


def test_no_terminal_gets_neither_status_nor_escapes(tmp_path):
    stream = io.StringIO()
    console = writers.Console(tmp_path / "log.txt", stream)
    console.status("\x1b[32m3/10\x1b[0m")
    console.print("\x1b[1mhello\x1b[0m")
    console.close()
    assert stream.getvalue() == (tmp_path / "log.txt").read_text() == "hello\n"


def test_an_ascii_terminal_and_one_that_is_gone_end_nothing(tmp_path):
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    console = writers.Console(tmp_path / "log.txt", ascii_only)
    assert not console.can_show("━") and console.can_show("#")
    console.print("━ done")
    assert raw.getvalue() == b"? done\n"
    ascii_only.close()
    console.print("after")
    console.close()
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "━ done\nafter\n"
