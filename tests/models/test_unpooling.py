"""Layers that enlarge maps, and the networks that unpool by switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models.upsampling import Upsample
from vision.ops.upsampling import bilinear


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("factor", [2, 4])
def test_learnt_upsampling_starts_as_bilinear_interpolation(factor):
    x = random(1, 5, 6, 3)
    layer = Upsample("transposed", factor, overlap=True)
    given, variables = layer.init_with_output(jax.random.key(0), x)
    assert variables["params"]["transposed"]["kernel"].shape == (2 * factor, 2 * factor, 3, 3)
    expected = bilinear(x, (5 * factor, 6 * factor))
    inner = slice(factor // 2, -(factor // 2))  # the edges fade out
    np.testing.assert_allclose(given[:, inner, inner], expected[:, inner, inner], atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bed_of_nails", "transposed"])
def test_sizes_and_channels(method):
    x = random(1, 4, 5, 3)

    def shapes(layer, *size):
        return jax.eval_shape(lambda key: layer.init_with_output(key, x, *size), jax.random.key(0))

    assert shapes(Upsample(method, 2))[0].shape == (1, 8, 10, 3)
    for size in ((7, 9), (9, 10)):
        result, variables = shapes(Upsample(method, 2, 6), size)
        assert result.shape == (1, *size, 6)
    assert set(variables["params"]) == {"transposed" if method == "transposed" else "projection"}


def test_unpooling_needs_switches():
    with pytest.raises(UsageError, match="needs the switches of a pooling"):
        Upsample("max_unpool").init(jax.random.key(0), random(1, 2, 2, 1))


def test_only_the_places_of_maxima_are_filled():
    """Swapping two pixels of a window moves what SegNet's decoder puts there; without switches it would not."""
    fields = {"num_classes": 2, "stage_sizes": (1,), "width": 2, "batch_norm": False}
    image = np.abs(np.asarray(random(1, 4, 4, 1)))
    model = models.create("segnet", **fields)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), models.variable_shapes(model, (4, 4, 1)))
    params = variables["params"]
    params["stage_1"]["conv_1"]["kernel"][1, 1] = 1  # passes the image on
    params["head"]["kernel"][1, 1, :, 0] = 0.5
    logits = np.asarray(model.apply(variables, image)["logits"])[0, :, :, 0]
    windows = image[0, :, :, 0].reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    expected = np.where(windows == windows.max(axis=1, keepdims=True), windows, 0)
    np.testing.assert_allclose(logits.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4), expected, rtol=1e-6)
    smooth = np.asarray(model.clone(upsampling="nearest").apply(variables, image)["logits"])[0, :, :, 0]
    np.testing.assert_allclose(smooth[::2, ::2].ravel(), windows.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize("name, fields", [("segnet", {}), ("deconvnet", {"window": 3, "hidden": 8})])
def test_any_size_and_the_smallest(name, fields):
    model = models.create(name, 5, width=2, **fields)
    for size in ((97, 131), (96, 224)):
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        outputs = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)
        assert outputs["logits"].shape == (1, *size, 5)
        assert outputs["features"][4].shape[1:3] == (size[0] // 4, size[1] // 4)
    smallest = 96 if name == "deconvnet" else 32
    with pytest.raises(UsageError, match=rf"{name}: .* both sides need at least {smallest} pixels"):
        models.variable_shapes(model, (smallest - 1, smallest, 3))
