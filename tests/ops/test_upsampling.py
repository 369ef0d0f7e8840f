"""Ways to enlarge a map against the published implementation's answers and against their definitions."""

from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops import upsampling

ANSWERS = Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"
few = hypothesis.settings(max_examples=6, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def answers():
    with np.load(ANSWERS) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def features(answers):
    return jnp.asarray(nhwc(answers["roi_features_nchw"]))


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_reference_resizing(answers, features):
    np.testing.assert_array_equal(upsampling.nearest(features, (47, 61)), nhwc(answers["resize_nearest_47x61"]))
    given = upsampling.bilinear(features, (47, 61))
    np.testing.assert_allclose(given, nhwc(answers["resize_bilinear_47x61"]), atol=2e-5)


def test_reference_unpooling(answers, features):
    pooled, switches = upsampling.max_pool_with_switches(features, 2)
    np.testing.assert_array_equal(pooled, nhwc(answers["max_pool_2x2"]))
    unpooled = upsampling.max_unpool(pooled, switches, 2, features.shape[1:3])
    np.testing.assert_array_equal(unpooled, nhwc(answers["max_unpool_2x2"]))


def test_reference_transposed_convolution(answers, features):
    kernel = jnp.asarray(np.moveaxis(answers["transpose_kernel_in_out_h_w"], (2, 3), (0, 1)))
    given = upsampling.transposed_convolution(features, kernel, 2, 1) + answers["transpose_bias"]
    np.testing.assert_allclose(given, nhwc(answers["conv_transpose_stride2_pad1"]), atol=1e-4)


sides = st.integers(1, 7)


@few
@hypothesis.given(sides, sides, st.integers(1, 12), st.integers(1, 12))
@hypothesis.example(3, 2, 9, 8)
def test_nearest(height, width, rows, columns):
    image = random(2, height, width, 3)
    result = upsampling.nearest(jnp.asarray(image), (rows, columns))
    for row, column in np.ndindex(rows, columns):
        np.testing.assert_array_equal(result[:, row, column], image[:, row * height // rows, column * width // columns])


@pytest.mark.parametrize("align_corners", [False, True])
@few
@hypothesis.given(sides, sides, st.integers(1, 12), st.integers(1, 12))
@hypothesis.example(1, 1, 5, 1)
def test_bilinear(align_corners, height, width, rows, columns):
    """Along each axis, numpy's own linear interpolation between the pixels' middles."""
    image = random(1, height, width, 2)

    def resized(x, axis, outputs):
        inputs = x.shape[axis]
        if align_corners:
            at = np.linspace(0, inputs - 1, outputs) if outputs > 1 else np.zeros(1)
        else:
            at = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(inputs), line), axis, x)

    expected = resized(resized(image, 1, rows), 2, columns)
    result = upsampling.bilinear(jnp.asarray(image), (rows, columns), align_corners)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_bilinear_is_computed_in_float32():
    ramp = jnp.linspace(0, 1, 9, dtype=jnp.bfloat16).reshape(1, 3, 3, 1)
    result = upsampling.bilinear(ramp, (24, 24))
    exact = upsampling.bilinear(ramp.astype(jnp.float32), (24, 24))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, exact.astype(jnp.bfloat16))


def test_bed_of_nails():
    image = random(2, 3, 4, 5)
    result = np.array(upsampling.bed_of_nails(jnp.asarray(image), 3))
    np.testing.assert_array_equal(result[:, ::3, ::3], image)
    result[:, ::3, ::3] = 0
    assert result.shape == (2, 9, 12, 5) and not result.any()


@pytest.mark.parametrize("height, width, window", [(7, 5, 2), (6, 7, 3), (2, 3, 1)])
def test_unpooling_undoes_pooling(height, width, window):
    image = np.random.default_rng(0).integers(-2, 2, (2, height, width, 3)).astype(np.float32)  # many ties

    @jax.jit
    def run(image):
        (pooled, switches), pull_back = jax.vjp(lambda x: upsampling.max_pool_with_switches(x, window), image)
        gradient = pull_back((jnp.ones_like(pooled), np.zeros(switches.shape, jax.dtypes.float0)))[0]
        unpooled, pull_back = jax.vjp(lambda x: upsampling.max_unpool(x, switches, window, (height, width)), pooled)
        return pooled, switches, gradient, unpooled, pull_back(image)[0]

    pooled, switches, gradient, unpooled, unpooled_gradient = (np.asarray(x) for x in run(image))
    expected, first = np.zeros_like(image), np.zeros_like(image)
    for b, row, column, c in np.ndindex(pooled.shape):
        view = image[b, row * window : (row + 1) * window, column * window : (column + 1) * window, c]
        i, j = np.unravel_index(np.argmax(view), view.shape)  # the first in row-major order
        assert pooled[b, row, column, c] == view[i, j] and switches[b, row, column, c] == i * window + j
        expected[b, row * window + i, column * window + j, c] = view[i, j]
        first[b, row * window + i, column * window + j, c] = 1
    np.testing.assert_array_equal(unpooled, expected)
    np.testing.assert_array_equal(gradient, first)
    np.testing.assert_array_equal(unpooled_gradient, pooled)  # it reads the places that the switches name


