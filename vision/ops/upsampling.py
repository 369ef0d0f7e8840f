"""Ways to enlarge a map, fixed and learnable: interpolation, bed of nails, unpooling and transposed convolution."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from vision.ops.convolution import convolve

Pair = tuple[int, int]


def nearest(
    image: Float[Array, "batch height width channels"], size: int | Pair
) -> Float[Array, "batch output_height output_width channels"]:
    """Nearest-neighbour resizing: output i of n copies pixel floor(i H / n), as PyTorch's `nearest`.

    Args:
        image: (batch, height, width, channels).
        size: (height, width) of the result, one number for both.

    Returns:
        (batch, output height, output width, channels).
    """
    rows, columns = _pair(size)
    batch, height, width, channels = image.shape
    if rows % height == 0 and columns % width == 0:  # its gradient is a sum over tiles, 15 times faster than a scatter
        tile = (rows // height, columns // width)
        image = jnp.broadcast_to(image[:, :, None, :, None], (batch, height, tile[0], width, tile[1], channels))
        return image.reshape(batch, rows, columns, channels)
    image = jnp.take(image, np.arange(rows) * height // rows, axis=1)
    return jnp.take(image, np.arange(columns) * width // columns, axis=2)


def bilinear(
    image: Float[Array, "batch height width channels"], size: int | Pair, align_corners: bool = False
) -> Float[Array, "batch output_height output_width channels"]:
    """Bilinear resizing, computed in float32 as one matrix product over rows and one over columns.

    Nothing is averaged where the result is smaller: this interpolates between points, as PyTorch's `interpolate`. On
    CPU the gradient of the two products was 3 to 15 times faster than that of gathered neighbours.

    Args:
        image: (batch, height, width, channels).
        size: (height, width) of the result, one number for both.
        align_corners: whether the middles of the corner pixels fall on each other; otherwise the images' outer edges
            do, and pixels beyond the edge count as those at the edge.

    Returns:
        (batch, output height, output width, channels), dtype of the image.
    """
    matrices = (
        _interpolation(inputs, outputs, align_corners)
        for inputs, outputs in zip(image.shape[1:3], _pair(size), strict=True)
    )
    return _separable(image, *matrices)


def bed_of_nails(
    image: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch output_height output_width channels"]:
    """Each pixel becomes the top left one of `factor` x `factor` pixels, the others zero.

    Args:
        image: (batch, height, width, channels).
        factor: ratio of the sides.

    Returns:
        (batch, factor * height, factor * width, channels).
    """
    between = (0, factor - 1, factor - 1)
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), between, between, (0, 0, 0)])


def max_pool_with_switches(
    image: Float[Array, "batch height width channels"], window: int = 2
) -> tuple[
    Float[Array, "batch output_height output_width channels"], UInt8[Array, "batch output_height output_width channels"]
]:
    """Maximum over windows that do not overlap, and where in its window each was (Zeiler et al. 2011, section 3.1).

    Of equal values the first in row-major order counts, for the switch and for the gradient. Rows and columns that do
    not fill a window are left out, as in PyTorch.

    Args:
        image: (batch, height, width, channels).
        window: side of the windows, and the step between them; 16 at most.

    Returns:
        The maxima (batch, height // window, width // window, channels), and the switches of that shape: row * window +
        column within the window. PyTorch's index counts in the whole map instead.
    """
    batch, height, width, channels = image.shape
    end = (height // window * window, width // window * window)
    best = switches = None
    for place in range(window * window):
        start = (0, place // window, place % window, 0)
        view = lax.slice(image, start, (batch, *end, channels), (1, window, window, 1))
        if best is None:
            best, switches = view, jnp.zeros(view.shape, jnp.uint8)
            continue
        larger = (view > best) | jnp.isnan(view)
        best = jnp.where(larger, view, best)
        switches = jnp.where(larger, jnp.uint8(place), switches)
    return best, switches


def max_unpool(
    pooled: Float[Array, "batch height width channels"],
    switches: UInt8[Array, "batch height width channels"],
    window: int = 2,
    size: Pair | None = None,
) -> Float[Array, "batch output_height output_width channels"]:
    """Puts each value where its switch says, zeros elsewhere: what undoes `max_pool_with_switches`.

    No scatter: every place of a window compares its number with the switch.

    Args:
        pooled: (batch, height, width, channels).
        switches: place of each value in its window, row * window + column.
        window: side of the windows.
        size: (height, width) of the map that was pooled, where rows and columns were left out; they are zero.

    Returns:
        (batch, window * height, window * width, channels), or of the given size.
    """
    batch, height, width, channels = pooled.shape
    places = np.arange(window * window, dtype=np.uint8).reshape(1, 1, window, 1, window, 1)
    here = switches[:, :, None, :, None] == places
    result = jnp.where(here, pooled[:, :, None, :, None], jnp.zeros((), pooled.dtype))
    result = result.reshape(batch, height * window, width * window, channels)
    if size is None:
        return result
    left_out = [(0, target - side) for target, side in zip(size, result.shape[1:3], strict=True)]
    return jnp.pad(result, ((0, 0), *left_out, (0, 0)))


def transposed_convolution(
    image: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
    stride: int = 1,
    padding: int | Pair = 0,
    output_padding: int = 0,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch output_height output_width outputs"]:
    """Each pixel adds its multiple of the kernel to the result, `stride` pixels apart: the transpose of a convolution.

    Sizes are PyTorch's: (height - 1) * stride - 2 * padding + kernel height + output_padding. On CPU this is one
    matrix product whose blocks are added where they overlap (not at all where the kernel's side is the stride): with
    its gradient 2 to 12 times faster than XLA's convolution of the image with zeros between its pixels, which every
    other device gets.

    Args:
        image: (batch, height, width, inputs).
        kernel: (kernel height, kernel width, inputs, outputs), not mirrored: its first row is added to the top.
        stride: step between the copies of the kernel.
        padding: rows and columns cut off on each side, one number or (vertical, horizontal).
        output_padding: rows and columns kept, or added, at the bottom and the right.
        precision: see `jax.lax.Precision`.

    Returns:
        (batch, output height, output width, outputs).
    """
    padding = _pair(padding)
    around = [(k - 1 - p, k - 1 - p + output_padding) for k, p in zip(kernel.shape[:2], padding, strict=True)]

    def by_compiler(image, kernel):
        return lax.conv_general_dilated(
            image,
            kernel[::-1, ::-1],
            (1, 1),
            around,
            lhs_dilation=(stride, stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    def on_cpu(image, kernel):
        return _by_overlaps(image, kernel, stride, padding, output_padding, precision)

    smaller_than_kernel = any(side < k for side, k in zip(image.shape[1:3], kernel.shape[:2], strict=True))
    if stride == 1 and not smaller_than_kernel:
        return convolve(image, kernel[::-1, ::-1], 1, around, precision=precision)
    return lax.platform_dependent(image, kernel, cpu=on_cpu, default=by_compiler)


def bilinear_transposed(
    image: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch output_height output_width channels"]:
    """The transposed convolution of each channel with `bilinear_kernel(2 * factor)`, `factor` apart.

    Pixels beyond the edge count as zero, so that a border of factor / 2 pixels around the image fades out.

    Args:
        image: (batch, height, width, channels).
        factor: ratio of the sides.

    Returns:
        (batch, factor * (height + 1), factor * (width + 1), channels), dtype of the image.
    """

    def matrix(inputs: int) -> np.ndarray:
        result = np.zeros((factor * (inputs + 1), inputs), np.float32)
        for index in range(inputs):
            result[factor * index : factor * (index + 2), index] = _triangle(2 * factor)
        return result

    return _separable(image, matrix(image.shape[1]), matrix(image.shape[2]))


def bilinear_kernel(size: int) -> np.ndarray:
    """(size, size): the kernel with which a transposed convolution interpolates bilinearly.

    For a stride s its size is 2 s, or 2 s - 1; each of the s places between two pixels then gets weights that sum to 1
    (Long et al. 2015, arXiv:1411.4038, section 3.3).
    """
    return np.outer(_triangle(size), _triangle(size))


def _triangle(size: int) -> np.ndarray:
    half = (size + 1) // 2  # the stride
    middle = half - 1 if size % 2 else half - 0.5
    return (1 - np.abs(np.arange(size) - middle) / half).astype(np.float32)


def _interpolation(inputs: int, outputs: int, align_corners: bool) -> np.ndarray:
    """(outputs, inputs): linear interpolation along one axis, as a matrix."""
    index = np.arange(outputs)
    if align_corners:
        position = index * (inputs - 1) / max(outputs - 1, 1)
    else:
        position = np.maximum((index + 0.5) * inputs / outputs - 0.5, 0)
    below = np.minimum(position.astype(int), inputs - 1)
    above = np.minimum(below + 1, inputs - 1)
    result = np.zeros((outputs, inputs))
    np.add.at(result, (index, below), 1 - (position - below))
    np.add.at(result, (index, above), position - below)
    return result.astype(np.float32)


def _separable(image: Array, over_rows: np.ndarray, over_columns: np.ndarray) -> Array:
    """Applies a matrix (outputs, inputs) to each column of an image and one to each row, in float32."""
    result = image.astype(jnp.float32)
    result = jnp.einsum("ih,bhwc->biwc", over_rows, result, precision=lax.Precision.HIGHEST)
    result = jnp.einsum("jw,biwc->bijc", over_columns, result, precision=lax.Precision.HIGHEST)
    return result.astype(image.dtype)


def _by_overlaps(
    image: Array, kernel: Array, stride: int, padding: Pair, output_padding: int, precision: lax.PrecisionLike
) -> Array:
    """Transposed convolution as the product of all pixels with the kernel, cut into blocks of one stride.

    Block (i, j) of all pixels is a map of stride-sized tiles; the result is the sum of these maps, each moved by
    (i, j) strides.
    """
    batch, height, width, inputs = image.shape
    *sides, _, outputs = kernel.shape
    down, across = (-(-side // stride) for side in sides)
    kernel = jnp.pad(kernel, ((0, down * stride - sides[0]), (0, across * stride - sides[1]), (0, 0), (0, 0)))
    product = jnp.matmul(
        image.reshape(-1, inputs), kernel.transpose(2, 0, 1, 3).reshape(inputs, -1), precision=precision
    )
    blocks = product.reshape(batch, height, width, down, stride, across, stride, outputs)
    total = None
    for i in range(down):
        for j in range(across):
            tiles = blocks[:, :, :, i, :, j].transpose(0, 1, 3, 2, 4, 5)
            tiles = tiles.reshape(batch, height * stride, width * stride, outputs)
            shift = ((i * stride, (down - 1 - i) * stride), (j * stride, (across - 1 - j) * stride))
            tiles = jnp.pad(tiles, ((0, 0), *shift, (0, 0)))
            total = tiles if total is None else total + tiles
    crop = [
        (-cut, (side - 1) * stride + k - cut + output_padding - size, 0)
        for cut, side, k, size in zip(padding, (height, width), sides, total.shape[1:3], strict=True)
    ]
    return lax.pad(total, jnp.zeros((), total.dtype), [(0, 0, 0), *crop, (0, 0, 0)])


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)
