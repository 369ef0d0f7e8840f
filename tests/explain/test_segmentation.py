"""Overlays, error maps, grids and files of segmentations; colours that can be told apart."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.explain import palette, pictures, plots, segmentation
from vision.explain.figure import draw_legend, legend_height, new_figure
from vision.explain.results import Results, without_padding

IGNORE = 255
NAMES = ("background", "cat", "dog")


def read(path):
    """The picture as RGB; fails unless the file is a PNG."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture
def grids(monkeypatch):
    """The arguments of every grid, in place of a drawing."""
    seen = []

    def grid(path, cells, title, subtitle="", group=1, cell_inches=None, legend=()):
        seen.append({"cells": cells, "subtitle": subtitle, "group": group, "legend": list(legend)})

    monkeypatch.setattr(segmentation, "grid", grid)
    monkeypatch.setattr(pictures, "grid", grid)
    return seen


def squares(side=16, classes=(1, 2)):
    """A class map with a square of each class on the background."""
    ids = np.zeros((side, side), np.uint8)
    for place, label in enumerate(classes):
        ids[2 : side // 2, 1 + place * side // 2 : side // 2 - 1 + place * side // 2] = label
    return ids


# Colours.


@pytest.mark.parametrize("background", [False, True])
def test_all_colours_are_distinct_and_stay_with_their_class(background):
    colors = palette.palette(255, background)
    assert colors.shape == (255, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == 255
    np.testing.assert_array_equal(palette.palette(7, background), colors[:7])
    assert background == (not colors[0].any())
    assert [palette.hexadecimal(color) for color in palette.palette(3)] == ["#E69F00", "#56B4E9", "#009E73"]


def test_the_first_colours_are_far_apart_also_for_the_colour_blind():
    """A difference of 10 in CIELAB is seen at a glance; 2.3 is just noticeable."""
    for count, least in ((8, 18), (21, 12), (60, 6)):
        seen = palette._seen(palette.palette(count).astype(float))
        for eye in (seen[:, :3], seen):
            distances = np.linalg.norm(eye[:, None] - eye[None], axis=-1) + 1e9 * np.eye(count)
            assert distances.min() > least, count


def test_lab_of_known_colours():
    lab = palette._lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], float))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.05)


# Overlays.


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_tints_classes_outlines_them_and_leaves_the_background(channels):
    image, ids = np.full((16, 16, channels), 100, np.uint8), squares()
    ids[12:, :8] = IGNORE
    shown = palette.overlay(image, ids, NAMES, opacity=0.5)
    colors = palette.class_palette(NAMES)
    assert (shown[ids == 0] == 100).all()
    edges = palette.outlines(ids)
    for label in (1, 2):
        assert (shown[(ids == label) & edges] == colors[label]).all()
        inside = shown[(ids == label) & ~edges]
        np.testing.assert_allclose(inside, np.tile(50 + colors[label] / 2.0, (len(inside), 1)), atol=1)
    np.testing.assert_allclose(shown[ids == IGNORE], 114, atol=1)


