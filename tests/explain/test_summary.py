"""Published counts and receptive fields, and small networks that can be counted by hand."""

import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.explain import summary
from vision.explain.trace import WHOLE, trace
from vision.ops.pooling import max_pool


@functools.cache
def summarized(name, side=224):
    return summary.summarize(models.create(name, 1000), (side, side))


def rows(found):
    return {row.layer: row for row in found.rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, side, parameters, giga_multiply_adds",
    [
        ("resnet18", 224, 11_689_512, 1.814),
        ("resnet50", 224, 25_557_032, 4.089),
        ("resnet152", 224, 60_192_808, 11.514),
        ("vit_b16", 224, 86_567_656, 17.564),
        ("vit_b16", 384, 86_859_496, 55.484),
        ("vit_b32", 224, 88_224_232, 4.409),
        ("vgg16", 224, 138_357_544, 15.470),
        ("alexnet", 224, 61_100_840, 0.714),
        ("alexnet_paper", 227, 60_965_224, 0.724),
        ("densenet121", 224, 7_978_856, 2.834),
        ("googlenet_paper", 224, 13_378_280, 1.583),
        ("inception_v3", 299, 27_161_264, 5.713),
        ("resnext50_32x4d", 224, 25_028_904, 4.230),
    ],
)
def test_published_totals(name, side, parameters, giga_multiply_adds):
    found = summarized(name, side)
    assert found.parameters == parameters == sum(row.parameters for row in found.rows)
    assert found.multiply_adds == sum(row.multiply_adds for row in found.rows)
    assert round(found.multiply_adds / 1e9, 3) == giga_multiply_adds


def test_rows_of_resnet50():
    found = rows(summarized("resnet50"))
    assert found["stem/conv"] == (
        "stem/conv",
        "Conv",
        (112, 112, 64),
        9408,
        0,
        118_013_952,
        (7, 7),
        (2, 2),
        112 * 112 * 64 * 4,
    )
    assert found["stem/norm"][3:6] == (128, 128, 0)
    assert found["stem/max_pool_1"][1:3] == ("max pooling", (56, 56, 64))
    assert found["head"][2:5] == ((1000,), 2_049_000, 0) and found["head"].receptive_field == "image"
    first, _, third, *_, last = found
    assert (first, third, last) == ("stem/conv", "stem/max_pool_1", "head")


@pytest.mark.parametrize(  # v1.5 of ResNet-50 has its strides earlier than their v1
    "name, layer, field, stride",
    [
        ("alexnet", "conv_5", 163, 16),
        ("alexnet", "max_pool_3", 195, 32),
        ("vgg16", "max_pool_5", 212, 32),
        ("resnet18", "stage_4/block_2/norm_2", 435, 32),
        ("resnet50", "stage_4/block_3/norm_3", 427, 32),
    ],
)
def test_published_receptive_fields(name, layer, field, stride):
    row = rows(summarized(name))[layer]
    assert row.receptive_field == (field, field) and row.stride == (stride, stride)


def test_attention_counts_products_without_parameters():
    found = rows(summarized("vit_b16"))
    assert found["block_1/attention"].parameters == 0
    assert found["block_1/attention"].multiply_adds == 2 * 197 * 197 * 768
    assert found["patch_embedding"].receptive_field == (16, 16)
    assert found["block_1/norm_1"].receptive_field == (16, 16)
    assert found["block_1/attention/out"].receptive_field == "image"


@pytest.mark.parametrize("arguments", [{"remat": True}, {"scan": True}, {"scan": True, "remat": True}])
def test_how_a_network_runs_changes_no_count(arguments):
    small = dict(width=16, depth=3, heads=2, patch_size=8)
    plain = summary.summarize(models.create("vit", 5, **small), (32, 32))
    other = summary.summarize(models.create("vit", 5, **small, **arguments), (32, 32))
    assert plain[1:] == other[1:]


class Small(nn.Module):
    """A network with the things that are easily miscounted."""

    @nn.compact
    def __call__(self, image, train=False):
        del train
        x = nn.Conv(4, (3, 3), 2, padding=1, kernel_dilation=2, feature_group_count=1, name="dilated")(image)
        x = jax.nn.relu(x)
        x = max_pool(x, window=2, stride=2)
        x = nn.Conv(8, (3, 1), feature_group_count=2, padding="VALID", use_bias=False, name="grouped")(x)
        shared = nn.Conv(8, (1, 1), name="shared")
        x = shared(shared(x))
        x = jax.checkpoint(jnp.sin)(x)
        up = nn.ConvTranspose(2, (2, 2), (2, 2), name="up")(x)
        mixed = nn.Dense(5, name="over_rows")(jnp.swapaxes(x, 1, 3))
        return {"up": up, "mixed": mixed}


