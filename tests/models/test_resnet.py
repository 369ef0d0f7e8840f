"""Residual networks: strides, names, the identity at the start, and options that must not change the numbers."""

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.models import layers


def shapes_of(model, *image_shape):
    variables = models.variable_shapes(model, image_shape[1:])
    return jax.eval_shape(model.apply, variables, jnp.zeros(image_shape))


@pytest.mark.parametrize("name, expansion", [("resnet18", 1), ("resnet50", 4)])
def test_features_by_stride(name, expansion):
    outputs = shapes_of(models.create(name, 10), 2, 64, 96, 3)
    expected = {s: (2, 64 // s, 96 // s, c * expansion) for s, c in ((4, 64), (8, 128), (16, 256), (32, 512))}
    assert {stride: features.shape for stride, features in outputs["features"].items()} == expected
    assert outputs["pooled"].shape == (2, 512 * expansion)


def test_features_of_the_small_image_form():
    outputs = shapes_of(models.create("resnet18", 10, small_images=True), 2, 32, 32, 3)
    assert [(s, f.shape[1]) for s, f in outputs["features"].items()] == [(1, 32), (2, 16), (4, 8), (8, 4)]


def test_odd_sizes_round_up_as_with_pytorch():
    outputs = shapes_of(models.create("resnet50", 10), 1, 97, 131, 3)
    assert [f.shape[1:3] for f in outputs["features"].values()] == [(25, 33), (13, 17), (7, 9), (4, 5)]


def test_parameter_names():
    shapes = models.variable_shapes(models.create("resnet50", 10), (64, 64, 3))
    names = list(flax.traverse_util.flatten_dict(shapes["params"], sep="/"))
    pattern = r"stem/(conv|norm)/\w+|stage_[1-4]/block_\d/(conv_[123]|norm_[123]|shortcut_(conv|norm))/\w+|head/\w+"
    assert all(re.fullmatch(pattern, name) for name in names)
    assert {"stem/conv/kernel", "stage_1/block_1/shortcut_conv/kernel", "stage_4/block_3/norm_3/scale"} <= set(names)
    assert "stage_1/block_2/shortcut_conv/kernel" not in names


@functools.cache
def small(**arguments):
    model = models.create("resnet", 3, stage_sizes=(1, 2), width=4, **arguments)
    return (
        model,
        models.initialize(model, jax.random.key(0), (16, 16, 3)),
        jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 16, 3)), jnp.float32),
    )


def test_zero_init_makes_blocks_their_shortcuts():
    model, variables, image = small(zero_init_residual=True)
    outputs, _ = model.apply(variables, image, train=True, mutable=["batch_stats"])
    block = variables["params"]["stage_2"]["block_1"]
    x = outputs["features"][4]
    shortcut = x[:, ::2, ::2] @ block["shortcut_conv"]["kernel"][0, 0]
    shortcut = (shortcut - shortcut.mean((0, 1, 2))) / np.sqrt(shortcut.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(outputs["features"][8], np.maximum(shortcut, 0), atol=1e-4)


@pytest.mark.parametrize("swap", ["remat", "conv"])
def test_remat_and_flax_convolution_change_nothing(swap):
    import flax.linen as nn

    model, variables, image = small()
    changed = model.clone(remat=True) if swap == "remat" else model.clone(conv=nn.Conv)

    def step(model, params):
        def loss(params):
            given = {**variables, "params": params}
            outputs, state = model.apply(given, image, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(outputs["logits"])), state

        return jax.grad(loss, has_aux=True)(params)

    expected, given = (jax.jit(functools.partial(step, m))(variables["params"]) for m in (model, changed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, expected)


def test_norm_factory_is_replaced_from_outside():
    model, variables, image = small()
    synced = model.clone(norm=functools.partial(model.norm, axis_name="devices"))
    halves = image.reshape(2, 2, *image.shape[1:])
    apply = jax.vmap(
        lambda half: synced.apply(variables, half, train=True, mutable=["batch_stats"]), axis_name="devices"
    )
    given, state = apply(halves)
    expected, expected_state = model.apply(variables, image, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(given["logits"].reshape(4, -1), expected["logits"], rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5), state, expected_state)


def test_initial_spread_is_he_fan_out():
    kernel = models.initialize(models.create("resnet", 3, stage_sizes=(1,)), jax.random.key(0), (16, 16, 3))
    kernel = kernel["params"]["stage_1"]["block_1"]["conv_1"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert layers.BatchNorm.keywords == {"momentum": 0.9, "epsilon": 1e-5}
