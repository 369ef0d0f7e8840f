"""Features of regions of interest: RoIPool, RoIAlign, RoIAlign over a pyramid, and masks cropped to boxes.

All functions take one image, (height, width, channels), and its boxes; `jax.vmap` over images. Padded boxes give finite
numbers that mean nothing. Gradients flow into the features; none flow into the boxes, as in the published two-stage
networks.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from vision.ops.boxes import Boxes, Number, area

Features = Float[Array, "height width channels"]
Regions = Float[Array, "boxes output_height output_width channels"]
Pair = tuple[int, int]
Windows = tuple[Array, Array, Array]

_UNROLLED = 16  # terms of a sum that are computed in one pass: all of RoIAlign's with 2 x 2 samples


def roi_align(
    features: Features,
    boxes: Boxes,
    output_size: int | Pair,
    spatial_scale: Number,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Regions:
    """Means of bilinear samples in a grid of bins over each box (He et al. 2017, section 3), as torchvision's.

    Samples up to one pixel outside the map take the value at its edge, those beyond are 0. The published choice of
    as many samples as a bin has pixels depends on the box, and is not offered.

    Each result is a sum of pixels with weights, gathered from a list of pixels. On 2 CPU cores 512 boxes on a map of
    38x50x256 take 14 ms, and 450 ms as two interpolation matrices, whose work grows with the size of the map.

    Args:
        features: (height, width, channels).
        boxes: (boxes, 4) in pixels of the image.
        output_size: (rows, columns) of bins, one number for both.
        spatial_scale: pixels of the map for a pixel of the image: 1 / stride.
        sampling_ratio: samples along each side of a bin.
        aligned: whether pixels have their centres at one half, as boxes say. The first version, still the one of
            torchvision's detectors, shifts everything by half a pixel, and makes boxes at least one pixel large.

    Returns:
        (boxes, rows, columns, channels), dtype of the features.
    """
    height, width, channels = features.shape
    boxes = boxes * spatial_scale
    index, weight = _terms(boxes, output_size, sampling_ratio, aligned, height, width, 0)
    return _weighted_sum(features.reshape(-1, channels), index, weight)


def roi_align_pyramid(
    features: Mapping[int, Float[Array, "_ _ channels"]],
    boxes: Boxes,
    output_size: int | Pair,
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_level: int = 4,
    canonical_size: Number = 224.0,
) -> Regions:
    """RoIAlign of each box on the pyramid's level for its size (Lin et al. 2017, section 4.2).

    The pixels of all levels make one list, from which each box is gathered once.

    Args:
        features: by stride, powers of two, each (height, width, channels).
        boxes: (boxes, 4) in pixels of the image.
        output_size: (rows, columns) of bins, one number for both.
        sampling_ratio: samples along each side of a bin.
        aligned: see `roi_align`.
        canonical_level: see `pyramid_level`.
        canonical_size: see `pyramid_level`.

    Returns:
        (boxes, rows, columns, channels), dtype of the features.
    """
    strides = sorted(features)
    level = pyramid_level(boxes, math.frexp(strides[0])[1] - 1, len(strides), canonical_level, canonical_size)
    heights, widths = np.transpose([features[stride].shape[:2] for stride in strides])
    offsets = np.cumsum(heights * widths) - heights * widths
    height, width, offset = (jnp.asarray(numbers, jnp.int32)[level] for numbers in (heights, widths, offsets))
    boxes = boxes / jnp.asarray(strides, jnp.float32)[level][:, None]
    pixels = jnp.concatenate([features[stride].reshape(-1, features[stride].shape[2]) for stride in strides])
    index, weight = _terms(boxes, output_size, sampling_ratio, aligned, height, width, offset)
    return _weighted_sum(pixels, index, weight)


def pyramid_level(
    boxes: Boxes, lowest: int, levels: int, canonical_level: int = 4, canonical_size: Number = 224.0
) -> Int[Array, " boxes"]:
    """Which level each box takes its features from (Lin et al. 2017, equation 1), clipped to those there are.

    Args:
        boxes: (boxes, 4).
        lowest: number of the finest level; level k has stride 2^k.
        levels: how many levels there are.
        canonical_level: level of a box of the canonical size.
        canonical_size: square root of its area in pixels.

    Returns:
        (boxes,) int32, 0 for the finest level.
    """
    side = jnp.sqrt(jnp.maximum(area(boxes), 1e-12))  # far below the finest level, and the logarithm finite
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)  # a side of 224 is not to fall below
    return jnp.clip(level.astype(jnp.int32) - lowest, 0, levels - 1)


def crop_masks(
    masks: Num[Array, "objects height width"],
    boxes: Boxes,
    objects: Int[Array, " boxes"],
    output_size: int | Pair,
    sampling_ratio: int = 2,
) -> Float[Array, "boxes output_height output_width"]:
    """The part of an object's mask in each box, resized: what a mask head is to predict (He et al. 2017, section 3.1).

    Args:
        masks: (objects, height, width), 0 or 1.
        boxes: (boxes, 4) in pixels of the masks.
        objects: (boxes,) index of each box's object.
        output_size: (rows, columns), one number for both.
        sampling_ratio: samples along each side of a bin.

    Returns:
        (boxes, rows, columns), 0 to 1; the paper's targets are 1 from one half.
    """
    count, height, width = masks.shape
    if count == 0:
        rows, columns = _pair(output_size)
        return jnp.zeros((boxes.shape[0], rows, columns), jnp.float32)
    offset = jnp.clip(objects, 0, count - 1) * (height * width)
    index, weight = _terms(boxes, output_size, sampling_ratio, True, height, width, offset)
    return _sum_of_terms(masks.reshape(-1, 1), index, weight)[..., 0]  # not cast first: there are many pixels of masks


def roi_pool(features: Features, boxes: Boxes, output_size: int | Pair, spatial_scale: Number) -> Regions:
    """Maxima over a grid of bins over each box (Girshick 2015, section 2.1), with torchvision's rounding.

    Corners are rounded to pixels of the map, the last one included; bins are rounded outwards, so that they overlap.
    Bins outside the map are 0.

    The maximum over any window is that of four windows with powers of two as sides, which are computed once for the
    whole map. That takes memory, for a map of 38x63 that of 36 maps, and as much again for the gradient, which goes to
    the first maximum of each bin.

    Args:
        features: (height, width, channels).
        boxes: (boxes, 4) in pixels of the image.
        output_size: (rows, columns) of bins, one number for both.
        spatial_scale: pixels of the map for a pixel of the image: 1 / stride.

    Returns:
        (boxes, rows, columns, channels), dtype of the features.
    """
    height, width, _ = features.shape
    rows, columns = _pair(output_size)
    corners = lax.stop_gradient(boxes) * spatial_scale
    corners = jnp.sign(corners) * jnp.floor(jnp.abs(corners) + 0.5)  # half away from zero
    over_rows = _windows(corners[:, 1], corners[:, 3], rows, height)
    over_columns = _windows(corners[:, 0], corners[:, 2], columns, width)
    return _maxima_of_bins(features, over_rows, over_columns)


def _terms(
    boxes: Array,
    output_size: int | Pair,
    sampling_ratio: int,
    aligned: bool,
    height: int | Array,
    width: int | Array,
    offset: int | Array,
) -> tuple[Array, Array]:
    """(terms, boxes, rows, columns) indices into a list of pixels, and weights: RoIAlign is the sum over the terms.

    `height`, `width`, and `offset`, the place of a map's first pixel in the list, may differ from box to box.
    """
    if sampling_ratio < 1:
        raise ValueError(
            f"RoIAlign: sampling_ratio is 1 or more, given {sampling_ratio}; as many as a bin has pixels, which "
            "torchvision's -1 stands for, would depend on the box."
        )
    rows, columns = _pair(output_size)
    boxes = lax.stop_gradient(boxes).astype(jnp.float32) - (0.5 if aligned else 0.0)
    size = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        size = jnp.maximum(size, 1.0)
    y, y_weight = _axis_terms(boxes[:, 1], size[:, 1], rows, sampling_ratio, height)
    x, x_weight = _axis_terms(boxes[:, 0], size[:, 0], columns, sampling_ratio, width)
    row, offset = (jnp.asarray(number, jnp.int32).reshape(-1, 1, 1) for number in (width, offset))
    index = y[:, None, :, :, None] * row + x[None, :, :, None, :] + offset
    weight = y_weight[:, None, :, :, None] * x_weight[None, :, :, None, :]
    shape = ((2 * sampling_ratio) ** 2, *index.shape[2:])
    return index.reshape(shape), weight.reshape(shape)


def _axis_terms(start: Array, length: Array, bins: int, sampling_ratio: int, limit: int | Array) -> tuple[Array, Array]:
    """(2 sampling_ratio, boxes, bins): along one axis, the pixels around a bin's samples and their weights."""
    samples = (jnp.arange(bins) + (jnp.arange(sampling_ratio)[:, None] + 0.5) / sampling_ratio)[:, None, :]
    limit = jnp.asarray(limit, jnp.int32).reshape(-1, 1)
    position = start[:, None] + samples * (length[:, None] / bins)
    inside = (position >= -1) & (position <= limit)
    position = jnp.clip(position, 0, limit - 1)
    low = position.astype(jnp.int32)
    share = position - low
    index = jnp.concatenate([low, jnp.minimum(low + 1, limit - 1)])
    return index, jnp.where(jnp.tile(inside, (2, 1, 1)), jnp.concatenate([1 - share, share]), 0.0) / sampling_ratio


