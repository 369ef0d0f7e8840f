"""GoogLeNet: the paper's table 1 layer by layer, published counts, auxiliary classifiers, the naive module, sizes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from vision.errors import UsageError
from vision.models import count_parameters, googlenet, layers, variable_shapes

pytestmark = pytest.mark.slow  # networks of many layers are traced

VARIANTS = googlenet.VARIANTS

# Table 1 of the paper: output, thousands of parameters, millions of multiply-adds. Its thousands are 1,024.
TABLE = {
    "conv_1": ((112, 112, 64), 2.7, 34),
    "conv_2+3": ((56, 56, 192), 112, 360),
    "inception_3a": ((28, 28, 256), 159, 128),
    "inception_3b": ((28, 28, 480), 380, 304),
    "inception_4a": ((14, 14, 512), 364, 73),
    "inception_4b": ((14, 14, 512), 437, 88),
    "inception_4c": ((14, 14, 512), 463, 100),
    "inception_4d": ((14, 14, 528), 580, 119),
    "inception_4e": ((14, 14, 832), 840, 170),
    "inception_5a": ((7, 7, 832), 1072, 54),
    "inception_5b": ((7, 7, 1024), 1388, 71),
    "head": ((1000,), 1000, 1),
}
# Where the table contradicts its own columns of widths, what these give: the first row counts two convolutions 7x1 and
# 1x7 for the 7x7 (2,688 weights; 9,408 in every implementation), 4c and 5a differ by 7 and 5 %.
CORRECTED = {"conv_1": (9408 / 1024, 118), "inception_4c": (497.5, 100), "inception_5a": (1018, 51.1)}


def shapes_of(model, size, train=False):
    image = jax.ShapeDtypeStruct((2, size, size, 3), "float32")
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def outputs(image):
        return model.init_with_output(keys, image, train)

    return jax.eval_shape(outputs, image)


def traced(model, size):
    """{path of a layer: (output shape without batch, weights without biases, multiply-adds)}."""
    rows = {}

    def record(next_method, args, kwargs, context):
        result = next_method(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, layers.Conv | nn.Dense):
            weights = math.prod(module.variables["params"]["kernel"].shape)
            rows["/".join(module.path)] = (result.shape[1:], weights, weights * math.prod(result.shape[1:-1]))
        return result

    with nn.intercept_methods(record):
        shapes_of(model, size)
    return rows


def test_table_1():
    model = VARIANTS["googlenet_paper"](auxiliary=False)
    rows = traced(model, 224)
    for name, (output, parameters, multiply_adds) in TABLE.items():
        prefixes = ("conv_2/", "conv_3/") if name == "conv_2+3" else (f"{name}/",)
        found = [row for path, row in rows.items() if f"{path}/".startswith(prefixes)]
        parameters, multiply_adds = CORRECTED.get(name, (parameters, multiply_adds))
        assert sum(row[1] for row in found) == pytest.approx(parameters * 1024, rel=0.025), name
        assert sum(row[2] for row in found) == pytest.approx(multiply_adds * 1e6, rel=0.025), name
        ends = [row[0] for path, row in rows.items() if path in _ends(name)]
        assert {shape[:-1] for shape in ends} == {output[:-1]}, name
        assert sum(shape[-1] for shape in ends) == output[-1], name
    assert sum(row[2] for row in rows.values()) == pytest.approx(1.583e9, rel=1e-3)
    total = sum(parameters for _, parameters, _ in TABLE.values())
    assert count_parameters(variable_shapes(model, (224, 224, 3))["params"]) == pytest.approx(total * 1024, rel=0.03)


def _ends(row):
    """Paths of the convolutions whose results, concatenated, are the row's."""
    last = {"conv_1": ["conv_1/conv"], "conv_2+3": ["conv_3/conv"], "head": ["head"]}
    places = ("branch_1/unit_1", "branch_2/unit_2", "branch_3/unit_2", "branch_4/unit_1")
    return last.get(row, [f"{row}/{place}/conv" for place in places])


@pytest.mark.parametrize(
    "name, auxiliary, expected",
    [
        ("googlenet", True, 13_004_888),
        ("googlenet", False, 6_624_904),
        ("googlenet_paper", True, 13_378_280),
        ("googlenet_paper", False, 6_998_552),
    ],
)
def test_parameters(name, auxiliary, expected):
    model = VARIANTS[name](auxiliary=auxiliary)
    assert count_parameters(variable_shapes(model, (224, 224, 3))["params"]) == expected


