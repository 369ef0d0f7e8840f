"""Reconstruction errors against NumPy."""

import numpy as np
import pytest

from vision import tasks
from vision.errors import UsageError

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


def metrics(task, outputs, batch):
    return task.summarize(task.metrics(outputs, batch))


def decibels(values):
    return -10 * np.log10(values.mean(axis=(1, 2, 3)))


def test_the_clean_image_is_the_truth_where_there_is_one():
    clean = RNG.integers(0, 256, IMAGE.shape).astype(np.uint8)
    batch = {"image": IMAGE, "target": clean, "mask": MASK}
    task = tasks.create("reconstruction")
    (term,) = task.loss({"reconstruction": OUTPUT}, batch).values()
    error = (OUTPUT - clean / 255.0)[:4] ** 2
    np.testing.assert_allclose(term.total / term.count, error.mean(), rtol=1e-5)
    found = metrics(task, {"reconstruction": OUTPUT}, batch)
    np.testing.assert_allclose(found["psnr"], decibels(error).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["input_psnr"], decibels((IMAGE - clean.astype(float))[:4] ** 2 / 255**2).mean())
    assert "input_psnr" not in metrics(task, {"reconstruction": OUTPUT}, {"image": IMAGE, "mask": MASK})


MASKED = np.zeros((5, 2, 2), np.float32)
MASKED[:, 0, 1] = MASKED[:, 1, 0] = 1
HIDDEN = MASKED.repeat(2, 1).repeat(2, 2)[..., None] > 0


@pytest.mark.parametrize("error", EXPECTED)
def test_hidden_patches_alone_count(error):
    task = tasks.create("reconstruction", error=error)
    batch = {"image": IMAGE, "mask": MASK}
    outputs = {"reconstruction": OUTPUT, "masked": MASKED}
    (term,) = task.loss(outputs, batch).values()
    np.testing.assert_allclose(term.total / term.count, EXPECTED[error][:4][HIDDEN[:4]].mean(), rtol=1e-5)
    elsewhere = np.where(HIDDEN, OUTPUT, RNG.uniform(0.05, 0.95, OUTPUT.shape)).astype(np.float32)
    assert metrics(task, outputs | {"reconstruction": elsewhere}, batch) == metrics(task, outputs, batch)
    assert set(task.predict(outputs, {})) == {"reconstruction", "masked"}


def test_normalized_targets():
    task = tasks.create("reconstruction", normalize_targets=True)
    image = RNG.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    logits = RNG.normal(size=image.shape).astype(np.float32)
    normal, shown = np.zeros(image.shape), np.zeros(image.shape)
    for b, row, column in np.ndindex(2, 2, 2):
        patch = (b, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        truth = image[patch] / 255
        normal[patch] = (truth - truth.mean()) / truth.std()
        shown[patch] = logits[patch] * truth.std() + truth.mean()
    outputs = {"reconstruction": logits * np.nan, "reconstruction_logits": logits, "masked": MASKED[:2]}
    batch = {"image": image, "mask": np.ones(2, np.float32)}
    (term,) = task.loss(outputs, batch).values()
    hidden = np.broadcast_to(HIDDEN[:2], image.shape)
    np.testing.assert_allclose(term.total / term.count, ((logits - normal) ** 2)[hidden].mean(), rtol=1e-3)
    expected = ((np.clip(shown, 0, 1) - image / 255) ** 2)[hidden].mean()
    np.testing.assert_allclose(metrics(task, outputs, batch)["mse"], expected, rtol=1e-3)
    assert set(task.predict(outputs, {})) == {"normalized_reconstruction", "masked"}
    with pytest.raises(UsageError, match=r"normalised targets are no probabilities"):
        tasks.create("reconstruction", normalize_targets=True, error="cross_entropy")
