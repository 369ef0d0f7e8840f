"""LeNet-5 of 1998: the paper's parameter counts per layer, table of connections, and its formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import lenet


def network(num_classes=10, shape=(32, 32, 1)):
    model = lenet.VARIANTS["lenet_1998"](num_classes=num_classes)
    return model, models.initialize(model, jax.random.key(0), shape)


def test_published_parameters_per_layer():
    _, variables = network()
    counts = {name: models.count_parameters(layer) for name, layer in variables["params"].items()}
    assert counts == {  # C1, S2, C3, S4, C5, F6: section II-B
        "conv_1": 156,
        "subsampling_1": 12,
        "conv_2": 1_516,
        "subsampling_2": 32,
        "dense_1": 48_120,
        "dense_2": 10_164,
    }
    assert sum(counts.values()) == 60_000 and set(variables) == {"params"}


def test_connections_are_those_section_2_describes():
    taken = [tuple(np.flatnonzero(column)) for column in lenet.C3_CONNECTIONS.T]

    def contiguous(size):  # of six maps in a ring
        return {tuple(sorted((start + i) % 6 for i in range(size))) for start in range(6)}

    assert set(taken[:6]) == contiguous(3)
    assert set(taken[6:12]) == contiguous(4)
    assert set(taken[12:15]) == {(0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)}  # pairs of neighbours, facing each other
    assert taken[15] == (0, 1, 2, 3, 4, 5)


def squash(x):
    return 1.7159 * np.tanh(2 * x / 3)


def convolve(x, kernel):
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))  # (B, H, W, C, 5, 5)
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def subsample(x, layer):
    total = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    return squash(total * layer["scale"] + layer["bias"])


def test_equals_the_paper_s_formulas():
    model, variables = network()
    image = np.random.default_rng(0).standard_normal((3, 32, 32, 1))
    outputs = jax.jit(model.apply)(variables, jnp.asarray(image, jnp.float32))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = squash(convolve(image, params["conv_1"]["kernel"]) + params["conv_1"]["bias"])
    x = subsample(x, params["subsampling_1"])
    kernels, maps = iter(np.moveaxis(params["conv_2"]["kernel"], -1, 0)), np.zeros((3, 10, 10, 16))
    for source in range(6):  # the kernels are in the order of table I, row by row
        for target in np.flatnonzero(lenet.C3_CONNECTIONS[source]):
            maps[..., target] += convolve(x[..., source : source + 1], next(kernels)[:, :, None, None])[..., 0]
    assert next(kernels, None) is None
    x = subsample(squash(maps + params["conv_2"]["bias"]), params["subsampling_2"])
    x = x.reshape(3, 400)
    for name in ("dense_1", "dense_2"):
        x = squash(x @ params[name]["kernel"] + params[name]["bias"])
    np.testing.assert_allclose(outputs["pooled"], x, rtol=1e-4, atol=1e-5)
    distances = ((x[:, None] - lenet.codes(10)) ** 2).sum(-1)
    np.testing.assert_allclose(outputs["logits"], -distances, rtol=1e-5)


def test_codes_are_apart_and_fixed():
    for num_classes in (10, 40):
        codes = lenet.codes(num_classes)
        assert codes.shape == (num_classes, 84) and set(np.unique(codes)) == {-1, 1}
        differing = (codes[:, None] != codes).sum(-1) + 84 * np.eye(num_classes)
        assert differing.min() >= 15
        np.testing.assert_array_equal(codes, lenet.codes(num_classes))
    np.testing.assert_array_equal(lenet.codes(3), lenet.codes(10)[:3])


def test_first_values_are_within_the_paper_s_bounds():
    _, variables = network()
    bounds = {"conv_1": 25, "subsampling_1": 4, "dense_1": 400, "dense_2": 120}
    for name, fan_in in bounds.items():
        for leaf in jax.tree.leaves(variables["params"][name]):
            assert np.abs(leaf).max() <= 2.4 / fan_in
    kernel = np.abs(variables["params"]["conv_2"]["kernel"]).max(axis=(0, 1))
    inputs, outputs = np.nonzero(lenet.C3_CONNECTIONS)
    fan_in = 25 * lenet.C3_CONNECTIONS.sum(axis=0)[outputs]
    assert len(inputs) == 60 and np.all(kernel <= 2.4 / fan_in) and np.all(kernel >= 0.6 * 2.4 / fan_in)


def test_learns():
    """Four steps of size one pull F6 towards the drawings of the digits."""
    model, variables = network(shape=(28, 28, 1))
    image = jax.random.normal(jax.random.key(1), (10, 28, 28, 1))

    @jax.jit
    def step(params):
        def loss(params):
            logits = model.apply({"params": params}, image)["logits"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(10)).mean()

        value, slope = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g / optax.tree.norm(slope), params, slope), slope

    first, params, slope = step(variables["params"])
    assert all(np.any(np.abs(leaf) > 0) for leaf in jax.tree.leaves(slope))
    for _ in range(4):
        last, params, _ = step(params)
    assert last < first


def test_sizes_and_classes():
    model, _ = network(num_classes=None)
    shapes = models.variable_shapes(model, (64, 48, 3))
    outputs = jax.eval_shape(model.apply, shapes, jnp.zeros((2, 64, 48, 3)))
    assert outputs["features"][2].shape == (2, 30, 22, 6) and outputs["features"][4].shape == (2, 13, 9, 16)
    assert "logits" not in outputs and outputs["pooled"].shape == (2, 84)
    with pytest.raises(UsageError, match="field 12 is too small"):
        models.variable_shapes(lenet.LeNet1998(field=12), (8, 8, 1))
