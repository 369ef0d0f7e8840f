"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), published form and modern."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UsageError
from vision.models import layers
from vision.ops.convolution import convolve
from vision.ops.pooling import average_pool

_SMALLEST = 16  # (16 - 4) / 2 = 6, (6 - 4) / 2 = 1: the least that both convolutions and poolings leave a pixel of

# Table I: which maps of S2 (rows) each map of C3 (columns) is connected to.
_C3_TABLE = """
    X...XXX..XXXX.XX
    XX...XXX..XXXX.X
    XXX...XXX..X.XXX
    .XXX..XXXX..X.XX
    ..XXX..XXXX.XX.X
    ...XXX..XXXX.XXX
"""
C3_CONNECTIONS = np.array([[mark == "X" for mark in row] for row in _C3_TABLE.split()])

# What the output units compare F6 with (section II-B, figure 3): drawings of the digits on 7x12 points, ours.
_DIGITS = """
    ..###..  ...#...  .#####.  #######  ....##.  #######  ..####.  #######  .#####.  .#####.
    .#####.  ..##...  ##...##  .....##  ...###.  ##.....  .##....  .....##  ##...##  ##...##
    ##...##  .###...  .....##  ....##.  ..####.  ##.....  ##.....  .....##  ##...##  ##...##
    ##...##  ...#...  .....##  ...##..  .##.##.  ##.....  ##.....  ....##.  ##...##  ##...##
    ##...##  ...#...  .....##  ..####.  .##.##.  ######.  ##.###.  ....##.  ##...##  ##...##
    ##...##  ...#...  ....##.  ....###  ##..##.  .....##  ###..##  ...##..  .#####.  .######
    ##...##  ...#...  ...##..  .....##  ##..##.  .....##  ##...##  ...##..  .#####.  .....##
    ##...##  ...#...  ..##...  .....##  #######  .....##  ##...##  ..##...  ##...##  .....##
    ##...##  ...#...  .##....  .....##  #######  .....##  ##...##  ..##...  ##...##  .....##
    ##...##  ...#...  ##.....  .....##  ....##.  ##...##  ##...##  ..##...  ##...##  .....##
    .#####.  ...#...  ##.....  ##...##  ....##.  ##...##  ##...##  .##....  ##...##  ....##.
    ..###..  .#####.  #######  .#####.  ....##.  .#####.  .#####.  .##....  .#####.  .####..
"""


class LeNet(nn.Module):
    """LeNet-5 with a full C3, plain average pooling and a linear classifier: 61,706 parameters on 32x32x1, 10 classes.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        activation: name in `ACTIVATIONS`; the paper's is a scaled tanh.
        field: images smaller than this many pixels on a side are centred in zeros, as the paper centres its digits in
            a field of 32 (section II-B); at least 16.
        dropout: chance of a unit of the dense layers to be zeroed while training.
        dtype: dtype of the hidden layers; the logits are float32.
        conv: factory of the convolutions.
    """

    num_classes: int | None = 10
    activation: str = "tanh"
    field: int = 32
    dropout: float = 0.0
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features {2, 4}, pooled (B, 84), logits (B, num_classes)."""
        activate, kernel_init = layers.activation(self.activation), layers.initializer_for(self.activation)
        x = _centre(image, self.field).astype(self.dtype)
        features = {}
        for number, channels in enumerate((6, 16), start=1):  # C1 and S2, C3 and S4 in the paper
            name = f"conv_{number}"
            x = self.conv(channels, (5, 5), padding="VALID", dtype=self.dtype, kernel_init=kernel_init, name=name)(x)
            x = average_pool(activate(x), window=2, stride=2)
            features[2**number] = x
        x = x.reshape(len(x), -1)
        for number, units in enumerate((120, 84), start=1):  # C5 and F6
            x = nn.Dense(units, dtype=self.dtype, kernel_init=kernel_init, name=f"dense_{number}")(x)
            x = nn.Dropout(self.dropout)(activate(x), deterministic=not train)
        return {"features": features, "pooled": x, **layers.classifier(x, self.num_classes)}


class SparseConv(nn.Module):
    """5x5 convolution that keeps only the weights of a table of connections between maps.

    Attributes:
        connections: (inputs, outputs), whether two maps are connected.
        dtype: dtype of the computation.
    """

    connections: tuple[tuple[bool, ...], ...]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, inputs) -> (B, H - 4, W - 4, outputs)."""
        connected = np.array(self.connections)
        inputs, outputs = np.nonzero(connected)
        fan_in = 25 * connected.sum(axis=0)
        kernel = self.param("kernel", _lecun_uniform(fan_in[outputs]), (5, 5, len(inputs)))
        bias = self.param("bias", _lecun_uniform(fan_in), (connected.shape[1],))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        full = jnp.zeros((5, 5, *connected.shape), kernel.dtype).at[:, :, inputs, outputs].set(kernel)
        return convolve(x, full, padding="VALID") + bias


