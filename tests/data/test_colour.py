"""Colours as one matrix, against the definitions one by one in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import chain, colour
from vision.data.geometry import LUMA


def image_of(channels=3, seed=0, low=60, high=190):
    return np.random.default_rng(seed).integers(low, high, (14, 18, channels), np.uint8)


matrices = st.one_of(
    st.builds(colour.blend, st.floats(0.5, 1.5), st.floats(0, 255)),
    st.builds(colour.saturate, st.floats(0.5, 1.5)),
    st.builds(colour.turn_hue, st.floats(-3.0, 3.0)),
)


@given(matrices, matrices, matrices, st.tuples(*[st.integers(0, 255)] * 3))
def test_composition(one, two, three, value):
    left, right = colour.then(colour.then(one, two), three), colour.then(one, colour.then(two, three))
    np.testing.assert_allclose(left, right, atol=1e-9)
    one_by_one = colour.of_colour(three, colour.of_colour(two, colour.of_colour(one, np.array(value))))
    np.testing.assert_allclose(colour.of_colour(left, np.array(value)), one_by_one, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(matrices, matrices)
def test_an_image_is_rounded_and_clipped_once(one, two):
    image = image_of(low=0, high=256)
    matrix = colour.then(one, two)
    expected = np.clip(image @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    assert np.abs(colour.apply(image, matrix) - expected).max() <= 1


@given(st.floats(-180, 180), st.tuples(*[st.integers(0, 255)] * 3))
def test_hue_keeps_luma_and_grey_and_turns_back(degrees, value):
    turn, back = colour.turn_hue(np.radians(degrees)), colour.turn_hue(-np.radians(degrees))
    turned = colour.of_colour(turn, np.array(value))
    assert LUMA @ turned == pytest.approx(LUMA @ np.array(value), abs=1e-9)
    np.testing.assert_allclose(colour.of_colour(turn, 77.0), 77, atol=1e-9)
    np.testing.assert_allclose(colour.of_colour(back, turned), value, atol=1e-9)


@given(matrices, matrices)
@settings(max_examples=30, deadline=None)
def test_a_grey_image_is_one_of_equal_channels(one, two):
    grey = image_of(channels=1)
    matrix = colour.then(one, two)
    coloured = np.clip(np.repeat(grey, 3, axis=-1) @ matrix[:, :3].T + matrix[:, 3], -1e9, 1e9)
    expected = np.clip(coloured @ LUMA, 0, 255)
    result = colour.apply(grey, matrix)
    assert result.shape == grey.shape and np.abs(result[..., 0] - expected).max() <= 1


def test_without_change_the_image_is_the_same():
    image = image_of()
    assert colour.apply(image, colour.IDENTITY) is image
    np.testing.assert_array_equal(colour.apply(image, colour.blend(1.0, 99.0)), image)


def draws(seed, count):
    return np.random.default_rng(seed).uniform(0.6, 1.4, count)


def test_a_chain_of_colours_is_rounded_once():
    """Values in the middle, so that clipping between the steps plays no part."""
    image = image_of(low=110, high=130)
    calls = chain.parse("brightness(0.4)|contrast(0.4)|saturation(0.4)|brightness(0.4)")
    result = chain.apply(calls, {"image": image}, np.random.default_rng(3))["image"]
    bright, contrast, saturation, again = draws(3, 4)
    expected = image * bright
    expected = contrast * expected + (1 - contrast) * (expected @ LUMA).mean()
    expected = again * (saturation * expected + (1 - saturation) * (expected @ LUMA)[..., None])
    assert np.abs(result - expected.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("before", [True, False])
def test_contrast_moves_towards_the_mean_of_what_is_in_view(before):
    image = image_of(low=0, high=60)
    image[2:8, 3:9] += 120
    colours = "brightness(0.4)|contrast(0.4)"
    text = f"random_crop(6)|flip(1.0)|{colours}" if before else f"{colours}|random_crop(6)|flip(1.0)"

    class Fixed:
        def __init__(self):
            self.cuts, self.factors = [2, 3], list(draws(0, 2))

        def integers(self, stop):
            return self.cuts.pop(0)

        def random(self):
            return 0.0

        def uniform(self, low, high):
            return self.factors.pop(0)

    result = chain.apply(chain.parse(text), {"image": image}, Fixed())["image"]
    bright, contrast = draws(0, 2)
    crop = image[2:8, 3:9][:, ::-1]
    mean = (bright * (crop if before else image) @ LUMA).mean()
    expected = np.clip(contrast * bright * crop + (1 - contrast) * mean, 0, 255)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("text", ["brightness(0.4)|{}", "{}|brightness(0.4)", "brightness(0.4)|{}|contrast(0.4)|{}"])
def test_colours_paint_the_fill_of_what_comes_before_them_only(text):
    image = np.full((10, 10, 3), 100, np.uint8)
    pad = "random_crop(14, padding=2, fill=50)"
    text = text.format(pad, pad.replace("14", "18"))
    rng = np.random.default_rng(1)
    result = chain.apply(chain.parse(text), {"image": image}, rng)["image"][..., 0].astype(float)
    bright, contrast = draws(1, 2)
    expected = np.full((10, 10), 100.0)
    for part in text.split("|"):
        if part.startswith("random_crop"):
            expected = np.pad(expected, 2, constant_values=50)
        elif part.startswith("brightness"):
            expected = expected * bright
        else:
            # The mean is that of the image without its padding.
            expected = contrast * expected + (1 - contrast) * 100 * bright
    assert np.abs(result - expected).max() <= 1
