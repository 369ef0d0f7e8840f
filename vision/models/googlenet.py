"""GoogLeNet (Szegedy et al. 2015, arXiv:1409.4842): the paper's, and torchvision's with batch norm."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import pick
from vision.models import layers
from vision.models.branches import Branch, Branches, ConvUnit, Pool, Unit, scale_width
from vision.models.dense_layers import check_image
from vision.ops.normalization import local_response_norm
from vision.ops.pooling import adaptive_average_pool, average_pool, max_pool


class Widths(NamedTuple):
    """Channels of one inception module, in the words of table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool_projection: int


# Table 1. The digit is the stage; maps are halved before stages 4 and 5.
WIDTHS = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
TAPPED = ("4a", "4d")  # modules that the auxiliary classifiers read (section 5)


class Form(NamedTuple):
    """Where implementations of the network differ.

    Attributes:
        wide_kernel: kernel of the third branch.
        batch_norm: batch norm after each convolution, in place of a bias.
        response_norm: local response norm after the first pooling and before the second (figure 3).
        last_window: window of the pooling before stage 5.
        adaptive: auxiliary classifiers pool maps of any size to 4x4, instead of 5x5 windows with stride 3.
    """

    wide_kernel: int
    batch_norm: bool
    response_norm: bool
    last_window: int
    adaptive: bool


FORMS = {
    "paper": Form(wide_kernel=5, batch_norm=False, response_norm=True, last_window=3, adaptive=False),
    # torchvision's weights come from a TensorFlow network whose "5x5" branch has a 3x3 kernel, and so has its own.
    "torchvision": Form(wide_kernel=3, batch_norm=True, response_norm=False, last_window=2, adaptive=True),
}

_halve = functools.partial(max_pool, window=3, stride=2, ceil_mode=True)


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate map, for a stronger gradient in the lower layers (section 5).

    Attributes:
        num_classes: number of classes.
        adaptive: as in `Form`.
        dtype: dtype of the hidden dense layer.
        conv: factory of the convolution, as in `ConvUnit`.
        norm: factory of the norm, or None.
    """

    num_classes: int
    adaptive: bool
    dtype: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, H, W, C) -> logits (B, num_classes)."""
        x = adaptive_average_pool(x, 4) if self.adaptive else average_pool(x, window=5, stride=3)
        x = ConvUnit(Unit(128), self.conv, self.norm, name="unit")(x, train)
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(1024, dtype=self.dtype, kernel_init=layers.he_normal, name="dense")(x))
        x = nn.Dropout(0.7)(x, deterministic=not train)
        return layers.classifier(x, self.num_classes)["logits"]


