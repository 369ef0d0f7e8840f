"""Encoder-decoders that undo each max pooling by its switches: DeconvNet (Noh et al. 2015, arXiv:1505.04366) and SegNet
(Badrinarayanan et al. 2017, arXiv:1511.00561)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import layers
from vision.models.dense_layers import WindowDense, check_image
from vision.models.layers import Convolutions
from vision.models.upsampling import ConvTranspose, FixedMethod, Upsample
from vision.ops.upsampling import max_pool_with_switches

Pooled = tuple[jax.Array, tuple[int, int]]  # switches of a pooling, and the size of what was pooled


class SegNet(nn.Module):
    """SegNet: VGG's convolutions and their mirror image, of which only the poolings' switches are passed across.

    An image of any size that leaves the last pooling a place. Convolutions keep their biases before batch norm.

    Attributes:
        num_classes: number of classes; None or 0 for the decoder's features alone.
        stage_sizes: number of convolutions of each stage of the encoder, and of the decoder in reverse.
        width: channels of the first stage; doubles from stage to stage up to eight times.
        batch_norm: whether batch norm follows each convolution.
        upsampling: "max_unpool" by the poolings' switches, or one of the fixed methods, which know nothing of them.
        dropout: chance of a value of the three innermost stages of encoder and decoder to be zeroed while training
            (Kendall et al. 2017, arXiv:1511.02680, have 0.5); SegNet has none.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms are computed in float32, and logits are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 21
    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    batch_norm: bool = True
    upsampling: FixedMethod | Literal["max_unpool"] = "max_unpool"
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), features: the decoder's map at each stride."""
        check_image("segnet", image.shape[1:3], 2 ** len(self.stage_sizes))
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal)
        stage = _stages(self, conv)
        inner = nn.Dropout(self.dropout, deterministic=not train)
        x, pooled = image.astype(self.dtype), []
        for widths, name in _encoder(self.stage_sizes, self.width):
            x, switches, size = _pool(stage(widths, name=name)(x, train))
            pooled.append((switches, size))
            x = inner(x) if len(pooled) > 2 else x
        features = {2 ** len(pooled): x}
        for widths, name in _decoder(self.stage_sizes, self.width):
            switches, size = pooled.pop()
            x = Upsample(self.upsampling, 2, name=name.replace("up", "unpool"))(x, size, switches)
            # The last convolution of all gives the scores.
            x = stage(widths[:-1] if not pooled else widths, name=name)(x, train)
            features[2 ** len(pooled)] = x
            x = inner(x) if len(pooled) > 2 else x
        if not self.num_classes:
            return {"features": features}
        head = self.conv(self.num_classes, (3, 3), padding=1, dtype=jnp.float32, name="head")
        return {"logits": head(x), "features": features}


class DeconvNet(nn.Module):
    """DeconvNet: VGG-16 down to one vector for each window, and its mirror image in transposed convolutions.

    An image of any size that leaves the first dense layer a window. The trunk's parameters are those of `VGG`.

    Attributes:
        num_classes: number of classes; None or 0 for the decoder's features alone.
        stage_sizes: number of convolutions of each stage of the encoder, and of the decoder in reverse.
        width: channels of the first stage; doubles from stage to stage up to eight times.
        hidden: units of the two dense layers.
        window: side of the last pooling's windows that the first dense layer reads: 7 for images of 224 pixels and
            more, 3 for those of 96.
        batch_norm: whether batch norm follows each layer, as published.
        upsampling: "max_unpool" by the poolings' switches, or one of the fixed methods, which know nothing of them.
        dropout: chance of a hidden unit to be zeroed while training; the paper relies on batch norm alone.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms are computed in float32, and logits are float32.
        conv: factory of the encoder's convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 21
    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    hidden: int = 4096
    window: int = 7
    batch_norm: bool = True
    upsampling: FixedMethod | Literal["max_unpool"] = "max_unpool"
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), features: the decoder's map at each stride."""
        check_image("deconvnet", image.shape[1:3], self.window * 2 ** len(self.stage_sizes))
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal)
        deconv = functools.partial(ConvTranspose, dtype=self.dtype)
        encoder, decoder = _stages(self, conv), _stages(self, deconv)
        x, pooled = image.astype(self.dtype), []
        for widths, name in _encoder(self.stage_sizes, self.width):
            x, switches, size = _pool(encoder(widths, name=name)(x, train))
            pooled.append((switches, size))

        channels, window = x.shape[-1], (self.window, self.window)
        norm = functools.partial(self.norm, dtype=self.dtype, use_running_average=not train)
        inner = (
            ("dense_1", WindowDense(self.hidden, window, self.dtype, name="dense_1")),
            ("dense_2", nn.Dense(self.hidden, dtype=self.dtype, kernel_init=layers.he_normal, name="dense_2")),
            ("deconv", deconv(channels, window, name="deconv")),
        )
        for name, layer in inner:
            x = layer(x)
            x = nn.relu(norm(name=f"{name}_norm")(x) if self.batch_norm else x)
            x = nn.Dropout(self.dropout)(x, deterministic=not train) if name != "deconv" else x

        features = {2 ** len(pooled): x}
        for widths, name in _decoder(self.stage_sizes, self.width):
            switches, size = pooled.pop()
            x = Upsample(self.upsampling, 2, name=name.replace("up", "unpool"))(x, size, switches)
            x = decoder(widths, name=name)(x, train)
            features[2 ** len(pooled)] = x
        return {"features": features, **layers.classifier(x, self.num_classes)}


def _stages(network: nn.Module, conv: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The factory of a network's stages, which wants their widths and a name."""
    cls = nn.remat(Convolutions, static_argnums=(2,)) if network.remat else Convolutions  # `train`, counted with self
    norm = functools.partial(network.norm, dtype=network.dtype) if network.batch_norm else None
    return functools.partial(cls, conv=conv, norm=norm)


def _pool(x: jax.Array) -> tuple[jax.Array, jax.Array, tuple[int, int]]:
    """2x2 max pooling: the maxima, their switches, and the size of the map before."""
    return (*max_pool_with_switches(x, 2), x.shape[1:3])


def _encoder(stage_sizes: tuple[int, ...], width: int) -> list[tuple[tuple[int, ...], str]]:
    """Widths of the convolutions and name of each stage of VGG's encoder."""
    if not stage_sizes:
        raise UsageError("segnet, deconvnet: stage_sizes has no stage; VGG's are (2, 2, 3, 3, 3).")
    return [((width * min(2**index, 8),) * size, f"stage_{index + 1}") for index, size in enumerate(stage_sizes)]


def _decoder(stage_sizes: tuple[int, ...], width: int) -> list[tuple[tuple[int, ...], str]]:
    """The encoder's stages from last to first; the last convolution of each has the width of the stage before it."""
    result, below = [], width
    for widths, name in _encoder(stage_sizes, width):
        result.append(((*widths[:-1], below), name.replace("stage", "up")))
        below = widths[0]
    return result[::-1]


VARIANTS: dict[str, Callable[..., nn.Module]] = {"deconvnet": DeconvNet, "segnet": SegNet}
