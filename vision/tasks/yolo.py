"""YOLO's losses, and how its predictions become detections: v1's cells of a grid, v3's anchors."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.ops.detection_losses import iou_loss
from vision.tasks import anchored
from vision.tasks.detection import Detections, detector, image_sizes, truth
from vision.tasks.task import Batch, Mean, Outputs, Task


def yolov1(
    *,
    class_names: tuple[str, ...] = (),
    lambda_coord: float = 5.0,
    lambda_noobj: float = 0.5,
    score_threshold: float = 0.001,
    candidates: int = 1000,
    nms_threshold: float = 0.5,
    detections: int = 100,
) -> Task:
    """YOLO's sum of squared errors (Redmon et al. 2016, equation 3), for networks of `models.yolo.YOLOv1`.

    Summed over the cells of the grid, a mean over images. The cell that holds an object's centre answers for it. Of
    several objects in one cell the first in the truth's order counts (the authors' code shuffles them first), the
    others are background to it. Of a cell's boxes the one with the largest IoU answers, or where none overlaps the
    object, as in the authors' code, the one at the least distance.

    Args:
        class_names: of the classes; taken from the data.
        lambda_coord: weight of the errors of centres and of square roots of sides.
        lambda_noobj: weight of the confidences of boxes that answer for no object.
        score_threshold: score, Pr(class | object) times the confidence, up to which boxes are no detections.
        candidates: pairs of a box and a class, those of the highest scores, that suppress each other.
        nms_threshold: largest IoU of two detections of a class.
        detections: largest number of them in an image.
    """
    _check_weights(lambda_coord=lambda_coord, lambda_noobj=lambda_noobj)
    anchored.check_shares(score_threshold=score_threshold, nms_threshold=nms_threshold)
    anchored.check_counts(candidates=candidates, detections=detections)
    found = functools.partial(
        best_pairs,
        candidates=candidates,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections,
    )
    weights = {"coordinates": lambda_coord, "object": 1.0, "no_object": lambda_noobj, "class": 1.0}

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        return _means(v1_errors(outputs, batch), weights, batch)

    def detect(outputs: Outputs, batch: Batch) -> Detections:
        boxes = v1_boxes(outputs["cell_boxes"].astype(jnp.float32), batch["image"].shape[1:3])
        # Linear outputs: each is clipped by itself, lest two negative ones make a detection.
        classes, confidences = (
            jnp.clip(outputs[name].astype(jnp.float32), 0.0, 1.0) for name in ("class_scores", "confidences")
        )
        scores = classes[..., None, :] * confidences[..., None]
        flat = (x.reshape(len(x), -1, x.shape[-1]) for x in (boxes, scores))
        return found(*flat, batch)

    return detector(
        loss=loss,
        detect=detect,
        class_names=class_names,
        monitor=lambda outputs, batch: _mean_iou(v1_errors(outputs, batch)),
    )


def v1_boxes(cell_boxes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Boxes in pixels (..., S, T, boxes, 4) of places in cells, and of square roots of shares of the image.

    Args:
        cell_boxes: (..., S, T, boxes, 4) as `models.yolo.YOLOv1` gives them.
        canvas: (height, width) of the image.
    """
    rows, columns = cell_boxes.shape[-4:-2]
    corner = jnp.stack(jnp.meshgrid(jnp.arange(columns), jnp.arange(rows)), axis=-1)[:, :, None]
    sides = jnp.array([canvas[1], canvas[0]], jnp.float32)
    centre = (cell_boxes[..., :2] + corner) * (sides / jnp.array([columns, rows], jnp.float32))
    return box_ops.from_cxcywh(jnp.concatenate([centre, cell_boxes[..., 2:] ** 2 * sides], axis=-1))


