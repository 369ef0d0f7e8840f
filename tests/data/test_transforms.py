"""Transforms against their definitions in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import chain, transforms
from vision.data.transforms import TRANSFORMS
from vision.errors import UsageError


def example(height=12, width=17, channels=3, seed=0):
    boxes = np.array([[2, 3, 9, 8], [0, 0, 0, 0]], np.float32)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return {"image": image, "label": 3, "boxes": boxes}


def rng(seed=0):
    return np.random.default_rng(seed)


def apply(name, example, generator=None, **arguments):
    """The example after one transform."""
    return chain.apply((chain.Call(name, arguments),), example, generator, lambda calls: example)


SMALL = {
    "resize": {"size": (5, 7)},
    "resize_small": {"size": 6},
    "central_crop": {"size": 5},
    "random_crop": {"size": 5},
    "random_resized_crop": {"size": 5},
    "rotate": {"degrees": 20.0},
    "translate": {"fraction": 0.2},
    "scale": {"low": 0.5, "high": 2.0},
    "keep": {"fields": "label"},
    "resize_long": {"size": 6},
    "letterbox": {"size": (6, 9)},
    "pad_to": {"sizes": ((20, 20), (60, 60))},
    "hue": {"degrees": 30.0},
    "brightness": {"amount": 0.5},
    "contrast": {"amount": 0.5},
    "saturation": {"amount": 0.5},
    "noise": {"std": 9.0},
    "channel": {"index": 0},
    "gamma": {"exponent": 0.5},
    "resize_within": {"size": 8, "max_size": 10},
    "random_resize_within": {"size": (8, 9, 10), "max_size": 60},
    "mosaic": {"size": (16, 20)},
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_transform_keeps_channels_dtype_other_fields_and_its_input(name, channels):
    given = example(channels=channels)
    before = given["image"].copy()
    arguments = SMALL.get(name, {"channels": channels} if name == "decode" else {})
    result = apply(name, given, rng(), **arguments)
    assert result["image"].dtype == np.uint8 and result["image"].ndim == 3
    assert result["image"].shape[2] == (1 if name == "channel" else channels)
    assert result["label"] == 3
    np.testing.assert_array_equal(given["image"], before)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if transforms.is_random(TRANSFORMS[name])])
def test_randomness_comes_from_the_generator_alone(name):
    def run(seed):
        return apply(name, example(40, 50), rng(seed), **SMALL.get(name, {}))["image"]

    np.testing.assert_array_equal(run(1), run(1))
    assert any(not np.array_equal(run(1), run(seed)) for seed in range(2, 12))


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flip(direction, axis):
    given = example()
    always = apply("flip", given, rng(), probability=1.0, direction=direction)
    np.testing.assert_array_equal(always["image"], np.flip(given["image"], axis))
    twice = apply("flip", always, rng(), probability=1.0, direction=direction)
    np.testing.assert_array_equal(twice["image"], given["image"])
    generator = rng()
    flips = [apply("flip", given, generator, probability=0.25)["image"] is not given["image"] for _ in range(2000)]
    assert abs(np.mean(flips) - 0.25) < 0.04


def test_nothing_happens_with_neutral_arguments():
    given = example()
    neutral = {
        "rotate": {"degrees": 0.0},
        "translate": {"fraction": 0.0},
        "scale": {"low": 1.0, "high": 1.0},
        "brightness": {"amount": 0.0},
        "contrast": {"amount": 0.0},
        "saturation": {"amount": 0.0},
        "hue": {"degrees": 0.0},
        "scale_jitter": {"low": 1.0, "high": 1.0},
        "noise": {"std": 0.0},
        "expand": {"probability": 0.0},
        "random_iou_crop": {"overlaps": (1.0,)},
        "mosaic": {"probability": 0.0, "size": (12, 17)},
        "random_resize_within": {"size": (12,), "max_size": 17},
        "flip": {"probability": 0.0},
        "random_crop": {"size": (12, 17)},
        "random_resized_crop": {"size": (12, 17), "area": (1.0, 1.0), "ratio": (17 / 12, 17 / 12)},
    }
    for name, arguments in neutral.items():
        np.testing.assert_array_equal(apply(name, given, rng(), **arguments)["image"], given["image"], err_msg=name)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), padding=st.integers(0, 4), size=st.tuples(st.integers(1, 12), st.integers(1, 17)))
def test_random_crop_is_a_window_of_the_padded_image(seed, padding, size):
    image = example(seed=seed)["image"]
    crop = apply("random_crop", {"image": image}, rng(seed), size=size, padding=padding, fill=7)["image"]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), constant_values=7)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (*size, 3))[:, :, 0]
    assert (windows == crop).all(axis=(-3, -2, -1)).any()


def test_random_crop_reaches_every_place():
    image = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    generator = rng()
    corners = {int(apply("random_crop", {"image": image}, generator, size=3)["image"][0, 0, 0]) for _ in range(300)}
    assert corners == {0, 1, 2, 5, 6, 7, 10, 11, 12}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_a_random_crop_of_a_smaller_image_is_padded_at_the_bottom_and_right(seed, size):
    image = example(seed=seed)["image"]
    crop = apply("random_crop", {"image": image}, rng(seed), size=size, pad_smaller=True, fill=7)["image"]
    padded = np.pad(image, ((0, max(0, size[0] - 12)), (0, max(0, size[1] - 17)), (0, 0)), constant_values=7)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (*size, 3))[:, :, 0]
    assert (windows == crop).all(axis=(-3, -2, -1)).any()


def test_a_central_crop_of_a_smaller_image_is_padded_around():
    image = example(4, 9)["image"]
    crop = apply("central_crop", {"image": image}, size=(8, 5), pad_smaller=True, fill=7)["image"]
    np.testing.assert_array_equal(crop, np.pad(image[:, 2:7], ((2, 2), (0, 0), (0, 0)), constant_values=7))


def test_scale_jitter_keeps_the_proportions_and_the_range():
    generator = rng()
    shapes = [apply("scale_jitter", example(40, 60), generator)["image"].shape for _ in range(200)]
    heights, widths = np.array(shapes)[:, :2].T
    assert 20 <= heights.min() < 22 and 78 < heights.max() <= 80
    assert np.abs(widths - 1.5 * heights).max() <= 1


def test_central_crop():
    image = example(11, 14)["image"]
    np.testing.assert_array_equal(apply("central_crop", {"image": image}, size=(5, 4))["image"], image[3:8, 5:9])


def test_resize_by_half_with_area_is_the_mean_of_each_block():
    image = example(12, 16)["image"]
    blocks = image.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    resized = apply("resize", {"image": image}, size=(6, 8), method="area")["image"]
    assert np.abs(resized - blocks).max() <= 0.5


@pytest.mark.parametrize("seed", range(5))
def test_resize_is_linear_between_pixel_centres(seed):
    image = example(6, 6, 1, seed)["image"][..., 0].astype(float)
    resized = apply("resize", {"image": example(6, 6, 1, seed)["image"]}, size=12)["image"][..., 0]
    centres = (np.arange(12) + 0.5) / 2 - 0.5
    columns = np.stack([np.interp(centres, np.arange(6), row) for row in image])
    expected = np.stack([np.interp(centres, np.arange(6), column) for column in columns.T], axis=1)
    assert np.abs(resized - expected).max() <= 1


@pytest.mark.parametrize(("shape", "expected"), [((30, 60), (10, 20)), ((60, 30), (20, 10)), ((7, 7), (10, 10))])
def test_resize_small_keeps_the_proportions(shape, expected):
    assert apply("resize_small", example(*shape), size=10)["image"].shape == (*expected, 3)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 60), width=st.integers(1, 60))
def test_random_rectangles_lie_within_the_image(seed, height, width):
    top, left, h, w = transforms._random_rectangle(rng(seed), height, width, (0.08, 1.0), (3 / 4, 4 / 3))
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h >= 1 and w >= 1


def test_random_rectangles_have_the_asked_area_and_ratio():
    generator = rng()
    found = [transforms._random_rectangle(generator, 600, 600, (0.1, 0.5), (0.5, 2.0)) for _ in range(2000)]
    heights, widths = np.array(found)[:, 2:].T
    share, ratio = heights * widths / 360_000, widths / heights
    assert 0.099 < share.min() < 0.11 and 0.49 < share.max() < 0.501
    assert 0.49 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.02
    assert abs(np.log(ratio).mean()) < 0.05  # symmetric in the logarithm


def test_rotate_by_a_quarter_turn():
    image = example(9, 9)["image"]

    class Largest:
        def uniform(self, low, high):
            return high

    turned = apply("rotate", {"image": image}, Largest(), degrees=90.0)["image"]
    np.testing.assert_array_equal(turned, np.rot90(image))


def test_translate_shifts_whole_pixels_and_fills():
    image = example(10, 10)["image"]
    generator = rng(3)
    for _ in range(20):
        shifted = apply("translate", {"image": image}, generator, fraction=0.3, fill=9)["image"]
        matches = []
        for down in range(-3, 4):
            for right in range(-3, 4):
                expected = np.pad(image, ((3, 3), (3, 3), (0, 0)), constant_values=9)
                matches.append(np.array_equal(shifted, expected[3 - down : 13 - down, 3 - right : 13 - right]))
        assert sum(matches) == 1


def test_scale_by_two_shows_the_middle():
    image = np.zeros((8, 8, 1), np.uint8)
    image[2:6, 2:6] = 200
    zoomed = apply("scale", {"image": image}, rng(), low=2.0, high=2.0)["image"]
    assert (zoomed[1:-1, 1:-1] == 200).all()
    shrunk = apply("scale", {"image": image}, rng(), low=0.5, high=0.5)["image"]
    assert shrunk.sum() == pytest.approx(image.sum() / 4, rel=0.1)


class Factor:
    """A generator whose only number is given."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high):
        assert low <= self.value <= high
        return self.value


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 1.5])
def test_colour_transforms_blend_as_defined(factor):
    image = example()["image"]
    luma = image @ np.array([0.299, 0.587, 0.114])
    towards = {"brightness": 0.0, "contrast": luma.mean(), "saturation": luma[..., None]}
    for name, other in towards.items():
        expected = np.clip(factor * image + (1 - factor) * other, 0, 255)
        result = apply(name, {"image": image}, Factor(factor), amount=0.5)["image"]
        assert np.abs(result - expected).max() <= 1, name


