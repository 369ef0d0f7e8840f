"""Transforms that change the values of pixels: matrices of colour, and what looks at the image itself."""

import math

import numpy as np

from vision.data import colour, images
from vision.data.arguments import Example, check


def autocontrast(example: Example, *, cutoff: float = 0.005) -> Example:
    """Stretches the grey levels that the image has over the whole range, all channels alike.

    Args:
        cutoff: share of the pixels at each end that may become black or white, 0..0.5.
    """
    check(autocontrast, cutoff=0 <= cutoff < 0.5)
    image = images.decoded(example["image"])
    low, high = np.quantile(images.decode(image, channels=1), (cutoff, 1 - cutoff))
    if high <= low:
        return example
    levels = np.clip(np.rint((np.arange(256) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return {**example, "image": levels[image]}


def channel(example: Example, *, index: int) -> Example:
    """Keeps one channel of the image.

    Of tissue stained with haematoxylin and eosin, say, the red one: nuclei are dark in it, and eosin's red and pink are
    as bright as nothing at all, for it lets red light through.

    Args:
        index: 0 for red, 1 for green, 2 for blue.
    """
    image = images.decoded(example["image"])
    check(channel, index=0 <= index < image.shape[-1])
    return {**example, "image": np.ascontiguousarray(image[..., index : index + 1])}


def gamma(example: Example, *, exponent: float) -> Example:
    """Raises every value, as a share of the largest there can be, to a power.

    Args:
        exponent: the power, above 0; below 1 dark levels are spread, as in images of fluorescence.
    """
    check(gamma, exponent=exponent > 0)
    levels = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return {**example, "image": levels[images.decoded(example["image"])]}


def noise(example: Example, rng: np.random.Generator, *, std: float) -> Example:
    """Adds independent Gaussian noise to every value.

    Args:
        std: its standard deviation in grey levels, of 255.
    """
    check(noise, std=std >= 0)
    image = images.decoded(example["image"])
    noisy = image + np.float32(std) * rng.standard_normal(image.shape, np.float32)
    return {**example, "image": np.clip(np.rint(noisy), 0, 255).astype(np.uint8)}


def brightness(rng: np.random.Generator, *, amount: float) -> np.ndarray:
    """Multiplies all values by a random factor.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    check(brightness, amount=0 <= amount <= 1)
    return colour.blend(rng.uniform(1 - amount, 1 + amount))


def contrast(grey: float, rng: np.random.Generator, *, amount: float) -> np.ndarray:
    """Moves all values away from, or towards, the image's mean grey level by a random factor.

    The mean is that of the part of the image that crops have left, before it is resampled or padded.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    check(contrast, amount=0 <= amount <= 1)
    return colour.blend(rng.uniform(1 - amount, 1 + amount), grey)


def saturation(rng: np.random.Generator, *, amount: float) -> np.ndarray:
    """Moves the colour of each pixel away from, or towards, its own grey level by a random factor. Grey images stay.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    check(saturation, amount=0 <= amount <= 1)
    return colour.saturate(rng.uniform(1 - amount, 1 + amount))


def hue(rng: np.random.Generator, *, degrees: float) -> np.ndarray:
    """Turns all colours about the grey axis by a random angle; luma stays, and so do grey images.

    Args:
        degrees: the largest angle, either way; 180 reaches every hue.
    """
    check(hue, degrees=0 <= degrees <= 180)
    return colour.turn_hue(math.radians(rng.uniform(-degrees, degrees)))
