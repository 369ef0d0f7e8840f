"""Grids show mistakes and the worst reconstructions first; small images keep every pixel, large ones are bounded."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vision.explain import objects, pictures, plots
from vision.explain.figure import GREEN, VERMILION, shorten
from vision.explain.results import Results


def read(path):
    """The picture as RGB; fails unless the file is a PNG."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture
def cells(monkeypatch):
    """The cells of every grid, and its subtitle, in place of a drawing."""
    seen = []
    monkeypatch.setattr(
        pictures, "grid", lambda path, cells, title, subtitle="", group=1: seen.append((cells, subtitle))
    )
    return seen


@settings(deadline=None)
@given(st.data(), st.integers(1, 30))
def test_mistakes_come_first_most_confident_on_top(data, size):
    draw = hnp.arrays(np.int64, size, elements=st.integers(0, 3))
    labels, predicted = data.draw(draw), data.draw(draw)
    confidence = data.draw(hnp.arrays(np.float32, size, elements=st.floats(0, 1, width=32)))
    order = pictures.mistakes_first(labels, predicted, confidence)
    assert sorted(order) == list(range(size))
    right = (labels == predicted)[order]
    wrong = int(np.sum(~right))
    assert not right[:wrong].any() and right[wrong:].all()
    assert np.all(np.diff(confidence[order][:wrong]) <= 0) and np.all(np.diff(confidence[order][wrong:]) >= 0)


def test_predictions_say_what_is_wrong(cells):
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    images = [np.full((8, 8, 1), value, np.uint8) for value in (1, 2, 3)]
    results = Results(images, {"probabilities": probabilities}, {"label": np.array([0, 0, 0])}, ["cat", "dog"])
    plots.PLOTS["predictions"]("p.png", results)
    ((drawn, subtitle),) = cells
    assert [cell.image[0, 0, 0] for cell in drawn] == [2, 3, 1]
    texts = [[line.text for line in cell.caption] for cell in drawn]
    assert texts == [["✗ dog (80%)", "true: cat"], ["✗ dog (60%)", "true: cat"], ["✓ cat (90%)", ""]]
    assert [cell.frame for cell in drawn] == [VERMILION, VERMILION, GREEN]
    assert subtitle.startswith("2 wrong of 3")


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)), st.integers(1, 20))
def test_the_worst_then_those_around_the_median(errors, limit):
    worst, typical = pictures.worst_then_typical(errors, limit)
    chosen = [*worst, *typical]
    assert len(set(chosen)) == len(chosen) == min(limit, len(errors)) or len(worst) == len(errors)
    descending = np.sort(errors)[::-1]
    np.testing.assert_array_equal(errors[worst], descending[: len(worst)])
    if len(typical) and len(errors) > 3 * limit:
        assert errors[typical].min() <= np.median(errors) <= errors[typical].max() or np.ptp(errors[typical]) == 0


def test_what_was_chosen_is_told():
    images = [np.zeros((2, 2, 1), np.uint8)] * 36
    worst, typical = np.arange(4), np.arange(4, 8)
    assert pictures.which(worst, typical, Results(images)) == "the 4 worst of 36 images, then 4 typical ones"
    of_more = pictures.which(worst, typical, Results(images, count=1500))
    assert of_more == "the 4 worst of 1,500 images, then 4 from the middle of the 36 worst"
    assert pictures.which(worst, typical[:0], Results(images[:4], count=4)) == "the 4 worst of 4 images"


def test_reconstructions_in_pairs_by_error(cells):
    images = [np.full((4, 4, 1), 255, np.uint8)] * 4
    decoded = np.ones((4, 4, 4, 1)) * np.array([1.0, 0.5, 0.9, np.nan])[:, None, None, None]
    plots.PLOTS["reconstructions"]("r.png", Results(images, {"reconstruction": decoded}), limit=4)
    drawn, _ = cells[0]
    assert [cell.caption[0].text for cell in drawn[::2]] == ["input"] * 4
    assert [cell.caption[0].text for cell in drawn[1::2]] == ["error nan", "error 0.25", "error 0.01", "error 0"]
    assert [cell.image[0, 0, 0] for cell in drawn[1::2]] == [0, 128, 230, 255]


