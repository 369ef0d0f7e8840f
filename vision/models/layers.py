"""The layers that the model families share: convolution, norm, activations, initialisers, stochastic depth."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError, pick
from vision.ops.convolution import Padding, convolve

Dtype = Any  # whatever jnp.dtype takes: "bfloat16", jnp.float32
Initializer = Callable[..., jax.Array]

# PyTorch's batch norm: epsilon 1e-5, and its momentum 0.1 is 0.9 in Flax's sense. Statistics and normalisation are
# computed in float32 whatever the dtype of the result.
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class GroupNorm(nn.Module):
    """Group norm (Wu and He 2018, arXiv:1803.08494) where a batch norm may stand: each example is normalised by itself.

    There is no running average, so evaluation does what training does, and nothing to share between devices.

    Attributes:
        groups: number of groups of neighbouring channels, 32 in the paper; fewer where it takes that.
        least: channels that a group has at least. In groups of few channels the norm would take away how strong a
            narrow map's channels are compared with each other.
        epsilon: added to the variance.
        dtype: dtype of the result; None for that of the input. Statistics and normalisation are in float32.
        scale_init: initialiser of `scale` (channels,).
        bias_init: initialiser of `bias` (channels,).
        use_running_average: of batch norm, ignored.
        axis_name: of batch norm, ignored.
    """

    groups: int = 32
    least: int = 8
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    scale_init: Initializer = nn.initializers.ones_init()
    bias_init: Initializer = nn.initializers.zeros_init()
    use_running_average: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, ..., channels) -> the same shape."""
        channels = x.shape[-1]
        groups = math.gcd(self.groups, max(channels // self.least, 1))
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", self.bias_init, (channels,))
        places = tuple(range(1, x.ndim - 1))
        values = x.astype(jnp.float32)

        def of_group(moments: jax.Array) -> jax.Array:
            """(batch, channels) -> the same, the mean of each channel's group."""
            means = jnp.mean(moments.reshape(len(x), groups, -1), axis=-1)
            return jnp.repeat(means, channels // groups, axis=-1)

        mean, square = (of_group(jnp.mean(power, axis=places)) for power in (values, values**2))
        # By channel at first, and as one factor and one shift: the map is read twice and written once.
        factor = scale * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.epsilon)
        shift = bias - mean * factor
        shape = (len(x), *(1 for _ in places), channels)
        return (values * factor.reshape(shape) + shift.reshape(shape)).astype(self.dtype or x.dtype)


NORMS = {"batch": BatchNorm, "group": GroupNorm}


class Conv(nn.Module):
    """Two-dimensional convolution with the parameters of `flax.linen.Conv`, at any speed the CPU has to give.

    Attributes:
        features: number of output channels.
        kernel_size: (height, width) of the kernel.
        strides: step between outputs, one number or (vertical, horizontal).
        padding: "SAME", "VALID", a number, or per axis a number or (before, after). PyTorch's padding is a number.
        kernel_dilation: step between the kernel's taps.
        feature_group_count: number of independent groups of channels.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; None follows the input and the parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initialiser of `kernel` (height, width, inputs / groups, features).
        bias_init: initialiser of `bias` (features,).
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: Any = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, output height, output width, features)."""
        size = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        inputs = image.shape[-1] // self.feature_group_count
        kernel = self.param("kernel", self.kernel_init, (*size, inputs, self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        image, kernel, bias = nn.dtypes.promote_dtype(image, kernel, bias, dtype=self.dtype)
        result = convolve(
            image,
            kernel,
            self.strides,
            self.padding,
            self.kernel_dilation,
            self.feature_group_count,
            self.precision,
        )
        return result if bias is None else result + bias


class Convolutions(nn.Module):
    """3x3 convolutions one after the other, each with its norm and ReLU.

    Attributes:
        widths: channels of each convolution.
        conv: factory of the convolutions, given (features, kernel size, padding, name).
        norm: factory of the norms, given (use_running_average, name); None for none.
        padding: zeros around the map; 0 for a map that shrinks by two with each convolution.
    """

    widths: tuple[int, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None
    padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, last width), or smaller without padding."""
        for number, width in enumerate(self.widths, start=1):
            x = self.conv(width, (3, 3), padding=self.padding, name=f"conv_{number}")(x)
            if self.norm is not None:
                x = self.norm(use_running_average=not train, name=f"norm_{number}")(x)
            x = nn.relu(x)
        return x


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): drops a residual branch of single examples.

    A branch that stays is divided by its chance to stay, so that evaluation needs no rescaling (the paper's equation 5
    rescales at evaluation instead).

    Attributes:
        rate: chance of a branch to be dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, branch: jax.Array, train: bool) -> jax.Array:
        """(batch, ...) -> the same shape, with whole examples set to zero while training."""
        per_example = tuple(range(1, branch.ndim))
        return nn.Dropout(self.rate, broadcast_dims=per_example)(branch, deterministic=not train)


def drop_path_rates(last: float, depth: int) -> tuple[float, ...]:
    """The linear decay rule of stochastic depth (section 4): block l of L is dropped with chance `last` * l / L."""
    return tuple(last * (block + 1) / depth for block in range(depth))


def crelu(x: jax.Array) -> jax.Array:
    """Concatenated ReLU (Shang et al. 2016, arXiv:1603.05201): positive and negative part, so twice the channels."""
    return jax.nn.relu(jnp.concatenate([x, -x], axis=-1))


def maxout(x: jax.Array) -> jax.Array:
    """Maxout over pairs of neighbouring channels (Goodfellow et al. 2013, arXiv:1302.4389): half the channels.

    Raises:
        UsageError: the number of channels is odd.
    """
    if x.shape[-1] % 2:
        raise UsageError(f"maxout takes the larger of pairs of channels; {x.shape[-1]} channels do not pair up.")
    return jnp.max(x.reshape(*x.shape[:-1], -1, 2), axis=-1)


# Elementwise, but for crelu (doubles the channels) and maxout (halves them).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.01),
    "elu": jax.nn.elu,
    "crelu": crelu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "maxout": maxout,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation of that name; raises UsageError for a name that is not in `ACTIVATIONS`."""
    return pick(ACTIVATIONS, "activation", name)


# He et al. 2015 (arXiv:1502.01852), section 2.2: variance 2 / fan keeps the scale of a signal that passes ReLUs.
he_normal = nn.initializers.he_normal()  # fan in, equation 10: forward
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # equation 14: backward
# Glorot and Bengio 2010, equation 16, for units that are linear around zero.
xavier_uniform = nn.initializers.xavier_uniform()


def initializer_for(activation_name: str) -> Initializer:
    """He's initialiser before rectifiers, Xavier's before tanh and sigmoid, the units it was derived for."""
    return xavier_uniform if activation_name in ("tanh", "sigmoid") else he_normal


def nearest_sizes(image_size: tuple[int, int], cell: int) -> str:
    """The multiples of `cell` just below and above an image's (height, width), for messages: "224x224 or 224x240"."""
    smaller, larger = (
        tuple(max(round_to(side / cell), 1) * cell for side in image_size) for round_to in (math.floor, math.ceil)
    )
    return " or ".join(f"{height}x{width}" for height, width in dict.fromkeys((smaller, larger)))


def classifier(
    pooled: jax.Array, num_classes: int | None, kernel_init: Initializer = nn.initializers.lecun_normal()
) -> dict[str, jax.Array]:
    """`{"logits": (batch, num_classes)}` in float32 from a dense layer named `head`; empty where there are no classes.

    To be called inside a compact method; the layer belongs to the calling module.
    """
    if not num_classes:
        return {}
    return {"logits": nn.Dense(num_classes, kernel_init=kernel_init, dtype=jnp.float32, name="head")(pooled)}
