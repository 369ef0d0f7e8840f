"""RoIPool, RoIAlign, masks and key points against reference answers and NumPy written sample by sample."""

import math
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops import masks_and_keypoints as grids
from vision.ops import roi as ops

REFERENCE = dict(np.load(Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"))
HEIGHT, WIDTH, CHANNELS = 7, 9, 3
# Padding, one point, partly and wholly outside, larger than the map, one that ends before it starts.
ODD = [
    [0, 0, 0, 0],
    [9, 9, 9, 9],
    [-8, -8, 6, 6],
    [90, 90, 99, 99],
    [-99, -99, -90, -90],
    [-50, -50, 90, 80],
    [9, 9, 3, 3],
]

roi_align = jax.jit(ops.roi_align, static_argnums=(2, 3, 4, 5))
roi_pool = jax.jit(ops.roi_pool, static_argnums=(2, 3))
crop_masks = jax.jit(ops.crop_masks, static_argnums=3)
encode_keypoints = jax.jit(grids.encode_keypoints, static_argnums=2)
decode_keypoints = jax.jit(grids.decode_keypoints)
paste_masks = jax.jit(grids.paste_masks, static_argnums=2)


def random_boxes(rng, number, limit):
    start = rng.uniform(-5, limit, (number, 2))
    return np.concatenate([start, start + rng.uniform(0, limit, (number, 2))], axis=1).astype(np.float32)


def bilinear(features, y, x):
    height, width, _ = features.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(features.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    return (1 - y) * ((1 - x) * features[top, left] + x * features[top, right]) + y * (
        (1 - x) * features[bottom, left] + x * features[bottom, right]
    )


def aligned_by_samples(features, box, rows, columns, scale, ratio, aligned):
    x0, y0, x1, y1 = box.astype(float) * scale - (0.5 if aligned else 0)
    height, width = y1 - y0, x1 - x0
    if not aligned:
        height, width = max(height, 1), max(width, 1)
    result = np.zeros((rows, columns, features.shape[2]))
    for row, column, i, j in np.ndindex(rows, columns, ratio, ratio):
        y = y0 + (row + (i + 0.5) / ratio) * height / rows
        x = x0 + (column + (j + 0.5) / ratio) * width / columns
        result[row, column] += bilinear(features, y, x) / ratio**2
    return result


def bins_of(box, rows, columns, scale):
    """Row, column, and (top, bottom, left, right) on the map of each bin of RoIPool."""
    corners = [int(math.copysign(math.floor(abs(value) + 0.5), value)) for value in box.astype(float) * scale]
    for row, column in np.ndindex(rows, columns):
        edges = []
        for axis, (number, bins, limit) in ((1, (row, rows, HEIGHT)), (0, (column, columns, WIDTH))):
            side = np.float32(max(corners[axis + 2] - corners[axis] + 1, 1)) / np.float32(bins)
            start, end = math.floor(np.float32(number) * side), math.ceil(np.float32(number + 1) * side)
            edges += [min(max(edge + corners[axis], 0), limit) for edge in (start, end)]
        yield row, column, edges


def pooled_by_bins(features, box, rows, columns, scale):
    result = np.zeros((rows, columns, features.shape[2]))
    for row, column, (top, bottom, left, right) in bins_of(box, rows, columns, scale):
        if left < right and top < bottom:
            result[row, column] = features[top:bottom, left:right].max(axis=(0, 1))
    return result


def of_reference(function):
    """Answers for the reference's two images at once, each box from its own image."""
    features = jnp.asarray(REFERENCE["roi_features_nchw"].transpose(0, 2, 3, 1))
    image, boxes = REFERENCE["rois_index_xyxy"][:, 0].astype(int), jnp.asarray(REFERENCE["rois_index_xyxy"][:, 1:])
    found = jax.jit(jax.vmap(function, in_axes=(0, None)))(features, boxes)
    return np.asarray(found)[image, np.arange(len(image))].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("aligned", [False, True])
def test_reference_roi_align(aligned):
    found = of_reference(lambda features, boxes: ops.roi_align(features, boxes, 7, 0.125, 2, aligned))
    np.testing.assert_allclose(found, REFERENCE[f"roi_align_7x7_scale0.125_sampling2_aligned{aligned}"], atol=1e-4)


def test_reference_roi_pool():
    found = of_reference(lambda features, boxes: ops.roi_pool(features, boxes, 7, 0.125))
    np.testing.assert_array_equal(found, REFERENCE["roi_pool_7x7_scale0.125"])


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_regions_sample_by_sample(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    boxes = np.concatenate([random_boxes(rng, 4, 20), np.array(ODD, np.float32)])
    for aligned, ratio in ((False, 2), (True, 3)):
        found = roi_align(jnp.asarray(features), jnp.asarray(boxes), (2, 3), 0.5, ratio, aligned)
        expected = [aligned_by_samples(features, box, 2, 3, 0.5, ratio, aligned) for box in boxes]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    found = roi_pool(jnp.asarray(features), jnp.asarray(boxes), (2, 3), 0.5)
    np.testing.assert_array_equal(found, [pooled_by_bins(features, box, 2, 3, 0.5) for box in boxes])


def test_bins_of_roi_pool_round_as_float32_does():
    """57 pixels in 7 bins: seven times a seventh of 57 is above 57, and the last bin has a pixel more."""
    features = jnp.arange(64, dtype=jnp.float32)[None, :, None]
    found = roi_pool(features, jnp.array([[0.0, 0, 56, 0], [0, 0, 55, 0]]), (1, 7), 1.0)
    np.testing.assert_array_equal(found[:, 0, -1, 0], [57, 55])


def test_no_boxes():
    features, none = jnp.zeros((HEIGHT, WIDTH, CHANNELS)), jnp.zeros((0, 4))
    assert roi_align(features, none, 2, 0.5).shape == (0, 2, 2, CHANNELS)
    assert roi_pool(features, none, 2, 0.5).shape == (0, 2, 2, CHANNELS)
    assert paste_masks(jnp.zeros((0, 3, 3)), none, (4, 5)).shape == (0, 4, 5)
    found = crop_masks(jnp.zeros((0, 4, 4)), jnp.ones((2, 4)), jnp.zeros(2, jnp.int32), 3)
    np.testing.assert_array_equal(found, np.zeros((2, 3, 3)))


# A sum of bilinear samples is linear in the features: its gradient is known from the forward pass.
@pytest.mark.parametrize("ratio", [2, 3])
def test_gradient_of_roi_align(ratio):
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 4, 5, 1)), jnp.float32)
    boxes = jnp.asarray(np.concatenate([random_boxes(rng, 2, 8), np.array(ODD, np.float32)]))[None].repeat(2, axis=0)
    cotangent = jnp.asarray(rng.normal(size=(2, 9, 2, 2, 1)), jnp.float32)

    @jax.jit
    def align(features, boxes):
        return jax.vmap(lambda f, b: ops.roi_align(f, b, 2, 0.5, ratio))(features, boxes)

    def total(features, boxes):
        return jnp.sum(align(features, boxes) * cotangent)

    slope, none = jax.jit(jax.grad(total, (0, 1)))(features, boxes)
    np.testing.assert_array_equal(none, 0)
    matrix = np.stack([align(jnp.asarray(unit.reshape(1, 4, 5, 1)), boxes[:1])[0] for unit in np.eye(20, dtype="f")])
    np.testing.assert_allclose(slope.reshape(2, 20), np.einsum("prijc,brijc->bp", matrix, cotangent), atol=1e-4)


def test_gradient_of_roi_pool_goes_to_the_first_maximum():
    """Few distinct values: most bins have several maxima. For two images at once."""
    rng = np.random.default_rng(0)
    features = rng.integers(0, 3, (2, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    boxes = np.array([[0, 0, 12, 12], [4, 2, 16, 12], *ODD], np.float32)
    cotangent = rng.normal(size=(2, len(boxes), 2, 3, CHANNELS)).astype(np.float32)
    expected = np.zeros_like(features)
    for image, index in np.ndindex(2, len(boxes)):
        for row, column, (top, bottom, left, right) in bins_of(boxes[index], 2, 3, 0.5):
            for channel in range(CHANNELS):
                window = features[image, top:bottom, left:right, channel]
                if window.size:
                    y, x = np.unravel_index(window.argmax(), window.shape)
                    expected[image, top + y, left + x, channel] += cotangent[image, index, row, column, channel]

    def total(features):
        pooled = jax.vmap(lambda f: ops.roi_pool(f, jnp.asarray(boxes), (2, 3), 0.5))(features)
        return jnp.sum(pooled * cotangent)

    np.testing.assert_allclose(jax.jit(jax.grad(total))(jnp.asarray(features)), expected, atol=1e-5)


def test_bfloat16_features_are_summed_in_float32():
    features = jnp.full((8, 8, 2), 1.0078125, jnp.bfloat16)
    found = roi_align(features, jnp.array([[8.0, 8, 24, 24]]), 2, 0.25, 2, False)
    assert found.dtype == jnp.bfloat16 and np.all(np.asarray(found, np.float32) == 1.0078125)


# The pyramid.


def test_levels_of_the_pyramid():
    """Equation 1: 224 pixels go to level 4, 112 to 3, 223 and 113 with it; what is beyond goes to the last."""
    side = jnp.array([0.0, 1, 55, 56, 111, 112, 223, 224, 447, 448, 900, 5000])
    boxes = jnp.stack([0 * side, 0 * side, side, side], axis=1)
    found = ops.pyramid_level(boxes, lowest=2, levels=4)
    np.testing.assert_array_equal(found + 2, [2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5])


def test_each_box_comes_from_its_level():
    rng = np.random.default_rng(0)
    shapes = {4: (40, 32), 8: (20, 16), 16: (10, 8)}
    features = {stride: jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32) for stride, shape in shapes.items()}
    boxes = np.concatenate([random_boxes(rng, 5, 40), np.array([[3, 5, 50, 60], [0, 9, 80, 99], *ODD], np.float32)])
    options = dict(output_size=(2, 3), sampling_ratio=2, aligned=True)
    found = jax.jit(lambda f, b: ops.roi_align_pyramid(f, b, canonical_level=3, canonical_size=40.0, **options))(
        features, jnp.asarray(boxes)
    )
    levels = np.asarray(ops.pyramid_level(jnp.asarray(boxes), 2, 3, 3, 40.0))
    assert set(levels.tolist()) == {0, 1, 2}
    for box, level, region in zip(boxes, levels, found, strict=True):
        stride = 4 * 2**level
        expected = aligned_by_samples(np.asarray(features[stride]), box, 2, 3, 1 / stride, 2, True)
        np.testing.assert_allclose(region, expected, atol=1e-4)


# Masks.


def test_masks_come_back_from_their_boxes():
    """A disc cropped to its box and pasted again covers the same pixels, but for its outline."""
    y, x = np.mgrid[:40, :50] + 0.5
    masks = np.stack([(y - 20) ** 2 + (x - 22) ** 2 < 144, (np.abs(y - 10) < 6) & (np.abs(x - 30) < 15)])
    boxes = jnp.array([[10.0, 8, 34, 32], [15, 4, 45, 16]])
    crops = crop_masks(jnp.asarray(masks, jnp.uint8), boxes, jnp.array([0, 1]), 28)
    assert np.all((crops >= 0) & (crops <= 1 + 1e-6))
    pasted = np.asarray(paste_masks(crops, boxes, (40, 50))) >= 0.5
    assert (pasted & masks).sum() / (pasted | masks).sum() > 0.97
    np.testing.assert_array_equal(pasted[1], masks[1])


def test_crops_take_the_mask_of_their_object():
    masks = jnp.stack([jnp.zeros((6, 6)), jnp.ones((6, 6))])
    boxes = jnp.tile(jnp.array([[1.0, 1, 4, 5]]), (3, 1))
    found = crop_masks(masks, boxes, jnp.array([1, 0, 1]), 3)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), [1, 0, 1], atol=1e-6)


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_pasted_masks_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 4, 4)).astype(np.float32)
    boxes = np.concatenate([random_boxes(rng, 2, 12), [[5, 5, 5, 9]]]).astype(np.float32)
    found = np.asarray(paste_masks(jnp.asarray(masks), jnp.asarray(boxes), (8, 10)))
    assert np.all(found[2] == 0)
    for mask, (x0, y0, x1, y1), pasted in zip(masks[:2], boxes[:2].astype(float), found, strict=False):
        bordered = np.pad(mask, 1)
        for row, column in np.ndindex(8, 10):
            y, x = (row + 0.5 - y0) / (y1 - y0) * 4 + 0.5, (column + 0.5 - x0) / (x1 - x0) * 4 + 0.5
            inside = 0 <= y <= 5 and 0 <= x <= 5
            expected = bilinear(bordered[..., None], y, x)[0] if inside else 0
            assert pasted[row, column] == pytest.approx(expected, abs=1e-3)


