"""The objects of one image on the host: detections and truth in pixels of the image's file, masks as run lengths."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Objects(NamedTuple):
    """n objects of one image, without padding.

    Attributes:
        boxes: (n, 4) float64, in pixels of the image's file.
        classes: (n,) ids.
        scores: (n,) float64, in descending order as a rule; of the truth all 1.
        crowd: (n,) bool; of detections all False.
        area: (n,) float64 in pixels of the file: what the data say, else of the mask, else of the box.
        masks: n run lengths as COCO's mask functions give them; None where there are no masks to be compared.
        keypoints: (n, K, 3) float64 x, y in pixels of the file, and visibility or score; None where there are none.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    masks: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None


class Scene(NamedTuple):
    """What an image shows and what was found in it.

    Attributes:
        truth: the objects.
        found: the detections.
        canvas: (height, width) of the image as the network saw it, without padding; masks are of this size.
    """

    truth: Objects
    found: Objects
    canvas: tuple[int, int]


def scene(example: Mapping[str, np.ndarray]) -> Scene:
    """What `detection.detector` collects of one example, without padding and a hundredth in size where it has masks.

    Masks are compared as the network saw the image, and their areas are those of the file: the overlap of two masks
    hardly changes when both are resized, while enlarging the truth again would not bring its edges back.

    Args:
        example: `boxes` (N, 4), `classes`, `valid`, such of `crowd`, `area`, `masks` (N, H, W) and `keypoints` as there
            are, the same of detections as `found_boxes`, `found_scores`, `found_masks` (D, m, m) and so on; `size`
            (2,), and `placement` (6,) where the image was moved.
    """
    placement = example.get("placement")
    canvas = tuple(int(side) for side in example["size"])
    compared = {"boxes", "scores", "classes", "valid"}
    compared |= {name for name in ("masks", "keypoints") if name in example and f"found_{name}" in example}
    found = {name: example[f"found_{name}"] for name in compared}
    real = np.asarray(example["valid"], bool)
    boxes, masks, keypoints = boxes_in_file(example["boxes"][real], placement), None, None
    if "masks" in compared:
        whole = (0, 0)
        masks = [run_lengths(mask[: canvas[0], : canvas[1]] > 0, whole, canvas) for mask in example["masks"][real]]
    if "keypoints" in compared:
        keypoints = points_in_file(example["keypoints"][real], placement)
    area = np.asarray(example["area"], np.float64)[real] if "area" in example else _areas(boxes, masks, placement)
    crowd = np.asarray(example["crowd"], bool)[real] if "crowd" in example else np.zeros(len(boxes), bool)
    truth = Objects(boxes, example["classes"][real], np.ones(len(boxes)), crowd, area, masks, keypoints)
    return Scene(truth, detections(found, canvas, placement), canvas)


def detections(
    found: Mapping[str, np.ndarray], canvas: tuple[int, int], placement: np.ndarray | None = None
) -> Objects:
    """One image's detections without padding, and without those that are not finite, as after a diverged training.

    Args:
        found: `boxes` (D, 4), `scores`, `classes`, `valid`, and `masks` (D, m, m) and `keypoints` where there are.
        canvas: (height, width) of the image that the boxes are in pixels of, and masks will be.
        placement: as in `boxes_in_file`.
    """
    sure = np.asarray(found["valid"], bool) & np.isfinite(found["scores"])
    sure &= np.isfinite(found["boxes"]).all(axis=-1)
    boxes, masks, keypoints = boxes_in_file(found["boxes"][sure], placement), None, None
    if "masks" in found:
        pairs = zip(found["masks"][sure], found["boxes"][sure], strict=True)
        masks = [run_lengths(*paste(mask, box, canvas), canvas) for mask, box in pairs]
    if "keypoints" in found:
        keypoints = points_in_file(np.nan_to_num(found["keypoints"][sure]), placement)
    scores, crowd = np.asarray(found["scores"], np.float64)[sure], np.zeros(len(boxes), bool)
    return Objects(boxes, found["classes"][sure], scores, crowd, _areas(boxes, masks, placement), masks, keypoints)


