"""Rules forwards and backwards, and the kinds of change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.weights import rules
from vision.weights.rules import Rule, our_path, their_name

BLOCK = Rule(r"layer(\d)\.(\d+)\.conv(\d)\.weight", "params/stage_<1>/block_<2+1>/conv_<3>/kernel")


def test_a_path_from_a_name():
    assert our_path(BLOCK, "layer3.11.conv2.weight") == "params/stage_3/block_12/conv_2/kernel"
    assert our_path(Rule(r"conv(\d)_.*", "params/stage_<1-1>/x"), "conv5_3") == "params/stage_4/x"
    assert our_path(Rule("counter", None), "counter") is None


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 9))
def test_names_come_back(stage, block, conv):
    name = f"layer{stage}.{block}.conv{conv}.weight"
    assert their_name(BLOCK, our_path(BLOCK, name)) == name


@pytest.mark.parametrize(
    "pattern, path, name",
    [
        (r"a\.(query|key)\.w", "params/<1>/kernel", "a.key.w"),
        (r"(?:first|second)\.(\d)", "params/x_<1>", "first.4"),
        (r"norm(?:\.)?(\d)", "params/norm_<1>", "norm2"),
        (r"unit_(\d)([ab]?)", "params/unit_<1+1><2>", "unit_3"),
        (r"unit_(\d)([ab]?)", "params/unit_<1+1><2>", "unit_3b"),
        (r"same(\d)", "params/a_<1>/b_<1>", "same7"),
        (r"x\.(a(?:1|2))\.(b)?y", "params/<1>/<2>z", "x.a2.by"),
    ],
)
def test_what_backwards_understands(pattern, path, name):
    rule = Rule(pattern, path)
    assert their_name(rule, our_path(rule, name)) == name


@pytest.mark.parametrize(
    "rule, path",
    [
        (BLOCK, "params/stage_3/block_0/conv_2/kernel"),  # their block would be -1
        (BLOCK, "params/stage_3/block_2/conv_2/bias"),
        (Rule(r"x(\d)y(\d)", "params/<1>"), "params/1"),  # nothing says what the second group is
        (Rule(r"layer.weight", "params/layer"), "params/layer"),  # any character: not plain text
        (Rule(r"a+", "params/a"), "params/a"),
        (Rule(r"same(\d)", "params/a_<1>/b_<1>"), "params/a_1/b_2"),
        (Rule("counter", None), "params/counter"),
    ],
)
def test_what_cannot_be_followed_backwards(rule, path):
    assert their_name(rule, path) is None


@pytest.mark.parametrize(
    "kind, shape",
    [
        (rules.SAME, (4,)),
        (rules.CONV, (5, 4, 3, 2)),
        (rules.DENSE, (5, 4)),
        (rules.leading(2), (1, 1, 4)),
        (rules.dense_after_map(3, 4, 5), (7, 60)),
        (rules.TO_HEADS, (6, 4)),
        (rules.FROM_HEADS, (4, 6)),
        (rules.TO_HEADS_BIAS, (6,)),
    ],
)
def test_kinds_undo_themselves(kind, shape):
    value = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_array_equal(kind.to_theirs(kind.to_ours(value)), value)


def test_convolution_kernel():
    theirs = np.arange(5 * 4 * 3 * 2).reshape(5, 4, 3, 2)
    assert rules.CONV.to_ours(theirs)[2, 1, 3, 4] == theirs[4, 3, 2, 1]


def test_dense_after_map_multiplies_the_same_numbers():
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((7, 60))
    expected = image.transpose(0, 3, 1, 2).reshape(2, -1) @ kernel.T
    given = image.reshape(2, -1) @ rules.dense_after_map(3, 4, 5).to_ours(kernel)
    np.testing.assert_allclose(given, expected, rtol=1e-12)


def test_heads_back_from_their_own_axes():
    ours = np.arange(4 * 3 * 2).reshape(4, 3, 2)  # (in, heads, head width)
    assert rules.TO_HEADS.to_theirs(ours)[2 * 2 + 1, 3] == ours[3, 2, 1]
    ours = np.arange(4 * 3 * 2).reshape(3, 2, 4)  # (heads, head width, out)
    assert rules.FROM_HEADS.to_theirs(ours)[3, 2 * 2 + 1] == ours[2, 1, 3]
