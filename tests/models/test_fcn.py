"""FCN against VGG applied to every window, and against the published crops; its head on other networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import fcn, vgg
from vision.models.upsampling import bilinear_init
from vision.ops.upsampling import bilinear, bilinear_kernel, transposed_convolution

TINY = {"stage_sizes": (1, 1, 1, 1, 1), "width": 4, "hidden": 8}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_random_values(model, *image_shape):
    shapes = models.variable_shapes(model, image_shape)
    return jax.tree.map(lambda leaf: random(*leaf.shape) / max(np.prod(leaf.shape[:-1]), 1) ** 0.5, shapes)


def test_trunk_is_vgg_at_every_window():
    """On an image that the padding extends to 256 pixels, for VGG cuts off incomplete windows."""
    model = fcn.FCN(num_classes=3, stride=32, **TINY)
    image = random(1, 58, 58, 3)
    variables = with_random_values(model, 58, 58, 3)
    network = vgg.VGG(num_classes=3, stage_sizes=TINY["stage_sizes"], width=4, hidden=(8, 8), fully_convolutional=True)
    padded = jnp.pad(image, ((0, 0), (99, 99), (99, 99), (0, 0)))
    expected = jax.jit(network.apply)(variables, padded)
    given = jax.jit(model.apply)(variables, image)
    scores = given["features"][32] @ variables["params"]["head"]["kernel"] + variables["params"]["head"]["bias"]
    np.testing.assert_allclose(scores, expected["score_map"], rtol=1e-4, atol=1e-5)


def test_published_crops():
    """Score maps, summed and cropped at the offsets of the published networks: 5 and 9, then 19, 27 or 31."""
    height, width = 33, 58
    image = random(1, height, width, 3)
    variables = with_random_values(fcn.FCN(num_classes=2, stride=8, **TINY), height, width, 3)
    params = variables["params"]
    outputs = {
        stride: jax.jit(fcn.FCN(num_classes=2, stride=stride, **TINY).apply)(variables, image) for stride in (8, 16, 32)
    }
    features = outputs[8]["features"]

    def scored(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def upsampled(x, factor):
        kernel = np.einsum("hw,io->hwio", bilinear_kernel(2 * factor), np.eye(2, dtype=np.float32))
        return transposed_convolution(x, jnp.asarray(kernel), factor)

    def crop(x, offset, size):
        return x[:, offset : offset + size[0], offset : offset + size[1]]

    size = (height, width)
    score = scored("head", features[32])
    np.testing.assert_allclose(outputs[32]["logits"], crop(upsampled(score, 32), 19, size), atol=1e-5)
    score = upsampled(score, 2)
    score = score + crop(scored("score_4", features[16]), 5, score.shape[1:3])
    np.testing.assert_allclose(outputs[16]["logits"], crop(upsampled(score, 16), 27, size), atol=1e-5)
    score = upsampled(score, 2)
    score = score + crop(scored("score_3", features[8]), 9, score.shape[1:3])
    np.testing.assert_allclose(outputs[8]["logits"], crop(upsampled(score, 8), 31, size), atol=1e-5)


@pytest.mark.parametrize("padding, side", [(1, 64), (100, 58)])
def test_nothing_is_shifted(padding, side):
    """With symmetric kernels, and poolings that fit, the logits of a mirrored image are the mirrored logits."""
    model = fcn.FCN(num_classes=2, stride=8, padding=padding, **TINY)
    variables = with_random_values(model, side, side, 3)

    def symmetric(path, leaf):
        if path[-1].key != "kernel" or (leaf.ndim == 2 and "dense_1" not in str(path)):
            return leaf
        by_place = leaf if leaf.ndim == 4 else leaf.reshape(7, 7, -1, leaf.shape[-1])
        return (by_place + by_place[::-1, ::-1]).reshape(leaf.shape)

    variables = jax.tree_util.tree_map_with_path(symmetric, variables)
    image = random(1, side, side, 3)
    apply = jax.jit(lambda image: model.apply(variables, image)["logits"])
    np.testing.assert_allclose(apply(image[:, ::-1, ::-1]), apply(image)[:, ::-1, ::-1], rtol=1e-3, atol=1e-4)


def test_learnt_upsampling_starts_as_the_fixed_one():
    image = random(1, 40, 35, 3)
    fixed = fcn.FCN(num_classes=2, stride=8, padding=1, **TINY)
    learned = fixed.clone(learned="all")
    variables = with_random_values(fixed, 40, 35, 3)
    params = dict(variables["params"])
    for name, factor in (("upsample_4", 2), ("upsample_3", 2), ("upsample", 8)):
        params[name] = {"kernel": bilinear_init(None, (2 * factor, 2 * factor, 2, 2))}
    shapes = models.variable_shapes(learned, (40, 35, 3))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    given = jax.jit(learned.apply)({"params": params}, image)["logits"]
    np.testing.assert_allclose(given, jax.jit(fixed.apply)(variables, image)["logits"], atol=1e-5)


@pytest.mark.parametrize("padding", [1, 100])
def test_any_size(padding):
    for stride, height, width in ((8, 1, 1), (8, 31, 97), (16, 63, 34), (32, 500, 375)):
        model = fcn.FCN(num_classes=2, stride=stride, padding=padding, **TINY)
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        outputs = jax.eval_shape(lambda x, model=model: model.init_with_output(jax.random.key(0), x)[0], image)
        assert outputs["logits"].shape == (1, height, width, 2)


def test_scores_on_any_network():
    """With fixed upsampling, the sum of all scores, each resized to the next finer."""
    model = fcn.BackboneFCN(
        num_classes=2, backbone={"name": "resnet", "width": 4, "stage_sizes": (1, 1, 1)}, strides=(4, 8)
    )
    image = random(1, 24, 16, 3)
    variables = jax.tree.map(np.abs, with_random_values(model, 24, 16, 3))  # variances too
    outputs = jax.jit(model.apply)(variables, image)
    params = variables["params"]
    coarse = outputs["features"][8] @ params["head"]["kernel"] + params["head"]["bias"]
    fine = outputs["features"][4] @ params["score_4"]["kernel"] + params["score_4"]["bias"]
    np.testing.assert_allclose(outputs["logits"], bilinear(fine + bilinear(coarse, (6, 4)), (24, 16)), rtol=1e-4)


@pytest.mark.parametrize(
    "backbone, strides",
    [
        ("resnet18", (8, 16, 32)),
        pytest.param("densenet121", (4, 8, 16, 32), marks=pytest.mark.slow),
        ("vit_ti16", (16,)),
        ("vgg11_bn", (1, 2, 32)),
    ],
)
def test_backbones(backbone, strides):
    model = models.create("fcn", 5, backbone=backbone, strides=strides)
    image = jax.ShapeDtypeStruct((1, 97, 131, 3), jnp.float32)
    outputs = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)
    assert outputs["logits"].shape == (1, 97, 131, 5)


def test_mistakes():
    with pytest.raises(UsageError, match="backbone has features at strides 16; given 8, 16"):
        models.variable_shapes(models.create("fcn", 5, backbone="vit_ti16", strides=(8, 16)), (32, 32, 3))
    with pytest.raises(UsageError, match="each a multiple of the one before; given"):
        models.variable_shapes(models.create("fcn", 5, strides=(8, 12)), (32, 32, 3))
    with pytest.raises(UsageError, match="the trunk has 5 stages"):
        models.variable_shapes(models.create("fcn8s", 5, stage_sizes=(1, 1)), (32, 32, 3))
