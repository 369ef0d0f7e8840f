"""Selective search finds what is there, the same every time, and its regions follow the image; warped regions."""

import types

import numpy as np
import pytest

from vision.data import chain, images, proposals
from vision.errors import UsageError

SHAPES = np.array([(10, 12, 50, 40), (60, 8, 90, 60), (20, 50, 44, 74)], np.float32)
COLORS = ((220, 40, 40), (40, 200, 60), (50, 60, 230))


def drawn():
    """Three rectangles on noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (80, 100, 3)).astype(np.uint8)
    for (x0, y0, x1, y1), color in zip(SHAPES.astype(int), COLORS, strict=True):
        image[y0:y1, x0:x1] = color
    return image


def iou(one, others):
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    return both / (np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - both)


def found(text):
    return chain.apply(chain.parse(text), {"image": drawn(), "boxes": SHAPES, "valid": np.ones(3, bool)}, None)


@pytest.mark.parametrize("text", ["selective_search(40)", "selective_search(40, width=50)"])
def test_every_shape_is_among_the_proposals(text):
    example = found(text)
    boxes, valid = example["proposals"], example["proposals_valid"]
    assert boxes.shape == (40, 4) and boxes.dtype == np.float32 and not boxes[~valid].any()
    assert min(iou(shape, boxes).max() for shape in SHAPES) > 0.7
    assert (boxes[valid, 2:] > boxes[valid, :2]).all() and (boxes >= 0).all() and (boxes <= [100, 80, 100, 80]).all()


def test_the_search_is_the_same_every_time_and_kept(monkeypatch):
    first, second = (proposals.search(drawn()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    before = found("selective_search(30)")
    monkeypatch.setattr(proposals, "search", lambda *_: pytest.fail("searched again"))
    np.testing.assert_array_equal(before["proposals"], found("selective_search(30)")["proposals"])
    fewer = found("selective_search(3)")
    np.testing.assert_array_equal(before["proposals"][:3], fewer["proposals"])
    large = found("selective_search(30, min_size=25)")
    sides = large["proposals"][:, 2:] - large["proposals"][:, :2]
    assert 0 < large["proposals_valid"].sum() < before["proposals_valid"].sum()
    assert (sides[large["proposals_valid"]] >= 25).all()


def test_large_regions_are_taken_first_but_not_alone():
    side = np.arange(1, 101, dtype=np.float32)
    boxes = np.stack([0 * side, 0 * side, side, side], axis=1)
    first = side[proposals.ranks(boxes)[:20]]
    assert first.mean() > 60 and first.min() < 60


def test_proposals_move_as_boxes_do():
    text = "selective_search(30)|central_crop((60, 90))|resize((30, 60))"
    plain, moved = found("selective_search(30)"), found(text)
    as_boxes = {"image": drawn(), "boxes": plain["proposals"], "valid": plain["proposals_valid"]}
    as_boxes = chain.apply(chain.parse(text.partition("|")[2]), as_boxes, None)
    np.testing.assert_array_equal(moved["proposals"], as_boxes["boxes"])
    np.testing.assert_array_equal(moved["proposals_valid"], as_boxes["valid"])
    assert moved["proposals_valid"].sum() and moved["proposals"][:, 2].max() <= 60


def test_a_warped_region_has_its_context():
    image = drawn()
    same = proposals.warped(image, np.array([10, 12, 50, 52]), 40, 0)
    np.testing.assert_array_equal(same, image[12:52, 10:50])
    larger = proposals.warped(image, np.array([10, 12, 50, 52]), 48, 4)
    np.testing.assert_array_equal(larger, image[8:56, 6:54])
    edge = proposals.warped(image, np.array([0, 0, 20, 40]), 48, 4, (1, 2, 3))
    assert edge.shape == (48, 48, 3) and (edge[:4] == [1, 2, 3]).all() and (edge[:, :4] == [1, 2, 3]).all()
    assert np.abs(edge[4:-4, 4:-4].mean(axis=(0, 1)) - image[:40, :20].mean(axis=(0, 1))).max() < 4
    with pytest.raises(UsageError, match="leave nothing of 32"):
        proposals.warped(image, np.array([0, 0, 20, 40]), 32, 16)


def test_an_opencv_without_its_contributed_modules_is_told(monkeypatch):
    monkeypatch.setattr(images, "opencv", lambda: types.SimpleNamespace())
    with pytest.raises(UsageError, match="opencv-contrib-python-headless"):
        proposals.search(drawn())
    with pytest.raises(UsageError, match="max_proposals is out of range"):
        found("selective_search(0)")
