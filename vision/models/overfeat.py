"""OverFeat (Sermanet et al. 2014, arXiv:1312.6229): a classifier made to be slid over larger images."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from vision.models import layers
from vision.models.alexnet import ConvLayer, Form, convolutions, smallest_image
from vision.models.dense_layers import check_image, classify

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
    """OverFeat's classifier: AlexNet without normalisation and with poolings that do not overlap (section 3.1).

    Images of any size: the last map is averaged to the one that the dense layers read (it has that size at the
    published sizes, 231 for the fast and 221 for the accurate form), or read at every place.

    Attributes:
        num_classes: number of classes; None or 0 for no classifier.
        form: "fast" (table 1), "accurate" (table 3), or "small" for images of 8 to 64 pixels.
        width: multiplies the channels of every convolution; the results are rounded to even numbers.
        hidden: units of the hidden dense layers; () for a classifier on the average over the last map, None for the
            paper's: (3072, 4096) in the fast and small form, (4096, 4096) in the accurate one.
        fully_convolutional: apply the dense layers, with the same weights, to every window of the last map instead of
            averaging it to one window (section 3.5). The outputs gain a `score_map`, and the logits are its mean.
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
    dropout: float = 0.5
    remat: bool = False
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, hidden), logits (B, num_classes), perhaps a score_map.

        `features` holds the last map of each stride: 4, 8, 16, 32 in the fast and 2, 6, 12, 36 in the accurate form.
        """
        form, hidden = FORMS[self.form], self.hidden
        if hidden is None:
            hidden = (4096, 4096) if self.form == "accurate" else (3072, 4096)
        least_map = form.window if self.fully_convolutional and hidden else 1
        check_image("overfeat", image.shape[1:3], smallest_image(form.convolutions, least_map))
        x, features = convolutions(self, image.astype(self.dtype), form.convolutions, layers.he_normal)
        return {
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


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "overfeat_fast": functools.partial(OverFeat, form="fast"),
    "overfeat_accurate": functools.partial(OverFeat, form="accurate"),
}