class Subsampling(nn.Module):
    """The sum of each 2x2 window times a coefficient plus a bias, both trained for each map (layers S2 and S4).

    Attributes:
        dtype: dtype of the computation.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / 2, W / 2, C), halves rounded down."""
        scale = self.param("scale", _lecun_uniform(4), x.shape[-1:])
        bias = self.param("bias", _lecun_uniform(4), x.shape[-1:])
        x, scale, bias = nn.dtypes.promote_dtype(x, scale, bias, dtype=self.dtype)
        return 4 * average_pool(x, window=2, stride=2) * scale + bias


class LeNet1998(nn.Module):
    """LeNet-5 as published: 60,000 trained parameters on 32x32x1, 10 classes.

    C3 is connected to S2 by the paper's table, subsampling has trained coefficients, each layer ends in a scaled tanh,
    and an output unit is the squared distance of F6 to a fixed drawing of its class (radial basis functions, equation
    7). Cross entropy of the logits, the negative distances, is the paper's criterion (equation 9) without its constant
    for "none of the classes". The paper expects pixels of mean 0 and variance about 1.

    Attributes:
        num_classes: number of classes; None or 0 for no output units. Up to 10 are compared with drawings of the
            digits, more with fixed random codes of -1 and 1 (section II-B allows both).
        field: images smaller than this many pixels on a side are centred in zeros; at least 16. The paper's is 32.
        dtype: dtype of the hidden layers; the distances are computed in float32.
        conv: factory of the first convolution.
    """

    num_classes: int | None = 10
    field: int = 32
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features {2, 4}, pooled (B, 84), logits (B, num_classes)."""
        del train  # nothing here is random or has statistics
        x = _centre(image, self.field).astype(self.dtype)
        fan_in = 25 * x.shape[-1]
        initializers = dict(kernel_init=_lecun_uniform(fan_in), bias_init=_lecun_uniform(fan_in))
        x = self.conv(6, (5, 5), padding="VALID", dtype=self.dtype, name="conv_1", **initializers)(x)  # C1
        x = _squash(Subsampling(self.dtype, name="subsampling_1")(_squash(x)))  # S2
        features = {2: x}
        connections = tuple(tuple(map(bool, row)) for row in C3_CONNECTIONS)  # Linen's fields are hashed
        x = SparseConv(connections, self.dtype, name="conv_2")(x)  # C3
        x = _squash(Subsampling(self.dtype, name="subsampling_2")(_squash(x)))  # S4
        features[4] = x
        x = x.reshape(len(x), -1)
        for number, units in enumerate((120, 84), start=1):  # C5, which sees the whole 5x5 of a 32x32 image, and F6
            init = _lecun_uniform(x.shape[-1])
            x = nn.Dense(units, dtype=self.dtype, kernel_init=init, bias_init=init, name=f"dense_{number}")(x)
            x = _squash(x)
        outputs = {"features": features, "pooled": x}
        if self.num_classes:
            distances = x.astype(jnp.float32)[:, None] - codes(self.num_classes)
            outputs["logits"] = -jnp.sum(jnp.square(distances), axis=-1)
        return outputs


def codes(num_classes: int) -> np.ndarray:
    """(num_classes, 84) of -1 and 1: what each output unit of the 1998 form compares F6 with."""
    if num_classes > 10:
        return np.random.default_rng(1998).choice(np.float32([-1, 1]), (num_classes, 84))
    lines = [line.split() for line in _DIGITS.strip().splitlines()]
    points = [[mark == "#" for line in lines for mark in line[digit]] for digit in range(num_classes)]
    return np.where(points, np.float32(1), np.float32(-1))


def _squash(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2 x / 3), which is 1 at 1 and has a slope near 1 around 0 (equation 6 and appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _lecun_uniform(fan_in: int | np.ndarray) -> layers.Initializer:
    """Uniform between -2.4 / fan in and 2.4 / fan in (appendix A); `fan_in` may differ along the last axis."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.asarray(2.4 / np.asarray(fan_in), dtype)

    return init


def _centre(image: jax.Array, side: int) -> jax.Array:
    """The image with zeros around it up to `side` pixels in height and width; larger images stay as they are.

    Raises:
        UsageError: the side leaves nothing for the convolutions.
    """
    if side < _SMALLEST:
        raise UsageError(f"lenet: field {side} is too small for two 5x5 convolutions; at least {_SMALLEST}.")
    missing = [max(side - size, 0) for size in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))


VARIANTS: dict[str, Callable[..., nn.Module]] = {"lenet": LeNet, "lenet_1998": LeNet1998}
