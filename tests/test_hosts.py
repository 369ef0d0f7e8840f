"""`fit` on two hosts, as two processes on loopback: the numbers of one host, one log, one set of files, and resuming.

This file is also the script that runs in each process: `test_hosts.py PORT INDEX WORKDIR STEPS`.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def config(steps):
    from vision.config import thaw

    transforms = "decode(channels=1)|translate(0.1)"
    return thaw(
        {
            "model": {"name": "mlp", "hidden": (16,), "batch_norm": True},
            "task": {"name": "classification"},
            "data": {
                "preprocess": {"name": "standardize"},
                "train": {"name": "digits", "split": "train", "batch_size": 32, "transforms": transforms},
                "eval": {
                    "test": {"name": "digits", "split": "test", "batch_size": 100, "transforms": "decode(channels=1)"}
                },
            },
            "optimizer": {"name": "momentum", "momentum": 0.9, "learning_rate": 0.05, "ema": 0.9},
            "train": {"steps": steps},
            "evaluate": {"every": 5},
            "checkpoint": {"every": 5, "keep": 1},
            "log": {"every": 5},
        }
    )


def main(port, index, workdir, steps):
    """One host of two."""
    import jax

    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    from vision.training import fit

    run = fit(config(steps), workdir)
    print(f"host {index} ends at step {run.step}")


def two_hosts(workdir, steps):
    """What both processes printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(port)]
    hosts = [
        subprocess.Popen(
            [*command, str(index), str(workdir), str(steps)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [host.communicate(timeout=240) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    for host, (_, error) in zip(hosts, outputs, strict=True):
        assert host.returncode == 0, error[-3000:]
    return [output for output, _ in outputs]


@pytest.mark.slow
def test_two_hosts_train_and_go_on_as_one(tmp_path):
    from vision.train.writers import read_metrics
    from vision.training import fit

    first, second = two_hosts(tmp_path / "two", 10)
    assert "step 10/10" in first and "host 0 ends at step 10" in first
    # One of them speaks; the other has only its own line and that of the network library.
    assert [line for line in second.splitlines() if "Gloo" not in line] == ["host 1 ends at step 10"]
    # Rows that a killed process 0 left behind must not make the hosts disagree about what is the best.
    with open(tmp_path / "two" / "metrics.jsonl", "a") as file:
        file.write('{"step": 14, "test/accuracy": 1.0}\n')
    first, _ = two_hosts(tmp_path / "two", 20)
    assert "Going on from the checkpoint of step 10" in first

    fit(config(20), tmp_path / "one")
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one] == [5, 10, 15, 20]
    # The run of one host is longer in one go: its schedule is constant, so that nothing else differs.
    for name in ("train/loss", "test/loss", "test/accuracy", "train/grad_norm"):
        for a, b in zip(one, two, strict=True):
            assert b[name] == pytest.approx(a[name], rel=1e-5), (name, a["step"])
    assert (tmp_path / "two" / "log.txt").read_text().count("step 20/20  test/") == 1


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
