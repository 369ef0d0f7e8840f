"""YOLO: detectors that see the image once, v1 with boxes for the cells of one grid, v3 with anchors at three scales."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UsageError
from vision.models import backbones, layers
from vision.models.darknet import configured_convolution, leaky_relu
from vision.ops.upsampling import nearest


class YOLOv1(nn.Module):
    """YOLO (Redmon et al. 2016, arXiv:1506.02640): each cell of a grid predicts boxes, confidences and a class.

    As published, figure 3: 24 convolutions (20 of the backbone and 4 above), a dense layer of 4096 units and one that
    gives the predictions of all cells, on an image of 448x448 pixels. The predictions are linear.

    Attributes:
        num_classes: number of classes; None or 0 for the backbone alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        stride: stride of the backbone's map that is read.
        grid: cells on each side of the image, or (rows, columns). The map is that large, or a multiple of it, which the
            second convolution above (the first of one) then steps over.
        boxes: boxes that each cell predicts.
        convolutions: channels of the 3x3 convolutions above the backbone.
        hidden: units of the hidden dense layers, which see the whole image; () to predict each cell from its own place
            of the map.
        batch_norm: whether batch norm follows the convolutions above the backbone; the paper has none.
        dropout: chance of a unit of the last hidden dense layer to be zeroed while training.
        dtype: dtype of the backbone, the convolutions and the hidden dense layers; predictions are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers, the backbone's too.
    """

    num_classes: int | None = 20
    backbone: backbones.Section = "extraction"
    stride: int = 32
    grid: int | tuple[int, int] = 7
    boxes: int = 2
    convolutions: tuple[int, ...] = (1024, 1024, 1024, 1024)
    hidden: tuple[int, ...] = (4096,)
    batch_norm: bool = False
    dropout: float = 0.5
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> the predictions of a grid of S x T cells, the backbone's features by stride.

        Returns:
            `class_scores` (B, S, T, num_classes), `confidences` (B, S, T, boxes) and `cell_boxes` (B, S, T, boxes, 4):
            the box's centre, x and y, in cells from the cell's corner, and the square roots of its width and height as
            shares of the image's.
        """
        network = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")
        outputs = network(image, train)
        (x,) = backbones.features(outputs, (self.stride,), "config.model.stride")
        result: dict[str, Any] = {"features": outputs["features"]}
        if not self.num_classes:
            return result
        grid = (self.grid, self.grid) if isinstance(self.grid, int) else self.grid
        step = self._step(x.shape[1:3], grid)
        convolution = configured_convolution(self, self.batch_norm)
        for number, features in enumerate(self.convolutions, start=1):
            stride = step if number == min(2, len(self.convolutions)) else 1
            x = convolution(features, 3, stride, name=f"conv_{number}")(x, train)

        count = self.num_classes + 5 * self.boxes
        if self.hidden:
            x, count = x.reshape(len(x), -1), count * grid[0] * grid[1]
        for number, units in enumerate(self.hidden, start=1):
            dense = nn.Dense(units, dtype=self.dtype, kernel_init=layers.he_normal, name=f"dense_{number}")
            x = leaky_relu(dense(x))
        if self.hidden:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        else:
            x = x.reshape(-1, x.shape[-1])
        x = nn.Dense(count, dtype=jnp.float32, name="head")(x).reshape(len(image), *grid, -1)
        scores, confidences, boxes = jnp.split(x, (self.num_classes, self.num_classes + self.boxes), axis=-1)
        boxes = boxes.reshape(*confidences.shape, 4)
        return result | {"class_scores": scores, "confidences": confidences, "cell_boxes": boxes}

    def _step(self, map_size: tuple[int, int], grid: tuple[int, int]) -> int:
        """How many places of the map are between two cells."""
        step = max(map_size[0] // grid[0], 1)
        needed = (grid[0] * step, grid[1] * step)
        if map_size != needed or (step > 1 and not self.convolutions):
            has = f"{map_size[0]}x{map_size[1]}"
            raise UsageError(
                f"config.model.grid: the backbone's map of stride {self.stride} is {has}, which is no multiple of "
                f"{grid[0]}x{grid[1]} cells. Take a grid of {has}, or images of "
                f"{needed[0] * self.stride}x{needed[1] * self.stride} pixels."
                if map_size != needed
                else f"config.model.convolutions: the backbone's map of stride {self.stride} is {has} for a grid of "
                f"{grid[0]}x{grid[1]} cells; a convolution is needed to step over it. Give one, or that grid."
            )
        return step


# Nine clusters of COCO's boxes (Redmon and Farhadi 2018, section 2.3), pixels of an image of 416x416.
COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))


