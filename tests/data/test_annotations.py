"""Boxes, masks, maps and keypoints follow the shape that is drawn in the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import chain
from vision.data.annotations import IGNORE, MIN_VISIBLE


def drawn(box, shape=(60, 80), objects=3):
    """A white rectangle on black, in every kind of annotation, as the second of `objects` places."""
    x0, y0, x1, y1 = box
    filled = np.zeros(shape, np.uint8)
    filled[y0:y1, x0:x1] = 1
    boxes, masks = np.zeros((objects, 4), np.float32), np.zeros((objects, *shape), np.uint8)
    keypoints = np.zeros((objects, 2, 3), np.float32)
    boxes[1], masks[1] = box, filled
    keypoints[1] = [x0 + 0.5, y0 + 0.5, 2], [x1 - 0.5, y1 - 0.5, 1]
    return {
        "image": np.repeat(filled[..., None] * np.uint8(255), 3, axis=-1),
        "segmentation": filled * np.uint8(7),
        "masks": masks,
        "boxes": boxes,
        "classes": np.array([0, 4, 0]),
        "valid": np.arange(objects) == 1,
        "visible": np.ones(objects, np.float32),
        "keypoints": keypoints,
    }


def hull(filled):
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def transformed(text, example, seed=0):
    return chain.apply(chain.parse(text), example, np.random.default_rng(seed))


boxes = st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(6, 20), st.integers(6, 20)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
CHAINS = [
    "flip(1.0)",
    "flip(1.0, direction='vertical')|flip(1.0)",
    "resize((90, 70))",
    "resize_long(160)|random_crop(100)",
    "random_resized_crop((64, 48), area=(0.3, 1.0))|flip",
    "scale_jitter(0.5, 2.0)|random_crop(64, pad_smaller=True)|flip",
    "letterbox((100, 90))|translate(0.1)",
    "rotate(40.0)",
    "flip|rotate(180.0)|scale(0.6, 1.8)|translate(0.2)|central_crop(56)",
    "rotate(20.0)|resize((50, 90))|pad_to(((96, 96),))",
]


@pytest.mark.parametrize("text", CHAINS)
@settings(max_examples=25, deadline=None)
@given(box=boxes, seed=st.integers(0, 10**6))
def test_everything_follows_the_drawn_shape(text, box, seed):
    example = drawn(box)
    moved = transformed(text, example, seed)
    shape = moved["image"].shape[:2]
    assert moved["segmentation"].shape == shape and moved["masks"].shape == (3, *shape)
    white = moved["image"][..., 0] >= 128
    labelled = moved["segmentation"] == 7
    assert set(np.unique(moved["segmentation"])) <= {0, 7, IGNORE} and set(np.unique(moved["masks"])) <= {0, 1}
    np.testing.assert_array_equal(labelled, moved["masks"][1].astype(bool))
    # The interpolated image and the nearest label differ at the rim, by less than a pixel.
    inner = labelled.copy()
    inner[1:-1, 1:-1] &= labelled[2:, 1:-1] & labelled[:-2, 1:-1] & labelled[1:-1, 2:] & labelled[1:-1, :-2]
    inner[[0, -1]] = inner[:, [0, -1]] = False
    assert white[inner].all()

    kept = moved["boxes"][1]
    assert not moved["boxes"][[0, 2]].any() and not moved["valid"][[0, 2]].any()
    assert moved["valid"].dtype == bool and moved["boxes"].dtype == np.float32
    assert moved["valid"][1] == kept.any()
    assert (kept[[0, 1]] >= 0).all() and (kept[[2, 3]] <= shape[::-1]).all()
    if moved["valid"][1] and labelled.any():
        assert np.abs(kept - hull(labelled)).max() <= 1
        if white.any():
            assert np.abs(kept - hull(white)).max() <= 2
    for x, y, visibility in moved["keypoints"][1]:
        if visibility:
            assert 0 <= x < shape[1] and 0 <= y < shape[0]
            near = labelled[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2]
            assert near.any()
        else:
            assert x == y == 0
    np.testing.assert_array_equal(moved["visible"], example["visible"])
    np.testing.assert_array_equal(moved["classes"], example["classes"])


def test_boxes_are_exact_where_upright_stays_upright():
    moved = transformed("flip(1.0)|resize((120, 40))", drawn((10, 20, 30, 50)))
    np.testing.assert_allclose(moved["boxes"][1], [25, 40, 35, 100])
    np.testing.assert_allclose(moved["keypoints"][1], [[34.75, 41, 2], [25.25, 99, 1]])


def test_without_masks_a_turned_box_is_the_hull_of_its_corners():
    example = drawn((30, 20, 50, 40))
    del example["masks"]

    class Largest:
        def uniform(self, low, high):
            return high

    moved = chain.apply(chain.parse("rotate(45.0)"), example, Largest())
    half = 10 * np.sqrt(2)
    np.testing.assert_allclose(moved["boxes"][1], [40 - half, 30 - half, 40 + half, 30 + half], rtol=1e-6)


@pytest.mark.parametrize(("left", "stays"), [(28, True), (30, False)])
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_objects_of_which_too_little_stays_in_view_are_taken_out(left, stays, dtype):
    """A crop of columns 30 to 50 of a box of 20 columns that begins at 50 - 2 or 50 - 1."""
    assert 1 / 20 < MIN_VISIBLE < 3 / 20
    example = drawn((left + 19, 20, left + 39, 40))
    example["valid"] = example["valid"].astype(dtype)
    moved = transformed("central_crop((60, 20))", example)
    assert moved["valid"].dtype == dtype and bool(moved["valid"][1]) == stays
    np.testing.assert_array_equal(moved["boxes"][1], [17, 20, 20, 40] if stays else [0, 0, 0, 0])
    assert moved["keypoints"][1, 0].any() == stays and not moved["keypoints"][1, 1].any()


def test_flip_swaps_keypoints_only_where_told_and_only_when_it_flips():
    example = drawn((10, 20, 30, 50))
    plain = transformed("flip(1.0)", example)["keypoints"][1]
    swapped = transformed("flip(1.0, swap=((0, 1),))", example)["keypoints"][1]
    np.testing.assert_array_equal(swapped, plain[::-1])
    twice = transformed("flip(1.0, swap=((0, 1),))|flip(1.0, swap=((0, 1),))", example)["keypoints"]
    np.testing.assert_array_equal(twice, example["keypoints"])
    never = transformed("flip(0.0, swap=((0, 1),))", example)["keypoints"]
    np.testing.assert_array_equal(never, example["keypoints"])


def test_padding_is_ignored_in_maps_and_black_in_images():
    moved = transformed("pad_to(((64, 64), (64, 96), (200, 200)))", drawn((10, 20, 30, 50)))
    assert (
        moved["image"].shape == (64, 96, 3) and moved["size"].tolist() == [60, 80] and moved["size"].dtype == np.int32
    )
    assert (moved["segmentation"][60:] == IGNORE).all() and (moved["segmentation"][:, 80:] == IGNORE).all()
    assert (moved["segmentation"][:60, :80] != IGNORE).all()
    assert not moved["image"][60:].any() and not moved["masks"][:, 60:].any()
    np.testing.assert_array_equal(moved["boxes"][1], [10, 20, 30, 50])
    exact = transformed("pad_to(((60, 80),))", drawn((10, 20, 30, 50)))
    assert exact["size"].tolist() == [60, 80]


def test_letterbox_keeps_the_proportions():
    moved = transformed("letterbox((120, 80), fill=114)", drawn((0, 0, 80, 60)))
    assert moved["image"].shape == (120, 80, 3) and moved["size"].tolist() == [60, 80]
    assert (moved["image"][:60] == 255).all() and (moved["image"][60:] == 114).all()
    moved = transformed("letterbox(30)", drawn((0, 0, 80, 60)))
    assert moved["image"].shape == (30, 30, 3) and moved["size"].tolist() == [22, 30]


def test_keep():
    example = drawn((10, 20, 30, 50))
    assert set(transformed("keep('segmentation')", example)) == {"image", "segmentation"}
    with_boxes = {"image", "boxes", "placement", "file_size"}
    assert set(transformed("keep(('boxes', 'nothing'))", example)) == with_boxes
    moved = transformed("flip(1.0)|noise(0.0)|keep('boxes')|flip(1.0)", example, seed=1)
    np.testing.assert_array_equal(moved["placement"], [1, 0, 0, 0, 1, 0])


def test_the_example_given_is_left_as_it_was():
    example = drawn((10, 20, 30, 50))
    before = {name: value.copy() for name, value in example.items()}
    transformed("flip(1.0, swap=((0, 1),))|rotate(20.0)|translate(0.2)|pad_to(((80, 80),))", example)
    for name, value in before.items():
        np.testing.assert_array_equal(example[name], value, err_msg=name)
