"""Pre-activation networks: counts, standardised kernels, group norm in batch norm's place, the clean shortcut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.models import layers, resnet_v2

IN_MILLIONS = {  # as timm's tables give them
    "resnetv2_50x3_bit": 217.32,
    "resnetv2_101x1_bit": 44.54,
    "resnetv2_101x3_bit": 387.93,
    "resnetv2_152x2_bit": 236.34,
    "resnetv2_152x4_bit": 936.53,
}


@functools.cache
def small(**arguments):
    model = resnet_v2.ResNetV2(num_classes=3, width=32, **({"stage_sizes": (2, 1)} | arguments))
    random = np.random.default_rng(0)  # takes no compiling
    scaled = lambda shape: random.standard_normal(shape) / max(np.prod(shape[:-1]), 1) ** 0.5  # noqa: E731
    shapes = models.variable_shapes(model, (16, 16, 3))
    variables = jax.tree.map(lambda leaf: jnp.asarray(scaled(leaf.shape), jnp.float32), shapes)
    return model, variables, random.standard_normal((3, 16, 16, 3), np.float32)


def parameters(name):
    shapes = models.variable_shapes(resnet_v2.VARIANTS[name](num_classes=1000), (64, 64, 3))
    return models.count_parameters(shapes["params"])


SLOW = sorted(IN_MILLIONS.keys() - {"resnetv2_101x1_bit"})


@pytest.mark.parametrize("name", ["resnetv2_101x1_bit", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_published_parameter_counts(name):
    assert parameters(name) / 1e6 == pytest.approx(IN_MILLIONS[name], abs=0.005)


def test_published_parameter_count_of_the_smallest():
    assert parameters("resnetv2_50x1_bit") == 25_549_352


def test_features_by_stride():
    model = resnet_v2.VARIANTS["resnetv2_50x1_bit"](num_classes=10)
    variables = models.variable_shapes(model, (64, 96, 3))
    assert set(variables) == {"params"}
    outputs = jax.eval_shape(model.apply, variables, jnp.zeros((2, 64, 96, 3)))
    expected = {s: (2, 64 // s, 96 // s, 64 * s) for s in (4, 8, 16, 32)}
    assert {stride: features.shape for stride, features in outputs["features"].items()} == expected


def test_standardised_kernels_forget_scale_and_offset():
    random = np.random.default_rng(0)
    image, kernel = (random.standard_normal(shape, np.float32) for shape in ((1, 6, 6, 4), (3, 3, 4, 5)))
    apply = jax.jit(resnet_v2.StandardizedConv(5, (3, 3), padding=1).apply)
    scale, offset = np.array([0.5, 1, 2, 3, 4]), np.array([0, 1, -1, 2, -2])
    given, expected = (
        apply({"params": {"kernel": k}}, image) for k in ((kernel * scale + offset).astype(np.float32), kernel)
    )
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)
    flat = np.asarray(kernel, np.float64).reshape(-1, 5)
    standard = ((flat - flat.mean(0)) / flat.std(0)).reshape(kernel.shape)
    window = np.asarray(image)[0, 1:4, 2:5]  # centred on (2, 3)
    np.testing.assert_allclose(expected[0, 2, 3], np.einsum("hwi,hwio->o", window, standard), rtol=1e-4, atol=1e-4)


def test_a_block_without_its_last_kernel_is_the_identity():
    model, variables, image = small()
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    first = params["stage_1"]["block_1"]
    for block in params["stage_1"].values():
        block["conv_3"]["kernel"] = jnp.zeros_like(block["conv_3"]["kernel"])
    apply = jax.jit(model.apply)
    features = apply({"params": params}, image)["features"][4]
    # What is left of the stage is its first projection, of which negative values pass: nothing is activated after.
    assert np.any(features < 0)
    params["stage_1"]["block_2"] = jax.tree.map(lambda leaf: 3 * leaf, params["stage_1"]["block_2"])
    np.testing.assert_array_equal(apply({"params": params}, image)["features"][4], features)
    assert set(first) == {"norm_1", "conv_1", "norm_2", "conv_2", "norm_3", "conv_3", "shortcut_conv"}


def test_examples_do_not_see_each_other():
    model, variables, image = small()
    apply = jax.jit(lambda image: model.apply(variables, image, train=True)["pooled"])
    alone, together = jnp.concatenate([apply(image[i : i + 1]) for i in range(3)]), apply(image)
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_zeros_take_part_in_the_pooling_of_the_stem():
    model = resnet_v2.ResNetV2(num_classes=None, stage_sizes=(1,), width=32)
    image = jnp.ones((1, 8, 8, 3))
    variables = models.initialize(model, jax.random.key(0), (8, 8, 3))
    apply = functools.partial(model.apply, capture_intermediates=lambda module, _: module.name == "stem_conv")
    outputs, state = jax.jit(apply)(variables, image)
    stem = np.asarray(state["intermediates"]["stem_conv"]["__call__"][0])
    assert np.any(stem[:, :2, :2].max((1, 2)) < 0)  # so that the test can tell
    block = resnet_v2.PreactivationBlock(
        (1, 3, 1), (32, 32, 128), 1, resnet_v2.StandardizedConv, resnet_v2.group_norm, jax.nn.relu, 0.0
    )
    padded = np.pad(stem, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pooled = np.stack([np.stack([padded[:, i : i + 3, j : j + 3].max((1, 2)) for j in (0, 2)], 1) for i in (0, 2)], 1)
    y = jax.jit(lambda x: block.apply({"params": variables["params"]["stage_1"]["block_1"]}, x, False))(pooled)
    norm = resnet_v2.group_norm().apply({"params": variables["params"]["norm"]}, y)
    expected = np.maximum(norm, 0).mean((1, 2))
    np.testing.assert_allclose(outputs["pooled"], expected, rtol=1e-4, atol=1e-4)


def test_remat_changes_nothing():
    model, variables, image = small(stage_sizes=(1,))

    def gradient(model):
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(model.apply(v, image)["pooled"]))))(variables)

    given, expected = gradient(model.clone(remat=True)), gradient(model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), given, expected)


def test_norms_take_the_axis_of_batch_norms():
    model, variables, image = small()
    synced = model.clone(norm=functools.partial(model.norm, axis_name="devices"))
    given, expected = (
        jax.make_jaxpr(functools.partial(m.apply, train=True))(variables, image) for m in (synced, model)
    )
    assert str(given) == str(expected)


def test_batch_norm_and_plain_convolutions_fit_in():
    model = resnet_v2.ResNetV2(3, (1, 1), "basic", 8, small_images=True, conv=layers.Conv, norm=layers.BatchNorm)
    shapes = models.variable_shapes(model, (8, 8, 3))
    assert set(shapes["batch_stats"]["stage_2"]["block_1"]) == {"norm_1", "norm_2"}
    assert "bias" not in shapes["params"]["stem_conv"]
