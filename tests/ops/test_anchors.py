"""Anchors and default boxes against reference answers, published counts and loops."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from vision.ops import anchors as ops

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference" / "expected"
SSD300 = dict(
    image_size=(300, 300),
    map_sizes=[(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)],
    scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    aspect_ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
)


def map_sizes(height, width, strides):
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def test_anchors_of_a_pyramid():
    with np.load(FOLDER / "torchvision_fasterrcnn_resnet50_fpn.npz") as stored:
        size, expected = tuple(stored["input_size"][-2:].tolist()), stored["anchors_every_97th"]
    maps = map_sizes(*size, (4, 8, 16, 32, 64))
    found = ops.anchors(maps, ops.strides_of(size, maps), [[32], [64], [128], [256], [512]], [[0.5, 1, 2]] * 5)
    assert len(found) == 3 * sum(height * width for height, width in maps)
    np.testing.assert_array_equal(found[::97], expected)


def test_anchors_place_by_place():
    """RetinaNet's three sizes and three ratios on maps that are not square."""
    sizes, ratios = [[32, 40, 50], [64, 80, 101]], [[0.5, 1, 2]] * 2
    expected = []
    for (rows, columns), stride, level in zip([(2, 3), (1, 2)], (8, 16), sizes, strict=True):
        for y, x, ratio, size in itertools.product(range(rows), range(columns), ratios[0], level):
            width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
            corner = np.round(np.array([-width, -height, width, height], np.float32) / 2)
            expected.append(corner + np.array([x, y, x, y]) * stride)
    found = ops.anchors([(2, 3), (1, 2)], [(8, 8), (16, 16)], sizes, ratios)
    np.testing.assert_array_equal(found, expected)


def test_strides_of_maps_that_do_not_divide_the_image():
    assert ops.strides_of((160, 224), [(40, 56), (3, 4)]) == [(4, 4), (53, 56)]


def test_default_boxes_of_ssd300():
    with np.load(FOLDER / "torchvision_ssd300_vgg16.npz") as stored:
        expected = stored["default_boxes"]
    found = ops.default_boxes(**SSD300, steps=[8, 16, 32, 64, 100, 300])
    assert found.shape == (8732, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_default_boxes_of_ssd512():
    """24,564 boxes (Liu et al. 2016, the authors' table of results)."""
    maps = [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]]
    found = ops.default_boxes((512, 512), maps, [0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06], ratios)
    assert found.shape == (24564, 4)


def test_default_boxes_spread_over_the_image():
    """Without steps: centres of equal cells, on an image that is not square."""
    found = np.asarray(ops.default_boxes((60, 120), [(2, 3)], [0.2, 0.8], [[2]]))
    assert found.shape == (2 * 3 * 4, 4)
    centres = (found[:, :2] + found[:, 2:]) / 2
    expected = [(x, y) for y in (15, 45) for x in (20, 60, 100) for _ in range(4)]
    np.testing.assert_allclose(centres, expected, atol=1e-4)
    shapes = (found[:4, 2:] - found[:4, :2]) / (120, 60)
    root = math.sqrt(2)
    np.testing.assert_allclose(
        shapes, [(0.2, 0.2), (0.4, 0.4), (0.2 * root, 0.2 / root), (0.2 / root, 0.2 * root)], atol=1e-5
    )


def test_default_box_scales():
    assert ops.default_box_scales(6) == pytest.approx([0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1.0])
    assert ops.default_box_scales(1) == [0.2, 1.0]
