"""Initial values depend on the key alone."""

import jax
import numpy as np

from vision import models


def test_values_are_those_of_linen_and_need_no_forward_pass():
    model = models.create("resnet", 5, stage_sizes=(1,), width=4)
    given = models.initialize(model, jax.random.key(0), (16, 16, 3))
    expected = jax.jit(model.init)(jax.random.key(0), np.zeros((3, 16, 16, 3), np.float32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), given, expected)
    other = models.initialize(model, jax.random.key(1), (16, 16, 3))
    assert not np.array_equal(given["params"]["stem"]["conv"]["kernel"], other["params"]["stem"]["conv"]["kernel"])


def test_shapes_are_those_of_the_values():
    model = models.create("lenet", 5)
    values, shapes = models.initialize(model, jax.random.key(0), (8, 8, 1)), models.variable_shapes(model, (8, 8, 1))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), values) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert models.count_parameters(values["params"]) == models.count_parameters(shapes["params"])
