"""One head on the last map of a dilated network: DeepLabv3 (Chen et al. 2017, arXiv:1706.05587), and a plainer FCN."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.models import backbones, layers
from vision.ops.upsampling import bilinear


class ConvNormRelu(nn.Module):
    """Convolution without bias, norm and ReLU; the map keeps its size.

    Attributes:
        features: channels of the result.
        kernel: side of the kernel.
        dilation: step between the kernel's taps.
        conv: factory of the convolution.
        norm: factory of the norm.
    """

    features: int
    kernel: int
    dilation: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, features)."""
        around = self.kernel // 2 * self.dilation
        size = (self.kernel, self.kernel)
        x = self.conv(self.features, size, padding=around, kernel_dilation=self.dilation, name="conv")(x)
        return nn.relu(self.norm(use_running_average=not train, name="norm")(x))


class ConvHead(nn.Module):
    """A 3x3 convolution to a quarter of the channels, and the scores.

    Attributes:
        num_classes: number of classes.
        dropout: chance of a value to be zeroed while training.
        unit: factory of `ConvNormRelu`, given (features, kernel, dilation, name).
    """

    num_classes: int
    dropout: float
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, num_classes), float32."""
        x = self.unit(max(x.shape[-1] // 4, 1), 3, 1, name="unit")(x, train)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return layers.classifier(x, self.num_classes)["logits"]


class PyramidHead(nn.Module):
    """Atrous spatial pyramid pooling: the map seen at several dilations and as a whole, side by side (section 3.3).

    Attributes:
        num_classes: number of classes.
        dropout: chance of a value to be zeroed while training.
        unit: factory of `ConvNormRelu`, given (features, kernel, dilation, name).
        width: channels of each branch.
        rates: dilations of the 3x3 branches.
    """

    num_classes: int
    dropout: float
    unit: Callable[..., nn.Module]
    width: int
    rates: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, num_classes), float32."""
        branches = [self.unit(self.width, 1, 1, name="branch_1")(x, train)]
        for index, rate in enumerate(self.rates, start=2):
            branches.append(self.unit(self.width, 3, rate, name=f"branch_{index}")(x, train))
        whole = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        whole = self.unit(self.width, 1, 1, name=f"branch_{len(branches) + 1}")(whole, train)
        branches.append(jnp.broadcast_to(whole, branches[0].shape))
        x = self.unit(self.width, 1, 1, name="projection")(jnp.concatenate(branches, axis=-1), train)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = self.unit(self.width, 3, 1, name="unit")(x, train)
        return layers.classifier(x, self.num_classes)["logits"]


class DeepLab(nn.Module):
    """A head on a backbone's last map, and an auxiliary one on the map before; scores are resized bilinearly.

    With a ResNet whose last two stages are dilated this is torchvision's `deeplabv3_resnet50` or `fcn_resnet50`.

    Attributes:
        num_classes: number of classes; None or 0 for the backbone alone.
        backbone: the network to stand on: its name, or a section with its name and fields, such as a ResNet's `dilate`.
        head: "pyramid", DeepLabv3's; or "conv", one 3x3 convolution before the scores.
        width: channels within the pyramid.
        rates: dilations of the pyramid's 3x3 convolutions; the paper's for a last map of stride 16 are half of these.
        auxiliary: whether a "conv" head on the map before the last gives `aux_logits`.
        dropout: chance of a value before the scores to be zeroed while training; 0.1 in the auxiliary head.
        dtype: dtype of the convolutions; norms are computed in float32, and logits are float32.
        conv: factory of the heads' convolutions.
        norm: factory of the heads' norm layers; the backbone's are given what it adds to the usual one.
    """

    num_classes: int | None = 21
    backbone: backbones.Section = "resnet50"
    head: Literal["pyramid", "conv"] = "pyramid"
    width: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    auxiliary: bool = True
    dropout: float = 0.5
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> logits (B, H, W, num_classes), aux_logits: one of that shape, features by stride."""
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        result: dict[str, Any] = {"features": outputs.get("features", {})}
        if not self.num_classes:
            return result
        unit = functools.partial(
            ConvNormRelu,
            conv=functools.partial(self.conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal),
            norm=functools.partial(self.norm, dtype=self.dtype),
        )
        maps = backbones.stages(outputs, 2 if self.auxiliary else 1)
        if self.head == "pyramid":
            head = PyramidHead(self.num_classes, self.dropout, unit, self.width, self.rates, name="classifier")
        else:
            head = ConvHead(self.num_classes, self.dropout, unit, name="classifier")
        result["logits"] = bilinear(head(maps[-1], train), image.shape[1:3])
        if self.auxiliary:
            scores = ConvHead(self.num_classes, 0.1, unit, name="auxiliary")(maps[0], train)
            result["aux_logits"] = (bilinear(scores, image.shape[1:3]),)
        return result


def _dilated(name: str) -> dict[str, Any]:
    return {"name": name, "dilate": (False, True, True)}


_conv_head = functools.partial(DeepLab, head="conv", dropout=0.1)

VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3": functools.partial(DeepLab, backbone=_dilated("resnet50")),
    "deeplabv3_resnet50": functools.partial(DeepLab, backbone=_dilated("resnet50")),
    "deeplabv3_resnet101": functools.partial(DeepLab, backbone=_dilated("resnet101")),
    "fcn_resnet50": functools.partial(_conv_head, backbone=_dilated("resnet50")),
    "fcn_resnet101": functools.partial(_conv_head, backbone=_dilated("resnet101")),
}
