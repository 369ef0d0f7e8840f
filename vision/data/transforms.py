"""What happens to an example on its way into a batch, as configured: "decode|random_resized_crop(224)|flip".

A transform is a function of what its first parameters ask for, and of its own arguments. There are three kinds:

- `shape`, the height and width of the image: it returns a `Geometry`, by which the image and all that has coordinates
  (boxes, masks, keypoints, the segmentation map) will be moved; it may ask for `boxes` too, (n, 4) float64, those of
  the objects as they will be;
- `rng` or `grey`, the image's mean grey level: it returns a colour matrix, (3, 4), see `vision.data.colour`;
- `example`, a dict of named fields: it returns a new one, whose image has the same height and width, unless it asks for
  `others` too: `others(n)` are n more examples, drawn at random, as the transforms before it make them.

Those of the first two kinds need no pixels, so that `vision.data.chain` composes them and touches the image once. One
that is random takes the example's own generator, `rng`, so that an example depends on the seed, the epoch and its
place, and on nothing else. Images are uint8, (H, W, C), RGB. Add a function and name it in `TRANSFORMS` to add a
transform.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from vision.data import geometry, images
from vision.data.annotations import PLACE
from vision.data.arguments import INJECTED, Example, Method, Size, check, height_width, scaled
from vision.data.colour_transforms import autocontrast, brightness, channel, contrast, gamma, hue, noise, saturation
from vision.data.geometry import Geometry, Shape
from vision.data.object_transforms import expand, mosaic, random_iou_crop
from vision.data.proposals import selective_search
from vision.errors import UsageError


def decode(example: Example, *, channels: int = 3) -> Example:
    """Decodes the image, if it is still encoded.

    Args:
        channels: 3 for RGB, 1 for grey.
    """
    return {**example, "image": images.decode(example["image"], channels)}


def keep(example: Example, *, fields: str | tuple[str, ...]) -> Example:
    """Drops every field but the image and the ones named, such as those that differ in shape between examples.

    With `boxes` stays what says where they lie in the image's file.

    Args:
        fields: names of fields, which need not be there.
    """
    kept = {"image", *((fields,) if isinstance(fields, str) else fields)}
    if "boxes" in kept:
        kept |= set(PLACE)
    return {name: value for name, value in example.items() if name in kept}


def keep_clean(example: Example) -> Example:
    """Keeps the image as it is now as the truth to restore, the field `target`: "decode|keep_clean|noise(50)".

    Geometric transforms after it move both.
    """
    return {**example, "target": images.decoded(example["image"])}


# Sizes and crops.


def resize(shape: Shape, *, size: Size, method: Method = "auto") -> Geometry:
    """Resizes to exactly this size; the proportions may change.

    Args:
        size: height and width in pixels, one number for a square.
        method: interpolation; "auto" is "linear", or "area" where a side shrinks to less than half.
    """
    return geometry.resize(shape, height_width(size, resize), method=method)


def resize_small(shape: Shape, *, size: int, method: Method = "auto") -> Geometry:
    """Resizes so that the shorter side has this length; the proportions stay.

    Args:
        size: the shorter side in pixels.
        method: interpolation, as for resize.
    """
    check(resize_small, size=size >= 1)
    return geometry.resize(shape, scaled(shape, size / min(shape)), method=method)


def resize_long(shape: Shape, *, size: int, method: Method = "auto") -> Geometry:
    """Resizes so that the longer side has this length; the proportions stay.

    Args:
        size: the longer side in pixels.
        method: interpolation, as for resize.
    """
    check(resize_long, size=size >= 1)
    return geometry.resize(shape, scaled(shape, size / max(shape)), method=method)


def resize_within(shape: Shape, *, size: int | tuple[int, ...], max_size: int, method: Method = "auto") -> Geometry:
    """Resizes so that the shorter side has one length, unless the longer would then be above another: it has that then.

    Faster R-CNN's (Ren et al. 2015, section 3.3) and its successors': "resize_within(800, 1333)". Proportions stay.

    Args:
        size: the shorter side in pixels; of several, the longest.
        max_size: the most pixels of the longer side.
        method: interpolation, as for resize.
    """
    shorter = max((size,) if isinstance(size, int) else size, default=0)
    check(resize_within, size=shorter >= 1, max_size=max_size >= 1)
    factor = min(shorter / min(shape), max_size / max(shape))
    return geometry.resize(shape, scaled(shape, factor), method=method)


def random_resize_within(
    shape: Shape, rng: np.random.Generator, *, size: tuple[int, ...], max_size: int, method: Method = "auto"
) -> Geometry:
    """As resize_within, with one of several sizes: training at many scales, such as (640, 672, 704, 736, 768, 800).

    Args:
        size: lengths of the shorter side in pixels, one of which is drawn.
        max_size: the most pixels of the longer side.
        method: interpolation, as for resize.
    """
    check(random_resize_within, size=len(size) > 0 and min(size) >= 1)
    return resize_within(shape, size=size[int(rng.integers(len(size)))], max_size=max_size, method=method)


def letterbox(shape: Shape, *, size: Size, fill: int = 0, method: Method = "auto") -> Geometry:
    """Resizes to the largest size of the same proportions that fits, and pads at the bottom or at the right.

    The field `size` then holds the height and width without the padding.

    Args:
        size: height and width of the result in pixels, one number for a square.
        fill: grey level of the padding, 0..255.
        method: interpolation, as for resize.
    """
    size = height_width(size, letterbox)
    check(letterbox, fill=0 <= fill <= 255)
    inner = scaled(shape, min(size[0] / shape[0], size[1] / shape[1]))
    fitted = geometry.resize(shape, inner, method=method)
    return fitted._replace(shape=size, fill=fill, border=True, size=inner)


def pad_to(
    shape: Shape,
    *,
    sizes: tuple[tuple[int, int], ...],
    fill: int = 0,
    shrink: bool = False,
    method: Method = "auto",
) -> Geometry:
    """Pads at the bottom and at the right to the smallest of some sizes that the image fits into.

    With several sizes, images of different shapes come in batches of one shape each, and no more programs are compiled
    than there are sizes. In training an image belongs to the size that it has without chance, as the transforms that
    are not random make it; what random ones have made too large for that is shrunk to fit. The field `size` then holds
    the height and width without the padding. The segmentation map is padded with 255, which is ignored. The network
    sees the padding, and can say something else near it than it would of the image alone.

    Args:
        sizes: (height, width) pairs in pixels, in any order: ((512, 512), (512, 768), (768, 512)).
        fill: grey level of the padding, 0..255.
        shrink: whether an image that fits into none is resized to fit into the one where it stays largest, its
            proportions kept; otherwise it is an error.
        method: interpolation where it is resized, as for resize.
    """
    check(pad_to, sizes=bool(sizes) and all(min(size) >= 1 for size in sizes), fill=0 <= fill <= 255)
    fitting = [size for size in sizes if size[0] >= shape[0] and size[1] >= shape[1]]
    if fitting:
        return geometry.crop(0, 0, min(fitting, key=math.prod), fill=fill, border=True, size=shape)
    if shrink:
        factors = {size: min(size[0] / shape[0], size[1] / shape[1]) for size in sizes}
        best = max(sizes, key=lambda size: (factors[size], -math.prod(size)))
        return letterbox(shape, size=best, fill=fill, method=method)
    largest = max(sizes, key=math.prod)
    raise UsageError(
        f"pad_to: the image, {shape[0]}x{shape[1]} (height x width), fits into none of the sizes, of which the "
        f"largest is {largest[0]}x{largest[1]}; add a larger one, resize first, such as with resize_within, or let it "
        "be resized, with shrink=True."
    )


def central_crop(shape: Shape, *, size: Size, pad_smaller: bool = False, fill: int = 0) -> Geometry:
    """Cuts out the middle.

    Args:
        size: height and width in pixels, one number for a square.
        pad_smaller: whether an image smaller than that is padded on all sides; otherwise it is an error.
        fill: grey level of the padding, 0..255.
    """
    height, width = height_width(size, central_crop)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    return _crop(central_crop, shape, top, left, (height, width), 0, pad_smaller, fill)


def random_crop(
    shape: Shape,
    rng: np.random.Generator,
    *,
    size: Size,
    padding: int = 0,
    fill: int = 0,
    pad_smaller: bool = False,
) -> Geometry:
    """Cuts out a random part, of the image with a border around it.

    Args:
        size: height and width in pixels, one number for a square.
        padding: width of the border in pixels.
        fill: grey level of the border, 0..255; the segmentation map gets 255 there, which is ignored.
        pad_smaller: whether an image smaller than that is padded at the bottom and right; otherwise it is an error.
    """
    height, width = height_width(size, random_crop)
    check(random_crop, padding=padding >= 0)
    top = int(rng.integers(max(0, shape[0] + 2 * padding - height) + 1)) - padding
    left = int(rng.integers(max(0, shape[1] + 2 * padding - width) + 1)) - padding
    return _crop(random_crop, shape, top, left, (height, width), padding, pad_smaller, fill)


def random_resized_crop(
    shape: Shape,
    rng: np.random.Generator,
    *,
    size: Size,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: Method = "auto",
) -> Geometry:
    """Resizes a rectangle of random area and aspect ratio ("Going deeper with convolutions", section 6).

    Args:
        size: height and width of the result in pixels, one number for a square.
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn uniformly in its logarithm.
        method: interpolation, as for resize.
    """
    check(random_resized_crop, area=0 < area[0] <= area[1] <= 1, ratio=0 < ratio[0] <= ratio[1])
    size = height_width(size, random_resized_crop)
    top, left, height, width = _random_rectangle(rng, *shape, area, ratio)
    part = geometry.crop(top, left, (height, width))
    return geometry.then(part, geometry.resize(part.shape, size, method=method))


def scale_jitter(
    shape: Shape, rng: np.random.Generator, *, low: float = 0.5, high: float = 2.0, method: Method = "auto"
) -> Geometry:
    """Resizes by a random factor, drawn uniformly, keeping the proportions; a crop of fixed size may follow.

    Args:
        low: the smallest factor.
        high: the largest factor.
        method: interpolation, as for resize.
    """
    check(scale_jitter, low=low > 0, high=low <= high)
    return geometry.resize(shape, scaled(shape, rng.uniform(low, high)), method=method)


# Movements on a canvas of the same size.


def flip(
    shape: Shape,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    direction: Literal["horizontal", "vertical"] = "horizontal",
    swap: tuple[tuple[int, int], ...] = (),
) -> Geometry:
    """Mirrors the image at random.

    Args:
        probability: how often, 0..1.
        direction: "horizontal" exchanges left and right, "vertical" top and bottom.
        swap: pairs of keypoints, by number from 0, that then exchange their places: left and right eye, ...
    """
    check(flip, probability=0 <= probability <= 1)
    if rng.random() >= probability:
        return geometry.identity(shape)
    return geometry.mirror(shape, 1 if direction == "horizontal" else 0, swap=swap)


def rotate(shape: Shape, rng: np.random.Generator, *, degrees: float, fill: int = 0) -> Geometry:
    """Turns the image about its centre by a random angle.

    Args:
        degrees: the largest angle, either way.
        fill: grey level of what comes into view, 0..255.
    """
    check(rotate, fill=0 <= fill <= 255)
    angle = math.radians(rng.uniform(-degrees, degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    return geometry.about_centre(shape, (cosine, sine, -sine, cosine), fill=fill)


def translate(shape: Shape, rng: np.random.Generator, *, fraction: float, fill: int = 0) -> Geometry:
    """Shifts the image by random whole pixels, in both directions independently.

    Args:
        fraction: the largest shift, as a share of the image's height and width, 0..1.
        fill: grey level of what comes into view, 0..255.
    """
    check(translate, fraction=0 <= fraction <= 1, fill=0 <= fill <= 255)
    down = round(rng.uniform(-fraction, fraction) * shape[0])
    right = round(rng.uniform(-fraction, fraction) * shape[1])
    return geometry.about_centre(shape, (1.0, 0.0, 0.0, 1.0), (right, down), fill=fill)


def scale(shape: Shape, rng: np.random.Generator, *, low: float, high: float, fill: int = 0) -> Geometry:
    """Zooms about the centre by a random factor, drawn uniformly in its logarithm; the size of the image stays.

    Args:
        low: the smallest factor; below 1 the content shrinks.
        high: the largest factor.
        fill: grey level of what comes into view, 0..255.
    """
    check(scale, low=low > 0, high=low <= high, fill=0 <= fill <= 255)
    factor = math.exp(rng.uniform(math.log(low), math.log(high)))
    return geometry.about_centre(shape, (factor, 0.0, 0.0, factor), fill=fill)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        decode,
        keep,
        keep_clean,
        channel,
        autocontrast,
        gamma,
        noise,
        resize,
        resize_small,
        resize_long,
        resize_within,
        random_resize_within,
        letterbox,
        pad_to,
        central_crop,
        random_crop,
        random_resized_crop,
        scale_jitter,
        random_iou_crop,
        expand,
        mosaic,
        selective_search,
        flip,
        rotate,
        translate,
        scale,
        brightness,
        contrast,
        saturation,
        hue,
    )
}

# What takes the place of a random transform that gives the image its size, where nothing is to be random.
FIXED: dict[str, str] = {
    "random_resized_crop": "resize",
    "random_crop": "central_crop",
    "random_resize_within": "resize_within",
    "mosaic": "letterbox",
}


@functools.cache
def asks_for(function: Callable) -> tuple[str, ...]:
    """Those of `INJECTED` that a transform takes."""
    return tuple(name for name in INJECTED if name in inspect.signature(function).parameters)


def is_random(function: Callable) -> bool:
    """Whether a transform takes a generator."""
    return "rng" in asks_for(function)


def _crop(
    transform: Callable, shape: Shape, top: int, left: int, size: Shape, padding: int, pad_smaller: bool, fill: int
) -> Geometry:
    """A crop of the image with a border, which must be large enough unless it may be padded."""
    check(transform, fill=0 <= fill <= 255)
    smaller = size[0] > shape[0] + 2 * padding or size[1] > shape[1] + 2 * padding
    if smaller and not pad_smaller:
        raise UsageError(
            f"{transform.__name__}: the image, {shape[0]}x{shape[1]}, is smaller than the crop, {size[0]}x{size[1]}; "
            "resize it first, such as with resize_small, or pad it, with pad_smaller=True."
        )
    if padding or smaller:
        return geometry.crop(top, left, size, fill=fill, border=True)
    return geometry.crop(top, left, size)


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
