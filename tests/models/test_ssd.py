"""SSD: published sizes, the order of boxes and predictions, other backbones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models.ssd import L2Norm, LevelHeads
from vision.ops import anchors

SMALL = dict(backbone={"name": "resnet18", "width": 4}, strides=(8, 16), extra=(8, 8))


@pytest.mark.parametrize(
    "name, num_classes, parameters",
    [
        ("ssd300_vgg16", 20, 26_285_486),
        ("ssd300_vgg16", 80, 34_305_206),
        ("ssd300_vgg16", 90, 35_641_826),
        ("ssd512_vgg16", 20, 27_188_676),
    ],
)
def test_published_parameter_counts(name, num_classes, parameters):
    side = int(name[3:6])
    shapes = models.variable_shapes(models.create(name, num_classes), (side, side, 3))
    assert set(shapes) == {"params"}
    assert models.count_parameters(shapes["params"]) == parameters


@pytest.mark.parametrize("name, boxes", [("ssd300_vgg16", 8_732), ("ssd512_vgg16", 24_564)])
def test_published_number_of_boxes(name, boxes):
    side = int(name[3:6])
    model = models.create(name, 20)
    outputs = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, side, side, 3))))[0]
    assert outputs["logits"].shape == (2, boxes, 21)
    assert outputs["offsets"].shape == (2, boxes, 4)
    assert outputs["anchors"].shape == (boxes, 4)
    assert {stride: x.shape[1] for stride, x in outputs["features"].items()} == {
        stride: -(-side // stride) for stride in (1, 2, 4, 8, 16)
    }


class Ramp(nn.Module):
    """A backbone whose maps say where they are: the row, and the column, of each place's middle."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, image, train=False):
        features = {}
        for stride in (8, 16):
            rows, columns = (np.arange(0, side, stride) + stride / 2 for side in image.shape[1:3])
            place = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
            features[stride] = jnp.broadcast_to(jnp.asarray(place, jnp.float32), (len(image), *place.shape))
        return {"features": features}


def test_predictions_and_boxes_have_one_order(monkeypatch):
    """Heads that copy a place's row and column put them beside the box whose centre is there."""
    monkeypatch.setitem(models.MODELS, "ramp", Ramp)
    model = models.create("ssd", 1, backbone="ramp", strides=(8, 16), extra=(), aspect_ratios=((), (2.0,)))
    image = jnp.zeros((1, 32, 48, 3))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.variable_shapes(model, (32, 48, 3)))
    for head in variables["params"]["box_head"].values():
        for box in range(head["kernel"].shape[-1] // 4):
            head["kernel"][1, 1, :, 4 * box : 4 * box + 2] = [[0, 1], [1, 0]]  # x, y
    outputs = jax.jit(model.apply)(variables, image)
    boxes = np.asarray(outputs["anchors"])
    assert len(boxes) == 2 * 4 * 6 + 4 * 2 * 3
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, outputs["offsets"][0, :, :2])
    np.testing.assert_allclose(
        boxes[:2, 2:] - boxes[:2, :2], np.outer(np.array([0.2, np.sqrt(0.2 * 0.9)]), [48, 32]), rtol=1e-5
    )


def test_values_of_a_box_are_together():
    """Channels are box by box, within a box value by value."""
    maps = [jnp.zeros((1, 1, 1, 2))]
    head = LevelHeads(3, [2], lambda *args, **fields: nn.Conv(*args, bias_init=count_up, **fields))
    predicted, _ = jax.jit(head.init_with_output)(jax.random.key(0), maps)
    np.testing.assert_array_equal(predicted, [[[0, 1, 2], [3, 4, 5]]])


def count_up(key, shape, dtype):
    del key
    return jnp.arange(shape[0], dtype=dtype)


def test_l2_norm():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 5)).astype(np.float32)
    x[0, 0, 0] = 0
    layer = L2Norm(20.0)
    variables = {"params": {"scale": jnp.full(5, 20.0)}}
    assert layer.init(jax.random.key(0), x)["params"]["scale"].tolist() == [20] * 5
    given = layer.apply(variables, jnp.asarray(x))
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(given, 20 * x / np.maximum(length, 1e-12), rtol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(layer.apply(variables, x) ** 2))(jnp.asarray(x))
    assert np.isfinite(slope).all()


def test_any_backbone_and_image_size():
    model = models.create("ssd", 3, scales=(0.1, 0.2, 0.4, 0.6, 0.8), **SMALL)
    image = jnp.zeros((2, 96, 64, 3))
    outputs, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image))
    places = 12 * 8 + 6 * 4 + 3 * 2 + 2 * 1
    assert outputs["logits"].shape == (2, places * 6, 4) and outputs["anchors"].shape == (places * 6, 4)
    assert set(variables["params"]) == {"backbone", "extra_1", "extra_2", "head", "box_head"}
    assert set(outputs["features"]) == {4, 8, 16, 32}
    maps = models.create("ssd", None, **SMALL)
    assert set(jax.eval_shape(lambda: maps.init_with_output(jax.random.key(0), image))[0]) == {"features"}


def test_default_scales_are_those_of_the_paper():
    scales, ratios, _ = models.create("ssd", 3, **SMALL)._boxes()
    assert tuple(scales) == tuple(anchors.default_box_scales(4))
    assert ratios == ((2.0, 3.0),) * 4


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(scales=(0.1, 0.2)), "scales has one for each of 4 maps .* and one more; given"),
        (dict(scales=(0.0, 0.2, 0.3, 0.4, 0.5)), "scales are shares of the image, above 0"),
        (dict(aspect_ratios=((2.0,), (2.0,))), "aspect_ratios has one tuple for all or one for each of 4 maps"),
        (dict(aspect_ratios=((0.5,),)), "aspect_ratios are above 1"),
        (dict(steps=(8, 16)), "steps has one for each of 4 maps"),
        (dict(extra_shapes=((3, 2, 1),)), "extra_shapes has one for each number of `extra`"),
        (dict(extra_shapes=((3, 2, 1), (3, 1, 0))), "64x64 are too small: the map before extra map 2 is 2x2, smaller"),
        (dict(strides=(8, 64)), "the backbone has features at strides 4, 8, 16, 32; given 8, 64"),
    ],
)
def test_messages(fields, message):
    with pytest.raises(UsageError, match=message):
        models.variable_shapes(models.create("ssd", 3, **(SMALL | fields)), (64, 64, 3))


def test_small_images_are_refused():
    with pytest.raises(UsageError, match="images of 224x224 are too small"):
        models.variable_shapes(models.create("ssd300_vgg16", 3), (224, 224, 3))