def test_the_clean_image_is_kept():
    image = np.full((8, 8, 1), 128, np.uint8)
    example = transforms.noise(transforms.keep_clean({"image": image}), rng(), std=10.0)
    np.testing.assert_array_equal(example["target"], image)
    assert example["image"].std() > 0


def test_channel_keeps_one():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for index in range(3):
        np.testing.assert_array_equal(
            apply("channel", {"image": image}, index=index)["image"][..., 0], image[..., index]
        )
    with pytest.raises(UsageError, match="channel: index is out of range"):
        apply("channel", {"image": image[..., :1]}, index=1)


def test_gamma_spreads_dark_levels():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    given = apply("gamma", {"image": image}, exponent=0.5)["image"].ravel()
    np.testing.assert_array_equal(given, np.rint(np.sqrt(255.0 * np.arange(256))))
    np.testing.assert_array_equal(apply("gamma", {"image": image}, exponent=1.0)["image"], image)


def test_autocontrast_stretches_what_is_there():
    image = np.random.default_rng(0).integers(90, 121, (20, 30, 3), np.uint8)
    image[0, 0], image[0, 1] = 90, 120
    stretched = apply("autocontrast", {"image": image}, cutoff=0.0)["image"]
    np.testing.assert_array_equal(stretched, np.rint((image.astype(float) - 90) * 255 / 30))
    flat = np.full((4, 4, 3), 7, np.uint8)
    np.testing.assert_array_equal(apply("autocontrast", {"image": flat})["image"], flat)


