"""Vision transformer: tokens and their order, positions, attention against NumPy, options, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import vit


@functools.cache
def small(**arguments):
    model = models.create("vit", 3, variant="Ti", patch_size=4, width=16, depth=2, heads=2, **arguments)
    variables = models.initialize(model, jax.random.key(0), (8, 12, 3))
    return model, variables, jax.random.normal(jax.random.key(1), (2, 8, 12, 3))


@pytest.mark.parametrize("pool, tokens", [("token", 7), ("average", 6)])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_tokens(pool, tokens, positions):
    model, variables, image = small(pool=pool, positions=positions)
    outputs = model.apply(variables, image)
    assert outputs["features"][4].shape == (2, 2, 3, 16) and outputs["pooled"].shape == (2, 16)
    assert [weights.shape for weights in outputs["attention"]] == [(2, 2, tokens, tokens)] * 2
    np.testing.assert_allclose(outputs["attention"][0].sum(-1), 1, rtol=1e-5)
    assert ("positions" in variables["params"]) == (positions == "learned")
    assert ("class_token" in variables["params"]) == (pool == "token")
    if pool == "average":
        np.testing.assert_allclose(outputs["pooled"], outputs["features"][4].mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_self_attention_equals_numpy():
    layer = vit.SelfAttention(heads=2, dropout=0.0, dtype="float32")
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    variables = layer.init(jax.random.key(1), x, False)
    given, weights = layer.apply(variables, x, False)
    p = jax.tree.map(np.asarray, variables["params"])
    for example in range(3):
        result = np.zeros((5, 8))
        for head in range(2):
            q, k, v = (
                np.asarray(x[example]) @ p[n]["kernel"][:, head] + p[n]["bias"][head] for n in ("query", "key", "value")
            )
            scores = np.exp(q @ k.T / 2.0)  # the square root of a head's width of 4
            scores /= scores.sum(-1, keepdims=True)
            np.testing.assert_allclose(weights[example, head], scores, rtol=1e-4)
            result += scores @ v @ p["out"]["kernel"][head]
        np.testing.assert_allclose(given[example], result + p["out"]["bias"], rtol=1e-4, atol=1e-5)


def test_without_positions_patches_are_a_set():
    model, variables, image = small()
    params = {**variables["params"], "positions": jnp.zeros_like(variables["params"]["positions"])}
    rolled = jnp.roll(image, 4, axis=2)  # by one patch
    given, expected = (model.apply({"params": params}, x) for x in (rolled, image))
    np.testing.assert_allclose(given["pooled"], expected["pooled"], atol=1e-5)
    np.testing.assert_allclose(given["features"][4], jnp.roll(expected["features"][4], 1, axis=2), atol=1e-5)


def test_sincos_positions_know_offsets_only():
    rows, columns, width = 6, 7, 32
    encoding = vit.sincos_positions(rows, columns, width).astype(np.float64).reshape(rows, columns, width)
    products = np.einsum("rcd,std->rcst", encoding, encoding)
    by_offset = {}
    for r, c, s, t in np.ndindex(products.shape):
        by_offset.setdefault((s - r, t - c), []).append(products[r, c, s, t])
    assert max(np.ptp(values) for values in by_offset.values()) < 1e-5
    assert by_offset[0, 0][0] == pytest.approx(width / 2)
    assert by_offset[0, 1][0] > by_offset[0, 2][0]  # nearer is more alike
    assert by_offset[1, 0][0] == pytest.approx(by_offset[0, 1][0], rel=1e-5)  # rows and columns count alike


def test_attention_dropout_only_while_training():
    model, variables, image = small(attention_dropout=0.5)
    train = lambda seed: model.apply(variables, image, train=True, rngs={"dropout": jax.random.key(seed)})["pooled"]  # noqa: E731
    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))
    np.testing.assert_allclose(model.apply(variables, image)["pooled"], small()[0].apply(variables, image)["pooled"])


def test_remat_changes_nothing():
    model, variables, image = small()

    def gradient(model):
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(model.apply(v, image)["pooled"]))))(variables)

    given, expected = gradient(model.clone(remat=True)), gradient(model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, expected)


@pytest.mark.parametrize(
    "size, message",
    [
        ((224, 230), "resize it to 224x224 or 224x240,"),
        ((10, 100), "resize it to 16x96 or 16x112,"),
        ((30, 30), "resize it to 16x16 or 32x32,"),
    ],
)
def test_size_that_patches_do_not_tile(size, message):
    with pytest.raises(UsageError, match=message):
        vit.check_patches(size, 16)


def test_errors_name_what_is_wrong():
    with pytest.raises(UsageError, match="unknown ViT variant 'Tiny'"):
        models.variable_shapes(models.create("vit", 3, variant="Tiny"), (32, 32, 3))
    with pytest.raises(UsageError, match="5 heads do not divide a width of 192"):
        models.variable_shapes(models.create("vit_ti16", 3, heads=5), (32, 32, 3))
    with pytest.raises(UsageError, match="divisible by 4, given 18"):
        vit.sincos_positions(2, 2, 18)


def test_width_alone_scales_the_mlp():
    assert vit.ViT(variant="Ti", width=96).size() == vit.Size(96, 12, 3, 384)
    assert vit.ViT(variant="S", mlp_width=100).size() == vit.Size(384, 12, 6, 100)