def v1_errors(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
    """Each image's sums of squared errors (B,): coordinates, object, no_object, class; its objects and their IoU."""
    canvas = batch["image"].shape[1:3]
    names = ("class_scores", "confidences", "cell_boxes")
    predicted = {name: outputs[name].astype(jnp.float32) for name in names}
    grid = predicted["confidences"].shape[1:3]
    whole_cells = jnp.array([0.5, 0.5, grid[1] ** -0.5, grid[0] ** -0.5], jnp.float32)
    cells = v1_boxes(jnp.broadcast_to(whole_cells, (*grid, 1, 4)), canvas).reshape(-1, 4)
    image = functools.partial(_v1_image, canvas=canvas)
    return jax.vmap(image)(predicted, truth(batch), anchored.in_crowd(cells, batch))


def _v1_image(
    predicted: dict[str, jax.Array], objects: dict[str, jax.Array], in_crowd: jax.Array, canvas: tuple[int, int]
) -> dict[str, jax.Array]:
    rows, columns, count = predicted["confidences"].shape
    scores, confidences, cell_boxes = (
        predicted[name].reshape(rows * columns, *shape)
        for name, shape in {"class_scores": (-1,), "confidences": (count,), "cell_boxes": (count, 4)}.items()
    )
    # The first object of each cell, and what the cell's boxes should be.
    sides, grid = jnp.array([canvas[1], canvas[0]], jnp.float32), jnp.array([columns, rows])
    true = box_ops.to_cxcywh(objects["boxes"])
    centre = true[:, :2] / sides * grid
    column_row = jnp.clip(jnp.floor(centre), 0, grid - 1)
    cell = (column_row[:, 1] * columns + column_row[:, 0]).astype(jnp.int32)
    inside = (cell[:, None] == jnp.arange(rows * columns)) & objects["valid"][:, None]
    owner, has_object = jnp.argmax(inside, axis=0), jnp.any(inside, axis=0)
    target = jnp.concatenate([centre - column_row, jnp.sqrt(true[:, 2:] / sides)], axis=-1)[owner]

    # Which of them answers. No gradient flows through IoU, neither as choice nor as the confidence to reach.
    boxes = jax.lax.stop_gradient(v1_boxes(predicted["cell_boxes"], canvas).reshape(-1, count, 4))
    iou = box_ops.iou(boxes, objects["boxes"][owner][:, None])
    distance = jnp.sum(((box_ops.to_cxcywh(boxes) - true[owner][:, None]) / jnp.tile(sides, 2)) ** 2, axis=-1)
    best = jnp.argmax(jnp.where(jnp.any(iou > 0, axis=1, keepdims=True), iou, -distance), axis=1)
    answers = (best[:, None] == jnp.arange(count)) & has_object[:, None]

    one_hot = jax.nn.one_hot(objects["classes"][owner], scores.shape[-1])
    return {
        "coordinates": _sum_where(answers, jnp.sum((cell_boxes - target[:, None]) ** 2, axis=-1)),
        "object": _sum_where(answers, (confidences - iou) ** 2),
        "no_object": _sum_where(~answers & ~in_crowd[:, None], confidences**2),
        "class": _sum_where(has_object, jnp.sum((scores - one_hot) ** 2, axis=-1)),
        "iou": _sum_where(answers, iou),
        "objects": jnp.sum(has_object).astype(jnp.float32),
    }


BoxLoss = Literal["offsets", "giou", "diou", "ciou"]


def yolov3(
    *,
    class_names: tuple[str, ...] = (),
    box_loss: BoxLoss = "offsets",
    box_weight: float = 1.0,
    class_weight: float = 1.0,
    ignore_threshold: float = 0.5,
    score_threshold: float = 0.001,
    candidates: int = 1000,
    nms_threshold: float = 0.45,
    detections: int = 100,
) -> Task:
    """YOLOv3's loss (Redmon and Farhadi 2018, section 2), for networks of `models.yolo.YOLOv3`.

    Summed over the anchors, a mean over images. An object belongs to one anchor: of those whose cell holds its centre
    the one of the most similar shape, at whatever scale. That anchor learns the object's offsets, to be an object, and
    its classes by binary cross entropies; all others learn to be none, except those whose predicted box overlaps an
    object well. Of objects that share an anchor the last gives the box, and all of them their classes, as in the
    authors' code.

    Args:
        class_names: of the classes; taken from the data.
        box_loss: "offsets": binary cross entropy of the place in the cell and half the squared error of the logarithms
            of the sides, times 2 less the object's share of the image; its gradient, the difference to the prediction,
            is that of section 2.1 and the authors' code. "giou", "diou" or "ciou": 1 less that of the boxes.
        box_weight: factor of the boxes' loss.
        class_weight: factor of the classes' loss.
        ignore_threshold: predictions that overlap an object by an IoU above this are not taught to be none.
        score_threshold: score, Pr(class) times the objectness, up to which boxes are no detections.
        candidates: pairs of a box and a class, those of the highest scores, that suppress each other.
        nms_threshold: largest IoU of two detections of a class.
        detections: largest number of them in an image.
    """
    _check_weights(box_weight=box_weight, class_weight=class_weight)
    anchored.check_shares(
        ignore_threshold=ignore_threshold, score_threshold=score_threshold, nms_threshold=nms_threshold
    )
    anchored.check_counts(candidates=candidates, detections=detections)
    found = functools.partial(
        best_pairs,
        candidates=candidates,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections,
    )
    weights = {"box": box_weight, "objectness": 1.0, "class": class_weight}

    def errors(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return v3_errors(outputs, batch, box_loss, ignore_threshold)

    def detect(outputs: Outputs, batch: Batch) -> Detections:
        boxes = v3_boxes(outputs["offsets"], outputs["anchors"], outputs["strides"])
        objectness, logits = (outputs[name].astype(jnp.float32) for name in ("objectness", "logits"))
        scores = jax.nn.sigmoid(objectness)[..., None] * jax.nn.sigmoid(logits)
        return found(boxes, scores, batch)

    return detector(
        loss=lambda outputs, batch: _means(errors(outputs, batch), weights, batch),
        detect=detect,
        class_names=class_names,
        monitor=lambda outputs, batch: _mean_iou(errors(outputs, batch)),
    )


def v3_boxes(offsets: jax.Array, anchors: jax.Array, strides: jax.Array) -> jax.Array:
    """Boxes in pixels (..., 4): centres anywhere in their cell, sides exp(tw), exp(th) times the anchor's (figure 2).

    Args:
        offsets: (..., 4), tx, ty, tw and th.
        anchors: (..., 4) boxes in the middle of their cells.
        strides: (...) the cells' sides in pixels.
    """
    offsets, anchors = offsets.astype(jnp.float32), box_ops.to_cxcywh(anchors)
    centre = anchors[..., :2] + (jax.nn.sigmoid(offsets[..., :2]) - 0.5) * strides[..., None]
    sides = anchors[..., 2:] * jnp.exp(jnp.minimum(offsets[..., 2:], box_ops.MAX_LOG_GROWTH))
    return box_ops.from_cxcywh(jnp.concatenate([centre, sides], axis=-1))


def v3_errors(outputs: Outputs, batch: Batch, box_loss: BoxLoss, ignore_threshold: float) -> dict[str, jax.Array]:
    """Each image's sums (B,): box, objectness, class; its objects and the IoU of their boxes."""
    names = ("offsets", "objectness", "logits")
    predicted = {name: outputs[name].astype(jnp.float32) for name in names}
    place = {name: outputs[name] for name in ("anchors", "strides")}
    area = batch["image"].shape[1] * batch["image"].shape[2]

    def image(
        predicted: dict[str, jax.Array], objects: dict[str, jax.Array], in_crowd: jax.Array
    ) -> dict[str, jax.Array]:
        return _v3_image(predicted | place, objects, in_crowd, area, box_loss, ignore_threshold)

    return jax.vmap(image)(predicted, truth(batch), anchored.in_crowd(place["anchors"], batch))


def _v3_image(
    predicted: dict[str, jax.Array],
    objects: dict[str, jax.Array],
    in_crowd: jax.Array,
    canvas_area: int,
    box_loss: BoxLoss,
    ignore_threshold: float,
) -> dict[str, jax.Array]:
    anchors, strides, objectness = predicted["anchors"], predicted["strides"], predicted["objectness"]
    index, found = responsible_anchors(objects["boxes"], objects["valid"], anchors, strides)
    same = (index[:, None] == index) & found[:, None] & found
    last = found & ~jnp.any(jnp.triu(same, 1), axis=1)

    true, own, stride = objects["boxes"], box_ops.to_cxcywh(anchors[index]), strides[index][:, None]
    offsets = predicted["offsets"][index]
    boxes = v3_boxes(offsets, anchors[index], strides[index])
    if box_loss == "offsets":
        target = box_ops.to_cxcywh(true)
        place = (target[:, :2] - own[:, :2]) / stride + 0.5
        growth = jnp.log(jnp.maximum(target[:, 2:], 1e-6) / own[:, 2:])
        error = jnp.sum(optax.sigmoid_binary_cross_entropy(offsets[:, :2], place), axis=-1)
        error += jnp.sum((offsets[:, 2:] - growth) ** 2, axis=-1) / 2
        error *= 2 - box_ops.area(true) / canvas_area
    else:
        error = iou_loss(boxes, true, getattr(box_ops, box_loss))

    positive = jnp.zeros(len(anchors), bool).at[jnp.where(found, index, len(anchors))].set(True, mode="drop")
    everywhere = jax.lax.stop_gradient(v3_boxes(predicted["offsets"], anchors, strides))
    overlaps = jnp.where(objects["valid"][:, None], box_ops.pairwise(true, everywhere), 0.0)
    background = (jnp.max(overlaps, axis=0) <= ignore_threshold) & ~in_crowd
    wrong = optax.sigmoid_binary_cross_entropy(objectness, positive.astype(jnp.float32))

    one_hot = jax.nn.one_hot(objects["classes"], predicted["logits"].shape[-1])
    labels = jnp.any(same[..., None] & (one_hot > 0), axis=1).astype(jnp.float32)
    entropy = optax.sigmoid_binary_cross_entropy(predicted["logits"][index], labels)
    return {
        "box": _sum_where(last, error),
        "objectness": _sum_where(positive | background, wrong),
        "class": _sum_where(last, jnp.sum(entropy, axis=-1)),
        "iou": _sum_where(last, box_ops.iou(jax.lax.stop_gradient(boxes), true)),
        "objects": jnp.sum(last).astype(jnp.float32),
    }


def responsible_anchors(
    boxes: jax.Array, valid: jax.Array, anchors: jax.Array, strides: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The anchor of each object: of those whose cell holds its centre, the first of the most similar shape.

    Args:
        boxes: (N, 4) the objects.
        valid: (N,) False for padding.
        anchors: (A, 4) boxes in the middle of their cells.
        strides: (A,) the cells' sides.

    Returns:
        (N,) int32 index of the anchor, and (N,) whether there is one.
    """
    objects, shapes = box_ops.to_cxcywh(boxes), box_ops.to_cxcywh(anchors)
    apart = objects[:, None, :2] - shapes[:, :2]
    half = strides[:, None] / 2
    holds = jnp.all((apart >= -half) & (apart < half), axis=-1) & valid[:, None]
    # Both corners at the origin, so that shapes alone are compared.
    at_origin = [x.at[:, :2].set(x[:, 2:] / 2) for x in (objects, shapes)]
    similarity = box_ops.pairwise(*map(box_ops.from_cxcywh, at_origin))
    index = jnp.argmax(jnp.where(holds, similarity, -1.0), axis=1).astype(jnp.int32)
    return index, jnp.any(holds, axis=1)


def best_pairs(
    boxes: jax.Array,
    scores: jax.Array,
    batch: Batch,
    *,
    candidates: int,
    score_threshold: float,
    nms_threshold: float,
    detections: int,
) -> Detections:
    """The detections among boxes that may each be of several classes.

    Args:
        boxes: (B, A, 4) in pixels of the canvas.
        scores: (B, A, classes), 0..1.
        batch: of which the sizes of the images are read.
        candidates: how many pairs of a box and a class, those of the highest scores, suppress each other.
        score_threshold: scores up to this are left out.
        nms_threshold: largest IoU of two detections of a class.
        detections: size of the result.
    """

    def in_image(boxes: jax.Array, scores: jax.Array, size: jax.Array) -> Detections:
        best, pair = jax.lax.top_k(scores.reshape(-1), min(candidates, scores.size))
        box, label = jnp.divmod(pair, scores.shape[-1])
        return anchored.best_boxes(
            box_ops.clip(boxes[box], size),
            best,
            label,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            detections=detections,
        )

    return jax.vmap(in_image)(boxes, scores, image_sizes(batch))


def _means(errors: dict[str, jax.Array], weights: dict[str, float], batch: Batch) -> dict[str, Mean]:
    real = batch["mask"] > 0
    count = jnp.sum(real).astype(jnp.float32)
    return {name: Mean(weight * _sum_where(real, errors[name]), count) for name, weight in weights.items()}


def _mean_iou(errors: dict[str, jax.Array]) -> dict[str, Mean]:
    """IoU of the boxes that answer for objects; `truth` has left out the objects of examples that are padding."""
    return {"iou": Mean(jnp.sum(errors["iou"]), jnp.sum(errors["objects"]))}


def _sum_where(chosen: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(chosen, values, 0.0))


def _check_weights(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise UsageError(f"config.task.{name}: expected a weight of 0 or more, given {value}.")
