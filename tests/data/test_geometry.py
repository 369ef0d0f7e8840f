"""Geometry as one matrix, against NumPy: composition, exact special cases, and interpolation by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import chain, geometry, transforms
from vision.data.geometry import Affine, Geometry
from vision.data.images import opencv


def picture(height=37, width=52, channels=3, seed=0):
    """Smooth, so that an interpolation weight wrong by 1/32, which is OpenCV's precision, changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), np.uint8)
    large = opencv().resize(small, (width, height), interpolation=opencv().INTER_CUBIC)
    return large.reshape(height, width, channels)


def noise(height=37, width=52, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def bilinear(image, matrix, shape, fill):
    """What a definition says, in float64: every pixel centre is looked up where it comes from."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y, _ = np.linalg.inv(matrix) @ np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    x, y = x - 0.5, y - 0.5
    result = np.zeros((rows.size, image.shape[2]))
    for dy in (0, 1):
        for dx in (0, 1):
            j, i = np.floor(x).astype(int) + dx, np.floor(y).astype(int) + dy
            weight = (1 - np.abs(x - j)) * (1 - np.abs(y - i))
            inside = (j >= 0) & (j < width) & (i >= 0) & (i < height)
            value = np.where(inside[:, None], image[i.clip(0, height - 1), j.clip(0, width - 1)], fill)
            result += weight[:, None] * value
    return result.reshape(*shape, -1)


factors = st.floats(0.3, 3).flatmap(lambda size: st.sampled_from([size, -size]))
affines = st.builds(
    Affine, factors, st.floats(-0.2, 0.2), st.floats(-30, 30), st.floats(-0.2, 0.2), factors, st.floats(-30, 30)
)
geometries = st.builds(
    Geometry, affines, st.tuples(st.integers(1, 60), st.integers(1, 60)), st.sampled_from([None, 0, 9])
)


@given(geometries, geometries, geometries)
def test_composition_is_the_product_of_matrices_and_associative(one, two, three):
    left = geometry.then(geometry.then(one, two), three)
    right = geometry.then(one, geometry.then(two, three))
    assert left.matrix == pytest.approx(right.matrix, rel=1e-9, abs=1e-9)
    assert left[1:] == right[1:]
    product = three.matrix.rows() @ two.matrix.rows() @ one.matrix.rows()
    np.testing.assert_allclose(left.matrix.rows(), product, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.matrix.inverse().rows(), np.linalg.inv(one.matrix.rows()), rtol=1e-9, atol=1e-9)
    assert one.matrix.area() == pytest.approx(np.linalg.det(one.matrix.rows()), abs=1e-9)


@given(affines, st.integers(1, 50), st.integers(1, 50))
def test_the_hull_holds_the_moved_corners_and_no_more(matrix, height, width):
    corners = matrix.of(np.array([[0, 0], [width, 0], [0, height], [width, height]], float))
    np.testing.assert_allclose(matrix.hull(height, width), [*corners.min(0), *corners.max(0)], atol=1e-9)


def test_the_identity_is_the_image_itself():
    image = noise()
    assert geometry.move_image(image, geometry.identity(image.shape[:2])) is image
    twice = geometry.mirror(image.shape[:2], 1)
    assert geometry.move_image(image, geometry.then(twice, twice)) is image


@settings(max_examples=100, deadline=None)
@given(data=st.data(), text=st.lists(st.sampled_from(["crop", "flip", "upset", "shift", "pad"]), max_size=5))
def test_crops_flips_shifts_and_padding_are_exact(data, text):
    """Against the same done by NumPy one by one, with all that a crop cuts away still there for a shift to show."""
    image = noise(9, 11)
    far = 40
    plane = np.pad(image, ((far, far), (far, far), (0, 0)), constant_values=7)
    top, left, shape = far, far, image.shape[:2]
    composed = geometry.identity(shape)
    for kind in text:
        if kind in ("flip", "upset"):
            axis = int(kind == "flip")
            step = geometry.mirror(shape, axis)
            plane = np.flip(plane, axis)
            top, left = (
                (plane.shape[0] - top - shape[0], left) if axis == 0 else (top, plane.shape[1] - left - shape[1])
            )
        else:
            low = {"crop": 0, "shift": -3, "pad": 0}[kind]
            down, right = data.draw(st.integers(low, 2)), data.draw(st.integers(low, 2))
            size = shape
            if kind == "crop":
                down, right = min(down, shape[0] - 1), min(right, shape[1] - 1)
                size = (shape[0] - down, shape[1] - right)
            if kind == "pad":
                size, down, right = (shape[0] + down, shape[1] + right), 0, 0
            step = geometry.crop(down, right, size, fill=7)
            top, left, shape = top + down, left + right, size
        composed = geometry.then(composed, step)
    expected = plane[top : top + shape[0], left : left + shape[1]]
    np.testing.assert_array_equal(geometry.move_image(image, composed), expected)
    labels = geometry.move_labels(np.moveaxis(image, -1, 0), composed, 7)
    np.testing.assert_array_equal(np.moveaxis(labels, 0, -1), expected)


@pytest.mark.parametrize("method", ["auto", "linear", "area", "cubic", "nearest"])
@pytest.mark.parametrize("size", [(20, 30), (37, 60), (10, 13), (80, 90)])
def test_a_resize_is_opencvs_whatever_is_cut_or_flipped_with_it(method, size):
    cv2, image = opencv(), noise()
    chosen = {"auto": "AREA" if size == (10, 13) else "LINEAR"}.get(method, method.upper())

    def resized(image):
        return cv2.resize(image, size[::-1], interpolation=getattr(cv2, f"INTER_{chosen}"))

    step = geometry.resize(image.shape[:2], size, method=method)
    np.testing.assert_array_equal(geometry.move_image(image, step), resized(image))
    after = geometry.then(geometry.then(step, geometry.crop(2, 3, (6, 7))), geometry.mirror((6, 7), 1))
    np.testing.assert_array_equal(geometry.move_image(image, after), resized(image)[2:8, 3:10][:, ::-1])
    part = geometry.crop(4, 5, (30, 40))
    before = geometry.then(part, geometry.resize((30, 40), size, method=method))
    if method != "auto":
        np.testing.assert_array_equal(geometry.move_image(image, before), resized(image[4:34, 5:45]))


@settings(max_examples=60, deadline=None)
@given(step=geometries, seed=st.integers(0, 99), channels=st.sampled_from([1, 3]))
def test_interpolation_is_bilinear_between_pixel_centres(step, seed, channels):
    image = picture(channels=channels, seed=seed)
    fill = 0 if step.fill is None else step.fill
    step = step._replace(method="linear", fill=fill)
    expected = bilinear(image, step.matrix.rows(), step.shape, fill)
    error = np.abs(geometry.move_image(image, step) - expected)
    # 1/32 of a pixel at the edge of the image, where it meets the fill, is up to 8 levels.
    assert error.shape == (*step.shape, channels) and np.percentile(error, 50) <= 1 and error.max() <= 17


@settings(max_examples=60, deadline=None)
@given(step=geometries, seed=st.integers(0, 99))
def test_labels_are_those_of_the_pixel_below_each_centre(step, seed):
    labels = np.random.default_rng(seed).integers(0, 5, (2, 23, 31), np.uint8)
    moved = geometry.move_labels(labels, step, 255)
    rows, columns = np.mgrid[: step.shape[0], : step.shape[1]] + 0.5
    x, y = np.moveaxis(step.matrix.inverse().of(np.stack([columns, rows], axis=-1)), -1, 0)
    j, i = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (j >= 0) & (j < 31) & (i >= 0) & (i < 23)
    expected = np.where(inside, labels[:, i.clip(0, 22), j.clip(0, 30)], 255)
    clear = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y))) > 2e-3  # of the edges between pixels
    np.testing.assert_array_equal(moved[:, clear], expected[:, clear])


def test_a_general_warp_that_shrinks_does_not_alias():
    image = np.zeros((256, 256, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255
    turned = geometry.about_centre((256, 256), (0.11, 0.03, -0.03, 0.11), fill=0)
    middle = geometry.move_image(image, turned)[121:135, 121:135]
    assert np.abs(middle.astype(int) - 127).max() <= 2
    aliased = geometry.move_image(image, turned._replace(method="linear"))[121:135, 121:135]
    assert np.ptp(aliased) > 50


class Counted:
    """Counts the calls of a function."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        return self.function(*arguments, **named)


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_is_one_resampling_by_the_product_of_its_matrices(seed, monkeypatch):
    image = picture(60, 80, seed=seed)
    calls = chain.parse(
        "flip(1.0)|rotate(30.0, fill=5)|scale(0.7, 1.6, fill=5)|translate(0.1, fill=5)|central_crop(40)"
    )
    warp, resize = Counted(opencv().warpAffine), Counted(opencv().resize)
    monkeypatch.setattr(opencv(), "warpAffine", warp)
    monkeypatch.setattr(opencv(), "resize", resize)
    moved = chain.apply(calls, {"image": image}, np.random.default_rng(seed))["image"]
    assert (warp.calls, resize.calls) == (1, 0)

    rng, shape, matrix = np.random.default_rng(seed), (60, 80), np.eye(3)
    for name, arguments in calls:
        generator = (rng,) if "rng" in transforms.asks_for(transforms.TRANSFORMS[name]) else ()
        step = transforms.TRANSFORMS[name](shape, *generator, **arguments)
        matrix, shape = step.matrix.rows() @ matrix, step.shape
    error = np.abs(moved - bilinear(image, matrix, shape, 5))
    assert np.percentile(error, 99) <= 3 and error.mean() < 0.5


def test_different_fills_are_both_painted():
    image = np.full((20, 20, 3), 200, np.uint8)
    calls = chain.parse("random_crop(24, padding=2, fill=50)|random_crop(28, padding=2, fill=90)")
    moved = chain.apply(calls, {"image": image}, np.random.default_rng(0))["image"][..., 0]
    expected = np.pad(np.pad(np.full((20, 20), 200), 2, constant_values=50), 2, constant_values=90)
    np.testing.assert_array_equal(moved, expected)


def test_a_border_hides_what_an_earlier_crop_has_cut_away():
    image = noise(20, 20)
    padded = chain.apply(chain.parse("central_crop(10)|pad_to(((16, 16),), fill=7)"), {"image": image}, None)
    expected = np.pad(image[5:15, 5:15], ((0, 6), (0, 6), (0, 0)), constant_values=7)
    np.testing.assert_array_equal(padded["image"], expected)
    np.testing.assert_array_equal(padded["size"], [10, 10])