def test_denoised_images_beside_the_clean_ones(cells):
    clean = np.full((2, 4, 4, 1), 255, np.uint8)
    noisy = [np.full((4, 4, 1), 128, np.uint8)] * 2
    decoded = np.ones((2, 4, 4, 1)) * np.array([0.9, 0.99])[:, None, None, None]
    pictures.reconstructions("r.png", Results(noisy, {"reconstruction": decoded}, {"target": clean}), limit=2)
    drawn, subtitle = cells[0]
    assert [cell.caption[0].text for cell in drawn] == ["6.1 dB", "20.0 dB", "clean", "6.1 dB", "40.0 dB", "clean"]
    assert [cell.image[0, 0, 0] for cell in drawn] == [128, 230, 255, 128, 252, 255]
    assert subtitle.startswith("noisy, restored and clean side by side")


def test_hidden_patches_are_grey_then_filled_in(cells):
    image = np.arange(32, dtype=np.uint8).reshape(4, 4, 2)[..., :1]
    masked = np.array([[[0, 1], [0, 0]]], np.float32)
    results = Results([image], {"reconstruction": np.ones((1, 4, 4, 1)), "masked": masked})
    pictures.reconstructions("r.png", results)
    (seen, filled, original), _ = cells[0]
    assert seen.caption[0].text == "75% seen" and original.caption[0].text == "original"
    expected = image.copy()
    for drawn, value in ((seen, 128), (filled, 255)):
        expected[:2, 2:] = value
        np.testing.assert_array_equal(drawn.image, expected)
    np.testing.assert_array_equal(original.image, image)
    error = np.square(1 - image[:2, 2:] / 255).mean()
    assert filled.caption[0].text == f"error {error:.2g}"


def test_normalised_reconstructions_take_the_scale_of_the_truth(cells):
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    normal = np.zeros((1, 4, 4, 3))
    for row, column in np.ndindex(2, 2):
        patch = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] / 255
        normal[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = (patch - patch.mean()) / patch.std()
    results = Results([image], {"normalized_reconstruction": normal, "masked": np.ones((1, 2, 2), np.float32)})
    pictures.reconstructions("r.png", results)
    np.testing.assert_array_equal(cells[0][0][1].image, image)


def test_names_that_are_not_utf8_are_drawn(tmp_path):
    name = "caf\udce9.png"
    image = np.zeros((8, 8, 3), np.uint8)
    results = Results([image] * 2, {"probabilities": np.eye(2)}, {"file": [name, "b.png"]}, [name, "b"], split=name)
    pictures.prediction_grid(tmp_path / "a.png", results)
    expected = Results([image] * 2, {"probabilities": np.eye(2)}, {"file": ["caf?.png", "b.png"]}, ["caf?.png", "b"])
    pictures.prediction_grid(tmp_path / "b.png", expected)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    # Texts that matplotlib makes itself, such as those of ticks, as well.
    results = Results([], {}, {}, [name, "b"], {"confusion_matrix": np.array([[3, 1], [2, 4]])}, name)
    plots.PLOTS["confusion_matrix"](tmp_path / "c.png", results)
    assert read(tmp_path / "c.png").std() > 0


def test_a_batch_shows_labels_and_padding(cells):
    batch = {"image": np.zeros((3, 8, 8, 3), np.uint8), "label": np.array([1, 7, 0]), "mask": np.array([1, 1, 0])}
    pictures.show_batch("b.png", batch, 17, ["cat", "dog"])
    drawn, subtitle = cells[0]
    assert [cell.caption[0].text for cell in drawn] == ["dog", "7", "padding"]  # a label without a name is a number
    assert [cell.dim for cell in drawn] == [False, False, True]
    assert subtitle == "2 images of 8×8×3, and 1 rows of padding"
    pictures.show_batch("b.png", {"image": batch["image"]}, 17, limit=2)
    assert [list(cell.caption) for cell in cells[1][0]] == [[], []]


def test_a_batch_shows_its_objects(monkeypatch):
    shown = {}
    monkeypatch.setattr(pictures, "grid", lambda path, cells, title, subtitle, **look: shown.update(look, cells=cells))
    batch = {
        "image": np.zeros((30, 8, 8, 1), np.uint8),
        "boxes": np.tile(np.array([[1, 1, 7, 7], [2, 2, 5, 5.0]]), (30, 1, 1)),
        "classes": np.tile(np.array([1, 0]), (30, 1)),
        "valid": np.tile(np.array([True, False]), (30, 1)),
        "masks": np.ones((30, 2, 8, 8), np.uint8),
        "keypoints": np.tile(np.array([[4, 4, 2.0]]), (30, 2, 1, 1)),
        "crowd": np.ones((30, 2), bool),
        "mask": np.arange(30) < 29,
    }
    pictures.show_batch("b.png", batch, 2, ["cat", "dog"])
    assert len(shown["cells"]) == 24 and shown["cell_inches"] > 2
    one = {name: batch[name][0, :1] for name in ("boxes", "classes", "masks", "keypoints", "crowd")}
    expected = objects.draw_objects(batch["image"][0], class_names=["cat", "dog"], **one)
    np.testing.assert_array_equal(shown["cells"][0].image, expected)


def test_small_images_keep_their_pixels(tmp_path):
    image = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)
    pictures.grid(tmp_path / "g.png", [pictures.Cell(image)], "title")
    picture = read(tmp_path / "g.png")
    grey = picture[np.ptp(picture, axis=-1) == 0][:, 0]
    values, areas = np.unique(grey, return_counts=True)
    blocks = dict(zip(values, areas, strict=True))
    # Each pixel became a block of equal size, with no values in between.
    assert all(blocks[value] > 400 for value in image.ravel())


