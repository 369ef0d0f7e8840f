"""The ground truth of an example follows its image: every field that has coordinates is moved by the same matrix."""

from typing import Any

import numpy as np

from vision.data.geometry import Affine, Geometry, move_image, move_labels

# An object of which less than this share stays in view is taken out: what is left of it shows too little to learn from.
MIN_VISIBLE = 0.1
IGNORE = 255  # the class of pixels, in `segmentation`, that nobody has labelled

# Fields with a row for each object, as far as an example has them.
OBJECTS = ("boxes", "classes", "valid", "crowd", "area", "visible", "masks", "keypoints")
# Regions that may hold an object; moved as boxes are, but no object goes with them.
PROPOSALS = ("proposals", "proposals_valid")
# Fields that say where the image's file lies on the canvas.
PLACE = ("placement", "file_size")


def placed(example: dict[str, Any]) -> dict[str, Any]:
    """The example with `placement` and `file_size`, those of an image that is as its file has it, if it has none.

    Only examples with `boxes`, or with a `placement` from their record, get them, and only once their image is decoded.
    """
    asked = "boxes" in example or "placement" in example
    if not asked or "file_size" in example or not isinstance(example["image"], np.ndarray):
        return example
    file_size = np.array(example["image"].shape[:2], np.int32)
    return {**example, "placement": np.array(Affine(), np.float32), "file_size": file_size}


def move_example(example: dict[str, Any], geometry: Geometry) -> dict[str, Any]:
    """The example on its new canvas.

    The image, and `target` where it is kept, is interpolated; `segmentation` (H, W) and `masks` (N, H, W) take the
    nearest label, and what comes into view is `IGNORE` and 0. `boxes` (N, 4) become the upright hulls of their
    moved corners, clipped to the canvas; or the hulls of the moved masks, where there are some and what was upright
    is not any more. Objects of which less than `MIN_VISIBLE` stays in view get zeros as their box and 0 in `valid`
    (N,). `keypoints` (N, K, 3) that leave the canvas become zeros, as do those of such objects. `proposals` (P, 4)
    and `proposals_valid` (P,) go the way of boxes. `size` (2,) int32 is set where the geometry pads.

    Where there are boxes, `placement` (6,) float32 is the matrix from pixels of the image's file to the canvas, its
    first two rows, and `file_size` (2,) int32 the height and width of that file: what is found can be mapped back.

    Args:
        example: with an `image` (H, W, C), and such of the fields above as there are.
        geometry: where to.
    """
    moved = dict(placed(example))
    if "placement" in moved:
        before = Affine(*np.asarray(moved["placement"], np.float64).tolist())
        moved["placement"] = np.array(geometry.matrix.after(before), np.float32)
    if geometry.size:
        moved["size"] = np.array(geometry.size, np.int32)
    moved["image"] = move_image(example["image"], geometry)
    if moved["image"] is example["image"]:
        return moved
    if "target" in example:
        moved["target"] = move_image(example["target"], geometry)
    if "segmentation" in example:
        moved["segmentation"] = move_labels(example["segmentation"], geometry, IGNORE)
    if "masks" in example:
        moved["masks"] = move_labels(example["masks"], geometry, 0)
    gone = None
    if "boxes" in example:
        boxes, share = _move_boxes(np.asarray(example["boxes"]), geometry)
        if "masks" in example and not geometry.matrix.upright():
            boxes, share = _boxes_of_masks(example["masks"], moved["masks"], geometry, boxes, share)
        gone = share < MIN_VISIBLE
        moved["boxes"] = np.where(gone[:, None], 0, boxes).astype(np.float32)
        if "valid" in example:
            valid = np.asarray(example["valid"])
            moved["valid"] = np.where(gone, np.zeros_like(valid), valid)
    if "keypoints" in example:
        moved["keypoints"] = _move_keypoints(np.asarray(example["keypoints"]), geometry, gone)
    if "proposals" in example:
        boxes, stays = visible_boxes(example["proposals"], geometry)
        moved["proposals"] = np.where(stays[:, None], boxes, 0).astype(np.float32)
        moved["proposals_valid"] = example["proposals_valid"] & stays
    return moved


def visible_boxes(boxes: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes on a new canvas, float64, and (N,) whether each stays an object there: see `move_example`."""
    moved, share = _move_boxes(np.asarray(boxes), geometry)
    return moved, share >= MIN_VISIBLE


def without_objects(example: dict[str, Any], gone: np.ndarray) -> dict[str, Any]:
    """The example without those objects: zeros as their boxes, and 0 in `valid`.

    Args:
        example: with `boxes` (N, 4).
        gone: (N,) bool.
    """
    left = {**example, "boxes": np.where(gone[:, None], 0, example["boxes"]).astype(np.float32)}
    if "valid" in example:
        valid = np.asarray(example["valid"])
        left["valid"] = np.where(gone, np.zeros_like(valid), valid)
    if "keypoints" in example:
        left["keypoints"] = np.where(gone[:, None, None], 0, example["keypoints"]).astype(np.float32)
    return left


def _move_boxes(boxes: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) hulls of the moved corners, clipped, and (N,) the share of each that is left, 0 where there was none."""
    corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].astype(np.float64).reshape(-1, 4, 2)
    points = geometry.matrix.of(corners)
    low, high = points.min(axis=1), points.max(axis=1)
    canvas = np.array(geometry.shape[::-1], np.float64)
    clipped_low, clipped_high = np.clip(low, 0, canvas), np.clip(high, 0, canvas)
    area, left = np.prod(high - low, axis=1), np.prod(clipped_high - clipped_low, axis=1)
    exists = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) > 0
    share = np.divide(left, area, out=np.zeros(len(boxes)), where=exists & (area > 0))
    return np.concatenate([clipped_low, clipped_high], axis=1), share


def _boxes_of_masks(
    before: np.ndarray, after: np.ndarray, geometry: Geometry, boxes: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`boxes` and `share`, tightened to the moved masks of those objects that have one and a box."""
    boxes, share = boxes.copy(), share.copy()
    growth = abs(geometry.matrix.area())
    for index in np.flatnonzero(share):
        pixels = np.count_nonzero(before[index])
        if not pixels:
            continue
        share[index] = np.count_nonzero(after[index]) / (pixels * growth)
        rows, columns = (np.flatnonzero(after[index].any(axis=axis)) for axis in (1, 0))
        if len(rows):
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes, share


def _move_keypoints(keypoints: np.ndarray, geometry: Geometry, gone: np.ndarray | None) -> np.ndarray:
    points = geometry.matrix.of(keypoints[..., :2].astype(np.float64))
    inside = ((points >= 0) & (points < np.array(geometry.shape[::-1]))).all(axis=-1) & (keypoints[..., 2] > 0)
    if gone is not None and len(gone) == len(keypoints):
        inside &= ~gone[:, None]
    moved = np.where(inside[..., None], np.concatenate([points, keypoints[..., 2:]], axis=-1), 0).astype(np.float32)
    for one, other in geometry.swap:
        moved[:, [one, other]] = moved[:, [other, one]]
    return moved