def test_pooling_does_not_lose_nan():
    image = jnp.ones((1, 2, 2, 1)).at[0, 0, 1, 0].set(jnp.nan)
    pooled, switches = upsampling.max_pool_with_switches(image)
    assert np.isnan(pooled).all() and int(switches[0, 0, 0, 0]) == 1


def transposed_by_definition(image, kernel, stride, padding, output_padding):
    batch, height, width, _ = image.shape
    rows, columns = kernel.shape[:2]
    extent = ((side - 1) * stride + k + output_padding for side, k in ((height, rows), (width, columns)))
    canvas = np.zeros((batch, *extent, kernel.shape[3]), np.float32)
    for row, column in np.ndindex(height, width):
        top, left = row * stride, column * stride
        canvas[:, top : top + rows, left : left + columns] += np.einsum("bi,hwio->bhwo", image[:, row, column], kernel)
    return canvas[:, padding : canvas.shape[1] - padding, padding : canvas.shape[2] - padding]


@pytest.mark.parametrize(
    "size, kernel_size, stride, padding, output_padding",
    [
        ((3, 4), (2, 2), 2, 0, 0),  # tiles
        ((3, 5), (4, 4), 2, 1, 0),
        ((4, 3), (3, 5), 2, 1, 1),
        ((2, 2), (2, 3), 4, 0, 2),  # holes between the tiles
        ((1, 1), (5, 5), 1, 0, 0),
        ((5, 6), (3, 3), 1, 1, 0),  # an ordinary convolution
    ],
)
def test_transposed_convolution(size, kernel_size, stride, padding, output_padding):
    image, kernel = random(2, *size, 3), random(*kernel_size, 3, 2, seed=1)
    expected = transposed_by_definition(image, kernel, stride, padding, output_padding)
    slope = random(*expected.shape, seed=2)

    def ours(image, kernel):
        return upsampling.transposed_convolution(image, kernel, stride, padding, output_padding)

    def textbook(image, kernel):
        around = [(k - 1 - padding, k - 1 - padding + output_padding) for k in kernel_size]
        return jax.lax.conv_general_dilated(
            image, kernel[::-1, ::-1], (1, 1), around, (stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def both(image, kernel):
        return [
            (result, pull_back(slope)) for result, pull_back in (jax.vjp(f, image, kernel) for f in (ours, textbook))
        ]

    (result, gradients), (_, expected_gradients) = both(image, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    for given, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-3)


def test_other_devices_get_the_textbook_form():
    """What is lowered for an accelerator is one convolution of the image with zeros between its pixels."""
    image, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((4, 4, 2, 3))
    lowered = jax.jit(lambda x, k: upsampling.transposed_convolution(x, k, 2, 1)).trace(image, kernel)
    assert "lhs_dilate = [2, 2]" in lowered.lower(lowering_platforms=("tpu",)).as_text()
    assert "convolution" not in lowered.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_bilinear_kernel_interpolates(factor):
    """Away from the edges a transposed convolution with it is bilinear interpolation, and so is its fixed form."""
    image = random(1, 5, 6, 2)
    kernel = np.einsum("hw,io->hwio", upsampling.bilinear_kernel(2 * factor), np.eye(2)).astype(np.float32)
    learned = upsampling.transposed_convolution(jnp.asarray(image), jnp.asarray(kernel), factor)
    fixed = upsampling.bilinear_transposed(jnp.asarray(image), factor)
    assert fixed.shape == learned.shape == (1, factor * 6, factor * 7, 2)
    np.testing.assert_allclose(fixed, learned, atol=1e-5)
    expected = upsampling.bilinear(jnp.asarray(image), (5 * factor, 6 * factor))
    start = factor - factor // 2  # where the first pixel's own middle is, seen from the first of the kernel
    inner = fixed[:, factor // 2 : factor // 2 + 5 * factor, factor // 2 : factor // 2 + 6 * factor]
    if factor % 2 == 0:
        np.testing.assert_allclose(
            inner[:, start:-start, start:-start], expected[:, start:-start, start:-start], atol=1e-5
        )


def test_published_bilinear_kernel():
    np.testing.assert_allclose(upsampling.bilinear_kernel(4)[1] * 16, [3, 9, 9, 3])
    np.testing.assert_allclose(upsampling.bilinear_kernel(3) * 4, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
