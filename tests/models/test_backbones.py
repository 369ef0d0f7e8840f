"""Networks to stand on: their norms shared over devices, their strides dilated, their maps by stride."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import backbones, layers
from vision.train.parallel import with_axis

TINY = {"name": "resnet", "stage_sizes": (1, 1), "width": 4}


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_statistics_are_shared_over_devices():
    """Two halves of a batch under a mapped axis update the statistics as the whole batch does, backbone included."""
    model = models.create("fcn", 3, backbone=TINY, strides=(4, 8))
    shapes = models.variable_shapes(model, (16, 16, 3))
    variables = jax.tree.map(lambda leaf: np.abs(random(*leaf.shape)) + 0.1, shapes)
    image = random(4, 16, 16, 3)

    def statistics(model, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})[
            1
        ]

    mapped = jax.vmap(functools.partial(statistics, with_axis(model, "data")), axis_name="data")
    whole = jax.jit(functools.partial(statistics, model))(image)
    for half in (0, 1):
        shared = jax.tree.map(lambda leaf, half=half: leaf[half], jax.jit(mapped)(image.reshape(2, 2, 16, 16, 3)))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), shared, whole)


def test_norms_keep_what_is_their_own():
    def norm_of(section, **arguments):
        return backbones.configured(section, **arguments)().norm

    shared = functools.partial(layers.BatchNorm, axis_name="data")
    own = norm_of("googlenet", norm=shared).keywords
    assert (own["epsilon"], own["axis_name"]) == (1e-3, "data")
    assert norm_of("resnetv2_50x1_bit", norm=shared)().__class__ is layers.GroupNorm
    assert norm_of("resnet18", norm=nn.LayerNorm) is nn.LayerNorm
    assert not hasattr(backbones.configured("vit_ti16")(), "norm")
    stated = norm_of({"name": "resnet18", "norm": "batch"}, norm=functools.partial(layers.GroupNorm, axis_name="batch"))
    assert stated.func is nn.BatchNorm and stated.keywords["axis_name"] == "batch"
    assert norm_of({"name": "resnet18", "norm": "group"}).func is layers.GroupNorm


def test_no_dense_layers():
    params = models.variable_shapes(backbones.configured("vgg11")(), (32, 32, 3))["params"]
    assert set(params) == {f"stage_{number}" for number in range(1, 6)}
    assert backbones.configured({"name": "vgg11", "hidden": (8,)})().hidden == (8,)


def test_features_and_stages():
    outputs = {"features": {4: 1, 8: 2, 16: 3}}
    assert backbones.features(outputs, (16, 4)) == [3, 1]
    assert backbones.stages(outputs, 2) == (2, 3)
    with pytest.raises(UsageError, match="backbone has features at strides 4, 8, 16; given 8, 32"):
        backbones.features(outputs, (8, 32))
    with pytest.raises(UsageError, match="expected a network with features at 2 strides or more; this has 1"):
        backbones.stages({"features": {16: 1}}, 2)


def test_padding_mirrors():
    image = random(1, 5, 8, 1)
    padded = backbones.pad_to_multiple(jnp.asarray(image), 4)
    np.testing.assert_array_equal(padded, np.pad(image, ((0, 0), (0, 3), (0, 0), (0, 0)), mode="reflect"))
    assert backbones.pad_to_multiple(image, 1) is image


@pytest.mark.parametrize(
    "form",
    [
        {"block": "bottleneck"},
        pytest.param({"block": "basic"}, marks=pytest.mark.slow),
        pytest.param({"block": "bottleneck", "stride_first": True}, marks=pytest.mark.slow),
    ],
)
def test_dilated_stages_see_what_strided_ones_see(form):
    """Without its stride, a dilated ResNet computes the strided one's map at every place: every second is the same."""
    fields = {"num_classes": None, "stage_sizes": (1, 2, 2), "width": 4}
    image = random(1, 64, 64, 3)
    strided = models.create("resnet", **form, **fields)
    dilated = strided.clone(dilate=(False, True))
    variables = jax.tree.map(
        lambda x: np.abs(random(*x.shape)) * 0.1 + 0.1, models.variable_shapes(strided, (64, 64, 3))
    )
    coarse, fine = (jax.jit(network.apply)(variables, image) for network in (strided, dilated))
    assert sorted(fine["features"]) == [4, 8] and [x.shape[1] for x in fine["stages"]] == [16, 8, 8]
    np.testing.assert_array_equal(fine["features"][8], fine["stages"][2])
    np.testing.assert_allclose(fine["stages"][2][:, ::2, ::2], coarse["stages"][2], rtol=1e-4)
    with pytest.raises(UsageError, match="dilate has one value for each of the 3 stages but the first"):
        models.variable_shapes(strided.clone(dilate=(True,)), (64, 64, 3))
