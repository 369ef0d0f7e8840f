"""Patches of images against loops."""

import jax.numpy as jnp
import numpy as np

from vision.ops import patches

RNG = np.random.default_rng(0)


def test_space_to_depth_and_back():
    image = RNG.uniform(size=(2, 6, 9, 2)).astype(np.float32)
    moved = np.asarray(patches.space_to_depth(jnp.asarray(image), 3))
    assert moved.shape == (2, 2, 3, 18)
    for b, row, column, channel in np.ndindex(image.shape):
        place = (row % 3 * 3 + column % 3) * 2 + channel
        assert moved[b, row // 3, column // 3, place] == image[b, row, column, channel]
    np.testing.assert_array_equal(patches.depth_to_space(jnp.asarray(moved), 3), image)


def test_each_pixel_gets_the_value_of_its_patch():
    values = RNG.uniform(size=(2, 3, 2)).astype(np.float32)
    given = np.asarray(patches.spread(jnp.asarray(values), 6, 8))
    assert given.shape == (2, 6, 8, 1)
    for b, row, column in np.ndindex(2, 6, 8):
        assert given[b, row, column, 0] == values[b, row // 2, column // 4]


def test_moments_are_of_all_values_of_a_patch():
    image = RNG.uniform(size=(2, 6, 8, 3)).astype(np.float32)
    image[0, :2, :4] = 0.5  # one colour
    mean, deviation = (np.asarray(values) for values in patches.moments(jnp.asarray(image), 3, 2))
    assert mean.shape == deviation.shape == (2, 6, 8, 1)
    for b, row, column in np.ndindex(2, 6, 8):
        top, left = row // 2 * 2, column // 4 * 4
        patch = image[b, top : top + 2, left : left + 4]
        np.testing.assert_allclose(mean[b, row, column, 0], patch.mean(), rtol=1e-5)
        np.testing.assert_allclose(deviation[b, row, column, 0], np.sqrt(patch.var() + 1e-6), rtol=1e-3)
    np.testing.assert_allclose(deviation[0, 0, 0, 0], 1e-3, rtol=1e-4)
