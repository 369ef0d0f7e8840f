"""AlexNet (Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks")."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax

from vision.models import layers
from vision.models.dense_layers import check_image, classify
from vision.ops.normalization import local_response_norm
from vision.ops.pooling import max_pool


class ConvLayer(NamedTuple):
    """One convolution with its ReLU and what follows it.

    Attributes:
        features: output channels.
        kernel: side of the kernel.
        stride: step between outputs.
        padding: zeros on each side.
        pool: (window, stride) of the max pooling at the end; None for none.
        groups: independent groups of channels.
        normalize: whether local response normalisation follows the ReLU.
        bias: first value of the biases.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: tuple[int, int] | None = None
    groups: int = 1
    normalize: bool = False
    bias: float = 0.0


class Form(NamedTuple):
    """A network's convolutions, and the side of the map that its dense layers read."""

    convolutions: tuple[ConvLayer, ...]
    window: int


_END = (ConvLayer(384, 3, padding=1), ConvLayer(256, 3, padding=1))
FORMS = {
    # Krizhevsky 2014 (arXiv:1404.5997), as in torchvision: one tower, no normalisation.
    "one_tower": Form(
        (
            ConvLayer(64, 11, 4, padding=2, pool=(3, 2)),
            ConvLayer(192, 5, padding=2, pool=(3, 2)),
            *_END,
            ConvLayer(256, 3, padding=1, pool=(3, 2)),
        ),
        window=6,
    ),
    # 2012: two towers that meet in the third convolution (figure 2), biases of 1 where section 5 has them.
    "paper": Form(
        (
            ConvLayer(96, 11, 4, pool=(3, 2), normalize=True),
            ConvLayer(256, 5, padding=2, pool=(3, 2), groups=2, normalize=True, bias=1.0),
            ConvLayer(384, 3, padding=1),
            ConvLayer(384, 3, padding=1, groups=2, bias=1.0),
            ConvLayer(256, 3, padding=1, pool=(3, 2), groups=2, bias=1.0),
        ),
        window=6,
    ),
    # No paper's: the one tower with a first step that leaves something of images of 8 to 64 pixels.
    "small": Form(
        (
            ConvLayer(64, 3, padding=1, pool=(2, 2)),
            ConvLayer(192, 5, padding=2, pool=(2, 2)),
            *_END,
            ConvLayer(256, 3, padding=1, pool=(2, 2)),
        ),
        window=2,
    ),
}


class AlexNet(nn.Module):
    """AlexNet as of 2012 or in its later form of one tower.

    Images of any size: the last map is averaged to the 6x6 that the dense layers read (it is 6x6 at the published
    sizes, 227 in the paper's form and 224 in the other), or read at every place. Dropout follows the hidden dense
    layers (section 4.2; torchvision drops their inputs instead). The paper's form starts as in section 5: kernels from
    a Gaussian of standard deviation 0.01, biases of 1 in convolutions 2, 4, 5 and in the hidden dense layers.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        form: "one_tower" (torchvision's), "paper" (two groups, local response normalisation), or "small" for images of
            8 to 64 pixels.
        width: multiplies the channels of every convolution; the results are rounded to even numbers.
        hidden: units of the hidden dense layers; () for a classifier on the average over the last map.
        fully_convolutional: apply the dense layers, with the same weights, to every window of the last map instead of
            averaging it to one window. The outputs gain a `score_map`, and the logits are its mean.
        dropout: chance of a hidden dense unit to be zeroed while training.
        remat: compute each convolution again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions and hidden dense layers; pooled features and logits are float32.
        conv: factory of the convolutions.
    """

    num_classes: int | None = 1000
    form: Literal["one_tower", "paper", "small"] = "one_tower"
    width: float = 1.0
    hidden: tuple[int, ...] = (4096, 4096)
    fully_convolutional: bool = False
    dropout: float = 0.5
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, hidden), logits (B, num_classes), perhaps a score_map.

        `features` holds the last map of each stride: convolutions 1, 2 and 5 at 4, 8 and 16, the last pooling at 32.
        """
        form, initializers = FORMS[self.form], {}
        if self.form == "paper":
            gaussian = nn.initializers.normal(0.01)
            initializers = dict(kernel_init=gaussian, bias_init=nn.initializers.ones, head_init=gaussian)
        least_map = form.window if self.fully_convolutional and self.hidden else 1
        check_image("alexnet", image.shape[1:3], smallest_image(form.convolutions, least_map))
        x, features = convolutions(
            self, image.astype(self.dtype), form.convolutions, initializers.get("kernel_init", layers.he_normal)
        )
        return {
            "features": features,
            **classify(
                x,
                self.num_classes,
                self.hidden,
                form.window,
                train,
                self.dropout,
                self.fully_convolutional,
                self.dtype,
                **initializers,
            ),
        }


def convolutions(
    module: nn.Module, x: jax.Array, table: Sequence[ConvLayer], kernel_init: layers.Initializer
) -> tuple[jax.Array, dict[int, jax.Array]]:
    """The convolutions `conv_1`, ... of a table, as layers of a module with the fields of `AlexNet`.

    Returns:
        The last map, and the last map of each stride before pooling, the last one included.
    """
    stride, features = 1, {}
    for number, layer in enumerate(table, start=1):
        conv = functools.partial(
            module.conv,
            2 * max(round(module.width * layer.features / 2), 1),
            (layer.kernel, layer.kernel),
            layer.stride,
            layer.padding,
            feature_group_count=layer.groups,
            dtype=module.dtype,
            kernel_init=kernel_init,
            bias_init=nn.initializers.constant(layer.bias),
            name=f"conv_{number}",
        )

        def apply(module, x, conv=conv, layer=layer):
            del module  # for nn.remat, which takes the module that the layer belongs to
            x = jax.nn.relu(conv()(x))
            return local_response_norm(x) if layer.normalize else x

        apply = nn.remat(apply) if module.remat else apply
        x = apply(module, x)
        stride *= layer.stride
        features[stride] = x
        if layer.pool:
            x = max_pool(x, *layer.pool)
            stride *= layer.pool[1]
    return x, {**features, stride: x}


def smallest_image(table: Sequence[ConvLayer], side: int) -> int:
    """Side of the smallest image of which the layers leave a map of `side` x `side`."""
    for layer in reversed(table):
        if layer.pool:
            side = (side - 1) * layer.pool[1] + layer.pool[0]
        side = (side - 1) * layer.stride + layer.kernel - 2 * layer.padding
    return side


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": functools.partial(AlexNet, form="one_tower"),
    "alexnet_paper": functools.partial(AlexNet, form="paper"),
}
