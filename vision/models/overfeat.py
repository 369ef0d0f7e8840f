"""OverFeat (Sermanet et al. 2014, arXiv:1312.6229): classifier and box regressor, to be slid over larger images."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from vision.models import layers
from vision.models.alexnet import ConvLayer, Form, convolutions, smallest_image
from vision.models.dense_layers import check_image, classify
from vision.models.localizer import BoxHead
from vision.ops.pooling import adaptive_average_pool
from vision.ops.windows import sliding_windows

FORMS = {
    "fast": Form(  # table 1, 231x231
        (
            ConvLayer(96, 11, 4, pool=(2, 2)),
            ConvLayer(256, 5, pool=(2, 2)),
            ConvLayer(512, 3, padding=1),
            ConvLayer(1024, 3, padding=1),
            ConvLayer(1024, 3, padding=1, pool=(2, 2)),
        ),
        window=6,
    ),
    "accurate": Form(  # table 3, 221x221
        (
            ConvLayer(96, 7, 2, pool=(3, 3)),
            ConvLayer(256, 7, pool=(2, 2)),
            ConvLayer(512, 3, padding=1),
            ConvLayer(512, 3, padding=1),
            ConvLayer(1024, 3, padding=1),
            ConvLayer(1024, 3, padding=1, pool=(3, 3)),
        ),
        window=5,
    ),
    "small": Form(  # not the paper's: the fast form with a first step that leaves something of images of 8 to 64 pixels
        (
            ConvLayer(96, 3, padding=1, pool=(2, 2)),
            ConvLayer(256, 5, padding=2, pool=(2, 2)),
            ConvLayer(512, 3, padding=1),
            ConvLayer(1024, 3, padding=1),
            ConvLayer(1024, 3, padding=1, pool=(2, 2)),
        ),
        window=2,
    ),
}


class OverFeat(nn.Module):
    """OverFeat: AlexNet without normalisation and with poolings that do not overlap (section 3.1), perhaps with boxes.

    Images of any size: the last map is averaged to the one that the dense layers read (it has that size at the
    published sizes, 231 for the fast and 221 for the accurate form), or read at every place. With a box regressor on
    the same map (section 4) the task `localization` trains it on single windows.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        form: "fast" (table 1), "accurate" (table 3), or "small" for images of 8 to 64 pixels.
        width: multiplies the channels of every convolution; the results are rounded to even numbers.
        hidden: units of the hidden dense layers; () for a classifier on the average over the last map, None for the
            paper's: (3072, 4096) in the fast and small form, (4096, 4096) in the accurate one.
        fully_convolutional: apply the dense layers, with the same weights, to every window of the last map instead of
            averaging it to one window (section 3.5). The outputs gain a `score_map`, and the logits are its mean.
        box_hidden: units of the hidden layers of the box regressor: (4096, 1024) in the paper; None for no regressor.
        box_per_class: whether each class has a box of its own, as in the paper, or all have the same.
        dropout: chance of a hidden dense unit to be zeroed while training.
        remat: compute each convolution again in the backward pass instead of keeping its intermediate results.
        dtype: dtype of the convolutions and hidden dense layers; pooled features and logits are float32.
        conv: factory of the convolutions.
    """

    num_classes: int | None = 1000
    form: Literal["fast", "accurate", "small"] = "fast"
    width: float = 1.0
    hidden: tuple[int, ...] | None = None
    fully_convolutional: bool = False
    box_hidden: tuple[int, ...] | None = None
    box_per_class: bool = False
    dropout: float = 0.5
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, hidden), logits (B, num_classes), perhaps a score_map.

        `features` holds the last map of each stride: 4, 8, 16, 32 in the fast and 2, 6, 12, 36 in the accurate form.
        With a box regressor there are `boxes` (B, K, 4), shares of the image's sides, K 1 or num_classes; or if fully
        convolutional `box_map` (B, h, w, K, 4), shares of the sides of each window, and `windows` (h, w, 4) in pixels.
        """
        form, hidden = FORMS[self.form], self.hidden
        if hidden is None:
            hidden = (4096, 4096) if self.form == "accurate" else (3072, 4096)
        least_map = form.window if self.fully_convolutional and hidden else 1
        check_image("overfeat", image.shape[1:3], smallest_image(form.convolutions, least_map))
        x, features = convolutions(self, image.astype(self.dtype), form.convolutions, layers.he_normal)
        result = {
            "features": features,
            **classify(
                x,
                self.num_classes,
                hidden,
                form.window,
                train,
                self.dropout,
                self.fully_convolutional,
                self.dtype,
            ),
        }
        if self.box_hidden is None or not self.num_classes:
            return result
        boxes = self.num_classes if self.box_per_class else 1
        head = BoxHead(boxes, form.window, self.box_hidden, self.dropout, self.dtype, name="box_head")
        if not self.fully_convolutional:
            return result | {"boxes": head(adaptive_average_pool(x, form.window), train)[:, 0, 0]}
        box_map = head(x, train)
        side, stride = smallest_image(form.convolutions, form.window), max(features)
        windows = sliding_windows(box_map.shape[1:3], side, stride).reshape(*box_map.shape[1:3], 4)
        return result | {"box_map": box_map, "windows": windows}


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "overfeat_fast": functools.partial(OverFeat, form="fast"),
    "overfeat_accurate": functools.partial(OverFeat, form="accurate"),
}
