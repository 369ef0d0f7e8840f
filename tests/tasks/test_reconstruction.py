"""Reconstruction errors against NumPy."""

import numpy as np
import pytest

from vision import tasks

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)
OUTPUT = RNG.uniform(0.05, 0.95, (5, 4, 4, 1)).astype(np.float32)
MASK = np.array([1, 1, 1, 1, 0], np.float32)
TRUTH = IMAGE / 255.0

EXPECTED = {
    "squared": (OUTPUT - TRUTH) ** 2,
    "absolute": np.abs(OUTPUT - TRUTH),
    "cross_entropy": -(TRUTH * np.log(OUTPUT) + (1 - TRUTH) * np.log(1 - OUTPUT)),
}


@pytest.mark.parametrize("error", EXPECTED)
def test_loss(error):
    task = tasks.create("reconstruction", error=error)
    (term,) = task.loss({"reconstruction": OUTPUT}, {"image": IMAGE, "mask": MASK}).values()
    np.testing.assert_allclose(term.total / term.count, EXPECTED[error][:4].mean(), rtol=1e-5)


def test_metrics_are_means_over_images():
    task = tasks.create("reconstruction")
    found = task.summarize(task.metrics({"reconstruction": OUTPUT}, {"image": IMAGE, "mask": MASK}))
    mse = ((OUTPUT - TRUTH) ** 2).mean(axis=(1, 2, 3))[:4]
    np.testing.assert_allclose(found["mse"], mse.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["psnr"], (-10 * np.log10(mse)).mean(), rtol=1e-5)
