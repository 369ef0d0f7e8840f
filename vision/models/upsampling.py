"""Layers that enlarge a map, fixed and learnable ones under one name."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.ops import upsampling as ops

Method = Literal["nearest", "bilinear", "bed_of_nails", "max_unpool", "transposed"]
FixedMethod = Literal["nearest", "bilinear", "bed_of_nails"]


def bilinear_init(key: jax.Array, shape: tuple[int, ...], dtype: layers.Dtype = jnp.float32) -> jax.Array:
    """A kernel (size, size, inputs, outputs) that interpolates channel i bilinearly into channel i.

    A transposed convolution of stride s interpolates with a size of 2 s (Long et al. 2015, arXiv:1411.4038).
    """
    del key
    return jnp.einsum("hw,io->hwio", ops.bilinear_kernel(shape[0]), jnp.eye(*shape[2:])).astype(dtype)


class ConvTranspose(nn.Module):
    """Transposed convolution with PyTorch's sizes; at stride 1 a convolution with the mirrored kernel.

    Attributes:
        features: number of output channels.
        kernel_size: (height, width) of the kernel.
        stride: step between the copies of the kernel.
        padding: rows and columns cut off on each side.
        output_padding: rows and columns kept, or added, at the bottom and the right.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; None follows the input and the parameters.
        kernel_init: initialiser of `kernel` (height, width, inputs, features).
        bias_init: initialiser of `bias` (features,).
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    use_bias: bool = True
    dtype: layers.Dtype | None = None
    kernel_init: layers.Initializer = layers.he_normal
    bias_init: layers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) -> (B, (h - 1) * stride - 2 * padding + kernel height + output_padding, ..., features)."""
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = ops.transposed_convolution(x, kernel, self.stride, self.padding, self.output_padding)
        return x if bias is None else x + bias


class Upsample(nn.Module):
    """Enlarges a map by a whole factor, then crops it (or repeats its edge) to the wanted size.

    Attributes:
        method: "nearest", "bilinear" and "bed_of_nails" are fixed; "max_unpool" puts values where a pooling's switches
            say; "transposed" is a learnt transposed convolution.
        factor: ratio of the sides.
        features: channels of the result; None for those of the input. The methods that learn nothing are preceded by a
            1x1 convolution where it is another number.
        overlap: whether the kernel of "transposed" has twice the factor as its side and starts as bilinear
            interpolation; otherwise its side is the factor, so that the copies of the kernel lie side by side.
        dtype: dtype of the computation.
    """

    method: Method = "bilinear"
    factor: int = 2
    features: int | None = None
    overlap: bool = False
    dtype: layers.Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, size: tuple[int, int] | None = None, switches: jax.Array | None = None
    ) -> jax.Array:
        """x (B, h, w, C), switches (B, h, w, C) of "max_unpool" -> (B, *size, features); no size: `factor` times."""
        features = self.features or x.shape[-1]
        size = size or tuple(self.factor * side for side in x.shape[1:3])
        if self.method == "transposed":
            return _fit(self._transposed(features)(x), size)
        if features != x.shape[-1]:
            x = nn.Dense(features, dtype=self.dtype, kernel_init=layers.he_normal, name="projection")(x)
        if self.method == "max_unpool":
            if switches is None:
                raise UsageError("upsampling='max_unpool' needs the switches of a pooling, which are not there.")
            return _fit(ops.max_unpool(x, switches, self.factor), size, mode="constant")
        if self.method == "bed_of_nails":
            return _fit(ops.bed_of_nails(x, self.factor), size, mode="constant")
        resize = {"nearest": ops.nearest, "bilinear": ops.bilinear}[self.method]
        return _fit(resize(x, tuple(self.factor * side for side in x.shape[1:3])), size)

    def _transposed(self, features: int) -> nn.Module:
        if not self.overlap:
            kernel_size = (self.factor, self.factor)
            return ConvTranspose(features, kernel_size, self.factor, dtype=self.dtype, name="transposed")
        side, before = 2 * self.factor, self.factor // 2
        return ConvTranspose(
            features,
            (side, side),
            self.factor,
            padding=before,
            output_padding=2 * before - self.factor,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=bilinear_init,
            name="transposed",
        )


def _fit(x: jax.Array, size: tuple[int, int], mode: str = "edge") -> jax.Array:
    """Crops a map at the bottom and the right, or pads it there."""
    x = x[:, : size[0], : size[1]]
    missing = [(0, target - side) for target, side in zip(size, x.shape[1:3], strict=True)]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)), mode=mode) if any(map(any, missing)) else x