# By hand, for the gradient that JAX derives takes 1.1 to 1.5 s on CPU where one scatter for each term takes 0.15 s.
@jax.custom_vjp
def _weighted_sum(pixels: Array, index: Array, weight: Array) -> Array:
    """sum over terms t of pixels[index[t]] weight[t]: (pixels, channels), (terms, ...) -> (..., channels).

    Summed in float32. The gradient is that of the pixels; index and weight are constants.
    """
    return _sum_of_terms(pixels, index, weight).astype(pixels.dtype)


def _sum_of_terms(pixels: Array, index: Array, weight: Array) -> Array:
    def add(total, term):
        return total + pixels[term[0]].astype(jnp.float32) * term[1][..., None], None

    total = jnp.zeros((*index.shape[1:], pixels.shape[1]), jnp.float32)
    return lax.scan(add, total, (index, weight), unroll=min(_UNROLLED, len(index)))[0]


def _weighted_sum_forward(pixels, index, weight):
    # The empty array carries the static number and dtype of the pixels.
    return _weighted_sum(pixels, index, weight), (pixels[:, :0], index, weight)


def _weighted_sum_backward(saved, gradient):
    empty, index, weight = saved
    gradient = gradient.astype(jnp.float32)

    def add(total, term):
        return total.at[term[0]].add(gradient * term[1][..., None]), None

    total = jnp.zeros((empty.shape[0], gradient.shape[-1]), jnp.float32)
    return lax.scan(add, total, (index, weight))[0].astype(empty.dtype), None, None


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def _windows(first: Array, last: Array, bins: int, limit: int) -> Windows:
    """(boxes, bins): start of each bin, start of the window that ends with it, and the binary logarithm of its side.

    `first` and `last` are pixels of the map, both of the box. The logarithm is -1 for bins without a pixel on the map.
    """
    length, first = jnp.maximum(last - first + 1, 1).astype(jnp.int32), first.astype(jnp.int32)
    starts, ends = _bin_edges(limit + 1, bins)
    number, row = jnp.arange(bins), jnp.minimum(length, limit + 1)
    inside = (length <= limit + 1)[:, None]
    start = jnp.where(inside, starts[row], length[:, None] * number // bins) + first[:, None]
    end = jnp.where(inside, ends[row], -(-length[:, None] * (number + 1) // bins)) + first[:, None]
    start, end = (jnp.clip(edge, 0, limit) for edge in (start, end))
    logarithms = np.floor(np.log2(np.maximum(np.arange(limit + 1), 0.5))).astype(np.int32)  # -1 for length 0
    power = jnp.asarray(logarithms)[jnp.maximum(end - start, 0)]
    second = end - (1 << jnp.maximum(power, 0))
    return jnp.clip(start, 0, limit - 1), jnp.clip(second, 0, limit - 1), power


def _bin_edges(longest: int, bins: int) -> tuple[Array, Array]:
    """(longest + 1, bins): where each bin starts and ends in a box of 0 to `longest` pixels, rounded outwards.

    The multiples of length / bins are those of float32, as torchvision has them: 57 / 7 * 7 is a little more than 57,
    so that the last of 7 bins ends a pixel late. A table, since compiled divisions may be off in the last bit.
    """
    side = np.arange(longest + 1, dtype=np.float32)[:, None] / np.float32(bins)
    number = np.arange(bins, dtype=np.float32)
    starts, ends = np.floor(number * side), np.ceil((number + 1) * side)
    return jnp.asarray(starts, jnp.int32), jnp.asarray(ends, jnp.int32)


# By hand, for the gradient that JAX derives goes through all windows of the map: it takes seconds on CPU.
@jax.custom_vjp
def _maxima_of_bins(features: Array, over_rows: Windows, over_columns: Windows) -> Array:
    """(boxes, rows, columns, channels) maxima; the gradient goes to the first maximum of a bin in row-major order."""
    return _first_maxima_of_bins(features, over_rows, over_columns)[0]


def _first_maxima_of_bins(features: Array, over_rows: Windows, over_columns: Windows) -> tuple[Array, Array]:
    """(boxes, rows, columns, channels) maxima, 0 for bins without a pixel, and the pixels they are at, -1 there."""
    height, width, _ = features.shape
    pixel = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width, 1)
    table = (features, jnp.broadcast_to(pixel, features.shape))
    table = _maxima(_maxima(table, axis=0), axis=2)  # (height, windows of rows, width, windows of columns, channels)
    _, tall, _, wide, channels = table[0].shape
    table = [part.reshape(-1, channels) for part in table]
    (*tops, side), (*lefts, side_2) = over_rows, over_columns
    corners = []
    for top in tops:
        for left in lefts:
            row, column = top * tall + jnp.maximum(side, 0), left * wide + jnp.maximum(side_2, 0)
            at = row[:, :, None] * (width * wide) + column[:, None, :]
            corners.append(tuple(part[at] for part in table))
    value, pixel = functools.reduce(_larger, corners)
    exists = ((side >= 0)[:, :, None] & (side_2 >= 0)[:, None, :])[..., None]
    return jnp.where(exists, value, 0), jnp.where(exists, pixel, -1)


def _maxima_of_bins_forward(features, over_rows, over_columns):
    value, pixel = _first_maxima_of_bins(features, over_rows, over_columns)
    # The empty array carries the static shape and dtype of the features.
    return value, (features[..., :0], pixel)


def _maxima_of_bins_backward(saved, gradient):
    empty, pixel = saved
    height, width, _ = empty.shape
    channels = gradient.shape[-1]
    place = jnp.where(pixel >= 0, pixel, height * width)  # out of bounds, which is dropped
    total = jnp.zeros((height * width, channels), jnp.float32)
    total = total.at[place, jnp.arange(channels)].add(gradient.astype(jnp.float32), mode="drop")
    return total.reshape(height, width, channels).astype(empty.dtype), None, None


_maxima_of_bins.defvjp(_maxima_of_bins_forward, _maxima_of_bins_backward)


def _maxima(table: tuple[Array, Array], axis: int) -> tuple[Array, Array]:
    """Maxima over windows of 1, 2, 4, ... along an axis, in a new axis after it; windows start at their index.

    Windows that reach beyond the end wrap around, and are never asked for.
    """
    found = [table]
    for power in range(table[0].shape[axis].bit_length() - 1):
        following = tuple(jnp.roll(part, -(1 << power), axis) for part in found[-1])
        found.append(_larger(found[-1], following))
    return tuple(jnp.stack(parts, axis=axis + 1) for parts in zip(*found, strict=True))


def _larger(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The larger of two values with its pixel, the first pixel where they are equal."""
    (value, pixel), (value_2, pixel_2) = one, other
    takes_other = (value_2 > value) | ((value_2 == value) & (pixel_2 < pixel))
    return jnp.maximum(value, value_2), jnp.where(takes_other, pixel_2, pixel)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
