"""Pyramids: their levels' sizes and sums, the extra levels, and a pyramid of a transformer's one map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import fpn
from vision.models.layers import BatchNorm

SIZES = {4: (13, 18), 8: (7, 9), 16: (4, 5)}  # halves of a 52x72 image's maps, rounded up


def maps(channels=3):
    rng = np.random.default_rng(0)
    return {s: rng.standard_normal((2, *size, channels)).astype(np.float32) for s, size in SIZES.items()}


def shapes(module, features):
    return jax.eval_shape(module.init, jax.random.key(0), features)


def initialized(module, features):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes(module, features))


def test_levels_are_sums_of_laterals():
    """With 1x1 and 3x3 convolutions that copy their input, a level is its map plus the enlarged coarser ones."""
    features = maps()
    module = fpn.FPN(3, "none")
    identity = {1: np.eye(3)[None, None], 3: np.pad(np.eye(3)[None, None], ((1, 1), (1, 1), (0, 0), (0, 0)))}
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape) if leaf.ndim == 1 else jnp.asarray(identity[leaf.shape[0]]),
        shapes(module, features),
    )
    levels = jax.jit(module.apply)(variables, features)
    assert list(levels) == [4, 8, 16]

    def enlarged(x, size):
        rows, columns = (np.arange(to) * given // to for to, given in zip(size, x.shape[1:3], strict=True))
        return x[:, rows][:, :, columns]

    expected = {16: features[16]}
    expected[8] = features[8] + enlarged(expected[16], SIZES[8])
    expected[4] = features[4] + enlarged(expected[8], SIZES[4])
    for stride in SIZES:
        np.testing.assert_allclose(levels[stride], expected[stride], atol=1e-5)


def test_the_extra_level_of_faster_rcnn():
    features = maps()
    module = fpn.FPN(4, "pool")
    levels = jax.jit(module.apply)(initialized(module, features), features)
    assert list(levels) == [4, 8, 16, 32]
    np.testing.assert_array_equal(levels[32], levels[16][:, ::2, ::2])


@pytest.mark.parametrize("extra, inputs", [("convolutions", 4), ("convolutions_of_backbone", 3)])
def test_the_extra_levels_of_retinanet(extra, inputs):
    features = maps()
    module = fpn.FPN(4, extra)
    variables = shapes(module, features)
    levels = jax.eval_shape(module.apply, variables, features)
    assert {stride: x.shape for stride, x in levels.items() if stride > 16} == {32: (2, 2, 3, 4), 64: (2, 1, 2, 4)}
    assert variables["params"]["extra_32"]["kernel"].shape == (3, 3, inputs, 4)
    assert variables["params"]["extra_64"]["kernel"].shape == (3, 3, 4, 4)


def test_norms_take_the_biases_place():
    features = maps()
    module = fpn.FPN(4, "pool", functools.partial(BatchNorm, dtype="float32"))
    variables = shapes(module, features)
    assert set(variables["params"]["lateral_8"]["conv"]) == {"kernel"}
    assert set(variables["batch_stats"]["output_8"]["norm"]) == {"mean", "var"}


def test_published_parameters():
    """FPN on ResNet-50 has 3,344,384 parameters; RetinaNet's reads three maps and has two levels more."""
    features = {2 ** (index + 2): jnp.zeros((1, 1, 1, 256 << index)) for index in range(4)}

    def count(module, features):
        return models.count_parameters(shapes(module, features))

    assert count(fpn.FPN(), features) == 3_344_384
    del features[4]
    laterals, outputs = (512 + 1024 + 2048) * 256 + 3 * 256, 3 * (9 * 256 * 256 + 256)
    assert count(fpn.FPN(extra="convolutions"), features) == laterals + outputs + 2 * (9 * 256 * 256 + 256)


def test_simple_pyramid_of_one_map():
    """A plain transformer's map of stride 16 gives strides 4 to 32, and 64 by pooling."""
    features = {16: jnp.zeros((1, 4, 6, 8))}
    module = fpn.SimplePyramid(channels=4)
    levels = jax.eval_shape(module.apply, shapes(module, features), features)
    assert {stride: x.shape for stride, x in levels.items()} == {
        4: (1, 16, 24, 4),
        8: (1, 8, 12, 4),
        16: (1, 4, 6, 4),
        32: (1, 2, 3, 4),
        64: (1, 1, 2, 4),
    }


def test_wrong_strides_are_named():
    with pytest.raises(UsageError, match="map of stride 16 gives strides times or by powers of two; given 48"):
        jax.eval_shape(fpn.SimplePyramid((48,)).init, jax.random.key(0), {16: jnp.zeros((1, 4, 4, 2))})
    with pytest.raises(UsageError, match="has features at strides 16; given 8, 16"):
        fpn.by_stride({"features": {16: None}}, (8, 16), "fpn", False)
    with pytest.raises(UsageError, match="has no features by stride"):
        fpn.by_stride({}, (8, 16), "simple", False)
