"""DenseNet: published counts, connections against a computation by hand, memory, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import count_parameters, densenet, variable_shapes

pytestmark = pytest.mark.slow  # networks of many layers are traced

VARIANTS = densenet.VARIANTS


def shapes_of(model, *image_shape):
    variables = variable_shapes(model, image_shape[1:])
    return jax.eval_shape(model.apply, variables, jnp.zeros(image_shape))


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("densenet121", 7_978_856),
        ("densenet161", 28_681_000),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
    ],
)
def test_parameters(name, parameters):
    assert count_parameters(variable_shapes(VARIANTS[name](), (224, 224, 3))["params"]) == parameters


def test_parameters_of_the_small_image_form():
    model = densenet.DenseNet(10, (16, 16, 16), growth=12, small_images=True)  # table 2: depth 100, 0.8M
    assert count_parameters(variable_shapes(model, (32, 32, 3))["params"]) == 769_162


# Output sizes are table 1's; widths follow from growth and compression: (64 + 6 * 32) / 2 + 12 * 32 = 512, ...
def test_features_by_stride():
    outputs = shapes_of(VARIANTS["densenet121"](10), 2, 224, 224, 3)
    found = {stride: x.shape[1:] for stride, x in outputs["features"].items()}
    assert found == {4: (56, 56, 256), 8: (28, 28, 512), 16: (14, 14, 1024), 32: (7, 7, 1024)}
    outputs = shapes_of(densenet.DenseNet(10, (2, 2, 2), small_images=True), 2, 32, 48, 3)
    assert [(s, f.shape[1:3]) for s, f in outputs["features"].items()] == [(1, (32, 48)), (2, (16, 24)), (4, (8, 12))]


@functools.cache
def small(**arguments):
    model = densenet.DenseNet(3, (3, 2), growth=4, small_images=True, **arguments)
    image = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 3)), jnp.float32)
    return model, models.initialize(model, jax.random.key(0), (8, 8, 3)), image


def three_by_three(x, kernel):
    height, width = x.shape[1:3]
    x, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(kernel)
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def test_every_layer_reads_all_maps_before_it():
    model, variables, image = small()
    block = variables["params"]["block_1"]
    inputs = [block[f"layer_{n}"]["bottleneck"]["conv"]["kernel"].shape[2] for n in (1, 2, 3)]
    assert inputs == [8, 12, 16]
    features = jax.jit(model.apply)(variables, image)["features"]
    # In evaluation, fresh norms divide by sqrt(1 + 1e-5) only, so that the block is convolutions and ReLUs.
    maps = three_by_three(image, variables["params"]["stem_conv"]["kernel"])
    for number in (1, 2, 3):
        layer = block[f"layer_{number}"]
        x = np.maximum(maps, 0) @ layer["bottleneck"]["conv"]["kernel"][0, 0]
        new = three_by_three(np.maximum(x, 0), layer["growth"]["conv"]["kernel"])
        maps = np.concatenate([maps, new], axis=-1)
    np.testing.assert_allclose(features[1], maps, rtol=1e-3, atol=1e-4)


def test_remat_changes_nothing_but_what_is_kept():
    model, variables, image = small()

    def step(model, params):
        def loss(params):
            outputs, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(outputs["logits"])), state

        return jax.grad(loss, has_aux=True)(params)

    lighter = model.clone(remat=True)
    expected, given = (jax.jit(functools.partial(step, m))(variables["params"]) for m in (model, lighter))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, expected)


def test_remat_makes_memory_grow_linearly_with_depth():
    """Values kept for the backward pass, per layer: as many more as there are maps before it, or about as many."""

    def kept(layers, remat):
        model = densenet.DenseNet(3, (layers,), growth=4, small_images=True, remat=remat)
        variables = variable_shapes(model, (8, 8, 3))

        def backward(variables, image):  # a function whose closure holds what is kept
            def logits(params):
                given = {**variables, "params": params}
                return model.apply(given, image, train=True, mutable=["batch_stats"])[0]["logits"]

            return jax.vjp(logits, variables["params"])[1]

        image = jax.ShapeDtypeStruct((4, 8, 8, 3), "float32")
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables, image)))

    increases = {
        remat: (kept(12, remat) - kept(8, remat)) / (kept(8, remat) - kept(4, remat)) for remat in (False, True)
    }
    assert increases[True] < 1.15 < 1.3 < increases[False]


def test_dropout_acts_while_training():
    model, variables, image = small(dropout=0.5)
    plain = small()[0]

    @jax.jit
    def train(key):
        return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]["logits"]

    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    given, expected = (jax.jit(m.apply)(variables, image)["logits"] for m in (model, plain))
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("arguments, smallest", [({}, 29), (dict(small_images=True), 8)])
def test_smallest_image(arguments, smallest):
    model = densenet.DenseNet(3, (1, 1, 1, 1), growth=4, **arguments)
    outputs = shapes_of(model, 1, smallest, smallest, 3)
    assert outputs["features"][max(outputs["features"])].shape[1:3] == (1, 1)
    with pytest.raises(UsageError, match=f"{smallest}x{2 * smallest}"):
        variable_shapes(model, (smallest - 1, 2 * smallest, 3))