def test_without_a_background_the_first_class_has_a_colour():
    shown = palette.overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), ("road", "car"), opacity=1.0)
    assert (shown == palette.palette(1)[0]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_outlines_are_the_pixels_near_another_class(height, width, thickness, seed):
    ids = np.random.default_rng(seed).integers(0, 2, (height, width)).astype(np.uint8)
    expected = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        for distance in range(1, thickness + 1):
            for y, x in ((row - distance, column), (row + distance, column)):
                expected[row, column] |= 0 <= y < height and ids[y, x] != ids[row, column]
            for y, x in ((row, column - distance), (row, column + distance)):
                expected[row, column] |= 0 <= x < width and ids[y, x] != ids[row, column]
    np.testing.assert_array_equal(palette.outlines(ids, thickness), expected)


def test_the_legend_has_the_classes_that_are_there():
    ids = squares(classes=(2,))
    assert [name for name, _ in palette.legend(NAMES, [ids])] == ["dog"]
    ids[0, 0] = IGNORE
    names = palette.legend(NAMES, [ids, squares()])
    assert names == [("cat", "#E69F00"), ("dog", "#56B4E9"), ("ignored", "#808080")]
    assert palette.legend(NAMES, []) == []


def test_a_legend_breaks_into_lines(tmp_path):
    legend = [(f"class {index}", "#FF0000") for index in range(9)]
    assert legend_height([], 5) == 0
    assert legend_height(legend[:1], 5) < legend_height(legend, 5) < legend_height(legend, 1.5)
    with new_figure(tmp_path / "l.png", 2, 2) as figure:
        draw_legend(figure, legend, 0.1, 0.1, 1.8)
    red = np.all(read(tmp_path / "l.png") == (255, 0, 0), axis=-1).astype(np.uint8)
    assert cv2.connectedComponents(red)[0] - 1 == 9


# Grids.


def test_iou_of_an_image():
    truth = np.array([[0, 0, 1, IGNORE]], np.uint8)
    assert segmentation.image_iou(truth, np.array([[0, 1, 1, 2]])) == 0.5
    assert segmentation.image_iou(truth, np.array([[0, 0, 2, 2]])) == pytest.approx(1 / 3)
    assert np.isnan(segmentation.image_iou(np.full((2, 2), IGNORE), np.zeros((2, 2), int)))


def test_the_error_map_is_faint_red_and_grey():
    truth, said = np.array([[0, 1, IGNORE]], np.uint8), np.array([[0, 2, 1]], np.uint8)
    right, wrong, ignored = segmentation.error_map(np.zeros((1, 3, 1), np.uint8), truth, said)[0].astype(int)
    assert right.min() > 200
    assert wrong[0] > 180 and wrong[1:].max() < 60
    assert 100 < ignored.min() == ignored.max() < 200


def test_the_grid_has_the_worst_first_and_images_of_any_size(grids):
    sides = [16, 20, 24, 16]
    truths = [squares(side) for side in sides]
    said = [truth.copy() for truth in truths]
    said[2][:] = 0
    said[1][:, :8] = 1
    images = [np.full((side, side, 3), side, np.uint8) for side in sides]
    results = Results(images, {"segmentation": said}, {"segmentation": truths}, NAMES, metrics={"mean_iou": 0.7})
    plots.PLOTS["segmentation_grid"]("g.png", results, limit=4)
    (drawn,) = grids
    assert [cell.image[0, 0, 0] for cell in drawn["cells"][::4]] == [24, 20, 16, 16]
    captions = [[line.text for line in cell.caption] for cell in drawn["cells"][:4]]
    score = segmentation.image_iou(truths[2], said[2])
    assert captions == [["image"], ["truth"], ["prediction"], [f"mean IoU {score:.2f}"]]
    assert drawn["subtitle"] == "the 2 worst of 4 images, then 2 typical ones; mean IoU of the whole split 0.700"
    assert [name for name, _ in drawn["legend"]] == ["cat", "dog", "wrong"]
    assert drawn["group"] == 4


def test_the_grid_of_predictions_names_the_files(grids):
    results = Results([np.zeros((16, 16, 3), np.uint8)] * 3, {"segmentation": np.stack([squares()] * 3)}, {}, NAMES)
    results = Results(results.images, results.predictions, {"file": ["x/a.png", "b.png", "c.png"]}, NAMES)
    plots.PLOTS["segmentation_overlays"]("g.png", results, limit=2)
    (drawn,) = grids
    assert [cell.caption[0].text for cell in drawn["cells"]] == ["a.png", "b.png"]
    assert drawn["subtitle"] == "3 images, the first 2"


def test_a_batch_shows_its_class_maps(grids):
    maps = np.stack([squares(), squares(classes=(2,))])
    batch = {"image": np.zeros((2, 16, 16, 3), np.uint8), "segmentation": maps, "mask": np.ones(2)}
    pictures.show_batch("b.png", batch, 3, NAMES)
    (drawn,) = grids
    assert [name for name, _ in drawn["legend"]] == ["cat", "dog"]
    np.testing.assert_array_equal(drawn["cells"][1].image, palette.overlay(batch["image"][1], maps[1], NAMES))


def test_pictures_are_drawn(tmp_path):
    results = Results(
        [np.full((16, 16, 1), 90, np.uint8)] * 2,
        {"segmentation": np.stack([squares()] * 2)},
        {"segmentation": np.stack([squares(classes=(2, 1))] * 2), "file": ["a.png", "b.png"]},
        NAMES,
        {"iou": np.array([0.9, 0.4, np.nan])},
        {"mean_iou": 0.65},
    )
    for name in ("segmentation_grid", "segmentation_overlays", "class_iou"):
        plots.PLOTS[name](tmp_path / f"{name}.png", results)
        assert read(tmp_path / f"{name}.png").std() > 1
    cat = np.array(palette.class_palette(NAMES)[1])
    assert np.all(read(tmp_path / "segmentation_grid.png") == cat, axis=-1).any()


@pytest.mark.parametrize("classes", [1, 2, 21, 150])
def test_bars_of_any_number_of_classes(tmp_path, classes, monkeypatch):
    texts = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_yticks", lambda self, places, names=(): texts.extend(names))
    iou = np.linspace(0, 1, classes)
    iou[0] = np.nan if classes > 1 else 0.5
    names = [f"class {index}" for index in range(classes)]
    plots.PLOTS["class_iou"](tmp_path / "c.png", Results([], {}, {}, names, {"iou": iou}))
    known = classes - (classes > 1)
    assert len(texts) == min(known, 40)
    assert texts[0] == f"class {classes - 1}" and texts[-1] == f"class {int(classes > 1)}"
    assert max(read(tmp_path / "c.png").shape) < 2500


def test_bars_without_any_class(tmp_path):
    plots.PLOTS["class_iou"](tmp_path / "c.png", Results([], {}, {}, NAMES, {"iou": np.full(3, np.nan)}))
    assert read(tmp_path / "c.png").std() > 0


# Files.


def test_a_mask_is_a_palette_png_of_the_ids(tmp_path):
    ids = squares()
    file = plots.FILES["segmentation_mask"](tmp_path / "a.b", np.zeros((16, 16, 3)), {"segmentation": ids}, NAMES)
    assert file == tmp_path / "a.b_mask.png" and list(tmp_path.iterdir()) == [file]
    picture = Image.open(file)
    assert picture.mode == "P"
    np.testing.assert_array_equal(picture, ids)
    np.testing.assert_array_equal(read(file), palette.class_palette(NAMES)[ids])


@pytest.mark.parametrize("shape", [(16, 16), (40, 700), (481, 30)])
def test_an_overlay_file_has_every_pixel_and_a_legend(tmp_path, shape):
    image, ids = np.full((*shape, 3), 60, np.uint8), np.zeros(shape, np.uint8)
    ids[2:12, 3:13] = 1
    file = plots.FILES["segmentation_overlay"](tmp_path / "a", image, {"segmentation": ids}, NAMES)
    picture, factor = read(file), max(1, -(-480 // max(shape)))
    assert picture.shape[1] == shape[1] * factor and picture.shape[0] > shape[0] * factor
    shown = picture[: shape[0] * factor][factor // 2 :: factor, factor // 2 :: factor]
    np.testing.assert_allclose(shown, palette.overlay(image, ids, NAMES), atol=1)


def test_an_overlay_of_nothing_has_no_legend(tmp_path):
    image = np.full((480, 480, 3), 60, np.uint8)
    found = {"segmentation": np.zeros((480, 480), np.uint8)}
    assert read(plots.FILES["segmentation_overlay"](tmp_path / "a", image, found, NAMES)).shape == (480, 480, 3)


def test_padding_is_cut_from_what_goes_with_the_pixels():
    example = {"image": np.zeros((8, 9, 3)), "ids": np.zeros((8, 9)), "scores": np.zeros(8)}
    cut = without_padding(example, ("image", "ids"), (5, 7))
    assert [cut[name].shape for name in example] == [(5, 7, 3), (5, 7), (8,)]
    assert without_padding(example, ("image", "ids"), None)["image"].shape == (8, 9, 3)
