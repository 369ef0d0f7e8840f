"""Classification and localisation: a box regressor beside the classifier of any network, one object an image."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.errors import UsageError
from vision.models import backbones, layers
from vision.models.dense_layers import WindowDense
from vision.ops.pooling import adaptive_average_pool

# Before it has learnt anything, the box is the middle of the image: no box is empty, and all gradients are there.
_MIDDLE = (0.25, 0.25, 0.75, 0.75)


class Localizer(nn.Module):
    """Which object an image shows, and its box.

    As in Sermanet et al. 2014, section 4, and in Simonyan & Zisserman 2015, appendix A, with a single box. The
    class is read from the mean over the backbone's last map; the box from all of its places by dense layers, for the
    mean does not know where something is.

    Attributes:
        num_classes: number of classes; None or 0 for the maps alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        per_class: whether each class has a box of its own, or all have the same.
        window: side of the map that the box's first dense layer reads; other maps are averaged to it.
        hidden: units of the box's dense layers.
        dropout: chance of one of these units to be zeroed while training.
        dtype: dtype of the backbone and the hidden dense layers; logits and boxes are float32.
        norm: what the backbone's norms are given; see `backbones.configured`.
    """

    num_classes: int | None = 1000
    backbone: backbones.Section = "resnet50"
    per_class: bool = False
    window: int = 4
    hidden: tuple[int, ...] = (512,)
    dropout: float = 0.0
    dtype: str = "float32"
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> features by stride, pooled (B, width), logits (B, num_classes), boxes (B, K, 4).

        K is 1, or the number of classes. Boxes are (x0, y0, x1, y1) as shares of the width and height of `image`.

        Raises:
            UsageError: the backbone has no features by stride.
        """
        outputs = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")(image, train)
        maps = outputs.get("features")
        if not maps:
            raise UsageError("config.model.backbone: the backbone has no features by stride to read a box from.")
        x = maps[max(maps)]
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        result = {"features": maps, "pooled": pooled, **layers.classifier(pooled, self.num_classes)}
        if not self.num_classes:
            return result
        boxes = self.num_classes if self.per_class else 1
        head = BoxHead(boxes, self.window, self.hidden, self.dropout, self.dtype, name="box_head")
        return result | {"boxes": head(adaptive_average_pool(x, self.window), train)[:, 0, 0]}


class BoxHead(nn.Module):
    """Boxes by dense layers on every window of a map.

    Attributes:
        boxes: number of boxes of a window, K.
        window: side of the windows, which the first layer reads.
        hidden: units of the hidden layers.
        dropout: chance of a hidden unit to be zeroed while training.
        dtype: dtype of the hidden layers.
    """

    boxes: int
    window: int
    hidden: tuple[int, ...]
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h - window + 1, w - window + 1, K, 4), float32.

        The boxes are x0, y0, x1, y1 as shares of the sides of what a window sees of the image; they may lie outside.
        """
        outputs, width = (*self.hidden, self.boxes * 4), self.window
        for number, units in enumerate(outputs, start=1):
            last = number == len(outputs)
            dense = WindowDense(
                units,
                (width, width),
                dtype="float32" if last else self.dtype,
                kernel_init=nn.initializers.normal(0.001) if last else layers.he_normal,
                name="boxes" if last else f"dense_{number}",
            )
            x, width = dense(x), 1
            if not last:
                x = nn.Dropout(self.dropout)(nn.relu(x), deterministic=not train)
        return x.reshape(*x.shape[:3], self.boxes, 4) + jnp.array(_MIDDLE)


VARIANTS: dict[str, Callable[..., nn.Module]] = {"localizer": Localizer}
