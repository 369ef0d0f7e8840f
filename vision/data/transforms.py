"""What happens to an example on its way into a batch, as configured: "decode|random_resized_crop(224)|flip".

A transform is a function of an example, a dict of named fields, that returns a new one. One that is random takes the
example's own generator as well, so that an example depends on the seed, the epoch and its place, and on nothing else.
Images are uint8, (H, W, C), RGB. Add a function and name it in `TRANSFORMS` to add a transform.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from vision.data import images
from vision.errors import UsageError

Example = dict[str, Any]
Size = int | tuple[int, int]


def decode(example: Example, *, channels: int = 3) -> Example:
    """Decodes the image, if it is still encoded.

    Args:
        channels: 3 for RGB, 1 for grey.
    """
    return {**example, "image": images.decode(example["image"], channels)}


# Geometry. Each is a change of coordinates, given by what its helper at the end of this file is called with.


def resize(
    example: Example, *, size: Size, method: Literal["auto", "linear", "area", "cubic", "nearest"] = "auto"
) -> Example:
    """Resizes to exactly this size; the proportions may change.

    Args:
        size: height and width in pixels, one number for a square.
        method: interpolation; "auto" is "linear", or "area" where a side shrinks to less than half.
    """
    return {**example, "image": _resized(_movable_image(example), *_height_width(size, "resize"), method)}


def resize_small(
    example: Example, *, size: int, method: Literal["auto", "linear", "area", "cubic", "nearest"] = "auto"
) -> Example:
    """Resizes so that the shorter side has this length; the proportions stay.

    Args:
        size: the shorter side in pixels.
        method: interpolation, as for resize.
    """
    image = _movable_image(example)
    size, _ = _height_width(size, "resize_small")
    scale = size / min(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return {**example, "image": _resized(image, height, width, method)}


def central_crop(example: Example, *, size: Size) -> Example:
    """Cuts out the middle.

    Args:
        size: height and width in pixels, one number for a square.
    """
    image = _movable_image(example)
    height, width = _height_width(size, "central_crop")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return {**example, "image": _cropped(image, top, left, height, width, "central_crop")}


def random_crop(example: Example, rng: np.random.Generator, *, size: Size, padding: int = 0, fill: int = 0) -> Example:
    """Cuts out a random part, of the image with a border around it.

    Args:
        size: height and width in pixels, one number for a square.
        padding: width of the border in pixels.
        fill: grey level of the border, 0..255.
    """
    image = _movable_image(example)
    height, width = _height_width(size, "random_crop")
    _check("random_crop", padding=padding >= 0, fill=0 <= fill <= 255)
    if padding:
        cv2 = images.opencv()
        border = cv2.copyMakeBorder(image, *(padding,) * 4, cv2.BORDER_CONSTANT, value=(fill,) * 3)
        image = _with_channel(border)
    top = rng.integers(max(0, image.shape[0] - height) + 1)
    left = rng.integers(max(0, image.shape[1] - width) + 1)
    return {**example, "image": _cropped(image, top, left, height, width, "random_crop")}


def random_resized_crop(
    example: Example,
    rng: np.random.Generator,
    *,
    size: Size,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: Literal["auto", "linear", "area", "cubic", "nearest"] = "auto",
) -> Example:
    """Resizes a rectangle of random area and aspect ratio ("Going deeper with convolutions", section 6).

    Args:
        size: height and width of the result in pixels, one number for a square.
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn uniformly in its logarithm.
        method: interpolation, as for resize.
    """
    image = _movable_image(example)
    _check("random_resized_crop", area=0 < area[0] <= area[1] <= 1, ratio=0 < ratio[0] <= ratio[1])
    top, left, height, width = _random_rectangle(rng, *image.shape[:2], area, ratio)
    crop = image[top : top + height, left : left + width]
    return {**example, "image": _resized(crop, *_height_width(size, "random_resized_crop"), method)}


def flip(
    example: Example,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    direction: Literal["horizontal", "vertical"] = "horizontal",
) -> Example:
    """Mirrors the image at random.

    Args:
        probability: how often, 0..1.
        direction: "horizontal" exchanges left and right, "vertical" top and bottom.
    """
    _check("flip", probability=0 <= probability <= 1)
    if rng.random() >= probability:
        return example
    flipped = images.opencv().flip(_movable_image(example), 1 if direction == "horizontal" else 0)
    return {**example, "image": _with_channel(flipped)}


def rotate(example: Example, rng: np.random.Generator, *, degrees: float, fill: int = 0) -> Example:
    """Turns the image about its centre by a random angle.

    Args:
        degrees: the largest angle, either way.
        fill: grey level of what comes into view, 0..255.
    """
    angle = math.radians(rng.uniform(-degrees, degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    return _warp_about_centre(example, np.array([[cosine, sine], [-sine, cosine]]), (0.0, 0.0), fill)


def translate(example: Example, rng: np.random.Generator, *, fraction: float, fill: int = 0) -> Example:
    """Shifts the image by random whole pixels, in both directions independently.

    Args:
        fraction: the largest shift, as a share of the image's height and width, 0..1.
        fill: grey level of what comes into view, 0..255.
    """
    _check("translate", fraction=0 <= fraction <= 1)
    height, width = _movable_image(example).shape[:2]
    down = np.rint(rng.uniform(-fraction, fraction) * height)
    right = np.rint(rng.uniform(-fraction, fraction) * width)
    return _warp_about_centre(example, np.eye(2), (right, down), fill)


def scale(example: Example, rng: np.random.Generator, *, low: float, high: float, fill: int = 0) -> Example:
    """Zooms about the centre by a random factor, drawn uniformly in its logarithm; the size of the image stays.

    Args:
        low: the smallest factor; below 1 the content shrinks.
        high: the largest factor.
        fill: grey level of what comes into view, 0..255.
    """
    _check("scale", low=low > 0, high=low <= high)
    factor = math.exp(rng.uniform(math.log(low), math.log(high)))
    return _warp_about_centre(example, np.eye(2) * factor, (0.0, 0.0), fill)


# Colour.


def brightness(example: Example, rng: np.random.Generator, *, amount: float) -> Example:
    """Multiplies all values by a random factor.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    _check("brightness", amount=0 <= amount <= 1)
    return _blended(example, rng.uniform(1 - amount, 1 + amount), 0.0)


