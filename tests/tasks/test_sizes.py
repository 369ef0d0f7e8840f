"""Evaluating a segmentation of images of many sizes: three programs, and the scores of the images one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, tasks
from vision.data.pipeline import Pipeline
from vision.data.source import Source
from vision.train import evaluation, parallel, step

CLASSES, IMAGES = 3, 500
BUCKETS = ((16, 32), (32, 16), (32, 32))
TASK = tasks.create("segmentation", num_classes=CLASSES)


class Sizes:
    """500 images of any height and width up to 32, with ignored pixels, and every class somewhere."""

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        shape = tuple(rng.integers(4, 33, 2))
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        truth = (image[..., 0] // 86).astype(np.uint8)
        truth[rng.random(shape) < 0.1] = 255
        return {"image": image, "segmentation": truth}

    def describe(self, index):
        return str(index)

    def labels(self):
        return None


class Pixels(nn.Module):
    """A network that sees one pixel at a time, and therefore no padding."""

    @nn.compact
    def __call__(self, image, train=False):
        del train
        return {"logits": nn.Dense(CLASSES)(image)}


def scaled(image):
    return image.astype(jnp.float32) / 255


def evaluated(model, variables, batch_size):
    """The scores of all images, and how many programs they took."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    compiled = parallel.compile_evaluation_step(step.make_evaluation_step(model, TASK, scaled), mesh)
    pipeline = Pipeline(Source("sizes", "", Sizes()), batch_size, f"pad_to({BUCKETS})", train=False)
    return evaluation.evaluate(compiled, variables, pipeline, TASK, mesh).metrics, compiled._cache_size()


@pytest.mark.slow
def test_batches_score_as_the_images_one_by_one():
    """A network that looks around: the other images of a batch are nothing to it."""
    model = models.create("unet", CLASSES, width=4, depth=2)
    variables = models.initialize(model, jax.random.key(0), (32, 32, 3))
    together, programs = evaluated(model, variables, 16)
    alone, _ = evaluated(model, variables, 1)
    assert programs == 3
    for name in ("mean_iou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1", "loss"):
        assert together[name] == pytest.approx(alone[name], abs=1e-6), name


def test_padding_counts_nowhere():
    """A network of single pixels scores as NumPy says of the images as they are, without a bucket."""
    model = Pixels()
    variables = model.init(jax.random.key(1), jnp.zeros((1, 4, 4, 3)))
    found, programs = evaluated(model, variables, 16)
    assert programs == 3
    kernel, bias = (np.asarray(variables["params"]["Dense_0"][name]) for name in ("kernel", "bias"))
    confusion = np.zeros((CLASSES, CLASSES))
    for index in range(IMAGES):
        example = Sizes()[index]
        said = np.argmax(example["image"] / np.float32(255) @ kernel + bias, axis=-1)
        known = example["segmentation"] != 255
        np.add.at(confusion, (example["segmentation"][known], said[known]), 1)
    right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    assert found["mean_iou"] == pytest.approx(np.mean(right / (true + predicted - right)), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(right.sum() / confusion.sum(), abs=1e-6)
