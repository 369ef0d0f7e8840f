"""Pascal VOC's mean average precision, of 2007 (11 points) and of 2010 to 2012 (the area under the curve)."""

from collections.abc import Sequence

import numpy as np

from vision.tasks.objects import Objects, Scene


def voc_map(scenes: Sequence[Scene], num_classes: int, threshold: float = 0.5) -> tuple[float, float]:
    """Mean over the classes that occur of the average precision as of 2007, and as of 2012 (Everingham et al. 2015).

    A detection goes to the object of its class that it overlaps most, whether or not a better detection has it already:
    the first one there is right, all others are wrong. What goes to a difficult object (`crowd`) counts neither way.

    Args:
        scenes: the images.
        num_classes: number of classes.
        threshold: the least IoU of a detection with its object.

    Returns:
        (of 2007, of 2012), NaN where no class occurs.
    """
    found = [_assigned(scene, threshold) for scene in scenes]
    columns = [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.zeros(0)] * 4
    classes, scores, objects, outcome = columns
    # Objects of different images are different.
    offsets = np.cumsum([0, *(len(scene.truth.boxes) for scene in scenes)])[:-1]
    counts = [len(scene.found.boxes) for scene in scenes]
    objects = objects + np.repeat(offsets, counts)
    totals = np.zeros(num_classes, int)
    for scene in scenes:
        np.add.at(totals, scene.truth.classes[~scene.truth.crowd], 1)
    results = []
    for label in np.flatnonzero(totals):
        own = np.flatnonzero((classes == label) & (outcome != _IGNORED))
        own = own[np.argsort(-scores[own], kind="stable")]
        hits = outcome[own] == _HIT
        first = np.zeros(len(own), bool)
        first[np.flatnonzero(hits)[np.unique(objects[own][hits], return_index=True)[1]]] = True
        right = np.cumsum(first)
        results.append(_average_precisions(right, right / np.arange(1, len(own) + 1), totals[label]))
    return tuple(float(mean) for mean in np.mean(results, axis=0)) if results else (np.nan, np.nan)


_MISS, _HIT, _IGNORED = 0, 1, 2


def _assigned(scene: Scene, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Classes and scores (D,) of an image's detections, the object each goes to, and what that makes of it."""
    found, truth = scene.found, scene.truth
    if not len(truth.boxes):
        nothing = np.zeros(len(found.boxes), int)
        return found.classes, found.scores, nothing, nothing
    overlap = np.where(found.classes[:, None] == truth.classes, box_iou(found, truth), -1.0)
    best = overlap.argmax(axis=1)
    enough = np.take_along_axis(overlap, best[:, None], axis=1)[:, 0] >= threshold
    return found.classes, found.scores, best, np.where(enough, np.where(truth.crowd[best], _IGNORED, _HIT), _MISS)


def box_iou(found: Objects, truth: Objects) -> np.ndarray:
    """(D, N) intersection over union, 0 for empty boxes."""
    one, other = found.boxes[:, None], truth.boxes[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = np.prod(np.maximum(sides, 0), axis=-1)
    union = np.prod(one[..., 2:] - one[..., :2], axis=-1) + np.prod(other[..., 2:] - other[..., :2], axis=-1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _average_precisions(right: np.ndarray, precision: np.ndarray, total: int) -> tuple[float, float]:
    """One class's average precision as of 2007 and of 2012, of the number right and the precision after each detection.

    2007: the mean over recalls of 0, 0.1, ..., 1 of the highest precision at that recall or a higher one. 2012: the
    area under that highest precision.
    """
    if not len(right):
        return 0.0, 0.0
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    points = [highest[10 * right >= tenth * total][:1].sum() for tenth in range(11)]  # in integers: 3 / 10 is 0.3
    rises = np.diff(right, prepend=0)
    return sum(points) / 11, float(np.sum(highest * rises)) / total
