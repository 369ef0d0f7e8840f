"""Vision transformer: tokens and their order, positions, attention against NumPy, options, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import transformer, vit
from vision.models.transformer import stack_blocks, unstack_blocks


@functools.cache
def small(**arguments):
    model = models.create("vit", 3, variant="Ti", patch_size=4, width=16, depth=2, heads=2, **arguments)
    random = np.random.default_rng(0)  # takes no compiling
    scaled = lambda shape: random.standard_normal(shape) / max(np.prod(shape[:-1]), 1) ** 0.5  # noqa: E731
    shapes = models.variable_shapes(model, (8, 12, 3))
    variables = jax.tree.map(lambda leaf: jnp.asarray(scaled(leaf.shape), jnp.float32), shapes)
    return model, variables, random.standard_normal((2, 8, 12, 3), np.float32)


@pytest.mark.parametrize("pool", ["token", "average"])
def test_kept_patches_are_all_that_is_read(pool):
    model, variables, image = small(pool=pool)
    first = int(pool == "token")
    every = jax.jit(model.apply)(variables, image, kept=np.tile(np.arange(6), (2, 1)))
    whole = jax.jit(model.apply)(variables, image)
    assert 4 not in every["features"] and every["tokens"].shape == (2, 6 + first, 16)
    np.testing.assert_allclose(every["tokens"], whole["tokens"], atol=1e-5)
    np.testing.assert_array_equal(whole["tokens"][:, first:].reshape(2, 2, 3, 16), whole["features"][4])
    kept = np.array([[4, 1], [0, 5]])  # patch 4 is row 1, column 1
    apply = jax.jit(lambda image: model.apply(variables, image, kept=kept)["tokens"])
    hidden = np.ones((2, 2, 3), np.float32)
    hidden[[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 2]] = 0
    hidden = hidden.repeat(4, axis=1).repeat(4, axis=2)[..., None]
    np.testing.assert_array_equal(apply(image + hidden), apply(image))
    assert not np.allclose(apply(image + 1 - hidden), apply(image))


@pytest.mark.parametrize("pool, tokens", [("token", 7), ("average", 6)])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_tokens(pool, tokens, positions):
    model, variables, image = small(pool=pool, positions=positions)
    outputs = jax.device_get(jax.jit(model.apply)(variables, image))
    assert outputs["features"][4].shape == (2, 2, 3, 16) and outputs["pooled"].shape == (2, 16)
    assert [weights.shape for weights in outputs["attention"]] == [(2, 2, tokens, tokens)] * 2
    np.testing.assert_allclose(outputs["attention"][0].sum(-1), 1, rtol=1e-5)
    assert ("positions" in variables["params"]) == (positions == "learned")
    assert ("class_token" in variables["params"]) == (pool == "token")
    if pool == "average":
        np.testing.assert_allclose(outputs["pooled"], outputs["features"][4].mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_self_attention_equals_numpy():
    layer = transformer.Attention(heads=2)
    x = np.random.default_rng(0).standard_normal((3, 5, 8), np.float32)
    variables = jax.jit(layer.init)(jax.random.key(1), x, x)
    given, weights = jax.jit(layer.apply)(variables, x, x)
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


@pytest.mark.parametrize("name, count", [
    ("vit_tiny_patch16_224", 5_717_416),
    ("vit_small_patch32_224", 22_878_952),
    ("vit_base_patch16_384", 86_859_496),
    ("vit_b_16", 86_567_656),
    ("vit_l_32", 306_535_400),
    ("vit_huge_patch14_224", 632_045_800),
])  # fmt: skip
def test_published_parameter_counts(name, count):
    side = 384 if name.endswith("384") else 224
    assert models.count_parameters(models.variable_shapes(vit.VARIANTS[name](), (side, side, 3))["params"]) == count


def test_attention_pooling_weighs_the_patches():
    model, variables, image = small(pool="attention")
    params = variables["params"]
    assert "class_token" not in params and params["positions"].shape == (6, 16)
    apply = jax.jit(model.apply)
    outputs = apply(variables, image)
    assert outputs["pool_attention"].shape == (2, 2, 1, 6)
    np.testing.assert_allclose(outputs["pool_attention"].sum(-1), 1, rtol=1e-5)
    # With a query of zero and no biases each patch weighs the same: what is pooled is their average, projected.
    pool = jax.tree.map(jnp.zeros_like, params["pool"])
    for name in ("value", "out"):
        pool["attention"][name]["kernel"] = params["pool"]["attention"][name]["kernel"]
    result = apply({"params": {**params, "pool": pool}}, image)
    patches = np.asarray(result["features"][4]).reshape(2, 6, 16)
    value, out = (np.asarray(pool["attention"][name]["kernel"]) for name in ("value", "out"))
    expected = np.einsum("bhd,hdw->bw", np.einsum("bw,whd->bhd", patches.mean(1), value), out)
    np.testing.assert_allclose(result["pooled"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_scan_is_a_way_to_compile(remat):
    model, variables, image = small()
    scanned = model.clone(scan=True, remat=remat)
    shapes = models.variable_shapes(scanned, image.shape[1:])["params"]
    stacked = stack_blocks(variables["params"])
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), variables["params"])

    def gradient(model, params):
        def loss(params):
            outputs = model.apply({"params": params}, image)
            return jnp.sum(jnp.sin(outputs["pooled"])), outputs

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (given, outputs), (expected, reference) = gradient(scanned, stacked), gradient(model, variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), outputs, reference)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), unstack_blocks(given), expected)


def test_scanned_blocks_draw_their_own_numbers():
    model = small()[0].clone(scan=True, drop_path=0.9, dropout=0.1)
    variables = models.initialize(model, jax.random.key(0), (8, 12, 3))
    kernels = variables["params"]["blocks"]["mlp"]["dense_1"]["kernel"]
    assert kernels.shape == (2, 16, 64) and not np.allclose(kernels[0], kernels[1])
    image = small()[2]
    train = jax.jit(lambda key: model.apply(variables, image, train=True, rngs={"dropout": key})["pooled"])
    assert not np.allclose(train(jax.random.key(0)), train(jax.random.key(1)))


def test_resampled_positions_keep_the_class_token_and_follow_the_image():
    rng = np.random.default_rng(0)
    positions = rng.standard_normal((1 + 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(vit.resample_positions(positions, (2, 3), (2, 3)), positions)
    given = np.asarray(vit.resample_positions(positions, (2, 3), (4, 6)))
    assert given.shape == (25, 5)
    np.testing.assert_array_equal(given[0], positions[0])
    ramp = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), -1).astype(np.float32)
    for method in ("bicubic", "bilinear"):  # both are exact for planes, away from the border
        double = np.asarray(vit.resample_positions(ramp.reshape(64, 2), (8, 8), (16, 16), 0, method)).reshape(16, 16, 2)
        middle = np.arange(4, 12)
        np.testing.assert_allclose(double[4:12, 4:12, 0], np.tile((middle[:, None] - 0.5) / 2, 8), atol=1e-4)
        half = np.asarray(vit.resample_positions(double.reshape(256, 2), (16, 16), (8, 8), 0, method))
        np.testing.assert_allclose(half.reshape(8, 8, 2)[3:5, 3:5], ramp[3:5, 3:5], atol=1e-4)


def test_bicubic_resampling_equals_keys_1981():
    """Equation 15 with a = -1/2, on one axis, with the weights of places outside given to those inside."""

    def kernel(t):
        t = abs(t)
        return 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    line = np.random.default_rng(1).standard_normal(5).astype(np.float32)
    expected = []
    for place in (np.arange(8) + 0.5) * 5 / 8 - 0.5:
        weights = np.array([kernel(place - k) for k in range(5)])
        expected.append(weights @ line / weights.sum())
    given = vit.resample_positions(line[:, None], (5, 1), (8, 1), 0)
    np.testing.assert_allclose(given[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_without_positions_patches_are_a_set():
    model, variables, image = small()
    params = {**variables["params"], "positions": jnp.zeros_like(variables["params"]["positions"])}
    rolled = np.roll(image, 4, axis=2)  # by one patch
    apply = jax.jit(model.apply)
    given, expected = (jax.device_get(apply({"params": params}, x)) for x in (rolled, image))
    np.testing.assert_allclose(given["pooled"], expected["pooled"], atol=1e-5)
    np.testing.assert_allclose(given["features"][4], np.roll(expected["features"][4], 1, axis=2), atol=1e-5)


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
    train = jax.jit(lambda key: model.apply(variables, image, train=True, rngs={"dropout": key})["pooled"])
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(first, again)
    given, expected = (jax.jit(network.apply)(variables, image)["pooled"] for network in (model, small()[0]))
    np.testing.assert_allclose(given, expected)


@pytest.mark.slow
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
    with pytest.raises(UsageError, match="10 positions are not 1 and a grid of 2x3"):
        vit.resample_positions(np.zeros((10, 4)), (2, 3), (3, 3))


def test_width_alone_scales_the_mlp():
    assert vit.ViT(variant="Ti", width=96).size() == vit.Size(96, 12, 3, 384)
    assert vit.ViT(variant="S", mlp_width=100).size() == vit.Size(384, 12, 6, 100)
