"""Objects are drawn where they are, in the colour of their class, at any size of the image."""

import numpy as np
import pytest

from vision.explain import palette
from vision.explain.objects import draw_objects

NAMES = ("cat", "dog")
GREY = np.full((480, 640, 3), 90, np.uint8)


def changed(drawn, image):
    factor = drawn.shape[0] // image.shape[0]
    return (drawn != image.repeat(factor, axis=0).repeat(factor, axis=1)).any(axis=-1)


def test_lines_are_on_the_edges_of_the_box_in_the_colour_of_the_class():
    drawn = draw_objects(GREY, np.array([[100.0, 200.0, 300.0, 400.0]]), np.array([1]), NAMES)
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
    color = palette.palette(2)[1]
    for x, y in [(100, 300), (300, 300), (200, 200), (200, 400)]:
        near = drawn[y - 2 : y + 2, x - 2 : x + 2].reshape(-1, 3).astype(int)
        assert np.abs(near - color).sum(axis=1).min() < 40
    rows, columns = np.nonzero(changed(drawn, GREY))
    assert columns.min() in (98, 99) and columns.max() in (300, 301) and rows.max() in (400, 401)
    assert 165 < rows.min() < 198  # the name stands on the upper edge
    assert not changed(drawn, GREY)[210:390, 110:290].any()


def test_small_images_are_enlarged_and_stay_under_their_objects():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 1), np.uint8)
    drawn = draw_objects(image, np.array([[10, 20, 30, 28.5]]), np.array([0]), NAMES)
    assert drawn.shape == (360, 480, 3)
    rows, columns = np.nonzero(changed(drawn, image))
    assert abs(columns.min() - 120) <= 2 and abs(columns.max() - 360) <= 2 and abs(rows.max() - 342) <= 2


@pytest.mark.parametrize("factor", [1, 12])
def test_masks_of_images_and_of_boxes(factor):
    image = GREY if factor == 1 else GREY[:30, :40]
    box = np.array([[10.0, 12.0, 30.0, 20.0]])
    mask = np.zeros((1, *image.shape[:2]), np.uint8)
    mask[0, 12:20, 10:20] = 1
    left_half = np.zeros((1, 28, 28), np.float32)
    left_half[..., :14] = 1.0
    whole = changed(draw_objects(image, box, [0], ("",), masks=mask), image)
    within = changed(draw_objects(image, box, [0], ("",), masks=left_half), image)
    inner = np.s_[14 * factor : 19 * factor]
    assert whole[inner, 11 * factor : 20 * factor].all() and not whole[inner, 20 * factor : 29 * factor - 1].any()
    np.testing.assert_array_equal(within[inner], whole[inner])
    with pytest.raises(ValueError, match="masks of the whole image have its shape"):
        draw_objects(image, box, [0], (), masks=np.ones((1, 9, 9), np.uint8))


def test_padding_is_not_drawn_and_classes_need_no_names():
    boxes = np.array([[0.0, 0, 0, 0], [np.nan, 0, 5, 5], [7, 7, 3, 9]])
    drawn = draw_objects(GREY, boxes, np.zeros(3, int), NAMES, keypoints=np.ones((3, 2, 3)))
    np.testing.assert_array_equal(drawn, GREY)
    np.testing.assert_array_equal(draw_objects(GREY, np.zeros((0, 4)), np.zeros(0, int), NAMES), GREY)
    far = draw_objects(GREY, np.array([[-50, -9, 9000, 2000.0]]), np.array([1203]), NAMES, scores=np.array([0.5]))
    assert changed(far, GREY).any()


def test_keypoints_and_crowds():
    box = np.array([[100.0, 100.0, 400.0, 400.0]])
    points = np.array([[[200.5, 250.5, 2.0], [300.5, 250.5, 0.0]]])
    plain = changed(draw_objects(GREY, box, [0], NAMES, keypoints=points), GREY)
    assert plain[245:256, 195:206].any() and not plain[245:256, 290:311].any()
    crowd = changed(draw_objects(GREY, box, [0], NAMES, crowd=[True]), GREY)
    assert crowd[150:350, 98:102].any(axis=1).mean() < 0.8 < plain[150:350, 98:102].any(axis=1).mean()


def test_the_most_certain_is_on_top():
    boxes = np.array([[100.0, 100, 200, 200], [100, 100, 200, 200]])
    first = draw_objects(GREY, boxes, [0, 1], NAMES, scores=[0.9, 0.2])
    other = draw_objects(GREY, boxes, [0, 1], NAMES, scores=[0.2, 0.9])
    one, two = palette.palette(2).astype(int)
    assert np.abs(first[150, 99:101] - one).sum() < np.abs(first[150, 99:101] - two).sum()
    assert np.abs(other[150, 99:101] - two).sum() < np.abs(other[150, 99:101] - one).sum()