def contrast(example: Example, rng: np.random.Generator, *, amount: float) -> Example:
    """Moves all values away from, or towards, the image's mean grey level by a random factor.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    _check("contrast", amount=0 <= amount <= 1)
    grey = images.decode(_image(example), channels=1)
    return _blended(example, rng.uniform(1 - amount, 1 + amount), float(grey.mean()))


def saturation(example: Example, rng: np.random.Generator, *, amount: float) -> Example:
    """Moves the colour of each pixel away from, or towards, its own grey level by a random factor. Grey images stay.

    Args:
        amount: the factor is in [1 - amount, 1 + amount], 0..1.
    """
    _check("saturation", amount=0 <= amount <= 1)
    factor = rng.uniform(1 - amount, 1 + amount)
    image = _image(example)
    if image.shape[2] == 1:
        return example
    luma = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    matrix = factor * np.eye(3) + (1 - factor) * np.tile(luma, (3, 1))
    return {**example, "image": images.opencv().transform(image, matrix)}


def noise(example: Example, rng: np.random.Generator, *, std: float) -> Example:
    """Adds independent Gaussian noise to every value.

    Args:
        std: its standard deviation in grey levels, of 255.
    """
    _check("noise", std=std >= 0)
    image = _image(example)
    noisy = image + np.float32(std) * rng.standard_normal(image.shape, np.float32)
    return {**example, "image": np.clip(np.rint(noisy), 0, 255).astype(np.uint8)}


def keep_clean(example: Example) -> Example:
    """Keeps the image as it is now as the truth to restore, the field `target`: "decode|keep_clean|noise(50)".

    Put it behind the geometric transforms: those after it would move the image and not the target.
    """
    return {**example, "target": _image(example)}


TRANSFORMS: dict[str, Callable[..., Example]] = {
    function.__name__: function
    for function in (
        decode,
        resize,
        resize_small,
        central_crop,
        random_crop,
        random_resized_crop,
        flip,
        rotate,
        translate,
        scale,
        brightness,
        contrast,
        saturation,
        noise,
        keep_clean,
    )
}


# What takes the place of a random transform that gives the image its size, where nothing is to be random.
FIXED: dict[str, str] = {"random_resized_crop": "resize", "random_crop": "central_crop"}


@functools.cache
def is_random(function: Callable) -> bool:
    """Whether a transform takes a generator."""
    return "rng" in inspect.signature(function).parameters


def _image(example: Example) -> np.ndarray:
    image = example["image"]
    if not isinstance(image, np.ndarray):
        raise UsageError('The image is still encoded; put "decode" first among the transforms.')
    return image


def _movable_image(example: Example) -> np.ndarray:
    """The image of an example that has no other field whose coordinates would have to follow it."""
    follow = [name for name in ("boxes", "masks", "keypoints", "segmentation") if name in example]
    if follow:
        raise UsageError(f"The geometric transforms move the image only, not yet {', '.join(follow)}: leave them out.")
    return _image(example)


def _height_width(size: Size, transform: str) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    _check(transform, size=height >= 1 and width >= 1)
    return height, width


def _check(transform: str, **arguments: bool) -> None:
    """Raises UsageError for the first argument that is out of range."""
    for name, valid in arguments.items():
        if not valid:
            raise UsageError(f"{transform}: {name} is out of range; see vision.data.transforms.{transform}.")


def _with_channel(image: np.ndarray) -> np.ndarray:
    """(H, W, C) again, for OpenCV drops a single channel."""
    return image if image.ndim == 3 else image[..., None]


def _cropped(image: np.ndarray, top: int, left: int, height: int, width: int, transform: str) -> np.ndarray:
    if height > image.shape[0] or width > image.shape[1]:
        raise UsageError(
            f"{transform}: the image, {image.shape[0]}x{image.shape[1]}, is smaller than the crop, {height}x{width}; "
            "resize it first, such as with resize_small."
        )
    return image[top : top + height, left : left + width]


def _resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    cv2 = images.opencv()
    if method == "auto":
        method = "area" if 2 * height < image.shape[0] or 2 * width < image.shape[1] else "linear"
    return _with_channel(cv2.resize(image, (width, height), interpolation=getattr(cv2, f"INTER_{method.upper()}")))


def _random_rectangle(rng, image_height, image_width, area, ratio) -> tuple[int, int, int, int]:
    """(top, left, height, width): the first of ten that fits, or the largest central one of a valid ratio."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target = rng.uniform(*area) * image_height * image_width
        aspect = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = rng.integers(image_height - height + 1)
            left = rng.integers(image_width - width + 1)
            return int(top), int(left), height, width
    aspect = min(max(image_width / image_height, ratio[0]), ratio[1])
    width, height = min(image_width, round(image_height * aspect)), min(image_height, round(image_width / aspect))
    width, height = max(1, width), max(1, height)
    return (image_height - height) // 2, (image_width - width) // 2, height, width


def _warp_about_centre(example: Example, linear: np.ndarray, shift: tuple[float, float], fill: int) -> Example:
    """Moves what is at centre + p to centre + linear @ p + shift; points are (x, y) in pixels.

    The centre of the pixel in row i and column j is the point (j, i) to OpenCV.
    """
    image = _movable_image(example)
    _check("fill", fill=0 <= fill <= 255)
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([linear, centre - linear @ centre + shift])
    cv2 = images.opencv()
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 3
    )
    return {**example, "image": _with_channel(warped)}


def _blended(example: Example, factor: float, towards: float) -> Example:
    """factor * image + (1 - factor) * towards, rounded and clipped."""
    levels = factor * np.arange(256) + (1 - factor) * towards
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return {**example, "image": _with_channel(images.opencv().LUT(_image(example), table))}
