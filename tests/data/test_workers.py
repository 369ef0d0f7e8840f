"""Worker processes give the same batches, pass on errors, and never outlive the process that started them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import vision.data
from vision.data import create
from vision.errors import UsageError


def test_worker_processes_change_nothing():
    def digits(workers):
        return create("digits", "train", 8, "decode|random_crop(8, padding=2)|noise(5.0)", seed=4, workers=workers)

    batches = digits(2).batches(3)
    for step in range(3, 10):
        expected, given = digits(0).batch(step), next(batches)
        for name in expected:
            np.testing.assert_array_equal(given[name], expected[name], err_msg=name)
    batches.close()


def test_errors_and_skipped_images_come_through(tmp_path):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "a").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "a" / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "a" / "3.png").write_bytes(b"no image")

    def folder(**options):
        return create(f"folder:{tmp_path}", "all", 2, "decode", train=False, workers=1, **options)

    with pytest.raises(UsageError, match=r"a/3.png: not an image that OpenCV can read, or a damaged one$"):
        list(folder().batches())
    pipeline = folder(on_bad_image="skip", max_bad_share=0.5)
    masks = [batch["mask"].tolist() for batch in pipeline.batches()]
    assert masks == [[1, 1], [1, 0], [1, 1]]
    assert list(pipeline.bad_images) == [3]


SCRIPT = """
import multiprocessing, sys, time
from vision.data import create

if __name__ == "__main__":
    batches = create("fake:8x8x3:5:50", "train", 8, "decode", workers=2).batches()
    for _ in range(4):
        next(batches)
    time.sleep(2)  # threads that started the workers have ended by now; the workers must not have
    for _ in range(20):
        next(batches)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SCRIPT_STOPPED = """
import multiprocessing, signal, time
from vision.data import create

if __name__ == "__main__":
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    batches = create("fake:8x8x3:5:50", "train", 8, "decode", workers=2).batches()
    next(batches)
    workers = multiprocessing.active_children()
    print("ready", flush=True)
    while not received:
        time.sleep(0.05)
    time.sleep(0.5)
    steps = sum(next(batches)["mask"].sum() == 8 for _ in range(50))
    batches.close()
    for worker in workers:
        worker.join(10)
    print(len(workers), steps, [worker.is_alive() for worker in workers], flush=True)
"""


def test_workers_leave_a_signal_to_all_processes_to_their_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_STOPPED)
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(vision.data.__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGTERM)  # as a scheduler does
        output, _ = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert (output, parent.returncode) == ("2 50 [False, False]\n", 0)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes as Linux shows them")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(vision.data.__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(is_running(pid) for pid in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in workers)