# Key points.


def test_keypoints_go_to_their_cells_and_come_back():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 6, 60) + np.array([0, 0, 5, 5], np.float32)
    points = boxes[:, None, :2] + rng.random((6, 4, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    keypoints = np.concatenate([points, np.ones((6, 4, 1))], axis=-1).astype(np.float32)
    cell, exists = encode_keypoints(jnp.asarray(keypoints), jnp.asarray(boxes), 14)
    assert np.all(exists)
    heatmaps = jax.nn.one_hot(cell, 14 * 14).reshape(6, 4, 14, 14)
    found = decode_keypoints(heatmaps, jnp.asarray(boxes))
    half_a_cell = (boxes[:, None, 2:] - boxes[:, None, :2]) / 14 / 2
    assert np.all(np.abs(found[..., :2] - points) <= half_a_cell + 1e-3)
    np.testing.assert_array_equal(found[..., 2], 1)


def test_which_keypoints_exist():
    box = jnp.array([[10.0, 10, 20, 30]])
    points = jnp.array([[[10, 10, 2], [20, 30, 1], [19.9, 10, 2], [15, 20, 0], [9.9, 20, 2], [15, 31, 2]]], jnp.float32)
    cell, exists = encode_keypoints(points, box, 5)
    np.testing.assert_array_equal(cell, [[0, 24, 4, 0, 0, 0]])
    np.testing.assert_array_equal(exists, [[1, 1, 1, 0, 0, 0]])
    assert not np.any(encode_keypoints(points, jnp.zeros((1, 4)), 5)[1])  # padding


def test_keypoints_are_found_between_cells():
    y, x = np.mgrid[:16, :16] + 0.5
    peaks = np.array([[4.3, 7.9], [8.0, 8.2], [11.6, 3.1]])
    heatmaps = jnp.asarray([[-((x - px) ** 2) - (y - py) ** 2 for px, py in peaks]], jnp.float32)
    found = decode_keypoints(heatmaps, jnp.array([[100.0, 200, 132, 216]]))
    np.testing.assert_allclose(found[0, :, :2], peaks * (2, 1) + (100, 200), atol=1e-3)
    flat = decode_keypoints(jnp.zeros((1, 1, 4, 4)), jnp.zeros((1, 4)))
    assert np.all(np.isfinite(flat))
    slope = jax.jit(jax.grad(lambda h: jnp.sum(decode_keypoints(h, jnp.ones((1, 4))))))(heatmaps)
    assert np.all(np.isfinite(slope))


def test_gradient_of_pasted_masks_is_finite():
    boxes = jnp.asarray(ODD, jnp.float32)
    slopes = jax.jit(jax.grad(lambda m, b: jnp.sum(grids.paste_masks(m, b, (6, 7))), (0, 1)))(
        jnp.ones((len(ODD), 3, 3)), boxes
    )
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize("ratio", [0, -1])
def test_a_number_of_samples_that_is_none(ratio):
    with pytest.raises(ValueError, match="sampling_ratio is 1 or more"):
        ops.roi_align(jnp.zeros((4, 4, 1)), jnp.zeros((1, 4)), 2, 1.0, ratio)
