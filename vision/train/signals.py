"""Stopping between two steps when the machine is taken away or a person presses Ctrl-C."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], str | None]]:
    """Within the block SIGTERM and SIGINT only ask to stop; the given function `(step) -> signal name or None` answers.

    A second SIGINT interrupts at once. On several hosts SIGTERM to any of them makes all answer the same at the same
    step, through the handler that `jax.distributed.initialize` has set, which must stay; SIGINT is as usual there.
    """
    received: list[str] = []

    def handle(number, frame):
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        if number == signal.SIGINT and len(received) == 1:  # `print` may not be interrupted by itself
            os.write(2, b"\nStopping after this step and saving; Ctrl-C again interrupts at once.\n")

    def requested(step: int) -> str | None:
        return received[0] if received else None

    def preempted(step: int) -> str | None:
        from jax.experimental import multihost_utils

        return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None

    if jax.process_count() > 1:
        yield preempted
        return
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield requested
        return
    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