class GoogLeNet(nn.Module):
    """GoogLeNet, with the auxiliary classifiers' logits in its outputs while training.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        form: "paper": 5x5 kernels, biases, local response norm; "torchvision": batch norm, and 3x3 kernels in place of
            the 5x5.
        naive: modules without reductions before the 3x3 and 5x5 convolutions and without a projection after the
            pooling (figure 2a), whose results grow from module to module.
        auxiliary: whether there are auxiliary classifiers; their logits are to count 0.3 each in the loss.
        width: factor of the channels of all layers but the auxiliary classifiers', for small networks.
        repeats: how many modules of a stage are kept at most, for shallow networks; None: all nine, 2, 5 and 2.
        small_images: 3x3 stem of stride 1 without poolings, for images of about 32 pixels; features then have strides
            1, 2, 4 instead of 2, 4, 8, 16, 32.
        dropout: chance of a pooled feature to be zeroed while training; the paper's is 0.4.
        remat: compute each module again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions; norms, pooled features and logits are computed in float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers.
    """

    num_classes: int | None = 1000
    form: Literal["paper", "torchvision"] = "torchvision"
    naive: bool = False
    auxiliary: bool = True
    width: float = 1.0
    repeats: int | None = None
    small_images: bool = False
    dropout: float = 0.2
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = functools.partial(layers.BatchNorm, epsilon=1e-3)

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, 1024 x width), logits (B, num_classes).

        While training also `aux_logits`, a tuple of (B, num_classes): after module 4a and, if it is kept, after 4d.
        """
        form = pick(FORMS, "form", self.form, "googlenet.form")
        heads = bool(self.auxiliary and self.num_classes) and (train or self.is_initializing())
        name = "googlenet with auxiliary=True" if heads and not form.adaptive else "googlenet"
        check_image(name, image.shape[1:3], self.smallest(heads))
        conv = functools.partial(self.conv, dtype=self.dtype, kernel_init=layers.he_normal)
        norm = functools.partial(self.norm, dtype=self.dtype) if form.batch_norm else None
        x, features = self._stem(image.astype(self.dtype), train, form, conv, norm)

        stride, tapped = max(features), []
        block = nn.remat(Branches, static_argnums=(2,)) if self.remat else Branches  # `train`, counted with self
        for name, widths in self._modules():
            if name in ("3a", "4a", "5a") and not (name == "3a" and self.small_images):
                x = _halve(x, window=form.last_window if name == "5a" else 3)
                stride *= 2
            module = scale_width(_module(widths, form.wide_kernel, self.naive), self.width)
            x = block(module, conv, norm, name=f"inception_{name}")(x, train)
            features[stride] = x
            if name in TAPPED:
                tapped.append(x)

        outputs: dict[str, Any] = {"features": features, "pooled": jnp.mean(x, axis=(1, 2), dtype=jnp.float32)}
        if heads:
            head = functools.partial(AuxiliaryHead, self.num_classes, form.adaptive, self.dtype, conv, norm)
            aux_logits = tuple(head(name=f"auxiliary_{n}")(x, train) for n, x in enumerate(tapped, start=1))
            outputs |= {"aux_logits": aux_logits} if train else {}
        dropped = nn.Dropout(self.dropout)(outputs["pooled"], deterministic=not train)
        return {**outputs, **layers.classifier(dropped, self.num_classes)}

    def _modules(self) -> list[tuple[str, Widths]]:
        """Names and channels of the modules that are kept: the first of each stage."""
        return [item for item in WIDTHS.items() if self.repeats is None or "abcde".index(item[0][1]) < self.repeats]

    def smallest(self, heads: bool) -> int:
        """The least height and width of an image, with or without auxiliary classifiers."""
        form = FORMS[self.form]
        side = form.last_window - 1  # of stage 4: a pooling with ceil_mode needs all but one pixel of its window
        if heads and not form.adaptive:
            side = max(side, 5)
        return 2 * side if self.small_images else 2 * (8 * side) - 1  # one halving; three and the strided convolution

    def _stem(self, x: jax.Array, train: bool, form: Form, conv, norm) -> tuple[jax.Array, dict[int, jax.Array]]:
        """The layers before the first module: their result and the features by stride."""
        respond = _respond if form.response_norm else lambda x: x
        stride = 1 if self.small_images else 2
        first = Unit(64, 3) if self.small_images else Unit(64, 7, 2)
        first, second, third = (scale_width(unit, self.width) for unit in (first, Unit(64, 1), Unit(192, 3)))
        x = ConvUnit(first, conv, norm, name="conv_1")(x, train)
        features = {stride: x}
        if not self.small_images:
            x, stride = _halve(x), 4
        x = ConvUnit(second, conv, norm, name="conv_2")(respond(x), train)
        x = ConvUnit(third, conv, norm, name="conv_3")(x, train)
        features[stride] = x
        return respond(x), features


def _respond(x: jax.Array) -> jax.Array:
    """Local response norm with Caffe's numbers for this network: alpha 1e-4 over 5 channels is 2e-5 for each."""
    return local_response_norm(x, size=5, alpha=2e-5, beta=0.75, k=1.0)


def _module(widths: Widths, wide_kernel: int, naive: bool) -> tuple[Branch, ...]:
    """An inception module (figure 2): 1x1, 3x3, 5x5 and pooling side by side."""
    pool = Pool("max", window=3, stride=1, padding=1)
    if naive:
        return ((Unit(widths.one),), (Unit(widths.three, 3),), (Unit(widths.five, wide_kernel),), (pool,))
    return (
        (Unit(widths.one),),
        (Unit(widths.three_reduce), Unit(widths.three, 3)),
        (Unit(widths.five_reduce), Unit(widths.five, wide_kernel)),
        (pool, Unit(widths.pool_projection)),
    )


VARIANTS: dict[str, Callable[..., GoogLeNet]] = {
    "googlenet": functools.partial(GoogLeNet, form="torchvision"),
    "googlenet_paper": functools.partial(GoogLeNet, form="paper", dropout=0.4),
}
