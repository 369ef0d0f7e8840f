"""The boxes that detectors start from: anchors of the two-stage models and RetinaNet, default boxes of SSD.

Both come level by level, within a level row by row, and within a place of the map shape by shape: the order of
`features.reshape(-1, channels)` with the shapes of a place in the channels' outer dimension. Sizes are static, so that
the boxes are constants of a compiled program.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.ops.boxes import Number

Pair = tuple[int, int]


def strides_of(image_size: Pair, map_sizes: Sequence[Pair]) -> list[Pair]:
    """(vertical, horizontal) pixels of the image for each place of each map, rounded down.

    What torchvision takes for the stride of a level. It differs from the nominal power of two where a level's map does
    not divide the image, as the last level of a pyramid on a 160-pixel image: 3 places are 53 pixels apart, not 64.

    Args:
        image_size: (height, width) of the image, padding included.
        map_sizes: (height, width) of each level's map.
    """
    return [(image_size[0] // height, image_size[1] // width) for height, width in map_sizes]


def cell_anchors(sizes: Sequence[Number], aspect_ratios: Sequence[Number]) -> np.ndarray:
    """(ratios x sizes, 4) anchors around the point (0, 0), ratio by ratio, rounded to whole pixels as torchvision's.

    Args:
        sizes: square roots of the areas in pixels.
        aspect_ratios: heights over widths.
    """
    ratios, sizes = np.asarray(aspect_ratios, np.float32), np.asarray(sizes, np.float32)
    heights = np.sqrt(ratios)
    widths = np.float32(1) / heights
    width, height = (np.outer(side, sizes).reshape(-1) for side in (widths, heights))
    return np.round(np.stack([-width, -height, width, height], axis=1) / 2).astype(np.float32)


def anchors(
    map_sizes: Sequence[Pair],
    strides: Sequence[Pair],
    sizes: Sequence[Sequence[Number]],
    aspect_ratios: Sequence[Sequence[Number]],
) -> Float[Array, "anchors 4"]:
    """Anchors of all levels (Ren et al. 2015, section 3.1.1; Lin et al. 2017, section 4.1), as torchvision places them.

    The anchors of the first place are centred on the image's corner (0, 0), not on the middle of the first cell. None
    is clipped to the image.

    Args:
        map_sizes: (height, width) of each level's map.
        strides: (vertical, horizontal) distance of places in pixels, of each level; see `strides_of`.
        sizes: for each level, square roots of the areas in pixels. RetinaNet has s, s 2^(1/3), s 2^(2/3), whole
            numbers rounded down.
        aspect_ratios: for each level, heights over widths.

    Returns:
        (anchors, 4) boxes; each level has height x width x ratios x sizes.
    """
    levels = []
    for (rows, columns), (down, across), level_sizes, ratios in zip(
        map_sizes, strides, sizes, aspect_ratios, strict=True
    ):
        y, x = np.meshgrid(np.arange(rows) * down, np.arange(columns) * across, indexing="ij")
        places = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        levels.append((places + cell_anchors(level_sizes, ratios)).reshape(-1, 4))
    return jnp.asarray(np.concatenate(levels), jnp.float32)


def default_box_scales(levels: int, smallest: Number = 0.2, largest: Number = 0.9) -> list[float]:
    """levels + 1 evenly spaced scales, the last, beyond all levels, 1 (Liu et al. 2016, equation 4)."""
    step = (largest - smallest) / max(levels - 1, 1)
    return [smallest + step * level for level in range(levels)] + [1.0]


def default_boxes(
    image_size: Pair,
    map_sizes: Sequence[Pair],
    scales: Sequence[Number],
    aspect_ratios: Sequence[Sequence[Number]],
    steps: Sequence[int] | None = None,
) -> Float[Array, "anchors 4"]:
    """SSD's default boxes (Liu et al. 2016, section 2.2), in torchvision's order.

    At each place: a square of scale s, one of scale sqrt(s s'), s' the next level's, and for each ratio r a box of
    s sqrt(r) by s / sqrt(r) and one of s / sqrt(r) by s sqrt(r). Sides are at most the image's; the boxes themselves
    may reach beyond it.

    Args:
        image_size: (height, width) of the image.
        map_sizes: (height, width) of each level's map.
        scales: sides as shares of the image's, one for each level and one more. SSD300 on COCO: 0.07, 0.15, 0.33,
            0.51, 0.69, 0.87, 1.05.
        aspect_ratios: for each level, widths over heights, above 1. SSD300: [2], [2, 3] three times, [2] twice.
        steps: pixels between places, of each level. SSD300: 8, 16, 32, 64, 100, 300. None: the image's sides over the
            map's.

    Returns:
        (anchors, 4) boxes in pixels; each level has height x width x (2 + 2 ratios).
    """
    height, width = image_size
    levels = []
    for level, ((rows, columns), ratios) in enumerate(zip(map_sizes, aspect_ratios, strict=True)):
        scale, beyond = scales[level], scales[level + 1]
        shapes = [(scale, scale), (math.sqrt(scale * beyond),) * 2]
        for ratio in ratios:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        half = np.minimum(shapes, 1) * (width, height) / 2  # (shapes, 2): x, y
        down, across = (steps[level],) * 2 if steps else (height / rows, width / columns)
        y, x = np.meshgrid((np.arange(rows) + 0.5) * down, (np.arange(columns) + 0.5) * across, indexing="ij")
        centre = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        levels.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
    return jnp.asarray(np.concatenate(levels), jnp.float32)
