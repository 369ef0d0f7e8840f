"""Linear, MLP, LeNet and autoencoder against what their layers compute in NumPy."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError


def test_linear_and_mlp_equal_numpy():
    image = np.random.default_rng(0).standard_normal((3, 4, 5, 2)).astype(np.float32)
    for name, arguments in (("linear", {}), ("mlp", {"hidden": (7, 6), "activation": "tanh"})):
        model = models.create(name, 4, **arguments)
        variables = models.initialize(model, jax.random.key(0), image.shape[1:])
        x = image.reshape(3, -1)
        for layer in ("dense_1", "dense_2")[: len(arguments.get("hidden", ()))]:
            x = np.tanh(x @ variables["params"][layer]["kernel"] + variables["params"][layer]["bias"])
        expected = x @ variables["params"]["head"]["kernel"] + variables["params"]["head"]["bias"]
        np.testing.assert_allclose(model.apply(variables, image)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_replaces_the_bias():
    shapes = models.variable_shapes(models.create("mlp", 4, hidden=(7,), batch_norm=True), (4, 4, 1))
    assert set(shapes["params"]["dense_1"]) == {"kernel"} and shapes["batch_stats"]["norm_1"]["mean"].shape == (7,)


@pytest.mark.parametrize("side, channels, pooled", [(8, 1, 5), (28, 1, 5), (32, 3, 5), (64, 3, 13)])
def test_lenet_takes_any_size(side, channels, pooled):
    shapes = models.variable_shapes(models.create("lenet", 10), (side, side, channels))
    assert shapes["params"]["dense_1"]["kernel"].shape == (pooled * pooled * 16, 120)


def test_lenet_centres_small_images():
    model = models.create("lenet", 10)
    image = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    variables = models.initialize(model, jax.random.key(1), (28, 28, 1))
    centred = jnp.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(model.apply(variables, image)["logits"], model.apply(variables, centred)["logits"])


def test_lenet_field_has_a_least_size():
    with pytest.raises(UsageError, match="field 12 is too small"):
        models.variable_shapes(models.create("lenet", 10, field=12), (8, 8, 1))


def test_autoencoder_mirrors_its_encoder():
    model = models.create("autoencoder", hidden=(32, 16), latent=4)
    variables = models.initialize(model, jax.random.key(0), (8, 8, 1))
    image = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))
    outputs = model.apply(variables, image)
    assert outputs["reconstruction"].shape == image.shape and outputs["code"].shape == (5, 4)
    assert float(outputs["reconstruction"].min()) > 0 and float(outputs["reconstruction"].max()) < 1
    shapes = flax.traverse_util.flatten_dict(jax.tree.map(np.shape, variables["params"]), sep="/")
    names = ("encoder/dense_1", "encoder/dense_2", "code", "decoder/dense_1", "decoder/dense_2", "pixels")
    sizes = [shapes[f"{name}/kernel"] for name in names]
    assert sizes == [(64, 32), (32, 16), (16, 4), (4, 16), (16, 32), (32, 64)]
    logits = outputs["reconstruction_logits"]
    np.testing.assert_allclose(outputs["reconstruction"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
