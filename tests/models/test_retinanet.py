"""RetinaNet: published sizes, subnets that all levels share, the order of anchors and predictions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.ops.pooling import average_pool

SMALL = dict(backbone={"name": "resnet18", "width": 4}, channels=8, depth=1)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("retinanet_resnet50_fpn", 34_014_999),
        pytest.param("retinanet_resnet50_fpn_v2", 38_198_935, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(name, parameters):
    """Torchvision's, with 91 outputs for each anchor, and without the batch norms that the first version freezes."""
    shapes = models.variable_shapes(models.create(name, 91), (128, 128, 3))["params"]
    frozen = 0 if name.endswith("v2") else 2 * 26_560  # scales and biases
    assert models.count_parameters(shapes) - frozen == parameters


def test_anchors_are_those_of_the_paper():
    """Nine shapes at each place of five levels, from 32 to 512 2^(2/3) pixels (section 4)."""
    model = models.create("retinanet_resnet50_fpn", 3)
    shape = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 256, 320, 3))))[0]
    places = [32 * 40, 16 * 20, 8 * 10, 4 * 5, 2 * 3]
    assert [x.shape[1] * x.shape[2] for x in shape["features"].values()] == places
    assert tuple(shape["features"]) == (8, 16, 32, 64, 128)
    assert shape["logits"].shape == (2, 9 * sum(places), 3) and shape["offsets"].shape == (2, 9 * sum(places), 4)
    levels = {stride: np.zeros(x.shape[:3]) for stride, x in shape["features"].items()}
    found = np.asarray(model._anchors(np.zeros((1, 256, 320, 3)), levels))
    assert found.shape == (9 * sum(places), 4)
    sides = np.sqrt((found[:, 2:] - found[:, :2]).prod(axis=-1))
    starts = np.cumsum([0, *places[:-1]]) * 9
    for start, size in zip(starts, (32, 64, 128, 256, 512), strict=True):
        np.testing.assert_allclose(sides[start : start + 9], np.tile(size * 2 ** (np.arange(3) / 3), 3), rtol=0.04)


class Pooled(nn.Module):
    """A backbone without parameters: the image at smaller sizes."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, image, train=False):
        return {"features": {s: average_pool(image, s, s) for s in (8, 16)}}


def test_subnets_are_shared_and_start_at_the_prior(monkeypatch):
    """One set of parameters predicts on all levels; each class starts near 0.01."""
    monkeypatch.setitem(models.MODELS, "pooled", Pooled)
    model = models.create("retinanet", 2, backbone="pooled", strides=(8, 16), extra="none", channels=8, depth=1)
    image = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    outputs, variables = jax.jit(model.init_with_output)(jax.random.key(0), image)
    assert set(variables["params"]) == {"pyramid", "class_head", "box_head"}
    np.testing.assert_allclose(jax.nn.sigmoid(outputs["logits"]), 0.01, rtol=0.2)
    # Without the kernel of the last convolution only its biases are left: 9 shapes x 2 classes, box by box.
    head = variables["params"]["class_head"]["head"]
    head["kernel"], head["bias"] = jnp.zeros_like(head["kernel"]), jnp.arange(18.0)
    logits = np.asarray(jax.jit(model.apply)(variables, image)["logits"])[0]
    assert len(logits) == len(outputs["anchors"]) == 9 * (16 + 4)
    np.testing.assert_array_equal(logits, np.tile(np.arange(18.0).reshape(9, 2), (len(logits) // 9, 1)))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(sizes=(32, 64)), "sizes has one for each of the 5 levels, strides 8, 16, 32, 64, 128; given"),
        (dict(prior=0.0), "prior is a probability between 0 and 1, given 0.0"),
        (dict(strides=(8, 64)), "the backbone has features at strides 4, 8, 16, 32; given 8, 64"),
    ],
)
def test_messages(fields, message):
    with pytest.raises(UsageError, match=message):
        models.variable_shapes(models.create("retinanet", 3, **(SMALL | fields)), (64, 64, 3))
