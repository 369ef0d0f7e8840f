"""AlexNet, OverFeat and VGG: published counts and layer tables, all image sizes, and the sliding window."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import alexnet, layers, overfeat, vgg

pytestmark = pytest.mark.slow  # networks of many layers are traced

VARIANTS = {**alexnet.VARIANTS, **overfeat.VARIANTS, **vgg.VARIANTS}
SIZES = {"alexnet_paper": 227, "overfeat_fast": 231, "overfeat_accurate": 221}
PARAMETERS = {  # the papers' tables 1 and 3 give OverFeat 145 and 144 million, table 2 gives VGG 133, 134, 138 and 144
    "alexnet": 61_100_840,
    "alexnet_paper": 60_965_224,
    "overfeat_fast": 145_920_872,
    "overfeat_accurate": 144_656_488,
    "vgg11": 132_863_336,
    "vgg11_lrn": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16_1x1": 133_638_952,
    "vgg16_1x1_bn": 133_647_400,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
MULTIPLY_ADDS = {
    "alexnet": 0.714e9,
    "alexnet_paper": 0.724e9,
    "overfeat_fast": 2.801e9,
    "overfeat_accurate": 5.355e9,
    "vgg11": 7.609e9,
    "vgg13": 11.308e9,
    "vgg16_1x1": 11.771e9,
    "vgg16": 15.470e9,
    "vgg19": 19.632e9,
}
ALEXNET = {  # figure 2: output shape, parameters, multiply-adds
    "conv_1": ((55, 55, 96), 34_944, 105_415_200),
    "conv_2": ((27, 27, 256), 307_456, 223_948_800),
    "conv_3": ((13, 13, 384), 885_120, 149_520_384),
    "conv_4": ((13, 13, 384), 663_936, 112_140_288),
    "conv_5": ((13, 13, 256), 442_624, 74_760_192),
    "dense_1": ((1, 1, 4096), 37_752_832, 37_748_736),
    "dense_2": ((1, 1, 4096), 16_781_312, 16_777_216),
    "head": ((1000,), 4_097_000, 4_096_000),
}
VGG16 = {  # column D of table 1
    "stage_1/conv_1": ((224, 224, 64), 1_792, 86_704_128),
    "stage_1/conv_2": ((224, 224, 64), 36_928, 1_849_688_064),
    "stage_2/conv_1": ((112, 112, 128), 73_856, 924_844_032),
    "stage_2/conv_2": ((112, 112, 128), 147_584, 1_849_688_064),
    "stage_3/conv_1": ((56, 56, 256), 295_168, 924_844_032),
    "stage_3/conv_2": ((56, 56, 256), 590_080, 1_849_688_064),
    "stage_3/conv_3": ((56, 56, 256), 590_080, 1_849_688_064),
    "stage_4/conv_1": ((28, 28, 512), 1_180_160, 924_844_032),
    "stage_4/conv_2": ((28, 28, 512), 2_359_808, 1_849_688_064),
    "stage_4/conv_3": ((28, 28, 512), 2_359_808, 1_849_688_064),
    "stage_5/conv_1": ((14, 14, 512), 2_359_808, 462_422_016),
    "stage_5/conv_2": ((14, 14, 512), 2_359_808, 462_422_016),
    "stage_5/conv_3": ((14, 14, 512), 2_359_808, 462_422_016),
    "dense_1": ((1, 1, 4096), 102_764_544, 102_760_448),
    "dense_2": ((1, 1, 4096), 16_781_312, 16_777_216),
    "head": ((1000,), 4_097_000, 4_096_000),
}


@functools.cache
def layer_table(name):
    """Layer -> output shape, parameters, multiply-adds: of the traced network, for each layer that has a kernel."""
    model, side = VARIANTS[name](num_classes=1000), SIZES.get(name, 224)
    variables = models.variable_shapes(model, (side, side, 3))
    trace = functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.eval_shape(trace, variables, jnp.zeros((1, side, side, 3)))
    table = {}

    def visit(params, outputs, path):
        if "kernel" in params:
            shape, kernel = outputs["__call__"][0].shape[1:], params["kernel"].shape
            parameters = sum(math.prod(leaf.shape) for leaf in params.values())
            table["/".join(path)] = (shape, parameters, math.prod(shape) * math.prod(kernel[:-1]))
        else:
            for key in params:
                if isinstance(params[key], dict):
                    visit(params[key], outputs[key], (*path, key))

    visit(variables["params"], state["intermediates"], ())
    return table


@pytest.mark.parametrize("name", VARIANTS)
def test_published_parameter_counts(name):
    side = SIZES.get(name, 224)
    shapes = models.variable_shapes(VARIANTS[name](num_classes=1000), (side, side, 3))
    assert models.count_parameters(shapes["params"]) == PARAMETERS[name]


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_published_multiply_adds(name):
    given = sum(multiply_adds for _, _, multiply_adds in layer_table(name).values())
    assert given == pytest.approx(MULTIPLY_ADDS[name], abs=0.5e6)


@pytest.mark.parametrize("name, published", [("alexnet_paper", ALEXNET), ("vgg16", VGG16)])
def test_published_layer_tables(name, published):
    assert layer_table(name) == published


def test_alexnet_has_the_paper_s_numbers_of_neurons():
    neurons = [math.prod(shape) for shape, _, _ in layer_table("alexnet_paper").values()]
    # Section 3.5, but for the first layer, where the paper prints 253,440: no size of 96 maps has that many.
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]


@pytest.mark.parametrize(
    "name, maps",
    [
        ("alexnet", {4: (55, 64), 8: (27, 192), 16: (13, 256), 32: (6, 256)}),
        ("alexnet_paper", {4: (55, 96), 8: (27, 256), 16: (13, 256), 32: (6, 256)}),
        ("overfeat_fast", {4: (56, 96), 8: (24, 256), 16: (12, 1024), 32: (6, 1024)}),
        ("overfeat_accurate", {2: (108, 96), 6: (30, 256), 12: (15, 1024), 36: (5, 1024)}),
        ("vgg16", {1: (224, 64), 2: (112, 128), 4: (56, 256), 8: (28, 512), 16: (14, 512), 32: (7, 512)}),
    ],
)
def test_features_by_stride(name, maps):
    model, side = VARIANTS[name](num_classes=None), SIZES.get(name, 224)
    outputs = jax.eval_shape(model.apply, models.variable_shapes(model, (side, side, 3)), jnp.zeros((2, side, side, 3)))
    assert "logits" not in outputs and outputs["pooled"].shape == (2, 4096)
    given = {stride: features.shape for stride, features in outputs["features"].items()}
    assert given == {stride: (2, side, side, channels) for stride, (side, channels) in maps.items()}


SMALL = {  # small enough to run; the published forms keep their strides, paddings and groups
    "alexnet": dict(width=1 / 16, hidden=(12, 8)),
    "alexnet_paper": dict(width=1 / 16, hidden=(12, 8)),
    "overfeat_fast": dict(width=1 / 32, hidden=(12, 8)),
    "overfeat_accurate": dict(width=1 / 32, hidden=(12, 8)),
    "vgg11_lrn": dict(width=4, hidden=(12, 8), window=2),
    "vgg16_1x1_bn": dict(width=4, hidden=(12, 8), window=2, stage_sizes=(1, 3)),
}
LARGE = {  # images of (height, width) that leave more than one window
    "alexnet": (255, 287),
    "alexnet_paper": (227 + 64, 227 + 32),
    "overfeat_fast": (231 + 64, 231 + 40),
    "overfeat_accurate": (221 + 36, 221 + 72),
    "vgg11_lrn": (96, 128),
    "vgg16_1x1_bn": (12, 17),
}


@functools.cache
def small(name):
    model = VARIANTS[name](num_classes=5, **SMALL[name])
    variables = models.initialize(model, jax.random.key(0), (*LARGE[name], 3))
    # Values that show every mistake: no zero biases, and the paper's start is too close to zero for so narrow layers.
    random, gain = np.random.default_rng(1), 20 if name == "alexnet_paper" else 1
    variables = jax.tree.map(
        lambda leaf: np.float32(gain * np.asarray(leaf) + 0.1 * random.random(leaf.shape)), variables
    )
    return model, variables, random.standard_normal((2, *LARGE[name], 3)).astype(np.float32)


def dense_by_hand(window, params):
    """(B, h, w, C) -> (B, 5): the dense layers on one flattened window."""
    x = window.reshape(len(window), -1)
    for layer in ("dense_1", "dense_2"):
        x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("name", SMALL)
def test_score_map_is_the_sliding_window_over_the_last_map(name):
    model, variables, image = small(name)
    whole = model.clone(fully_convolutional=True)
    assert models.variable_shapes(whole, image.shape[1:]) == models.variable_shapes(model, image.shape[1:])
    outputs = jax.tree.map(np.asarray, jax.jit(whole.apply)(variables, image))
    last = outputs["features"][max(outputs["features"])]
    side = math.isqrt(variables["params"]["dense_1"]["kernel"].shape[0] // last.shape[-1])
    rows, columns = (size - side + 1 for size in last.shape[1:3])
    assert outputs["score_map"].shape == (2, rows, columns, 5) and rows * columns > 1
    assert outputs["score_map"].std() > 0.01
    for row, column in np.ndindex(rows, columns):
        expected = dense_by_hand(last[:, row : row + side, column : column + side], variables["params"])
        np.testing.assert_allclose(outputs["score_map"][:, row, column], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs["logits"], outputs["score_map"].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def unpadded(*arguments, **fields):
    """The convolution without its padding, which a network that slides over an image would not see."""
    names = ("features", "kernel_size", "strides", "padding")
    return layers.Conv(**{**dict(zip(names, arguments, strict=False)), **fields, "padding": "VALID"})


@pytest.mark.parametrize(
    "name, side, stride",
    [("overfeat_fast", 327, 32), ("overfeat_accurate", 317, 36), ("vgg11_lrn", 182, 32)],
)
def test_score_map_is_the_sliding_window_over_the_image(name, side, stride):
    model = VARIANTS[name](num_classes=5, conv=unpadded, **SMALL[name])
    image = jax.random.normal(jax.random.key(0), (1, side + stride, side + 2 * stride, 3))
    whole = model.clone(fully_convolutional=True)
    variables = models.initialize(whole, jax.random.key(1), image.shape[1:])
    score_map = jax.jit(whole.apply)(variables, image)["score_map"]
    assert score_map.shape[1:3] == (2, 3)
    apply = jax.jit(model.apply)
    for row, column in np.ndindex(2, 3):
        top, left = row * stride, column * stride
        window = image[:, top : top + side, left : left + side]
        expected = apply(variables, window)["logits"]
        np.testing.assert_allclose(score_map[:, row, column], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_one_window_gives_the_logits_of_the_dense_layers(name):
    model, variables, image = small(name)
    side = {"vgg11_lrn": 64, "vgg16_1x1_bn": 8, "alexnet": 224}.get(name) or SIZES[name]
    image = image[:, :side, :side]
    expected = jax.jit(model.apply)(variables, image)
    given = jax.jit(model.clone(fully_convolutional=True).apply)(variables, image)
    assert given["score_map"].shape == (2, 1, 1, 5) and "score_map" not in expected
    np.testing.assert_allclose(given["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["pooled"], expected["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, smallest, smallest_of_windows",
    [("alexnet", 63, 223), ("alexnet_paper", 67, 227), ("overfeat_fast", 71, 231), ("vgg16", 32, 224)],
)
def test_images_of_any_size_that_leaves_something(name, smallest, smallest_of_windows):
    model = VARIANTS[name](num_classes=10)
    shapes = models.variable_shapes(model, (smallest, smallest + 21, 3))
    assert shapes == models.variable_shapes(model, (smallest_of_windows + 50, smallest_of_windows, 3))
    whole = model.clone(fully_convolutional=True)
    outputs = jax.eval_shape(whole.apply, shapes, jnp.zeros((1, smallest_of_windows, smallest_of_windows, 3)))
    assert outputs["score_map"].shape == (1, 1, 1, 10)
    with pytest.raises(
        UsageError, match=rf"image of {smallest - 1}x90 .* at least {smallest} .* {smallest}x90, the near"
    ):
        models.variable_shapes(model, (smallest - 1, 90, 3))
    with pytest.raises(UsageError, match=f"at least {smallest_of_windows} pixels"):
        models.variable_shapes(whole, (smallest_of_windows - 1, 300, 3))


@pytest.mark.parametrize("family, form", [(alexnet.AlexNet, "small"), (overfeat.OverFeat, "small"), (vgg.VGG, None)])
def test_forms_for_small_images(family, form):
    model = family(form=form) if form else family(stage_sizes=(1, 1, 1), hidden=())
    for side in (8, 32):
        shapes = models.variable_shapes(model, (side, side, 1))
        outputs = jax.eval_shape(model.apply, shapes, jnp.zeros((2, side, side, 1)))
        assert outputs["logits"].shape == (2, 1000)
        assert [features.shape[1] for features in outputs["features"].values()] == [
            side,
            side // 2,
            side // 4,
            side // 8,
        ]


def test_without_hidden_layers_the_classifier_reads_the_average():
    model = vgg.VGG(num_classes=3, stage_sizes=(1, 2), width=4, hidden=())
    image = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    variables = models.initialize(model, jax.random.key(1), image.shape[1:])
    outputs = jax.jit(model.apply)(variables, image)
    np.testing.assert_allclose(outputs["pooled"], outputs["features"][4].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    whole = jax.jit(model.clone(fully_convolutional=True).apply)(variables, image)
    assert whole["score_map"].shape == (2, 3, 3, 3)
    np.testing.assert_allclose(whole["logits"], outputs["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet_paper", "vgg16_1x1_bn"])
def test_remat_keeps_the_gradients_and_dropout_needs_training(name):
    model, variables, image = small(name)
    model, image = model.clone(dropout=0.0), image[:, :67, :67]

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(model, params):
        def loss(params):
            given = {**variables, "params": params}
            outputs, _ = model.apply(given, image, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(outputs["logits"]))

        return jax.grad(loss)(params)

    expected, given = (gradient(m, variables["params"]) for m in (model, model.clone(remat=True)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), given, expected)
    assert all(np.any(np.abs(leaf) > 0) for leaf in jax.tree.leaves(expected))

    @functools.partial(jax.jit, static_argnames="train")
    def pooled(key, train):
        dropping = model.clone(dropout=0.5)
        return dropping.apply(variables, image, train, mutable=["batch_stats"], rngs={"dropout": key})[0]["pooled"]

    first, other = (pooled(jax.random.key(seed), train=True) for seed in (0, 1))
    assert np.mean(first == 0) > np.mean(pooled(jax.random.key(0), train=False) == 0)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(*(pooled(jax.random.key(seed), train=False) for seed in (0, 1)))


def test_the_paper_s_first_values():
    variables = models.initialize(
        VARIANTS["alexnet_paper"](num_classes=10, width=0.25), jax.random.key(0), (227, 227, 3)
    )
    ones = {name for name, layer in variables["params"].items() if np.all(layer["bias"] == 1)}
    assert ones == {"conv_2", "conv_4", "conv_5", "dense_1", "dense_2"}
    for name in ("conv_3", "dense_1", "head"):
        assert np.std(variables["params"][name]["kernel"]) == pytest.approx(0.01, rel=0.05)


def test_normalisation_layers_where_the_papers_have_them():
    """Local response normalisation after convolutions 1 and 2 (AlexNet) and the first convolution (A-LRN) alone."""
    for name, normalized in (("alexnet_paper", [True, True, False, False, False]), ("alexnet", [False] * 5)):
        assert [layer.normalize for layer in alexnet.FORMS[VARIANTS[name]().form].convolutions] == normalized
    image = 50 * jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    arguments = dict(num_classes=None, stage_sizes=(1,), width=8, hidden=())
    plain, normal = (VARIANTS[name](**arguments) for name in ("vgg11", "vgg11_lrn"))
    variables = models.initialize(plain, jax.random.key(1), image.shape[1:])
    before, after = (np.asarray(model.apply(variables, image)["features"][1]) for model in (plain, normal))
    padded = np.pad(before**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = np.stack([padded[..., c : c + 5].sum(-1) for c in range(8)], axis=-1)
    np.testing.assert_allclose(after, before / (2 + 1e-4 * total) ** 0.75, rtol=1e-4)
    assert np.abs(after).max() < 0.9 * np.abs(before).max() / 2**0.75


@pytest.mark.parametrize("name", VARIANTS)
def test_every_field_says_what_it_means(name):
    assert all(key.meaning for key in models.keys(VARIANTS[name]).values())


def test_boxes_are_those_of_the_sliding_window_over_the_image():
    side, stride = 50, 8
    options = dict(form="small", width=1 / 32, hidden=(12, 8), box_hidden=(10, 6), box_per_class=True)
    model = overfeat.OverFeat(num_classes=5, conv=unpadded, **options)
    image = jax.random.normal(jax.random.key(0), (1, side + stride, side + 2 * stride, 3))
    whole = model.clone(fully_convolutional=True)
    variables = models.initialize(whole, jax.random.key(1), image.shape[1:])
    variables["params"]["box_head"]["boxes"]["kernel"] *= 100  # boxes that differ from window to window
    outputs = jax.jit(whole.apply)(variables, image)
    assert outputs["box_map"].shape == (1, 2, 3, 5, 4) and "boxes" not in outputs
    assert outputs["box_map"].std(axis=(1, 2)).max() > 0.01
    np.testing.assert_array_equal(outputs["windows"][1, 2], (16, 8, 32, 24))  # with the padding that there is otherwise
    apply = jax.jit(model.apply)
    for row, column in np.ndindex(2, 3):
        top, left = row * stride, column * stride
        expected = apply(variables, image[:, top : top + side, left : left + side])
        np.testing.assert_allclose(outputs["box_map"][:, row, column], expected["boxes"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(outputs["score_map"][:, row, column], expected["logits"], rtol=1e-3, atol=1e-4)
