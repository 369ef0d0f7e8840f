"""Two-dimensional convolution, formulated for the CPU from static shapes and left to the compiler everywhere else."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[int, int]
Padding = str | int | Sequence[int] | Sequence[Pair]

_SMALL_MAP, _WIDE = 7, 512  # output side and input channels where patches won although XLA is at its usual speed
_MOST_TAPS = 49  # each tap of the kernel is a slice to compile: 7x7 at most


def convolve(
    image: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width group_inputs outputs"],
    strides: int | Pair = 1,
    padding: Padding = "SAME",
    dilation: int | Pair = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch output_height output_width outputs"]:
    """Cross-correlates an image with a kernel, as `lax.conv_general_dilated` does, by the fastest route on CPU.

    All routes give the same numbers up to rounding, and so do their derivatives. On GPU and TPU, and for whatever
    `formulation` does not want to change, this is `lax.conv_general_dilated`.

    Args:
        image: (batch, height, width, inputs).
        kernel: (kernel height, kernel width, inputs / groups, outputs).
        strides: step between outputs, one number or (vertical, horizontal).
        padding: "SAME" or "VALID" in the sense of `lax`; a number of zeros for every side; or per axis a number or
            (before, after). PyTorch's `padding=1` is 1 here; "SAME" differs from it where a stride is even.
        dilation: step between the kernel's taps, one number or (vertical, horizontal).
        groups: number of independent groups of channels.
        precision: see `jax.lax.Precision`.

    Returns:
        (batch, output height, output width, outputs).

    Raises:
        ValueError: the padding is none of the forms above.
    """
    strides, dilation = _pair(strides), _pair(dilation)
    padding = explicit_padding(padding, image.shape[1:3], kernel.shape[:2], strides, dilation)

    def by_compiler(image, kernel):
        return lax.conv_general_dilated(
            image,
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    matrix_product = formulation(image.shape, kernel.shape, strides, padding, dilation, groups)
    if matrix_product is None:
        return by_compiler(image, kernel)

    def on_cpu(image, kernel):
        return matrix_product(image, kernel, strides, padding, dilation, precision)

    return lax.platform_dependent(image, kernel, cpu=on_cpu, default=by_compiler)


def formulation(
    image_shape: Sequence,
    kernel_shape: Sequence[int],
    strides: Pair,
    padding: Sequence[Pair],
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Callable | None:
    """Which matrix product replaces a convolution on CPU: `by_tiles`, `by_patches`, or None to leave it to XLA.

    Measured with XLA of JAX 0.10 on two cores (`benchmarks/convolution.py` measures it again):

    - Windows that do not overlap (1x1 kernels, patch embeddings) are one matrix product. Forward it is about as fast
      as XLA's; the kernel's gradient was 1.5 to 6 times faster (56x56x256 -> 512, stride 2: 10 ms instead of 59).
    - Where the output is smaller than the kernel, XLA's forward pass or its gradient falls off a cliff: 389 ms for 3x3,
      512 -> 512 channels, on a 2x2 map, batch 64, against 4 ms by patches.
    - On small maps of many channels patches are somewhat faster, forward and gradient together, batch 8: 15 ms for
      22 on 7x7x512, 16 ms for 27 on 14x14x512 with stride 2. With few channels the copies cost more than the product
      saves: 6 ms for 4 on 7x7x64, batch 64.
    - On larger maps XLA's own convolution is up to 3 times faster.
    """
    sizes = (*image_shape[1:3], *kernel_shape[:2])
    if groups > 1 or not all(isinstance(size, int) for size in sizes):  # symbolic sizes cannot be compared
        return None
    output = output_shape(image_shape[1:3], kernel_shape[:2], strides, padding, dilation)
    if min(output) < 1:
        return None
    if all(k <= s for k, s in zip(kernel_shape[:2], strides, strict=True)) and dilation == (1, 1):
        return by_tiles
    smaller_than_kernel = any(o < k for o, k in zip(output, kernel_shape[:2], strict=True))
    small_and_wide = max(output) <= _SMALL_MAP and kernel_shape[2] >= _WIDE
    few_taps = kernel_shape[0] * kernel_shape[1] <= _MOST_TAPS
    return by_patches if few_taps and (smaller_than_kernel or small_and_wide) else None


def by_tiles(
    image: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
    strides: Pair,
    padding: Sequence[Pair],
    dilation: Pair = (1, 1),
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch output_height output_width outputs"]:
    """Convolution whose windows do not overlap (kernel <= stride), as one product of tiles and kernel."""
    batch, height, width, channels = image.shape
    rows, columns = output_shape((height, width), kernel.shape[:2], strides, padding, dilation)
    # Fill or crop the map to whole tiles of one stride each, then keep the part of each tile that the kernel sees.
    fill = [
        (before, count * stride - size - before, 0)
        for count, stride, size, (before, _) in zip((rows, columns), strides, (height, width), padding, strict=True)
    ]
    image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *fill, (0, 0, 0)])
    tiles = image.reshape(batch, rows, strides[0], columns, strides[1], channels)
    tiles = tiles[:, :, : kernel.shape[0], :, : kernel.shape[1]].transpose(0, 1, 3, 2, 4, 5)
    return _product(tiles.reshape(batch, rows, columns, -1), kernel, precision)


def by_patches(
    image: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
    strides: Pair,
    padding: Sequence[Pair],
    dilation: Pair = (1, 1),
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch output_height output_width outputs"]:
    """Convolution as the matrix of all windows (the taps' shifted views side by side) times the kernel's matrix."""
    image = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    batch, height, width, channels = image.shape
    rows, columns = output_shape((height, width), kernel.shape[:2], strides, ((0, 0), (0, 0)), dilation)
    taps = []
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * dilation[0], j * dilation[1]
            end = (top + (rows - 1) * strides[0] + 1, left + (columns - 1) * strides[1] + 1)
            taps.append(lax.slice(image, (0, top, left, 0), (batch, *end, channels), (1, *strides, 1)))
    return _product(jnp.concatenate(taps, axis=-1), kernel, precision)


def _product(windows: Array, kernel: Array, precision: lax.PrecisionLike) -> Array:
    """(batch, rows, columns, kernel height * width * inputs) times the kernel -> (batch, rows, columns, outputs).

    As a product of two matrices: with more axes XLA transposes the maps for the kernel's gradient, a copy of each.
    """
    outputs = kernel.shape[-1]
    product = jnp.matmul(windows.reshape(-1, windows.shape[-1]), kernel.reshape(-1, outputs), precision=precision)
    return product.reshape(*windows.shape[:-1], outputs)


def explicit_padding(
    padding: Padding, size: Sequence[int], kernel: Sequence[int], strides: Pair, dilation: Pair = (1, 1)
):
    """((top, bottom), (left, right)) of a padding in any form that `convolve` takes.

    Raises:
        ValueError: the padding is none of these forms.
    """
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        return tuple(lax.padtype_to_pads(size, extent, strides, padding))
    axes = (padding, padding) if isinstance(padding, int) else tuple(padding)
    pairs = tuple((axis, axis) if isinstance(axis, int) else tuple(axis) for axis in axes)
    if [len(pair) for pair in pairs] != [2, 2]:
        raise ValueError(f"padding {padding!r} is neither a name, a number, nor a number or pair for each of two axes")
    return pairs


def output_shape(
    size: Sequence[int], kernel: Sequence[int], strides: Pair, padding: Sequence[Pair], dilation: Pair = (1, 1)
) -> Pair:
    """(height, width) of a convolution's result; 0 or less where the kernel does not fit."""
    return tuple(
        (n + before + after - (k - 1) * d - 1) // s + 1
        for n, k, s, (before, after), d in zip(size, kernel, strides, padding, dilation, strict=True)
    )


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)
