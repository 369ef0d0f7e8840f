"""Every tensor on both sides is accounted for; heads, positions and fused projections."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, weights
from vision.errors import UsageError
from vision.models.vit import resample_positions

SIZE = (32, 32)


def random_variables(model, size):
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (*size, 3))
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.float32), shapes)


@functools.cache
def resnet(num_classes=5):
    model = models.create("resnet", num_classes, stage_sizes=(1, 1), width=4, block="bottleneck")
    return model, random_variables(model, SIZE)


@functools.cache
def vit(side=32, **arguments):
    model = models.create("vit", 5, width=8, depth=2, heads=2, patch_size=8, **arguments)
    return model, random_variables(model, (side, side))


def load(model, state_dict, **options):
    return weights.from_state_dict(model, state_dict, **{"image_size": SIZE, **options})


def assert_same(one, other):
    one, other = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (one, other))
    assert list(one) == list(other)
    for path in one:
        assert one[path].dtype == np.float32
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.mark.parametrize("make, source", [(resnet, "torchvision"), (vit, "torchvision"), (vit, "timm")])
def test_round_trip(make, source):
    model, variables = make()
    state_dict = weights.to_state_dict(model, variables, source)
    assert_same(load(model, state_dict, source=source), variables)


def test_names_are_torchvisions(reference):
    model, variables = resnet()
    published = reference.shapes("torchvision/resnet50")
    assert set(weights.to_state_dict(model, variables)) < set(published)


def test_numbers_of_other_types_become_float32():
    model, variables = resnet()
    state_dict = weights.to_state_dict(model, variables)
    half = {name: np.asarray(jnp.asarray(value, jnp.bfloat16)) for name, value in state_dict.items()}
    given = load(model, half)["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(given, variables["params"]["stem"]["conv"]["kernel"].astype(jnp.bfloat16))
    assert given.dtype == np.float32


class Torch:
    """What of a PyTorch tensor is used."""

    def __init__(self, value, dtype="torch.float32"):
        self.value, self.dtype = value, dtype

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Torch(np.asarray(self.value, np.float32))

    def __array__(self, dtype=None, copy=None):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.asarray(self.value, dtype)


def test_tensors_of_pytorch():
    model, variables = resnet()
    state_dict = {name: Torch(value) for name, value in weights.to_state_dict(model, variables).items()}
    state_dict["fc.bias"] = Torch(state_dict["fc.bias"].value, "torch.bfloat16")
    assert_same(load(model, state_dict), variables)


def test_what_is_missing_or_left_over_is_named():
    model, variables = resnet()
    state_dict = weights.to_state_dict(model, variables)
    del state_dict["layer1.0.bn2.bias"]
    state_dict |= {"extra.weight": np.zeros(3), "layer3.0.conv1.weight": np.zeros((1, 1, 1, 1))}
    with pytest.raises(UsageError) as error:
        load(model, state_dict)
    message = str(error.value)
    assert (
        "2 of their tensors have no place in it: extra.weight, layer3.0.conv1.weight (would be params/stage_3/"
        in message
    )
    assert "1 of its variables are not in the weights: params/stage_1/block_1/norm_2/bias" in message
    given = load(
        model, state_dict, allow_missing=("params/.*/norm_2/bias",), allow_unused=(r"extra\..*", r"layer3\..*")
    )
    fresh = models.initialize(model, jax.random.key(0), (*SIZE, 3))
    bias = ("stage_1", "block_1", "norm_2", "bias")
    want = variables["params"] | {}
    np.testing.assert_array_equal(*(functools.reduce(dict.get, bias, tree["params"]) for tree in (given, fresh)))
    np.testing.assert_array_equal(given["params"]["head"]["kernel"], want["head"]["kernel"])


def test_long_lists_are_cut():
    model, variables = resnet()
    with pytest.raises(UsageError, match=r"and \d+ more; what may be left out"):
        load(model, {"fc.bias": variables["params"]["head"]["bias"]})
    wider = models.create("resnet", 5, stage_sizes=(1, 1), width=8, block="bottleneck")
    with pytest.raises(UsageError, match=r"gives \(4,\)(; .* gives .*){7} and \d+ more\.$"):
        load(wider, weights.to_state_dict(model, variables))


def test_what_is_allowed_is_a_regular_expression():
    with pytest.raises(UsageError, match=r"allow_missing: '\(\(' is no regular expression"):
        load(resnet()[0], {}, allow_missing=("((",))


def test_shapes_are_compared_by_name():
    model, variables = resnet()
    state_dict = weights.to_state_dict(model, variables) | {"conv1.weight": np.zeros((4, 1, 7, 7))}
    with pytest.raises(UsageError, match=r"params/stem/conv/kernel is \(7, 7, 3, 4\), but their conv1.weight gives"):
        load(model, state_dict)
    state_dict["conv1.weight"] = np.zeros((4, 3))
    with pytest.raises(UsageError, match=r"conv1.weight has the shape \(4, 3\)"):
        load(model, state_dict)


def test_heads():
    model, variables = resnet(5)
    other, _ = resnet(7)
    headless, _ = resnet(None)
    state_dict = weights.to_state_dict(model, variables)
    with pytest.raises(UsageError, match=r"params/head/kernel is \(32, 7\).*head='new'"):
        load(other, state_dict)
    given = load(other, state_dict, head="new", key=jax.random.key(3))
    fresh = models.initialize(other, jax.random.key(3), (*SIZE, 3))
    assert_same({"params": {"head": given["params"]["head"]}}, {"params": {"head": fresh["params"]["head"]}})
    assert_same(given["params"]["stage_2"], variables["params"]["stage_2"])
    assert_same(given["batch_stats"], variables["batch_stats"])
    renewed = load(model, state_dict, head="new")  # also where the number of classes is the same
    assert not np.array_equal(renewed["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])
    assert "head" not in load(headless, state_dict)["params"]


def test_a_network_without_classes_has_no_auxiliary_classifiers(reference):
    state_dict = {name: np.zeros(shape) for name, shape in reference.shapes("torchvision/googlenet").items()}
    headless = weights.from_state_dict(models.create("googlenet", None), state_dict)
    assert models.count_parameters(headless["params"]) == 6_624_904 - 1_025_000
    with pytest.raises(UsageError, match=r"aux1.*allow_unused"):
        weights.from_state_dict(models.create("googlenet", 1000, auxiliary=False), state_dict)


@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_positions_of_another_image_size(size):
    model, variables = vit()
    state_dict = weights.to_state_dict(model, variables)
    given = load(model, state_dict, image_size=size)
    positions = variables["params"]["positions"]
    grid = (size[0] // 8, size[1] // 8)
    np.testing.assert_allclose(given["params"]["positions"], resample_positions(positions, (4, 4), grid), atol=1e-6)
    np.testing.assert_array_equal(given["params"]["positions"][0], positions[0])
    jax.eval_shape(model.apply, given, jnp.zeros((1, *size, 3)))


def test_positions_without_a_class_token():
    model, variables = vit()
    average, _ = vit(pool="average")
    state_dict = weights.to_state_dict(model, variables, "timm")
    with pytest.raises(UsageError, match="cls_token"):
        load(average, state_dict, source="timm")
    given = load(average, state_dict, source="timm", allow_unused=("cls_token",))
    np.testing.assert_array_equal(given["params"]["positions"], variables["params"]["positions"][1:])


def test_positions_that_are_no_grid():
    model, variables = vit()
    state_dict = weights.to_state_dict(model, variables) | {"encoder.pos_embedding": np.zeros((1, 13, 8))}
    with pytest.raises(UsageError, match="13 positions cannot become 17"):
        load(model, state_dict)


def test_blocks_that_are_scanned():
    model, variables = vit()
    scanned, _ = vit(scan=True)
    state_dict = weights.to_state_dict(model, variables)
    given = load(scanned, state_dict)
    assert given["params"]["blocks"]["mlp"]["dense_1"]["kernel"].shape == (2, 8, 32)
    for name, value in weights.to_state_dict(scanned, given).items():
        np.testing.assert_array_equal(value, state_dict[name], err_msg=name)


def test_one_fused_projection_is_three_of_ours(reference):
    model, variables = vit()
    attention = variables["params"]["block_2"]["attention"]
    fused = weights.to_state_dict(model, variables, "timm")["blocks.1.attn.qkv.weight"]
    x = np.random.default_rng(1).standard_normal(8).astype(np.float32)
    expected = [np.einsum("i,ihd->hd", x, attention[name]["kernel"]).ravel() for name in ("query", "key", "value")]
    np.testing.assert_allclose(fused @ x, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_sources_without_rules():
    model, variables = resnet()
    with pytest.raises(UsageError, match="unknown source of weights 'torchvison'; did you mean 'torchvision'"):
        load(model, {}, source="torchvison")
    with pytest.raises(
        UsageError, match=r"no rules for MLP, but for AlexNet, .*; MLP has rules for those of no source"
    ):
        load(models.create("mlp", 5), {})
    biased = models.create("resnet", 5, stage_sizes=(1,), width=4, conv_bias=True)
    with pytest.raises(UsageError, match=r"torchvision has no names for \d variables of ResNet: params/.*conv_1/bias"):
        weights.to_state_dict(biased, models.initialize(biased, jax.random.key(0), (*SIZE, 3)))
    del variables


def test_two_tensors_for_one_variable():
    model, variables = vit()
    state_dict = weights.to_state_dict(model, variables)
    twin = {"encoder.layers.encoder_layer_0.mlp.linear_1.bias": state_dict["encoder.layers.encoder_layer_0.mlp.0.bias"]}
    with pytest.raises(UsageError, match=r"both encoder.*mlp\.0\.bias and .*linear_1.bias are params/block_1/mlp"):
        load(model, state_dict | twin)