def test_by_hand():
    found = rows(summary.summarize(Small(), (32, 48)))
    names = ("dilated", "max_pool_1", "grouped", "shared", "up", "over_rows")
    dilated, pooled, grouped, shared, up, mixed = (found[name] for name in names)
    height, width = (32 + 2 - 5) // 2 + 1, (48 + 2 - 5) // 2 + 1
    assert dilated.output == (height, width, 4) and dilated.multiply_adds == height * width * 4 * 9 * 3
    assert dilated.receptive_field == (5, 5) and dilated.stride == (2, 2)
    assert pooled.output == (height // 2, width // 2, 4) and pooled.receptive_field == (7, 7)
    assert pooled.memory == math.prod(pooled.output) * 4
    rows_left, columns = height // 2 - 2, width // 2
    assert grouped.output == (rows_left, columns, 8) and grouped.parameters == 3 * 2 * 8
    assert grouped.multiply_adds == rows_left * columns * 8 * 3 * 2
    assert grouped.receptive_field == (7 + 2 * 4, 7) and grouped.stride == (4, 4)
    assert shared.parameters == 72 and shared.multiply_adds == 2 * rows_left * columns * 64
    assert up.output == (2 * rows_left, 2 * columns, 2) and up.stride == (2, 2)
    assert up.multiply_adds == rows_left * columns * 4 * 8 * 2
    assert mixed.receptive_field == "image"  # the dense layer sums over rows


def test_receptive_fields_are_those_of_the_gradient():
    """The pixels that change a place of the output are as many as the table says."""
    model = models.create("resnet", 3, stage_sizes=(1, 1), width=2, small_images=True)
    layers, _ = trace(model, (48, 48))
    (size, _), stride = next(layer.field[1:] for layer in layers if layer.path == "stage_2")
    variables = models.initialize(model, jax.random.key(0), (48, 48, 3))
    variables["params"] = jax.tree.map(jnp.abs, variables["params"])  # or a ReLU hides some pixels

    def place(image):
        return model.apply(variables, image)["features"][2][0, 12, 12].sum()

    seen = np.abs(jax.jit(jax.grad(place))(jnp.ones((1, 48, 48, 3)))).sum((0, 3)) > 0
    assert (np.ptp(np.flatnonzero(seen.any(1))) + 1, np.ptp(np.flatnonzero(seen.any(0))) + 1) == (size, size)
    assert stride == (2, 2)


def test_auxiliary_classifiers_have_rows():
    found = rows(summarized("googlenet_paper"))
    idle = [row for row in found.values() if row.kind == summary.IDLE]
    assert sum(row.parameters for row in idle) == 13_378_280 - 6_998_552
    assert all(row.layer.startswith("auxiliary_") and row.multiply_adds == row.memory == 0 for row in idle)


def test_depth_gathers_modules():
    model = models.create("resnet18", 1000)
    full, shallow = summarized("resnet18"), summary.summarize(model, depth=1)
    assert [row.layer for row in shallow.rows] == ["stem", "stage_1", "stage_2", "stage_3", "stage_4", "head"]
    assert full[1:] == shallow[1:]
    assert rows(shallow)["stage_4"].output == (7, 7, 512)


def test_no_field_for_what_does_not_depend_on_the_image():
    layers, _ = trace(models.create("vit", 5, width=8, depth=1, heads=2, patch_size=8), (16, 16))
    assert layers[0].path == "" and layers[0].field is WHOLE


def test_formats():
    found = summarized("resnet18")
    text = summary.as_text(found, "resnet18").splitlines()
    assert text[0] == "resnet18" and len({len(line.rstrip()) <= len(text[2]) for line in text[1:]}) == 1
    assert "11,689,512" in text[-1] and "1.81 G" in text[-1]
    markdown = summary.as_markdown(found).splitlines()
    assert {line.count("|") for line in markdown} == {len(summary.HEADINGS) + 1}
    data = json.loads(summary.as_json(found, "resnet18"))
    assert data["multiply_adds"] == found.multiply_adds and data["rows"][0]["output"] == [112, 112, 64]


def test_numbers_as_people_say_them():
    assert [summary.count(n) for n in (15_470_264_320, 118_013_952, 34_944, 999, 12)] == [
        "15.47 G",
        "118.0 M",
        "34.94 k",
        "999 ",
        "12 ",
    ]