def test_torchvision_form_has_published_multiply_adds():
    rows = traced(VARIANTS["googlenet"](auxiliary=False), 224)
    assert sum(row[2] for row in rows.values()) == pytest.approx(1.498e9, rel=1e-3)


@pytest.mark.parametrize("name, size", [("googlenet", 224), ("googlenet", 96), ("googlenet_paper", 224)])
def test_auxiliary_logits_while_training_only(name, size):
    model = VARIANTS[name](num_classes=7)
    training, variables = shapes_of(model, size, train=True)
    evaluating, same_variables = shapes_of(model, size)
    assert [logits.shape for logits in training["aux_logits"]] == [(2, 7), (2, 7)]
    assert "aux_logits" not in evaluating
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, same_variables)
    assert {"auxiliary_1", "auxiliary_2"} <= set(variables["params"])
    for without in (model.clone(auxiliary=False), model.clone(num_classes=None)):
        outputs, variables = shapes_of(without, size, train=True)
        assert "aux_logits" not in outputs and "auxiliary_1" not in variables["params"]


def test_auxiliary_heads_read_4a_and_4d():
    kernels = variable_shapes(VARIANTS["googlenet_paper"](), (224, 224, 3))["params"]
    widths = [kernels[f"auxiliary_{n}"]["unit"]["conv"]["kernel"].shape[2] for n in (1, 2)]
    assert widths == [TABLE["inception_4a"][0][-1], TABLE["inception_4d"][0][-1]]


def test_naive_modules_grow():
    outputs, variables = shapes_of(VARIANTS["googlenet_paper"](naive=True, auxiliary=False), 224)
    width, expected = 192, 7 * 7 * 3 * 64 + 64 + 64 * 64 + 64 + 9 * 64 * 192 + 192
    for module in googlenet.WIDTHS.values():  # figure 2a: 1x1, 3x3, 5x5 on all channels, and the pooled channels
        one, three, five = module.one, module.three, module.five
        expected += width * (one + 9 * three + 25 * five) + one + three + five
        width += one + three + five
    assert outputs["pooled"].shape == (2, width)
    assert count_parameters(variables["params"]) == expected + 1000 * (width + 1)


@pytest.mark.parametrize(
    "name, arguments, smallest",
    [
        ("googlenet", {}, 15),
        ("googlenet_paper", dict(auxiliary=False), 31),
        ("googlenet_paper", {}, 79),
        ("googlenet", dict(small_images=True), 2),
        ("googlenet_paper", dict(small_images=True), 10),
    ],
)
def test_smallest_image(name, arguments, smallest):
    model = VARIANTS[name](num_classes=3, **arguments)
    outputs, variables = shapes_of(model, smallest)
    assert min(outputs["features"][max(outputs["features"])].shape) > 0
    assert all(0 not in leaf.shape for leaf in jax.tree.leaves(variables))
    with pytest.raises(UsageError, match=f"{smallest}x{smallest}"):
        shapes_of(model, smallest - 1)


def test_features_of_the_small_image_form():
    outputs, _ = shapes_of(VARIANTS["googlenet"](num_classes=10, small_images=True), 32)
    features = {stride: x.shape[1:] for stride, x in outputs["features"].items()}
    assert features == {1: (32, 32, 480), 2: (16, 16, 832), 4: (8, 8, 1024)}


def test_remat_and_dtype_change_no_variable():
    model = VARIANTS["googlenet"](num_classes=3, small_images=True)
    _, expected = shapes_of(model, 16)
    outputs, variables = shapes_of(model.clone(remat=True, dtype="bfloat16"), 16, train=True)
    assert flatten_dict(jax.tree.map(jnp.shape, variables)) == flatten_dict(jax.tree.map(jnp.shape, expected))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert {x.dtype.name for x in outputs["features"].values()} == {"bfloat16"}
    assert {outputs[name].dtype.name for name in ("logits", "pooled")} == {"float32"}


def test_unknown_form():
    with pytest.raises(UsageError, match="torchvision"):
        shapes_of(VARIANTS["googlenet"](form="torch"), 32)
