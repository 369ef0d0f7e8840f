"""Regions that may hold an object, found without learning: selective search (Uijlings et al. 2013, IJCV 104)."""

import hashlib
from typing import Any, Literal

import numpy as np

from vision.data import cache, geometry, images
from vision.data.arguments import Example, check
from vision.errors import UsageError

VERSION = 1  # of what is kept in the cache


def selective_search(
    example: Example,
    *,
    max_proposals: int = 2000,
    min_size: int = 8,
    width: int | None = 500,
    mode: Literal["single", "fast", "quality"] = "fast",
) -> Example:
    """Adds `proposals` and `proposals_valid`, regions of the image that may hold an object, for Fast R-CNN and R-CNN.

    Similar neighbours of a segmentation are joined step by step, and the box of every region on the way is a proposal.
    Later transforms move them as they move boxes. The search takes a second or more; its result is kept in the
    user's cache folder, so that it is best put right after "decode", where an image is the same every time.

    Args:
        max_proposals: room for so many of an image; where there are more, large ones and some of the others are taken.
        min_size: smallest side of a proposal in pixels of the image as it is searched.
        width: wider images are searched at this width; None for their own.
        mode: "fast" or "quality", as in the paper, with more colour spaces and segmentations; "single" has one of each.
    """
    check(
        selective_search,
        max_proposals=max_proposals >= 1,
        min_size=min_size >= 0,
        width=width is None or width >= 16,
    )
    image = images.decoded(example["image"])
    key = _key(image, width, mode)
    boxes = cache.load("proposals", key)
    if boxes is None:
        boxes = search(image, width, mode)
        cache.save("proposals", key, boxes)
    scale = min(1.0, width / image.shape[1]) if width else 1.0
    boxes = boxes[np.min(boxes[:, 2:] - boxes[:, :2], axis=1) * scale >= min_size - 1e-3]
    chosen = boxes[ranks(boxes)[:max_proposals]]
    padded = np.zeros((max_proposals, 4), np.float32)
    padded[: len(chosen)] = chosen
    return {**example, "proposals": padded, "proposals_valid": np.arange(max_proposals) < len(chosen)}


def search(image: np.ndarray, width: int | None = 500, mode: str = "fast") -> np.ndarray:
    """All regions that OpenCV's selective search finds, in an order that does not depend on chance.

    Args:
        image: (H, W, C) uint8, RGB or grey.
        width: as of `selective_search`.
        mode: likewise.

    Returns:
        (n, 4) float32 boxes in pixels of the image, by their corners' coordinates.

    Raises:
        UsageError: OpenCV is installed without its contributed modules.
    """
    cv2 = images.opencv()
    segmentation = getattr(getattr(cv2, "ximgproc", None), "segmentation", None)
    if segmentation is None:
        raise UsageError(
            "selective_search needs OpenCV with its contributed modules, opencv-contrib-python-headless; another "
            "OpenCV is installed in its place. Remove all packages called opencv-*, and install that one."
        )
    scale = min(1.0, width / image.shape[1]) if width else 1.0
    shape = [max(1, round(side * scale)) for side in image.shape[:2]]
    colour = np.ascontiguousarray(image[..., ::-1]) if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if tuple(shape) != image.shape[:2]:
        colour = cv2.resize(colour, shape[::-1], interpolation=cv2.INTER_AREA)
    searcher = segmentation.createSelectiveSearchSegmentation()
    searcher.setBaseImage(colour)
    switch = {"single": "SingleStrategy", "fast": "SelectiveSearchFast", "quality": "SelectiveSearchQuality"}[mode]
    getattr(searcher, f"switchTo{switch}")()
    found = np.asarray(searcher.process(), np.float32).reshape(-1, 4)  # x, y, width, height; in an order by chance
    boxes = np.unique(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1), axis=0)
    return (boxes * np.tile(np.divide(image.shape[1::-1], shape[::-1]), 2)).astype(np.float32)


def ranks(boxes: np.ndarray) -> np.ndarray:
    """(n,) the places of the boxes, the ones to be taken first in front.

    The paper multiplies a region's place in the hierarchy, 1 for the whole image, with a random number (section 4.3),
    so that it is not large regions alone that come first. The order of areas stands for the hierarchy here, and the
    random numbers are the same every time.

    Args:
        boxes: (n, 4).
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    place = np.empty(len(boxes))
    place[np.argsort(-areas, kind="stable")] = np.arange(1, len(boxes) + 1)
    return np.argsort(place * np.random.default_rng(0).random(len(boxes)), kind="stable")


def warped(image: np.ndarray, box: np.ndarray, size: int, context: int, fill: Any = 0) -> np.ndarray:
    """A region stretched to a square, with some of what is around it (Girshick et al. 2014, appendix A).

    Args:
        image: (H, W, C) uint8.
        box: (4,) in pixels of the image.
        size: side of the result.
        context: pixels of the result on each side that show what is around the region.
        fill: grey level or colour of what lies beyond the image.

    Returns:
        (size, size, C) uint8.
    """
    inner = size - 2 * context
    if inner < 1:
        raise UsageError(f"context: {context} pixels on each side leave nothing of {size}; take less than {size // 2}.")
    x0, y0, x1, y1 = (float(value) for value in box)
    stretch_x, stretch_y = inner / max(x1 - x0, 1e-3), inner / max(y1 - y0, 1e-3)
    matrix = geometry.Affine(xx=stretch_x, x0=context - stretch_x * x0, yy=stretch_y, y0=context - stretch_y * y0)
    return geometry.move_image(image, geometry.Geometry(matrix, (size, size), fill=fill, border=True))


def _key(image: np.ndarray, width: int | None, mode: str) -> str:
    """What the regions depend on: the pixels themselves, wherever they come from."""
    pixels = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
    return f"{VERSION} {images.opencv().__version__} {image.shape} {width} {mode} {pixels}"
