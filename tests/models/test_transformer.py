"""The transformer against NumPy, its published sizes, and what masks and positions promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import transformer
from vision.models.transformer import stack_blocks, unstack_blocks


@functools.cache
def small(**arguments):
    arguments = dict(vocabulary=11, width=8, depth=2, heads=2, mlp_width=12) | arguments
    model = transformer.Transformer(**arguments)
    random = np.random.default_rng(0)  # takes no compiling
    source, target = random.integers(0, 11, (3, 6), np.int32), random.integers(0, 11, (3, 5), np.int32)
    scaled = lambda shape: random.standard_normal(shape) / max(np.prod(shape[:-1]), 1) ** 0.5  # noqa: E731
    shapes = jax.eval_shape(model.init, jax.random.key(1), source, target)
    return model, jax.tree.map(lambda leaf: jnp.asarray(scaled(leaf.shape), jnp.float32), shapes), source, target


# Table 3: millions of parameters. The paper's counts come with about two million that it does not explain.
@pytest.mark.parametrize("changes, millions", [
    ({}, 65),
    (dict(depth=2), 36),
    (dict(depth=4), 50),
    (dict(depth=8), 80),
    (dict(width=256, heads=8), 28),
    (dict(width=1024), 168),
    (dict(mlp_width=1024), 53),
    (dict(mlp_width=4096), 90),
])  # fmt: skip
def test_published_sizes(changes, millions):
    shapes = jax.eval_shape(transformer.transformer_base(**changes).init, jax.random.key(0), *jnp.ones((2, 1, 3), int))
    assert models.count_parameters(shapes) / 1e6 == pytest.approx(millions, rel=0.07)


def test_published_size_of_the_big_one():
    shapes = jax.eval_shape(transformer.transformer_big().init, jax.random.key(0), *jnp.ones((2, 1, 3), int))
    assert models.count_parameters(shapes) / 1e6 == pytest.approx(213, rel=0.01)
    assert shapes["params"]["decoder"]["block_6"]["cross_attention"]["value"]["kernel"].shape == (1024, 16, 64)


def test_decoder_block_equals_numpy():
    block = transformer.DecoderBlock(heads=2, mlp_width=12, activation="relu", norm_first=False)
    random = np.random.default_rng(0)
    x, memory = (random.standard_normal((1, length, 8), np.float32) for length in (4, 3))
    inputs = (None, transformer.causal_mask(4), memory, None, False)
    variables = jax.jit(lambda key: block.init(key, x, *inputs))(jax.random.key(2))
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * random.standard_normal(leaf.shape, np.float32), variables
    )
    given, (own, cross) = jax.jit(lambda x: block.apply(variables, x, *inputs))(x)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def attend(p, x, context, allowed):
        y, weights = np.zeros_like(x), []
        for h in range(2):
            q, k, v = (
                z @ p[name]["kernel"][:, h] + p[name]["bias"][h]
                for name, z in (("query", x), ("key", context), ("value", context))
            )
            scores = np.where(allowed, np.exp(q @ k.T / np.sqrt(4)), 0)
            weights.append(scores / scores.sum(-1, keepdims=True))
            y += weights[-1] @ v @ p["out"]["kernel"][h]
        return y + p["out"]["bias"], np.stack(weights)

    def norm(p, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    x, memory = np.asarray(x[0], np.float64), np.asarray(memory[0], np.float64)
    y, own_expected = attend(p["attention"], x, x, np.tril(np.ones((4, 4))))
    x = norm(p["norm_1"], x + y)
    y, cross_expected = attend(p["cross_attention"], x, memory, True)
    x = norm(p["norm_2"], x + y)
    hidden = np.maximum(x @ p["mlp"]["dense_1"]["kernel"] + p["mlp"]["dense_1"]["bias"], 0)
    x = norm(p["norm_3"], x + hidden @ p["mlp"]["dense_2"]["kernel"] + p["mlp"]["dense_2"]["bias"])
    np.testing.assert_allclose(given[0], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own[0], own_expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cross[0], cross_expected, rtol=1e-4, atol=1e-6)


def test_nobody_reads_the_future():
    model, variables, source, target = small()
    compiled = jax.jit(lambda target: model.apply(variables, source, target)["logits"])
    apply = lambda target: np.asarray(compiled(target))  # noqa: E731
    expected = apply(target)
    for place in range(5):
        changed = target.copy()
        changed[:, place] = (target[:, place] + 1) % 11
        given = apply(changed)
        np.testing.assert_allclose(given[:, :place], expected[:, :place], atol=1e-6)
        assert np.all(np.abs(given[:, place:] - expected[:, place:]).max(-1) > 1e-4)


def test_nobody_reads_padding():
    model, variables, source, target = small()
    valid = np.arange(6) < np.array([[6], [4], [2]])
    other = np.where(valid, source, (source + 5) % 11)
    apply = jax.jit(model.apply)
    given, expected = (jax.device_get(apply(variables, s, target, valid)) for s in (other, source))
    np.testing.assert_allclose(given["logits"], expected["logits"], atol=1e-6)
    np.testing.assert_allclose(given["encoded"][2, :2], expected["encoded"][2, :2], atol=1e-6)
    assert not np.any(given["cross_attention"][0][2, :, :, 2:])
    cut = apply(variables, source[2:, :2], target[2:])  # as if the padding were not there
    np.testing.assert_allclose(given["logits"][2:], cut["logits"], atol=1e-5)


def test_attention_rows_add_up():
    model, variables, source, target = small()
    valid = np.arange(6) < np.array([[6], [4], [0]])
    outputs = jax.device_get(jax.jit(model.apply)(variables, source, target, valid))
    shapes = {"encoder_attention": (3, 2, 6, 6), "decoder_attention": (3, 2, 5, 5), "cross_attention": (3, 2, 5, 6)}
    for name, shape in shapes.items():
        assert [weights.shape for weights in outputs[name]] == [shape] * 2
        for weights in outputs[name]:
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs["cross_attention"][0][2], 1 / 6, rtol=1e-5)  # nothing to read: all alike
    assert np.all(np.isfinite(outputs["logits"]))


@pytest.mark.parametrize("norm_first", [True, False])
def test_without_positions_the_encoder_keeps_the_order_it_is_given(norm_first):
    options = dict(heads=2, mlp_width=12, norm_first=norm_first, dtype="float32")
    encoder = transformer.Stack(transformer.EncoderBlock, options, depth=2)
    x = np.random.default_rng(1).standard_normal((2, 7, 8), np.float32)
    variables = jax.jit(lambda key: encoder.init(key, x, None))(jax.random.key(1))
    order = np.random.default_rng(0).permutation(7)
    apply = jax.jit(lambda x: encoder.apply(variables, x, None))
    (given, attention), (expected, reference) = jax.device_get((apply(x[:, order]), apply(x)))
    np.testing.assert_allclose(given, expected[:, order], atol=1e-5)
    np.testing.assert_allclose(attention[1], reference[1][:, :, order][..., order], atol=1e-5)
    np.testing.assert_allclose(expected.mean(-1), 0, atol=1e-5)  # both end in a norm
    np.testing.assert_allclose(expected.var(-1), 1, rtol=1e-3)


def test_positions_turn_by_the_same_angle():
    """Section 3.5: the encoding k positions further on is a linear function of the encoding, the same everywhere."""
    encoding = transformer.sinusoidal_positions(50, 16).astype(np.float64)
    assert encoding[3, 0] == pytest.approx(np.sin(3)) and encoding[3, 1] == pytest.approx(np.cos(3))
    assert encoding[7, 14] == pytest.approx(np.sin(7 / 10_000 ** (14 / 16)), rel=1e-5)
    moved, *_ = np.linalg.lstsq(encoding[:-5], encoding[5:], rcond=None)
    np.testing.assert_allclose(encoding[:-5] @ moved, encoding[5:], atol=1e-5)
    with pytest.raises(UsageError, match="even width, given 7"):
        transformer.sinusoidal_positions(3, 7)


def test_one_embedding_reads_and_writes():
    model, variables, _, target = small()
    assert set(variables["params"]) == {"embedding", "encoder", "decoder"}
    embedding = np.asarray(variables["params"]["embedding"]["embedding"])
    embedded = model.apply(variables, target, False, method="embed")
    expected = embedding[target] * np.sqrt(8) + transformer.sinusoidal_positions(5, 8)
    np.testing.assert_allclose(embedded, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_scan_is_a_way_to_compile():
    model, variables, source, target = small(norm_first=True)
    stacked = {**variables["params"]} | {n: stack_blocks(variables["params"][n]) for n in ("encoder", "decoder")}
    valid = jnp.arange(6)[None] < jnp.array([[6], [4], [3]])
    expected = jax.jit(model.apply)(variables, source, target, valid)
    given = jax.jit(model.clone(scan=True, remat=True).apply)({"params": stacked}, source, target, valid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, expected)
    back = unstack_blocks(stacked["decoder"])
    jax.tree.map(np.testing.assert_array_equal, back, variables["params"]["decoder"])


def test_stochastic_depth_drops_whole_branches():
    block = transformer.EncoderBlock(heads=2, mlp_width=12)
    x = np.random.default_rng(0).standard_normal((400, 3, 8), np.float32)
    variables = jax.jit(lambda key: block.init(key, x, None, None, False))(jax.random.key(1))
    variables["params"]["attention"]["out"]["kernel"] *= 0  # what is left is the second half
    branch = np.asarray(jax.jit(lambda v: block.apply(v, x, None, None, False)[0])(variables)) - x
    dropping = lambda v, key: block.apply(v, x, jnp.asarray(0.25), None, True, rngs={"dropout": key})[0]  # noqa: E731
    given = np.asarray(jax.jit(dropping)(variables, jax.random.key(2))) - x
    kept = np.abs(given).max((1, 2)) > 0
    assert kept.mean() == pytest.approx(0.75, abs=0.08)
    np.testing.assert_allclose(given[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-5)


def test_dropout_only_while_training():
    model, variables, source, target = small()
    train = jax.jit(lambda key: model.apply(variables, source, target, train=True, rngs={"dropout": key})["logits"])
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_heads_divide_the_width():
    with pytest.raises(UsageError, match="3 heads do not divide a width of 8"):
        transformer.Attention(3).init(jax.random.key(0), *jnp.ones((2, 1, 2, 8)))
