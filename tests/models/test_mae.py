"""The masked autoencoder: published counts, what is hidden, and that nothing hidden is seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision import models
from vision.errors import UsageError
from vision.models import mae, vit
from vision.ops import patches

SMALL = dict(patch_size=4, width=16, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2)


@functools.cache
def small(**arguments):
    model = models.create("mae", **SMALL | arguments)
    variables = models.initialize(model, jax.random.key(0), (16, 24, 3))
    apply = jax.jit(model.apply, static_argnames="train")
    return apply, variables, np.random.default_rng(1).random((3, 16, 24, 3), np.float32)


# The published counts hold the fixed positions of 1 + 196 tokens, of encoder and decoder; here they are no parameters.
@pytest.mark.parametrize(
    "name, width, encoder, whole",
    [
        ("mae_vit_base_patch16", 768, 85_798_656, 111_907_840),
        pytest.param("mae_vit_large_patch16", 1024, 303_301_632, None, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(name, width, encoder, whole):
    params = models.variable_shapes(models.create(name), (224, 224, 3))["params"]
    assert models.count_parameters(params["encoder"]) + 197 * width == encoder
    if whole:
        assert models.count_parameters(params) + 197 * (width + 512) == whole


@settings(deadline=None, max_examples=12)  # a program is compiled for each
@given(st.integers(2, 40), st.data())
def test_hide_keeps_the_smallest(count, data):
    visible = data.draw(st.integers(1, count - 1))
    noise = np.random.default_rng(count).uniform(size=(3, count)).astype(np.float32)
    order, hidden = jax.device_get(jax.jit(mae.hide, static_argnums=1)(noise, visible))
    for row in range(3):
        seen = set(np.argsort(noise[row])[:visible].tolist())
        assert order[row].tolist() == sorted(seen) + sorted(set(range(count)) - seen)
        assert set(np.flatnonzero(~hidden[row]).tolist()) == seen


@pytest.mark.parametrize("train", [False, True])
def test_the_ratio_is_exact_in_every_image(train):
    apply, variables, image = small()
    outputs = apply(variables, image, train=train, rngs={"sample": jax.random.key(5)})
    assert outputs["masked"].shape == (3, 4, 6)
    np.testing.assert_array_equal(outputs["masked"].sum((1, 2)), 18)


@pytest.mark.parametrize("ratio, seen", [(0.75, 6), (0.5, 12), (0.9, 2)])
def test_the_encoder_gets_no_more_than_the_visible(ratio, seen):
    _, variables, image = small()
    model = models.create("mae", **SMALL, mask_ratio=ratio)
    assert jax.eval_shape(model.apply, variables, image)["tokens"].shape == (3, 1 + seen, 16)


def test_masks_differ_while_training_only():
    apply, variables, image = small()
    masked = lambda train, seed: np.asarray(  # noqa: E731
        apply(variables, image, train=train, rngs={"sample": jax.random.key(seed)})["masked"]
    )
    first, again, other = masked(True, 0), masked(True, 0), masked(True, 1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any() and (first[1] != first[2]).any()
    fixed = masked(False, 0)
    np.testing.assert_array_equal(fixed, masked(False, 1))
    assert (fixed == fixed[:1]).all()


@pytest.mark.parametrize("train", [False, True])
def test_what_is_hidden_is_not_seen(train):
    apply, variables, image = small()
    outputs = lambda image: apply(variables, image, train=train, rngs={"sample": jax.random.key(3)})  # noqa: E731
    before = outputs(image)
    hidden = patches.spread(before["masked"], 16, 24)
    changed = outputs(image + hidden * 5.0)
    for name in ("tokens", "reconstruction", "masked"):
        np.testing.assert_array_equal(changed[name], before[name])
    seen = outputs(image + (1 - hidden) * image)
    for row in range(3):
        assert not np.allclose(seen["tokens"][row], before["tokens"][row])
        assert not np.allclose(seen["reconstruction"][row], before["reconstruction"][row])


def test_evaluation_does_not_depend_on_the_place_in_the_batch():
    apply, variables, image = small()
    given, turned = apply(variables, image)["reconstruction"], apply(variables, image[::-1])["reconstruction"]
    np.testing.assert_allclose(turned[::-1], given, atol=1e-5)


@pytest.mark.parametrize("pool", ["token", "average"])
def test_the_encoder_is_vit_on_the_visible_patches(pool):
    apply, variables, image = small(pool=pool)
    outputs = apply(variables, image)
    kept = np.stack([np.flatnonzero(row == 0) for row in np.asarray(outputs["masked"]).reshape(3, -1)])
    fields = {name: SMALL[name] for name in ("patch_size", "width", "depth", "heads")}
    encoder = models.create("vit", None, **fields, positions="sincos", pool=pool)
    expected = jax.jit(encoder.apply)({"params": variables["params"]["encoder"]}, image, kept=kept)["tokens"]
    np.testing.assert_allclose(outputs["tokens"], expected, atol=1e-5)


def test_the_decoder_puts_tokens_back_in_their_places():
    """With no blocks' work left, a place holds its own token, or the mask token, and its position."""
    apply, variables, image = small()
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    decoder = params["decoder"]
    decoder["block_1"] = jax.tree.map(jnp.zeros_like, decoder["block_1"])
    decoder["embed"]["kernel"], decoder["embed"]["bias"] = jnp.eye(16, 8), jnp.zeros(8)
    decoder["pixels"] = {"kernel": jnp.eye(8, 48), "bias": jnp.zeros(48)}
    outputs = apply({"params": params}, image)
    tokens = np.asarray(outputs["tokens"][:, 1:, :8])
    pixels = np.asarray(outputs["reconstruction_logits"]).reshape(3, 4, 4, 6, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    found = pixels.reshape(3, 24, 48)[..., :8]  # the first 8 numbers of a patch: its first row of pixels
    x = np.tile(np.asarray(decoder["mask_token"]), (3, 24, 1))
    for row, masked in enumerate(np.asarray(outputs["masked"]).reshape(3, -1)):
        x[row, masked == 0] = tokens[row]
    x = x + vit.sincos_positions(4, 6, 8)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, x, atol=1e-4)


def test_gradient_reaches_every_parameter():
    apply, variables, image = small()

    @jax.jit
    def gradient(params):
        outputs = lambda p: apply({"params": p}, image, train=True, rngs={"sample": jax.random.key(0)})  # noqa: E731
        return jax.grad(lambda p: jnp.sum(jnp.sin(outputs(p)["reconstruction_logits"])))(params)

    for path, slope in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(slope).max() > 0, path


def test_scan_is_a_way_to_compile():
    scanned = models.variable_shapes(models.create("mae", **SMALL, scan=True), (16, 24, 3))["params"]
    assert scanned["encoder"]["blocks"]["norm_1"]["scale"].shape == (1, 16)
    assert scanned["decoder"]["blocks"]["norm_1"]["scale"].shape == (1, 8)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.99, 1.5])
def test_a_ratio_that_hides_nothing_or_all(ratio):
    with pytest.raises(UsageError, match=f"mask_ratio of {ratio} leaves -?[0-9]+ of 24 patches"):
        models.variable_shapes(models.create("mae", **SMALL, mask_ratio=ratio), (16, 24, 3))


def test_a_size_that_patches_do_not_tile():
    with pytest.raises(UsageError, match="resize it to 16x20 or 16x24"):
        models.variable_shapes(models.create("mae", **SMALL), (16, 21, 3))
