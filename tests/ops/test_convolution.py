"""Every route of a convolution gives the numbers of the definition, forward and backward."""

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.models.layers import Conv
from vision.ops import convolution


def convolve_by_definition(image, kernel, strides, padding, dilation, groups):
    """Sums over each window, one output pixel after the other; padding and strides as PyTorch defines them."""
    image = np.pad(image.astype(np.float64), ((0, 0), *padding, (0, 0)))
    height, width, inputs, outputs = kernel.shape
    rows = (image.shape[1] - (height - 1) * dilation[0] - 1) // strides[0] + 1
    columns = (image.shape[2] - (width - 1) * dilation[1] - 1) // strides[1] + 1
    result = np.zeros((len(image), rows, columns, outputs))
    for row in range(rows):
        for column in range(columns):
            top, left = row * strides[0], column * strides[1]
            window = image[
                :, top : top + height * dilation[0] : dilation[0], left : left + width * dilation[1] : dilation[1]
            ]
            window = window[:, :height, :width]
            for group in range(groups):
                channels = slice(group * inputs, (group + 1) * inputs)
                features = slice(group * outputs // groups, (group + 1) * outputs // groups)
                product = np.einsum("bijc,ijco->bo", window[..., channels], kernel[..., features])
                result[:, row, column, features] = product
    return result


def relative_error(given, expected):
    return np.abs(np.asarray(given) - expected).max() / max(np.abs(expected).max(), 1e-3)


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.one_of(
    st.sampled_from(["SAME", "VALID"]),
    st.integers(0, 2),
    st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2))),
)


@hypothesis.given(
    sides, st.sampled_from([(1, 1), (2, 2), (3, 3), (3, 1), (1, 5)]), pairs, paddings, pairs, st.sampled_from([1, 2])
)
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
def test_layer_equals_flax(side, kernel_size, strides, padding, dilation, groups):
    explicit = convolution.explicit_padding(padding, side, kernel_size, strides, dilation)
    hypothesis.assume(min(convolution.output_shape(side, kernel_size, strides, explicit, dilation)) >= 1)
    arguments = dict(strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups)
    random = np.random.default_rng(0)
    image = jnp.asarray(random.standard_normal((2, *side, 4)), jnp.float32)
    ours, theirs = Conv(6, kernel_size, **arguments), nn.Conv(6, kernel_size, **arguments)
    shapes, expected = (jax.eval_shape(layer.init, jax.random.key(0), image) for layer in (ours, theirs))
    assert shapes == expected
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)

    @jax.jit
    def both(variables, image, cotangent):
        results = []
        for layer in (ours, theirs):
            result, pull_back = jax.vjp(layer.apply, variables, image)
            results.append((result, pull_back(cotangent)))
        return results

    shape = jax.eval_shape(theirs.apply, variables, image).shape
    given, expected = both(variables, image, jnp.asarray(random.standard_normal(shape), jnp.float32))
    for ours_leaf, theirs_leaf in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        assert relative_error(ours_leaf, theirs_leaf) < 1e-5


