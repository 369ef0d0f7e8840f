"""`python -m launch.rcnn`: what it prints and writes, and what it says of mistakes."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def finished(launcher, trained):
    """The command on fake images with a small run, and with wrong arguments, in one process."""
    assert trained.code == 0, trained.err
    run, data = "--workdir=runs/digits-mlp", "--data=fake_detection:48x64x3:3:6"
    lists = [
        [run, data, "--train_split=train", "--out=out/rcnn", "--max_proposals=30", "--max_images=4"],
        [run],
        [run, "--data=digits"],
        [data],
        [run, data, "--output=pooling"],
        [run, data, "photos"],
    ]
    return launcher.run_many("rcnn", lists)


def test_average_precision_is_printed_and_kept(launcher, finished):
    done = finished[0]
    assert done.code is None or done.code == 0, done.err
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith("  ")}
    assert set(rows) == {"class", "all", "0", "1", "2"} and rows["class"] == ["AP", "AP50"]
    out = launcher.folder / "out" / "rcnn"
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 1
    with np.load(out / "heads.npz") as heads:
        assert heads["weights"].shape == (32, 3) and heads["offset_weights"].shape == (32, 3, 4)
        assert list(heads["class_names"]) == ["0", "1", "2"]
    assert (out / "detections.png").stat().st_size > 1000 and (out / "precision_recall.png").exists()


def test_mistakes_are_told(finished):
    messages = [
        "--data is missing",
        "has no images with boxes",
        "--workdir is missing",
        "unknown output of the network 'pooling'; did you mean 'pooled'?",
        "unexpected argument 'photos'",
    ]
    for done, message in zip(finished[1:], messages, strict=True):
        assert done.code == 1 and message in done.err and "Traceback" not in done.err, done.err