def test_noise_has_the_asked_deviation():
    image = np.full((100, 100, 3), 128, np.uint8)
    noisy = apply("noise", {"image": image}, rng(), std=10.0)["image"].astype(float)
    assert abs(noisy.mean() - 128) < 0.3 and abs(noisy.std() - 10) < 0.2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("central_crop", {"size": 99}, "smaller than the crop"),
        ("random_crop", {"size": 99}, "smaller than the crop"),
        ("resize", {"size": 0}, "size is out of range"),
        ("flip", {"probability": 1.5}, "probability is out of range"),
        ("random_resized_crop", {"size": 4, "area": (0.5, 0.1)}, "area is out of range"),
        ("scale", {"low": 0.0, "high": 1.0}, "low is out of range"),
        ("translate", {"fraction": 2.0}, "fraction is out of range"),
        ("noise", {"std": -1.0}, "std is out of range"),
        ("autocontrast", {"cutoff": 0.5}, "cutoff is out of range"),
        ("gamma", {"exponent": 0.0}, "exponent is out of range"),
        ("rotate", {"degrees": 9.0, "fill": 256}, "fill is out of range"),
        ("letterbox", {"size": 9, "fill": -1}, "fill is out of range"),
        ("resize_long", {"size": 0}, "size is out of range"),
        ("pad_to", {"sizes": ()}, "sizes is out of range"),
        ("pad_to", {"sizes": ((12, 16), (99, 9))}, "the image, 12x17 .*, fits into none .* largest is 99x9"),
        ("hue", {"degrees": 200.0}, "degrees is out of range"),
        ("scale_jitter", {"low": 2.0, "high": 1.0}, "high is out of range"),
        ("resize_within", {"size": (), "max_size": 9}, "size is out of range"),
        ("random_resize_within", {"size": (), "max_size": 9}, "size is out of range"),
        ("resize_within", {"size": 8, "max_size": 0}, "max_size is out of range"),
        ("random_iou_crop", {"overlaps": (0.5, 1.5)}, "overlaps is out of range"),
        ("random_iou_crop", {"side": (0.0, 1.0)}, "side is out of range"),
        ("random_iou_crop", {"ratio": (2.0, 1.0)}, "ratio is out of range"),
        ("expand", {"ratio": 0.5}, "ratio is out of range"),
        ("expand", {"fill": (1, 2, 300)}, "fill is out of range"),
        ("mosaic", {"size": 9, "centre": (0.5, 1.2)}, "centre is out of range"),
    ],
)
def test_arguments_out_of_range(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        apply(name, example(), rng(), **arguments)


def test_an_image_that_is_still_encoded():
    with pytest.raises(UsageError, match='put "decode" first'):
        apply("resize", {"image": b"..."}, size=4)
