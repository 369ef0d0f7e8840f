"""`python -m launch.features`: the file it writes, and what the probes say."""

import numpy as np
import pytest

import vision
from vision.data import digits

RUN = "--workdir=runs/digits-mlp"
MISTAKES = [
    ([RUN, "--probe=forest"], "--probe: unknown probe 'forest'"),
    ([RUN, "--output=pooling"], "--output: unknown output of the network 'pooling'; did you mean 'pooled'?"),
    ([RUN, "--out=features.csv"], "features are written as .npz"),
    ([RUN, "--config=configs/digits.py"], "give one of the two"),
    (["--config=configs/digits.py"], "config.init.weights is not set"),
    ([RUN, "--config.seed=1"], "a run has the config it was trained with"),
    ([], "--workdir is missing"),
]


@pytest.fixture(scope="module")
def finished(launcher, trained):
    """The command with both probes, and with wrong arguments, in one process."""
    assert trained.code == 0, trained.err
    right = [RUN, "--out=out/digits.npz", "--output=logits", "--probe=logistic", "--probe=knn"]
    return launcher.run_many("features", [right, *(arguments for arguments, _ in MISTAKES)])


@pytest.fixture(scope="module")
def written(finished):
    return finished[0]


def test_features_are_those_of_the_network_in_the_order_of_the_data(launcher, written):
    assert written.code == 0, written.err
    images, labels = digits.load()
    test = digits.test_indices(labels)
    run = vision.load(launcher.folder / "runs" / "digits-mlp")
    with np.load(launcher.folder / "out" / "digits.npz") as file:
        assert file["train_features"].shape == (1437, 10)
        assert file["test_features"].shape == (360, 10)
        np.testing.assert_array_equal(file["test_label"], labels[test])
        np.testing.assert_array_equal(file["test_index"], np.arange(360))
        expected = run.model.apply(run.variables, run.network.preprocess(images[test]), train=False)["logits"]
        np.testing.assert_allclose(file["test_features"], expected, rtol=1e-4, atol=1e-4)


def test_probes_learn_from_them(written):
    rows = {line.split()[0]: line.split()[1:] for line in written.out.splitlines() if line.startswith("  ")}
    assert rows["probe"] == ["train", "test"]
    assert float(rows["logistic"][1]) > 0.8 and float(rows["knn"][1]) > 0.8


def test_errors(finished):
    for done, (_, message) in zip(finished[1:], MISTAKES, strict=True):
        assert done.code == 1 and message in done.err and "Traceback" not in done.err
