"""Published parameter counts, and the contract that every network of the table keeps."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError

IMAGENET = {  # torchvision's and timm's own counts, 1000 classes
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_s32": 22_878_952,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_l16": 304_326_632,
    "vit_l32": 306_535_400,
    "vit_h14": 632_045_800,
}
SMALL = {  # arguments that make each family small enough to run
    "linear": {},
    "mlp": {"hidden": (8, 6), "dropout": 0.5, "batch_norm": True},
    "lenet": {"field": 16, "dropout": 0.5},
    "resnet": {"stage_sizes": (1, 1), "width": 4, "small_images": True, "drop_path": 0.5, "dropout": 0.5},
    "vit": {"variant": "Ti", "patch_size": 8, "width": 8, "depth": 2, "heads": 2, "dropout": 0.5},
    "autoencoder": {"hidden": (8,), "latent": 3},
    "conv_autoencoder": {"stage_sizes": (1, 1), "width": 4, "latent": 3},
    "mae": {
        "patch_size": 4,
        "width": 8,
        "depth": 1,
        "heads": 2,
        "decoder_width": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
}
AUTOENCODERS = ("autoencoder", "conv_autoencoder", "mae")
STOCHASTIC = ("mlp", "lenet", "resnet", "vit")


def parameters(model, *image_shape):
    return models.count_parameters(models.variable_shapes(model, image_shape)["params"])


@functools.cache
def small(name, dtype="float32"):
    model = models.create(name, 5, dtype, **SMALL[name])
    variables = models.initialize(model, jax.random.key(0), (16, 16, 3))
    return model, variables, jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))


DEEPEST = ("resnet101", "resnet152", "vit_l16", "vit_l32")  # one more of a kind that is tested without them


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEPEST else name for name in IMAGENET]
)
def test_published_parameter_counts(name):
    assert parameters(models.create(name, 1000), 224, 224, 3) == IMAGENET[name]


def test_published_parameter_counts_of_small_networks():
    assert parameters(models.create("mlp", 10, hidden=(512, 512)), 28, 28, 1) == 669_706
    assert parameters(models.create("lenet", 10), 32, 32, 1) == 61_706
    assert parameters(models.create("resnet18", 10, small_images=True), 32, 32, 3) == 11_173_962
    assert parameters(models.create("linear", 10), 28, 28, 1) == 7_850
    assert parameters(models.create("vit_b16", 1000), 384, 384, 3) == 86_859_496
    assert parameters(models.create("resnet50", None), 224, 224, 3) == IMAGENET["resnet50"] - 2_049_000


@pytest.mark.parametrize("name", [name for name in SMALL if name not in AUTOENCODERS])
def test_contract(name):
    model, variables, image = small(name)
    outputs = jax.jit(model.apply)(variables, image)
    assert outputs["logits"].shape == (4, 5) and outputs["logits"].dtype == jnp.float32
    assert outputs["pooled"].shape == (4, variables["params"]["head"]["kernel"].shape[0])
    if name in ("resnet", "vit"):
        assert all(features.shape[:3] == (4, 16 // s, 16 // s) for s, features in outputs["features"].items())
    headless = models.create(name, None, **SMALL[name])
    without = {**variables, "params": {key: value for key, value in variables["params"].items() if key != "head"}}
    assert set(outputs) - set(jax.eval_shape(headless.apply, without, image)) == {"logits"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_parameters_stay_float32_and_bfloat16_agrees_roughly(name):
    model, variables, image = small(name)
    low = models.create(name, 5, "bfloat16", **SMALL[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(models.variable_shapes(low, (16, 16, 3)))} == {jnp.dtype("float32")}
    output = "reconstruction" if name in AUTOENCODERS else "pooled"
    expected, given = jax.jit(model.apply)(variables, image)[output], jax.jit(low.apply)(variables, image)[output]
    error = np.abs(np.asarray(given, np.float32) - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.03
    if name not in AUTOENCODERS:
        assert jax.eval_shape(low.apply, variables, image)["logits"].dtype == jnp.float32


@pytest.mark.parametrize("name", STOCHASTIC)
def test_dropout_only_while_training(name):
    model, variables, image = small(name)
    mutable = ["batch_stats"]

    @jax.jit
    def pooled(key):
        outputs, _ = model.apply(variables, image, train=True, mutable=mutable, rngs={"dropout": key})
        return outputs["pooled"], outputs["logits"]

    first, again, other = (pooled(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    head = variables["params"]["head"]
    varies = not np.array_equal(first[0], other[0])
    if name == "vit":  # the head of a new ViT is zero
        assert varies and not np.any(head["kernel"])
    else:
        assert varies and not np.array_equal(first[1], other[1])
    evaluate = jax.jit(lambda key: model.apply(variables, image, rngs={"dropout": key})["pooled"])
    np.testing.assert_array_equal(evaluate(jax.random.key(0)), evaluate(jax.random.key(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name):
    model, variables, image = small(name)
    state = {key: value for key, value in variables.items() if key != "params"}
    output = "code" if name in AUTOENCODERS else "pooled"

    @jax.jit
    def gradient(params):
        def energy(params):
            outputs, _ = model.apply(
                {"params": params, **state},
                image,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(3), "sample": jax.random.key(4)},
            )
            sums = [
                jnp.sum(jnp.sin(leaf)) for key, leaf in outputs.items() if key in ("logits", "reconstruction", output)
            ]
            return sum(sums)

        return jax.grad(energy)(params)

    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), variables["params"]
    )
    for path, slope in flax.traverse_util.flatten_dict(gradient(params), sep="/").items():
        assert np.all(np.isfinite(slope)), path
        assert np.any(np.abs(slope) > 0), path


def test_create_explains_mistakes():
    with pytest.raises(UsageError, match=r"config.model.name: unknown model 'rasnet50'; did you mean 'resnet50'"):
        models.create("rasnet50", 10)
    with pytest.raises(UsageError, match=r"config.model.drop_pth: unknown key; did you mean 'drop_path'"):
        models.create("resnet50", 10, drop_pth=0.1)
    with pytest.raises(UsageError, match=r"config.model.stage_sizes: expected tuple\[int, ...\], given 3"):
        models.create("resnet", 10, stage_sizes=3)
    with pytest.raises(UsageError, match=r"config.model.dtype: .*bfloat16.*given 'bfloat17'"):
        models.create("mlp", 10, "bfloat17")
    with pytest.raises(UsageError, match=r"config.model.num_classes: expected int"):
        models.create("mlp", "ten")
    with pytest.raises(UsageError, match=r"config.model.norm: expected 'batch' or 'group' or None, given 'grup'"):
        models.create("resnet18", 10, norm="grup")
    with pytest.raises(UsageError, match=r"config.model.norm: unknown key"):
        models.create("vit_ti16", 10, norm="group")
    with pytest.raises(UsageError, match="unknown activation 'rellu'; did you mean 'relu'"):
        models.variable_shapes(models.create("mlp", 10, activation="rellu"), (8, 8, 1))


@pytest.mark.parametrize(
    "name, side, fields",
    [
        ("resnet18", 32, {}),
        ("densenet", 32, {"block_sizes": (2, 2)}),
        ("googlenet", 224, {}),
        ("vgg11_bn", 32, {}),
        ("mlp", 8, {"batch_norm": True}),
        ("conv_autoencoder", 32, {}),
        ("unet", 32, {"backbone": "resnet18"}),
        ("segnet", 32, {}),
        ("deeplabv3", 32, {"backbone": "resnet18"}),
        ("ssd", 96, {"backbone": "resnet18", "strides": (8, 16), "extra": (8,)}),
        ("yolov3", 64, {"backbone": "resnet18"}),
    ],
)
def test_group_norm_takes_the_place_of_all_norms(name, side, fields):
    model = models.create(name, 5, norm="group", **fields)
    assert set(models.variable_shapes(model, (side, side, 3))) == {"params"}


@pytest.mark.parametrize("name", models.MODELS)
def test_every_field_says_what_it_means(name):
    assert all(key.meaning for key in models.keys(models.MODELS[name]).values())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.dtype("bfloat16"), "bfloat16"])
def test_dtype_is_a_name_or_a_dtype(dtype):
    assert models.create("linear", 10, dtype).dtype == "bfloat16"


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet"])
@pytest.mark.parametrize("activation", ["crelu", "maxout"])
def test_activations_that_change_the_width(name, activation):
    arguments = {**SMALL[name], "activation": activation}
    model = models.create(name, 5, **arguments)
    assert jax.eval_shape(
        lambda key, image: model.init_with_output(key, image)[0], jax.random.key(0), jnp.ones((2, 16, 16, 3))
    )["logits"].shape == (2, 5)