def boxes_in_file(boxes: np.ndarray, placement: np.ndarray | None) -> np.ndarray:
    """(..., 4) boxes on the canvas -> in pixels of the image's file, float64; not clipped to it.

    Args:
        boxes: (..., 4).
        placement: (6,) the rows of the matrix from the file to the canvas; None where the canvas is the file. Where it
            turns, the result is the upright hull.
    """
    boxes = np.asarray(boxes, np.float64)
    if placement is None or not boxes.size:
        return boxes
    corners = _back(boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].reshape(*boxes.shape[:-1], 4, 2), placement)
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def points_in_file(points: np.ndarray, placement: np.ndarray | None) -> np.ndarray:
    """(..., 2 or more) points x, y, ... on the canvas -> in pixels of the image's file, float64, the rest as it is."""
    points = np.asarray(points, np.float64)
    if placement is None or not points.size:
        return points
    return np.concatenate([_back(points[..., :2], placement), points[..., 2:]], axis=-1)


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask stretched over its box, as by `ops.masks_and_keypoints.paste_masks`, and cut at one half.

    Args:
        mask: (m, m) probabilities within the box.
        box: (4,) in pixels of the image.
        size: (height, width) of the image.

    Returns:
        (h, w) bool, the part of the image that the box covers, and (top, left) of its first pixel. There is nothing
        beyond: half way between a mask's last cell and the 0 around it, a probability has fallen to one half.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    rows, over_rows = _stretch(y0, y1, mask.shape[0], size[0])
    columns, over_columns = _stretch(x0, x1, mask.shape[1], size[1])
    pasted = over_rows @ np.asarray(mask, np.float32) @ over_columns.T
    return pasted >= 0.5, (rows, columns)


def run_lengths(mask: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths, {"size": [height, width], "counts": ...}, of a mask that covers part of an image.

    Args:
        mask: (h, w) bool.
        corner: (row, column) of its first pixel in the image.
        size: (height, width) of the image.
    """
    height, width = size
    sides = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    sides[:, 1:-1] = mask.T  # runs go down the columns
    change = np.diff(sides, axis=1)
    column, row = np.nonzero(change > 0)
    starts = (corner[1] + column) * height + corner[0] + row
    column, row = np.nonzero(change < 0)
    ends = (corner[1] + column) * height + corner[0] + row
    # A run that ends at the foot of a column goes on at the head of the next.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])
    counts = np.diff(edges)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    lengths = coco_library().mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": lengths["counts"].decode("ascii")}


def mask_area(lengths: list[dict[str, Any]]) -> np.ndarray:
    """(n,) float64 number of pixels of each mask."""
    if not lengths:
        return np.zeros(0)
    return np.asarray(coco_library().mask.area(lengths), np.float64)


def coco_entries(objects: Objects, image_id: int) -> list[dict[str, Any]]:
    """The objects as COCO's files of results have them, ready for JSON; categories are numbered from 1.

    Args:
        objects: of one image.
        image_id: its number.

    Returns:
        For each {"image_id", "category_id", "bbox": [x, y, width, height], "score"}, with "segmentation" (run lengths)
        and "keypoints" [x, y, visibility or score, ...] where there are any. Nothing is rounded. A keypoint in the
        centre of a pixel has that pixel's number, as in COCO's files, half a pixel less than here.
    """
    boxes = np.concatenate([objects.boxes[:, :2], objects.boxes[:, 2:] - objects.boxes[:, :2]], axis=1).tolist()
    entries = [
        {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}
        for label, box, score in zip(objects.classes.tolist(), boxes, objects.scores.tolist(), strict=True)
    ]
    if objects.masks is not None:
        for entry, lengths in zip(entries, objects.masks, strict=True):
            entry["segmentation"] = lengths
    if objects.keypoints is not None:
        for entry, points in zip(entries, objects.keypoints, strict=True):
            entry["keypoints"] = (points - np.array([0.5, 0.5, 0])).ravel().tolist()
    return entries


class Library(NamedTuple):
    """The parts of COCO's evaluator, be it from `faster_coco_eval` or from `pycocotools`."""

    COCO: Any
    COCOeval: Any
    mask: Any


def coco_library() -> Library:
    """`faster_coco_eval` where it is installed, else `pycocotools`: the same numbers, in seven times the time."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster, mask
    except ImportError:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return Library(COCO, COCOeval, mask)
    return Library(COCO, COCOeval_faster, mask)


def _areas(boxes: np.ndarray, masks: list[dict[str, Any]] | None, placement: np.ndarray | None) -> np.ndarray:
    if masks is None:
        return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return mask_area(masks) / (1.0 if placement is None else abs(np.linalg.det(_linear(placement))))


def _linear(placement: np.ndarray) -> np.ndarray:
    xx, xy, _, yx, yy, _ = (float(value) for value in placement)
    return np.array([[xx, xy], [yx, yy]])


def _back(points: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """(..., 2) points on the canvas -> in the file."""
    placement = np.asarray(placement, np.float64)
    return (points - placement[[2, 5]]) @ np.linalg.inv(_linear(placement)).T


def _stretch(start: float, end: float, cells: int, pixels: int) -> tuple[int, np.ndarray]:
    """The first pixel of a box along one axis, and (pixels of the box, cells) the weights of the cells in each."""
    if not end > start:
        return 0, np.zeros((0, cells), np.float32)
    first, last = max(0, int(np.floor(start))), min(pixels, int(np.ceil(end)))
    position = (np.arange(first, last) + 0.5 - start) / (end - start) * cells - 0.5
    return first, np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0).astype(np.float32)
