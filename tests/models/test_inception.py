"""Inception-v3, -v4 and Inception-ResNet-v2: published counts and maps, the auxiliary classifier, sizes, options."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import count_parameters, inception, layers, variable_shapes

pytestmark = pytest.mark.slow  # networks of many layers are traced

VARIANTS = inception.VARIANTS


def shapes_of(model, size, train=False):
    image = jax.ShapeDtypeStruct((2, size, size, 3), "float32")
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(lambda image: model.init_with_output(keys, image, train), image)


# Multiply-adds in billions, by torchvision's counter and timm's tables.
@pytest.mark.parametrize(
    "name, arguments, parameters, multiply_adds",
    [
        ("inception_v3", {}, 27_161_264, None),
        ("inception_v3", dict(auxiliary=False), 23_834_568, 5.713),
        ("inception_v4", {}, 42_679_816, 12.28),
        ("inception_resnet_v2", {}, 55_843_464, 13.18),
    ],
)
def test_parameters_and_multiply_adds(name, arguments, parameters, multiply_adds):
    model, counted = VARIANTS[name](**arguments), []

    def record(next_method, args, kwargs, context):
        result = next_method(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, layers.Conv | nn.Dense):
            weights = math.prod(context.module.variables["params"]["kernel"].shape)
            counted.append(weights * math.prod(result.shape[1:-1]))
        return result

    with nn.intercept_methods(record):
        _, variables = shapes_of(model, 299)
    assert count_parameters(variables["params"]) == parameters
    if multiply_adds:
        assert sum(counted) == pytest.approx(multiply_adds * 1e9, rel=3e-3)  # timm counts some more than products


# Table 1 of the paper on v3; figures 3 and 9 and the text of the paper on v4.
@pytest.mark.parametrize(
    "name, widths",
    [
        ("inception_v3", (64, 192, 288, 768, 2048)),
        ("inception_v4", (64, 192, 384, 1024, 1536)),
        ("inception_resnet_v2", (64, 192, 320, 1088, 1536)),
    ],
)
def test_features_by_stride(name, widths):
    outputs, _ = shapes_of(VARIANTS[name](), 299)
    found = {stride: x.shape for stride, x in outputs["features"].items()}
    sides = (147, 71, 35, 17, 8)
    assert found == {2**n: (2, s, s, w) for n, (s, w) in enumerate(zip(sides, widths, strict=True), start=1)}


def test_auxiliary_logits_while_training_only():
    model = VARIANTS["inception_v3"](num_classes=7)
    training, variables = shapes_of(model, 299, train=True)
    evaluating, same_variables = shapes_of(model, 75)  # the head's variables do not depend on the image
    assert [logits.shape for logits in training["aux_logits"]] == [(2, 7)] and "aux_logits" not in evaluating
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, same_variables)
    assert variables["params"]["auxiliary"]["unit_1"]["conv"]["kernel"].shape == (1, 1, 768, 128)


@pytest.mark.parametrize(
    "name, small_images, smallest",
    [("inception_v3", False, 75), ("inception_v4", False, 75), ("inception_v4", True, 7)],
)
def test_smallest_image(name, small_images, smallest):
    model = VARIANTS[name](num_classes=3, small_images=small_images, auxiliary=False)
    outputs, _ = shapes_of(model, smallest)
    assert outputs["features"][max(outputs["features"])].shape[1:3] == (1, 1)
    with pytest.raises(UsageError, match=f"{smallest}x{2 * smallest}"):
        variable_shapes(model, (smallest - 1, 2 * smallest, 3))


@pytest.mark.parametrize("small_images, smallest", [(False, 299), (True, 35)])
def test_smallest_image_for_the_auxiliary_classifier(small_images, smallest):
    model = VARIANTS["inception_v3"](num_classes=3, small_images=small_images)
    shapes_of(model, smallest, train=True)
    with pytest.raises(UsageError, match=r"auxiliary=True.*at least"):
        shapes_of(model, smallest - 1, train=True)


def test_small_images_keep_their_size_in_the_stem():
    outputs, variables = shapes_of(VARIANTS["inception_v4"](num_classes=10, small_images=True), 32)
    features = {stride: x.shape[1:] for stride, x in outputs["features"].items()}
    assert features == {1: (32, 32, 384), 2: (15, 15, 1024), 4: (7, 7, 1536)}
    published = variable_shapes(VARIANTS["inception_v4"](num_classes=10), (299, 299, 3))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(published))


def test_stochastic_depth_needs_residual_blocks():
    with pytest.raises(UsageError, match="drop_path"):
        shapes_of(VARIANTS["inception_v3"](drop_path=0.1), 75)
    shapes_of(VARIANTS["inception_resnet_v2"](drop_path=0.1), 75, train=True)


def test_unknown_variant():
    with pytest.raises(UsageError, match="did you mean 'v4'"):
        shapes_of(inception.Inception(variant="v44"), 75)


def test_remat_and_dtype_change_no_variable():
    model = VARIANTS["inception_resnet_v2"](num_classes=3, small_images=True)
    _, expected = shapes_of(model, 16)
    outputs, variables = shapes_of(model.clone(remat=True, dtype="bfloat16"), 16, train=True)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    assert {x.dtype.name for x in outputs["features"].values()} == {"bfloat16"}
    assert outputs["logits"].dtype == "float32"


def test_norms_have_the_published_epsilon():
    assert inception.Inception().norm.keywords["epsilon"] == 1e-3


@pytest.mark.parametrize(
    "name, repeats, modules",
    [
        ("inception_v3", 1, "5b 6a 6b 7a 7b"),
        ("inception_v4", 2, "3a 4a 5a 5b 5c 6a 6b 6c 7a 7b 7c"),
        ("googlenet", 2, "3a 3b 4a 4b 5a 5b"),
        ("googlenet", 1, "3a 4a 5a"),
    ],
)
def test_repeats_keep_the_first_modules_of_each_kind(name, repeats, modules):
    model = models.create(name, 10, repeats=repeats)
    found = variable_shapes(model, (224, 224, 3))["params"]
    kept = [key.split("_")[1] for key in sorted(found) if key.startswith(("mixed", "inception"))]
    assert kept == modules.split()


def test_repeats_of_residual_blocks():
    found = variable_shapes(models.create("inception_resnet_v2", 10, repeats=1), (224, 224, 3))["params"]
    full = variable_shapes(models.create("inception_resnet_v2", 10), (224, 224, 3))["params"]
    assert set(found) < set(full)
    assert all(found[key] == full[key] for key in found if not key.startswith("mixed"))
    with pytest.raises(UsageError, match="repeats: sizes are 1 or more; given 0"):
        variable_shapes(models.create("inception_v3", 10, repeats=0), (224, 224, 3))
