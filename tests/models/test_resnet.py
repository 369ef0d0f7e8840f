"""Residual networks: strides, names, the identity at the start, and options that must not change the numbers."""

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import layers, resnet, resnet_cifar

pytestmark = pytest.mark.slow  # networks of many layers are traced


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


PUBLISHED = {  # torchvision's counts, 1000 classes; the paper's form of 2015 has as many
    "resnet50_v1": 25_557_032,
    "resnet101_v1": 44_549_160,
    "resnet152_v1": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "plain18": 11_689_512 - 173_824,  # ResNet-18 and 34 less their three projections
    "plain34": 21_797_672 - 173_824,
}
PUBLISHED_CIFAR = {  # 10 classes; table 6 rounds to 0.27, 0.46, 0.66, 0.85 and 1.7 million
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "plain20": 269_722,  # neither shortcut has parameters
    "plain56": 853_018,
    "wide_resnet28_10": 36_479_194,
}


def parameters(model, side):
    return models.count_parameters(models.variable_shapes(model, (side, side, 3))["params"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    assert parameters(resnet.VARIANTS[name](num_classes=1000), 64) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED_CIFAR)
def test_published_parameter_counts_for_cifar(name):
    assert parameters(resnet_cifar.VARIANTS[name](num_classes=10), 32) == PUBLISHED_CIFAR[name]


def test_keras_form_has_its_count():
    keras = resnet.VARIANTS["resnet50_v1"](num_classes=1000, conv_bias=True, norm_epsilon=1e-3)
    shapes = models.variable_shapes(keras, (64, 64, 3))
    assert models.count_parameters(shapes) == 25_636_712  # Keras counts the stored statistics too


def test_cifar_networks_end_in_an_eighth_of_the_resolution():
    outputs = shapes_of(resnet_cifar.VARIANTS["resnet20"](num_classes=10), 2, 32, 32, 3)
    assert {s: f.shape for s, f in outputs["features"].items()} == {
        1: (2, 32, 32, 16),
        2: (2, 16, 16, 32),
        4: (2, 8, 8, 64),
    }


def test_stride_in_the_first_convolution_skips_every_second_pixel():
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    changed = image.copy()
    changed[:, 1::2], changed[:, :, 1::2] = 7.0, -7.0
    for stride_first in (True, False):
        block = resnet.BottleneckBlock(
            features=16, width=4, stride=2, conv=layers.Conv, norm=layers.BatchNorm, activate=jax.nn.relu,
            stride_first=stride_first,
        )  # fmt: skip
        variables = block.init(jax.random.key(0), image, False)
        given, expected = (block.apply(variables, x, False) for x in (changed, image))
        assert given.shape == (1, 4, 4, 16)
        assert np.array_equal(given, expected) == stride_first


def test_option_a_fills_up_with_zeros():
    model, variables, image = small(zero_init_residual=True, shortcut="padding", small_images=True)
    assert not any("shortcut" in name for name in flax.traverse_util.flatten_dict(variables["params"], sep="/"))
    outputs, _ = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(variables, image)
    x, y = outputs["features"][1], outputs["features"][2]
    np.testing.assert_array_equal(y[..., :4], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., 4:], 0)


def test_plain_network_has_no_way_around_a_branch():
    model, variables, image = small(zero_init_residual=True, shortcut="none")
    outputs = jax.jit(model.apply)(variables, image)
    assert not np.any(outputs["features"][4]) and not np.any(outputs["pooled"])


def test_biases_and_epsilon_shift_the_stored_statistics():
    """A convolution's bias moves the mean that follows it, and an epsilon adds to the variance."""
    plain, variables, image = small()
    keras = plain.clone(conv_bias=True, norm_epsilon=1e-3)
    given = models.initialize(keras, jax.random.key(0), (16, 16, 3))
    stats = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    params = flax.traverse_util.flatten_dict(variables["params"])
    for path in flax.traverse_util.flatten_dict(given["params"]):
        if path not in params:  # a convolution's bias
            params[path] = jnp.full(flax.traverse_util.flatten_dict(given["params"])[path].shape, 0.25)
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + (0.25 if path[-1].key == "mean" else -0.99e-3), stats
    )
    expected = jax.jit(plain.apply)({"params": variables["params"], "batch_stats": stats}, image)
    result = jax.jit(keras.apply)({"params": flax.traverse_util.unflatten_dict(params), "batch_stats": moved}, image)
    np.testing.assert_allclose(result["logits"], expected["logits"], rtol=1e-4, atol=1e-5)


def test_grouped_convolution_keeps_groups_apart():
    shapes = models.variable_shapes(resnet.VARIANTS["resnext50_32x4d"](num_classes=10), (64, 64, 3))["params"]
    assert shapes["stage_1"]["block_1"]["conv_2"]["kernel"].shape == (3, 3, 4, 128)
    assert shapes["stage_4"]["block_1"]["conv_2"]["kernel"].shape == (3, 3, 32, 1024)


def test_basic_blocks_have_no_groups():
    with pytest.raises(UsageError, match="are for block='bottleneck'; given None, 2 and False"):
        models.variable_shapes(resnet.ResNet(num_classes=3, groups=2), (32, 32, 3))
