"""A signal asks to stop and nothing more; a second Ctrl-C interrupts; outside the block all is as it was."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vision.train.signals import SIGNALS, stop_requests


def press(number):
    """Sends this process a signal; Python handles it before the next line."""
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def as_before():
    """Whatever a test does, later ones find the handlers they expect."""
    before = handlers()
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_nothing_is_asked_without_a_signal():
    with stop_requests() as requested:
        assert [requested(step) for step in (0, 1, 1000)] == [None, None, None]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_the_work_goes_on(number):
    with stop_requests() as requested:
        press(number)
        assert [requested(step) for step in (3, 4)] == [signal.Signals(number).name] * 2


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), stop_requests() as requested:
        press(signal.SIGINT)
        assert requested(1) == "SIGINT"
        press(signal.SIGINT)
        pytest.fail("the second Ctrl-C did not interrupt")


def test_ctrl_c_interrupts_a_stop_that_something_else_asked_for():
    with pytest.raises(KeyboardInterrupt), stop_requests() as requested:
        press(signal.SIGTERM)
        assert requested(1) == "SIGTERM"
        press(signal.SIGINT)
        pytest.fail("Ctrl-C did not interrupt")


def test_further_notices_of_preemption_change_nothing():
    """A cluster may repeat SIGTERM while the last checkpoint is being written."""
    with stop_requests() as requested:
        press(signal.SIGINT)
        press(signal.SIGTERM)
        press(signal.SIGTERM)
        assert requested(1) == "SIGINT"


@pytest.mark.parametrize("leave", [None, RuntimeError, KeyboardInterrupt])
def test_handlers_are_restored_however_the_block_ends(leave):
    def mine(number, frame):
        del number, frame

    for number in SIGNALS:
        signal.signal(number, mine)
    if leave is None:
        with stop_requests():
            assert mine not in handlers()
    else:
        with pytest.raises(leave), stop_requests():
            assert mine not in handlers()
            raise leave
    assert handlers() == [mine, mine]


def test_a_new_block_has_forgotten_the_old_requests():
    with stop_requests() as requested:
        press(signal.SIGTERM)
    with stop_requests() as requested:
        assert requested(1) is None
        press(signal.SIGINT)  # the first of this block: no interruption
        assert requested(1) == "SIGINT"


def test_outside_the_main_thread_nothing_is_touched():
    """Training from a thread, as a notebook or a server may: Python gives signals to the main thread only."""
    before, found = handlers(), []

    def work():
        with stop_requests() as requested:
            found.append((requested(1), handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


WORK = """
import sys, time
import jax
from vision.train.signals import stop_requests

if len(sys.argv) > 1:
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
with stop_requests() as requested:
    print("ready", flush=True)
    for step in range(3000):
        time.sleep(0.02)
        if requested(step):
            print("stopped by", requested(step), "at", step, flush=True)
            break
"""


def working(*arguments):
    """A process that works until a signal asks it to stop."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", WORK, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def ends(processes):
    """What the processes print when the last of them gets SIGTERM; all of them exit by themselves, with 0."""
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
        processes[-1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


def test_a_process_finishes_its_step_and_exits_as_it_wants_to():
    (said,) = ends([working()])
    assert said.startswith("stopped by SIGTERM at ")


def test_of_two_hosts_one_is_told_and_both_stop_at_the_same_step():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    one, other = ends([working(address, str(index)) for index in range(2)])
    assert one == other
    assert one.startswith("stopped by SIGTERM at ")