def test_grey_colour_tiny_and_large_images_in_one_bounded_picture(tmp_path):
    images = [np.zeros((4000, 3000, 3), np.uint8), np.zeros((8, 8, 1), np.uint8), np.zeros((5, 900), np.uint8)] * 30
    files = [f"photos/a rather long name of a file {index}.jpeg" for index in range(90)]
    results = Results(
        images=images,
        predictions={"probabilities": np.full((90, 2), 0.5)},
        batch={"file": files},
        class_names=("a, or b with a long name", "c"),
    )
    pictures.prediction_grid(tmp_path / "g.png", results, limit=12)
    assert max(read(tmp_path / "g.png").shape) < 2000


@pytest.mark.parametrize(("cells", "group"), [(0, 1), (1, 1), (3, 1), (64, 1), (2, 2), (24, 2)])
def test_any_number_of_cells(tmp_path, cells, group):
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 213
    pictures.grid(tmp_path / "g.png", [pictures.Cell(image)] * cells, "title", "subtitle", group)
    red = np.all(read(tmp_path / "g.png") == (213, 0, 0), axis=-1).astype(np.uint8)
    found, _ = cv2.connectedComponents(red)
    assert found - 1 == cells


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), st.integers(1, 12))
def test_reducing_averages_whole_blocks(image, most):
    reduced = pictures._reduced(image, most)
    assert max(reduced.shape[:2]) <= 2 * most and reduced.dtype == np.uint8
    factor = max(1, max(image.shape[:2]) // most)
    first = image[:factor, :factor].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(reduced[0, 0], first, atol=1)


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(1, 40), st.integers(0, 10))
def test_shortened_texts_fit_and_keep_their_end(text, characters, ending):
    short = shorten(text, characters, ending)
    assert len(short) <= characters
    if len(text) <= characters:
        assert short == text
    elif 0 < ending <= characters - 2:
        assert short.endswith("…" + text[-ending:])


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.5, "50%"), (0.994, "99.4%"), (0.99999, "99.9%"), (1.0, "100%"), (0.0, "0%"), (float("nan"), "?")],
)
def test_a_percentage_says_100_for_certainty_only(probability, text):
    assert pictures._percent(probability) == text