class YOLOv3(nn.Module):
    """YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767): boxes from anchors at three scales, each with all classes.

    From the coarsest map down, five convolutions (1x1 and 3x3 in turn) make what is predicted from, after another 3x3,
    and what, after a 1x1 and enlarged twofold, stands beside the next finer map. The published number of parameters,
    61,949,149 at 80 classes, counts scale and bias of the norms, not their running statistics.

    Attributes:
        num_classes: number of classes; None or 0 for the backbone alone.
        backbone: the network to stand on: its name, or a section with its name and fields.
        strides: strides of the maps that predict, finest first, each twice the one before.
        anchors: (width, height) in pixels, the smallest first; each stride has as many, the finest the first ones.
        width: channels of the 1x1 convolutions at the finest stride; doubles from stride to stride. The 3x3
            convolutions have twice as many.
        dtype: dtype of the backbone and the convolutions; predictions are float32.
        conv: factory of the convolutions.
        norm: factory of the norm layers, the backbone's too.
    """

    num_classes: int | None = 80
    backbone: backbones.Section = "darknet53"
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: tuple[tuple[float, float], ...] = COCO_ANCHORS
    width: int = 128
    dtype: str = "float32"
    conv: Callable[..., nn.Module] = layers.Conv
    norm: Callable[..., nn.Module] = layers.BatchNorm

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, Any]:
        """image (B, H, W, C) -> predictions for each anchor, the finest stride first, within it as `anchors.anchors`.

        Returns:
            `logits` (B, A, num_classes) and `objectness` (B, A), before the sigmoid; `offsets` (B, A, 4), the tx, ty,
            tw, th of figure 2; `anchors` (A, 4), boxes in the middle of their cells, and `strides` (A,), the cells'
            sides in pixels; the backbone's `features` by stride.
        """
        per_stride = self._anchors_of_a_stride()
        network = backbones.configured(self.backbone, self.dtype, self.norm)(name="backbone")
        outputs = network(image, train)
        result: dict[str, Any] = {"features": outputs.get("features", {})}
        maps = backbones.features(outputs, self.strides)
        if not self.num_classes:
            return result
        convolution = configured_convolution(self, batch_norm=True)
        x, levels = None, []
        for level in reversed(range(len(maps))):
            name = f"scale_{self.strides[level]}"
            scale = Scale(self.width * 2**level, per_stride, self.num_classes, convolution, self.conv, name=name)
            x, predictions = scale(maps[level], x, train)
            levels.append(predictions)
        predictions = jnp.concatenate(levels[::-1], axis=1)
        boxes, strides = place_anchors([x.shape[1:3] for x in maps], self.strides, self.anchors)
        return result | {
            "offsets": predictions[..., :4],
            "objectness": predictions[..., 4],
            "logits": predictions[..., 5:],
            "anchors": jnp.asarray(boxes),
            "strides": jnp.asarray(strides),
        }

    def _anchors_of_a_stride(self) -> int:
        if not self.strides or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise UsageError(f"config.model.strides: expected each to be twice the one before; given {self.strides}.")
        if not self.anchors or len(self.anchors) % len(self.strides) or min(map(min, self.anchors)) <= 0:
            raise UsageError(
                f"config.model.anchors: expected as many for each of the {len(self.strides)} strides, widths and "
                f"heights above 0; given {self.anchors}."
            )
        return len(self.anchors) // len(self.strides)


class Scale(nn.Module):
    """The predictions at one stride, and the map that the next finer one takes.

    Attributes:
        width: channels of the 1x1 convolutions.
        anchors: of each place.
        num_classes: number of classes.
        convolution: factory of the convolutions, given (features, kernel, name).
        conv: factory of the last one, which is linear.
    """

    width: int
    anchors: int
    num_classes: int
    convolution: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, own: jax.Array, coarser: jax.Array | None, train: bool) -> tuple[jax.Array, jax.Array]:
        """own (B, h, w, C), coarser (B, h / 2, w / 2, D) -> (B, h, w, width), (B, h * w * anchors, 5 + classes)."""
        x = own
        if coarser is not None:
            x = self.convolution(self.width, 1, name="lateral")(coarser, train)
            x = nearest(x, (2 * x.shape[1], 2 * x.shape[2]))[:, : own.shape[1], : own.shape[2]]
            x = jnp.concatenate([x, own], axis=-1)
        for number in range(1, 6):
            width, kernel = (self.width, 1) if number % 2 else (2 * self.width, 3)
            x = self.convolution(width, kernel, name=f"conv_{number}")(x, train)
        y = self.convolution(2 * self.width, 3, name="conv_6")(x, train)
        y = self.conv(self.anchors * (5 + self.num_classes), (1, 1), dtype=jnp.float32, name="head")(y)
        return x, y.reshape(len(y), -1, 5 + self.num_classes)


def place_anchors(
    map_sizes: list[tuple[int, int]], strides: tuple[int, ...], shapes: tuple[tuple[float, float], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(anchors, 4) boxes in the middle of each cell and (anchors,) the stride of each, level by level.

    Args:
        map_sizes: (height, width) of each level's map.
        strides: of each level.
        shapes: (width, height) of the anchors in pixels, those of the first level first.
    """
    count = len(shapes) // len(strides)
    boxes, sides = [], []
    for level, ((rows, columns), stride) in enumerate(zip(map_sizes, strides, strict=True)):
        y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
        centre = stride * np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        half = np.asarray(shapes[level * count : (level + 1) * count], np.float32) / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
        sides.append(np.full(len(boxes[-1]), stride, np.float32))
    return np.concatenate(boxes).astype(np.float32), np.concatenate(sides)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "yolov1": YOLOv1,
    "fast_yolo": functools.partial(YOLOv1, backbone="fast_extraction", stride=64, convolutions=(), hidden=(256, 4096)),
    "yolov3": YOLOv3,
}
