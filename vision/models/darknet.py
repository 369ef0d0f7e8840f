"""The trunks of the YOLO detectors, which are classifiers too: Darknet-53 and the plain networks of the first YOLO."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import layers
from vision.models.dense_layers import check_image
from vision.ops.pooling import max_pool

leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)  # Redmon et al. 2016, equation 2


class Convolution(nn.Module):
    """A convolution, batch norm and leaky ReLU; without batch norm a bias.

    Attributes:
        features: output channels.
        kernel: side of the kernel; the map is padded by half of it.
        stride: step between outputs.
        conv: factory of the convolution, given (features, kernel size, strides, padding, use_bias, name).
        norm: factory of the norm, given (use_running_average, name); None for none.
    """

    features: int
    kernel: int
    stride: int = 1
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] | None = layers.BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, features), sides rounded up."""
        conv = functools.partial(self.conv, use_bias=self.norm is None, name="conv")
        x = conv(self.features, (self.kernel,) * 2, self.stride, self.kernel // 2)(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, name="norm")(x)
        return leaky_relu(x)


class ResidualBlock(nn.Module):
    """A 1x1 convolution to half the channels and a 3x3 convolution back, beside the identity."""

    convolution: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.convolution(x.shape[-1] // 2, 1, name="conv_1")(x, train)
        return x + self.convolution(x.shape[-1], 3, name="conv_2")(y, train)


class ResidualStage(nn.Module):
    """A 3x3 convolution of stride 2, then residual blocks.

    Attributes:
        features: channels of the result.
        blocks: how many.
        convolution: factory of the convolutions, given (features, kernel, stride, name).
        block: factory of the blocks, given (convolution, name).
    """

    features: int
    blocks: int
    convolution: Callable[..., nn.Module]
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.convolution(self.features, 3, 2, name="down")(x, train)
        for number in range(1, self.blocks + 1):
            x = self.block(self.convolution, name=f"block_{number}")(x, train)
        return x


class Darknet(nn.Module):
    """Darknet-53 (Redmon and Farhadi 2018, arXiv:1804.02767, table 1) of any depth and width.

    No pooling: a 3x3 convolution of stride 2 begins each stage. Batch norm follows every convolution.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        stage_sizes: number of residual blocks of each stage.
        width: channels of the first convolution; each stage has twice those of the one before.
        remat: compute each block again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    stage_sizes: tuple[int, ...] = (1, 2, 8, 8, 4)
    width: int = 32
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride (1, 2, 4, ...), pooled (B, last width), logits (B, num_classes)."""
        convolution = configured_convolution(self, batch_norm=True)
        # Counted with self, `train` is the third argument.
        block = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        x = convolution(self.width, 3, name="stem")(image.astype(self.dtype), train)
        features = {1: x}
        for stage, size in enumerate(self.stage_sizes, start=1):
            features[2**stage] = x = ResidualStage(
                self.width * 2**stage, size, convolution, block, name=f"stage_{stage}"
            )(x, train)
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return {"features": features, "pooled": pooled, **layers.classifier(pooled, self.num_classes)}


# (channels, side of the kernel) of the convolutions of each stage; max pooling halves the map between stages.
FORMS = {
    "extraction": (  # the first 20 convolutions of figure 3, which are pre-trained on ImageNet (section 2.2)
        ((64, 7),),  # of stride 2
        ((192, 3),),
        ((128, 1), (256, 3), (256, 1), (512, 3)),
        (*((256, 1), (512, 3)) * 4, (512, 1), (1024, 3)),
        ((512, 1), (1024, 3)) * 2,
    ),
    "fast": (  # the nine convolutions of Fast YOLO, as released; the paper only counts them (section 2.2)
        *(((width, 3),) for width in (16, 32, 64, 128, 256, 512)),
        ((1024, 3),) * 3,
    ),
}


class PlainStage(nn.Module):
    """Convolutions one after the other.

    Attributes:
        convolutions: (channels, side of the kernel) of each.
        stride: of the first.
        convolution: factory of the convolutions, given (features, kernel, stride, name).
    """

    convolutions: tuple[tuple[int, int], ...]
    stride: int
    convolution: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for number, (features, kernel) in enumerate(self.convolutions, start=1):
            stride = self.stride if number == 1 else 1
            x = self.convolution(features, kernel, stride, name=f"conv_{number}")(x, train)
        return x


class PlainDarknet(nn.Module):
    """The trunks of YOLO and Fast YOLO (Redmon et al. 2016, arXiv:1506.02640): convolutions and max pooling.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        form: "extraction", YOLO's 20 convolutions up to stride 32, or "fast", Fast YOLO's 9 up to stride 64.
        width: multiplies the channels of every convolution.
        batch_norm: whether batch norm follows each convolution, as in the authors' later code; the paper has none.
        remat: compute each stage again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    form: Literal["extraction", "fast"] = "extraction"
    width: float = 1.0
    batch_norm: bool = False
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, last width), logits (B, num_classes).

        `features` holds the last map of each stride, before pooling: 2 to 32 of "extraction", 1 to 64 of "fast".
        """
        form = FORMS[self.form]
        stride = 2 if self.form == "extraction" else 1
        check_image("darknet", image.shape[1:3], stride * 2 ** (len(form) - 1))
        convolution = configured_convolution(self, self.batch_norm)
        plain_stage = nn.remat(PlainStage, static_argnums=(2,)) if self.remat else PlainStage
        x, features = image.astype(self.dtype), {}
        for number, stage in enumerate(form, start=1):
            if number > 1:
                x, stride = max_pool(x, window=2, stride=2), stride * 2
            convolutions = tuple((max(round(self.width * channels), 1), kernel) for channels, kernel in stage)
            first = stride if number == 1 else 1
            features[stride] = x = plain_stage(convolutions, first, convolution, name=f"stage_{number}")(x, train)
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return {"features": features, "pooled": pooled, **layers.classifier(pooled, self.num_classes)}


def configured_convolution(module: nn.Module, batch_norm: bool) -> Callable[..., nn.Module]:
    """The factory of the `Convolution`s of a network with the fields `conv`, `norm` and `dtype`."""
    return functools.partial(
        Convolution,
        conv=functools.partial(module.conv, dtype=module.dtype, kernel_init=layers.he_normal),
        norm=functools.partial(module.norm, dtype=module.dtype) if batch_norm else None,
    )


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "darknet53": Darknet,
    "extraction": functools.partial(PlainDarknet, form="extraction"),
    "fast_extraction": functools.partial(PlainDarknet, form="fast"),
}