@pytest.mark.parametrize(
    "side, kernel, strides, padding, dilation, groups",
    [
        ((6, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),  # even map, stride 2: SAME would pad below only
        ((2, 2), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # map smaller than the kernel
        ((7, 5), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),  # strided projection
        ((9, 8), (2, 3), (3, 4), ((0, 1), (2, 0)), (1, 1), 1),  # tiles with a gap, cropped and filled
        ((12, 9), (3, 3), (1, 2), ((1, 2), (0, 1)), (2, 1), 1),  # large map: left to XLA
        ((5, 5), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 2),  # groups
    ],
)
def test_equals_definition(side, kernel, strides, padding, dilation, groups):
    random = np.random.default_rng(1)
    image = random.standard_normal((2, *side, 4)).astype(np.float32)
    kernel = random.standard_normal((*kernel, 4 // groups, 6)).astype(np.float32)
    expected = convolve_by_definition(image, kernel, strides, padding, dilation, groups)
    given = convolution.convolve(jnp.asarray(image), jnp.asarray(kernel), strides, padding, dilation, groups)
    assert relative_error(given, expected) < 1e-5


def test_patches_are_right_where_the_rule_does_not_choose_them():
    random = np.random.default_rng(2)
    image = random.standard_normal((2, 11, 9, 3)).astype(np.float32)
    kernel = random.standard_normal((3, 2, 3, 5)).astype(np.float32)
    arguments = (2, 1), ((1, 0), (2, 1)), (2, 3)
    expected = convolve_by_definition(image, kernel, *arguments, groups=1)
    assert relative_error(convolution.by_patches(jnp.asarray(image), jnp.asarray(kernel), *arguments), expected) < 1e-5


def test_rule_on_the_shapes_it_was_measured_for():
    def route(side, kernel, stride, padding, channels=64, **more):
        shapes = (8, side, side, channels), (kernel, kernel, channels, 16)
        found = convolution.formulation(*shapes, (stride, stride), ((padding, padding),) * 2, **more)
        return found and found.__name__

    assert route(2, 3, 1, 1) == "by_patches"  # the cliff of the forward pass
    assert route(4, 3, 2, 1) == "by_patches"  # the cliff of the gradient
    assert route(14, 3, 2, 1, channels=512) == "by_patches"
    assert route(14, 3, 2, 1, channels=64) is None
    assert route(56, 3, 1, 1) is None
    assert route(224, 7, 2, 3) is None
    assert route(56, 1, 1, 0) == "by_tiles"
    assert route(56, 1, 2, 0) == "by_tiles"
    assert route(224, 16, 16, 0) == "by_tiles"
    assert route(7, 31, 1, 15) is None  # 961 slices would take long to compile
    assert route(4, 3, 1, 1, groups=2) is None


def test_other_platforms_get_the_plain_convolution():
    image, kernel = jnp.ones((2, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
    gradient = jax.jit(jax.grad(lambda image, kernel: jnp.sum(convolution.convolve(image, kernel, 2, 1) ** 2), (0, 1)))
    traced = gradient.trace(image, kernel)
    cpu, cuda = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda"))
    assert "stablehlo.convolution" not in cpu and cpu.count("stablehlo.dot_general") == 3
    assert "stablehlo.dot_general" not in cuda and cuda.count("stablehlo.convolution") == 3


def test_choice_of_platform_is_gone_when_compiled():
    image, kernel = jnp.ones((2, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
    compiled = jax.jit(lambda image, kernel: convolution.convolve(image, kernel, 2, 1)).lower(image, kernel).compile()
    assert " conditional(" not in compiled.as_text()


def test_differentiates_twice_and_forward_and_maps():
    image, kernel = jnp.ones((1, 3, 3, 2)) / 4, jnp.ones((3, 3, 2, 2)) / 4
    energy = lambda kernel: jnp.sum(convolution.convolve(image, kernel, 1, 1) ** 2)  # noqa: E731
    direction = jnp.ones_like(kernel)
    second = jax.jvp(jax.grad(energy), (kernel,), (direction,))[1]
    np.testing.assert_allclose(jnp.vdot(second, direction), 2 * energy(direction), rtol=1e-5)  # energy is quadratic
    mapped = jax.vmap(lambda one: convolution.convolve(one, kernel, 1, 1))(jnp.stack([image, 2 * image]))
    np.testing.assert_allclose(mapped[1], 2 * mapped[0], rtol=1e-6)


def test_symbolic_batch_can_be_exported():
    batch = jax.export.symbolic_shape("batch")[0]
    image = jax.ShapeDtypeStruct((batch, 4, 4, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda image: convolution.convolve(image, jnp.ones((3, 3, 8, 8)), 1, 1)))(
        image
    )
    assert exported.call(jnp.ones((3, 4, 4, 8))).shape == (3, 4, 4, 8)


def test_wrong_padding_is_named():
    with pytest.raises(ValueError, match=r"padding \(1, 2, 3\)"):
        convolution.explicit_padding((1, 2, 3), (4, 4), (3, 3), (1, 1))
