"""Autoencoders: the encoder is a classifier, the decoder's way back is as long, errors say what would fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError

PAIRS = {  # an autoencoder and the classifier that its encoder is
    "autoencoder": (dict(hidden=(12, 8), latent=3), ("mlp", dict(hidden=(12, 8)))),
    "conv_autoencoder": (
        dict(stage_sizes=(1, 1), width=4, latent=3),
        ("resnet", dict(stage_sizes=(1, 1), width=4, small_images=True)),
    ),
    "mae": (
        dict(patch_size=4, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2),
        ("vit", dict(patch_size=4, width=8, depth=1, heads=2, positions="sincos")),
    ),
}


def shapes(name, arguments, num_classes=None, side=8):
    return models.variable_shapes(models.create(name, num_classes, **arguments), (side, side, 3))


@pytest.mark.parametrize("name", PAIRS)
def test_the_encoder_is_the_classifier_without_its_head(name):
    arguments, (classifier, fields) = PAIRS[name]
    own, other = shapes(name, arguments), shapes(classifier, fields, 5)
    encoder = {part: tree["encoder"] for part, tree in own.items()}
    assert set(other["params"]) - set(encoder["params"]) == {"head"}
    other["params"].pop("head")
    assert jax.tree.map(jnp.shape, encoder) == jax.tree.map(jnp.shape, other)


@functools.cache
def small(**arguments):
    model = models.create("conv_autoencoder", **PAIRS["conv_autoencoder"][0], **arguments)
    return model, models.initialize(model, jax.random.key(0), (8, 12, 3))


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_shapes(upsampling):
    model, variables = small(upsampling=upsampling)
    image = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
    outputs = jax.jit(model.apply)(variables, image)
    assert outputs["code"].shape == (2, 4, 6, 3) and outputs["reconstruction"].shape == image.shape
    assert set(outputs["features"]) == {1, 2}
    assert outputs["reconstruction"].min() > 0 and outputs["reconstruction"].max() < 1
    expected = 1 / (1 + np.exp(-outputs["reconstruction_logits"]))
    np.testing.assert_allclose(outputs["reconstruction"], expected, rtol=1e-5)


def test_the_image_comes_from_the_code_alone():
    """Nothing goes around the bottleneck: with a code of zeros all images are alike."""
    model, variables = small()
    params = {**variables["params"], "code": jax.tree.map(jnp.zeros_like, variables["params"]["code"])}
    image = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
    first, second = model.apply({**variables, "params": params}, image)["reconstruction"]
    np.testing.assert_array_equal(first, second)
    first, second = model.apply(variables, image)["reconstruction"]
    assert not np.allclose(first, second)


def test_parameters_by_hand():
    """3x3 convolutions without bias before norms; the encoder counted as the classifier without its head."""
    encoder = 3 * 9 * 4 + 8 + 2 * (16 * 9 + 8) + (32 * 9 + 16) + (64 * 9 + 16) + (32 + 16)
    decoder = (8 * 3 + 3) + (3 * 9 * 4 + 8) + (4 * 9 * 3 + 3)
    given = shapes("conv_autoencoder", PAIRS["conv_autoencoder"][0])["params"]
    assert models.count_parameters(given) == encoder + decoder


@pytest.mark.parametrize("small_images, stride", [(True, 2), (False, 8)])
def test_as_many_doublings_as_halvings(small_images, stride):
    arguments = PAIRS["conv_autoencoder"][0] | dict(small_images=small_images)
    model = models.create("conv_autoencoder", **arguments)
    image = jnp.zeros((1, 2 * stride, stride, 1))
    outputs = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image)[0])
    assert outputs["reconstruction"].shape == image.shape and outputs["code"].shape == (1, 2, 1, 3)


def test_sides_that_do_not_come_back():
    with pytest.raises(
        UsageError, match=r"divides sides by 4, which an image of 30x33 .* resize it to 28x32 or 32x36,"
    ):
        models.variable_shapes(models.create("conv_autoencoder"), (30, 33, 1))


def test_batch_statistics_are_learned():
    model, variables = small()
    image = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
    _, state = model.apply(variables, image, train=True, mutable=["batch_stats"])
    means = jax.tree.leaves(
        jax.tree.map(lambda a, b: np.abs(a - b).max(), state, {"batch_stats": variables["batch_stats"]})
    )
    assert min(means) > 0 and {"encoder", "norm_1"} == set(state["batch_stats"])
