"""Activations against NumPy, initial spreads against the papers, stochastic depth against its expectation."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UsageError
from vision.models import layers

EXPECTED = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "crelu": lambda x: np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=-1),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "maxout": lambda x: np.maximum(x[..., 0::2], x[..., 1::2]),
}


def test_every_activation_has_an_expectation():
    assert set(EXPECTED) == set(layers.ACTIVATIONS)


@pytest.mark.parametrize("name", EXPECTED)
def test_activation(name):
    x = np.linspace(-4, 4, 48).reshape(2, 4, 6)
    given = layers.activation(name)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(given, EXPECTED[name](x), rtol=2e-6, atol=2e-6)


def test_activation_errors():
    with pytest.raises(UsageError, match="did you mean 'gelu'"):
        layers.activation("gellu")
    with pytest.raises(ValueError, match="5 channels"):
        layers.maxout(jnp.ones((2, 5)))


@pytest.mark.parametrize(
    "initializer, fan",
    [(layers.he_normal, 9 * 64), (layers.he_normal_fan_out, 9 * 128)],
)
def test_he_spread(initializer, fan):
    kernel = initializer(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / fan), rel=0.01)
    assert abs(np.mean(kernel)) < 4 * math.sqrt(2 / fan / kernel.size)


def test_he_keeps_the_scale_of_a_signal_through_twenty_rectifiers():
    x = jax.random.normal(jax.random.key(0), (256, 256))
    for layer in range(20):
        x = jax.nn.relu(x @ layers.initializer_for("relu")(jax.random.key(layer), (256, 256), jnp.float32))
    # Xavier's variance would halve the mean square, 1 at the start, in each layer: 1e-6.
    assert 0.3 < float(jnp.mean(x**2)) < 3


def test_initializer_for_bounded_units_is_xavier():
    assert layers.initializer_for("tanh") is layers.initializer_for("sigmoid") is layers.xavier_uniform
    assert layers.initializer_for("silu") is layers.he_normal


def test_xavier_bounds():
    kernel = layers.xavier_uniform(jax.random.key(0), (100, 200), jnp.float32)
    bound = math.sqrt(6 / 300)
    assert np.abs(kernel).max() == pytest.approx(bound, rel=1e-3)
    assert np.std(kernel) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    branch = jnp.ones((4000, 2, 3))
    dropped = layers.DropPath(0.25).apply({}, branch, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(4 / 3)}
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1, :1], dropped.shape))
    assert np.mean(dropped) == pytest.approx(1, abs=0.04)
    np.testing.assert_array_equal(layers.DropPath(0.25).apply({}, branch, train=False), branch)


def test_drop_path_rates_grow_linearly():
    np.testing.assert_allclose(layers.drop_path_rates(0.2, 4), [0.05, 0.1, 0.15, 0.2])


def test_batch_norm_keeps_float32_statistics_and_pytorch_constants():
    norm = layers.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    x = (1000 + jax.random.normal(jax.random.key(0), (4096, 2))).astype(jnp.float32)
    variables = norm.init(jax.random.key(0), x)
    y, state = norm.apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    # Running mean 0.9 * 0 + 0.1 * 1000: bfloat16 could not tell 99.9 from 100.2.
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * np.mean(x, axis=0), rtol=1e-5)
    assert norm.epsilon == 1e-5


@pytest.mark.parametrize(
    "channels, fields, groups",
    [
        (8, {}, 1),
        (32, {}, 4),
        (256, {}, 32),
        (48, {}, 2),  # six would do, but do not divide 32
        (6, {"least": 2, "groups": 3}, 3),
        (64, {"least": 1}, 32),
    ],
)
@pytest.mark.parametrize("places", [(5, 7), ()])
def test_group_norm_is_flax_own(channels, fields, groups, places):
    random = np.random.default_rng(0)
    x = (3 + 2 * random.standard_normal((2, *places, channels))).astype(np.float32)
    params = {"params": {name: random.standard_normal(channels).astype(np.float32) for name in ("scale", "bias")}}
    expected = nn.GroupNorm(groups, epsilon=1e-3).apply(params, x)
    given = layers.GroupNorm(epsilon=1e-3, use_running_average=False, axis_name="batch", **fields).apply(params, x)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


def test_group_norm_computes_in_float32():
    x = jnp.asarray(100 + np.random.default_rng(0).standard_normal((1, 6, 6, 8)), jnp.bfloat16)
    y, variables = layers.GroupNorm().init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16 and all(leaf.dtype == jnp.float32 for leaf in variables["params"].values())
    assert float(jnp.std(y.astype(jnp.float32))) == pytest.approx(1, abs=0.02)
