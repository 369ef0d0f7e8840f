"""Branches side by side: order and names against a computation by hand, residuals, strides."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vision import models
from vision.models import layers
from vision.models.branches import Branches, Fork, Pool, Residual, ResidualBranches, Unit, scale_width, stride_of

pytestmark = pytest.mark.slow  # networks of many layers are traced

CONV = functools.partial(layers.Conv, dtype="float32")
BRANCHES = (
    (Unit(3, 3, 2, valid=True),),
    (Unit(2), Fork((Unit(4, (1, 3)), Unit(5, (3, 1)))), Unit(6, 5, 2, valid=True)),
    (Pool("max", 3, 2),),
)


def by_hand(x, unit, stride=1, padding=(0, 0)):
    pads = [(p, p) for p in padding]
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, unit["conv"]["kernel"], (stride, stride), pads, dimension_numbers=numbers)
    return jnp.maximum(y + unit["conv"]["bias"], 0)


def test_branches_equal_a_computation_by_hand():
    x = jax.random.normal(jax.random.key(0), (2, 9, 11, 4))
    branches = (*BRANCHES[:1], BRANCHES[1][:2], (Pool("average", 3, 1, 1, count_include_pad=False), Unit(7)))
    branches = ((Unit(3, 3),), *branches[1:])
    module = Branches(branches, CONV, None)
    variables = module.init(jax.random.key(1), x, False)
    variables = jax.tree.map(lambda v: v + 0.1, variables)  # biases other than zero
    p = variables["params"]
    reduced = by_hand(x, p["branch_2"]["unit_1"])
    neighbours = lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    counts = lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    expected = [
        by_hand(x, p["branch_1"]["unit_1"], padding=(1, 1)),
        by_hand(reduced, p["branch_2"]["unit_2a"], padding=(0, 1)),
        by_hand(reduced, p["branch_2"]["unit_2b"], padding=(1, 0)),
        by_hand(neighbours / counts, p["branch_3"]["unit_1"]),  # poolings have no number
    ]
    np.testing.assert_allclose(module.apply(variables, x, False), np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)


def test_a_norm_takes_the_place_of_the_bias():
    module = Branches(((Unit(3),),), CONV, layers.BatchNorm)
    variables = module.init(jax.random.key(0), jnp.ones((1, 5, 5, 2)), False)
    unit = variables["params"]["branch_1"]["unit_1"]
    assert set(unit["conv"]) == {"kernel"} and set(unit["norm"]) == {"scale", "bias"}


@pytest.mark.parametrize("side", [9, 10, 15])
def test_stride_of_what_it_says(side):
    layer = Pool("max", 3, 2)
    assert [stride_of(x) for x in (Unit(3, 7, 2), layer, BRANCHES, Residual((), 1.0), BRANCHES[1][1])] == [
        2,
        2,
        2,
        1,
        1,
    ]
    module = Branches((BRANCHES[0], BRANCHES[2]), CONV, None)
    x = jnp.zeros((1, side, side, 3))
    y = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, False)[0])
    assert y.shape == (1, (side - 1) // 2, (side - 1) // 2, 6)


@pytest.mark.parametrize("activate", [True, False])
def test_residual_adds_its_scaled_branches(activate):
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 5))
    block = Residual(((Unit(2),), (Unit(3, 3),)), scale=0.25, activate=activate)
    module = ResidualBranches(block, 0.0, CONV, layers.BatchNorm)
    variables = module.init(jax.random.key(1), x, False)
    after = nn.relu if activate else lambda x: x
    branches = Branches(block.branches, CONV, layers.BatchNorm)
    inner = {name: variables[name]["branches"] for name in variables}
    projection = variables["params"]["projection"]
    y = branches.apply(inner, x, False) @ projection["kernel"][0, 0] + projection["bias"]
    np.testing.assert_allclose(module.apply(variables, x, False), after(x + 0.25 * y), rtol=1e-4, atol=1e-5)


def test_dropped_residuals_are_their_input():
    x = jnp.abs(jax.random.normal(jax.random.key(0), (64, 2, 2, 3)))
    module = ResidualBranches(Residual(((Unit(2),),), scale=1.0), 0.5, CONV, layers.BatchNorm)
    variables = module.init(jax.random.key(1), x, False)
    y, _ = module.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)})
    same = np.all(np.asarray(y == x), axis=(1, 2, 3))
    assert 16 < same.sum() < 48  # half of 64, give or take four standard deviations


def test_scaled_width_keeps_the_shape_of_a_table():
    block = Residual(((Unit(64),), (Unit(32, 3), Fork((Unit(16, (1, 3)), Unit(16, (3, 1)))), Pool("max"))), scale=0.1)
    half = scale_width(block, 0.5)
    assert half == Residual(
        ((Unit(32),), (Unit(16, 3), Fork((Unit(8, (1, 3)), Unit(8, (3, 1)))), Pool("max"))), scale=0.1
    )
    assert scale_width(block, 1.0) == block
    assert scale_width(Unit(20), 0.01).width == 8 and scale_width(Unit(4), 0.01).width == 4


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "inception_v4", "inception_resnet_v2"])
def test_a_quarter_of_the_width_has_about_a_sixteenth_of_the_parameters(name):
    options = dict(small_images=True) | (dict(auxiliary=False) if name in ("googlenet", "inception_v3") else {})
    full, narrow = (
        models.count_parameters(models.variable_shapes(models.create(name, None, width=w, **options), (32, 32, 3)))
        for w in (1.0, 0.25)
    )
    assert 1 / 17 < narrow / full < 1 / 14
