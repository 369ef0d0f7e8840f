"""Pictures of detectors: truth and detections side by side, average precision per class, precision-recall curves."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision.explain.bars import class_bars
from vision.explain.figure import BLUE, DPI, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, new_figure, shorten
from vision.explain.objects import draw_objects
from vision.explain.pictures import Cell, Line, grid, which, worst_then_typical
from vision.explain.results import Results

SHOWN_FROM = 0.3  # the least score of a detection that is drawn; what is less sure would hide the picture
_RIGHT = 0.5  # IoU from which a detection is of an object
_NAMED = 8  # classes up to which each has a coloured precision-recall curve and a name
_COLORS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, INK, GREY)
_CELL_INCHES, _COLUMNS = 2.6, 4  # few and large, so that names can be read


def detection_grid(path: str | Path, results: Results, limit: int = 8) -> None:
    """Truth and detections side by side, and what is right, wrong and missed: the worst images, then typical ones.

    Args:
        path: the PNG file.
        results: with what a detector predicts, and "boxes", "classes" and "valid" in the batch, with "crowd", "masks"
            and "keypoints" where there are any.
        limit: most images to draw.
    """
    truths = [_truth(_row(results.batch, index), image.shape) for index, image in enumerate(results.images)]
    found = [_certain(_row(results.predictions, index)) for index in range(len(results.images))]
    counts = [compare(one, other) for one, other in zip(found, truths, strict=True)]
    worst, typical = worst_then_typical(np.array([wrong + missed for _, wrong, missed in counts], float), limit)
    cells = []
    for index, color in [(index, VERMILION) for index in worst] + [(index, GREY) for index in typical]:
        image, (right, wrong, missed) = results.images[index], counts[index]
        color = color if wrong + missed else GREEN
        ignored = int(np.sum(truths[index].get("crowd", 0)))
        lines = (
            [Line(f"truth: {_objects(right + missed)}" + (f", {ignored} ignored" if ignored else ""), GREY)],
            [Line(f"{right} right, {wrong} wrong, {missed} missed", color, bold=True)],
        )
        for one, line in zip((truths[index], found[index]), lines, strict=True):
            cells.append(Cell(draw_objects(image, class_names=results.class_names, **one), line, color))
    subtitle = which(worst, typical, results)
    subtitle += f"; detections of at least {SHOWN_FROM}, right from IoU {_RIGHT}"
    if math.isfinite(results.metrics.get("AP", math.nan)):
        subtitle += f"; AP of the whole split {results.metrics['AP']:.3f}"
    grid(path, cells, f"Detections on {results.split}", subtitle, 2, _CELL_INCHES, columns=_COLUMNS)


def detection_overlays(path: str | Path, results: Results, limit: int = 24) -> None:
    """Images with what was found in them, for images without a truth, in the order given.

    Args:
        path: the PNG file.
        results: with what a detector predicts, and in the batch "file", the name of each file.
        limit: most images to draw.
    """
    cells = []
    for index in range(min(limit, len(results.images))):
        one = _certain(_row(results.predictions, index))
        caption = [
            Line(Path(results.batch["file"][index]).name, GREY, ending=7),
            Line(_objects(len(one["boxes"]))),
        ]
        cells.append(Cell(draw_objects(results.images[index], class_names=results.class_names, **one), caption))
    count = len(results.images)
    subtitle = f"{count:,} image{'' if count == 1 else 's'}" + (f", the first {limit}" if count > limit else "")
    subtitle += f"; detections of at least {SHOWN_FROM}"
    grid(path, cells, "Detections", subtitle, cell_inches=_CELL_INCHES, columns=_COLUMNS)


def class_ap(path: str | Path, results: Results) -> None:
    """Average precision of each class as bars, the best on top, with that at an IoU of 0.5 behind.

    Args:
        path: the PNG file.
        results: with "class_AP" and "class_AP50" (classes,) among the arrays, NaN for classes without objects.
    """
    names = results.class_names or [str(index) for index in range(len(results.arrays["class_AP"]))]
    behind = ("AP50, at IoU 0.5", results.arrays["class_AP50"])
    title = f"Average precision of each class on {results.split}"
    class_bars(path, names, results.arrays["class_AP"], title, "AP, mean of IoU 0.5 to 0.95", "without objects", behind)


def precision_recall(path: str | Path, results: Results) -> None:
    """Precision against recall at IoUs of 0.5 and 0.75, of boxes, and below them of masks and keypoints if there are.

    Of up to eight classes each has a colour, of more all are pale; the mean over the classes is black.

    Args:
        path: the PNG file.
        results: with "curves" (2, classes, recalls) among the arrays, and "mask_curves", "keypoint_curves" likewise.
    """
    kinds = {"boxes": "curves", "masks": "mask_curves", "keypoints": "keypoint_curves"}
    kinds = {kind: np.asarray(results.arrays[name]) for kind, name in kinds.items() if name in results.arrays}
    width, height = 9.6, 0.7 + 3.7 * len(kinds)
    with new_figure(path, width, height) as figure:
        panels = figure.subplots(len(kinds), 2, squeeze=False, sharex=True, sharey=True)
        figure.subplots_adjust(
            left=0.07, right=0.8, top=1 - 0.95 / height, bottom=0.5 / height, wspace=0.1, hspace=0.22
        )
        for (kind, curves), row in zip(kinds.items(), panels, strict=True):
            for axes, iou, lines in zip(row, ("0.5", "0.75"), curves, strict=True):
                _draw_curves(axes, lines, results.class_names)
                axes.set_title(f"{kind}, IoU {iou}" if kind != "keypoints" else f"keypoints, OKS {iou}", fontsize=10)
                axes.set(xlim=(0, 1), ylim=(0, 1.02))
            row[0].set_ylabel("precision")
        for axes in panels[-1]:
            axes.set_xlabel("recall")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.81, 1 - 0.9 / height))
        title = f"Precision and recall on {results.split}"
        figure.text(0.15 / width, 1 - 0.15 / height, title, fontsize=12, weight="bold", va="top")
        subtitle = "at each recall, the highest precision at that one or a higher one; in brackets AP50 of boxes"
        figure.text(0.15 / width, 1 - 0.42 / height, subtitle, fontsize=9, color=GREY, va="top")


def _draw_curves(axes: Any, curves: np.ndarray, class_names: Sequence[str]) -> None:
    """One panel: curves (classes, recalls), NaN for classes without objects."""
    recalls = np.linspace(0, 1, curves.shape[1])
    known = np.flatnonzero(np.isfinite(curves).all(axis=1))
    few = len(known) <= _NAMED
    for place, index in enumerate(known):
        style = {"color": SKY, "linewidth": 0.6, "alpha": 0.6}
        if few:
            name = shorten(str(class_names[index]) if index < len(class_names) else str(index), 16)
            style = {"color": _COLORS[place], "linewidth": 1.5, "label": f"{name} ({curves[index].mean():.2f})"}
        axes.plot(recalls, curves[index], **style)
    if len(known) > 1:
        mean = curves[known].mean(axis=0)
        style = {"color": "black", "linewidth": 2.2, "linestyle": "--" if few else "-"}
        axes.plot(recalls, mean, **style, label=f"mean of {len(known)} ({mean.mean():.2f})")
    axes.grid(visible=True, axis="both")


def write_detections(
    path: Path, image: np.ndarray, predictions: dict[str, np.ndarray], class_names: Sequence[str]
) -> Path:
    """Writes `PATH_objects.png`: the image with what was found in it, every pixel shown; a small image is enlarged.

    Args:
        path: without the ending.
        image: (H, W, C) uint8.
        predictions: of a detector, in pixels of the image.
        class_names: the table of classes.
    """
    from PIL import Image

    drawing = draw_objects(image, class_names=class_names, **_certain(predictions))
    file = path.with_name(f"{path.name}_objects.png")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(drawing).save(temporary, format="PNG", dpi=(DPI, DPI))
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def compare(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """How many detections of one image are right and wrong, and how many objects are missed.

    A detection, the most certain first, takes the free object of its class that it overlaps most and at least by half.
    One that overlaps a crowd by that much counts neither way.

    Args:
        found: "boxes" (D, 4), "classes" (D,) and "scores" (D,).
        truth: "boxes" (N, 4) and "classes" (N,), and "crowd" (N,) where there are any.
    """
    crowd = np.asarray(truth.get("crowd", np.zeros(len(truth["boxes"]))), bool)
    overlap = _iou(found["boxes"], truth["boxes"])
    overlap[found["classes"][:, None] != truth["classes"]] = 0
    free, right, wrong = ~crowd, 0, 0
    for row in overlap[np.argsort(-found["scores"], kind="stable")]:
        best = int(np.argmax(np.where(free, row, -1))) if len(row) else -1
        if best >= 0 and free[best] and row[best] >= _RIGHT:
            free[best] = False
            right += 1
        elif not (row[crowd] >= _RIGHT).any():
            wrong += 1
    return right, wrong, int(free.sum())


def _row(arrays: Mapping[str, Sequence[np.ndarray]], index: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(values[index]) for name, values in arrays.items()}


def _certain(predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The detections of one image that are drawn."""
    shown = np.asarray(predictions["valid"], bool) & (np.asarray(predictions["scores"]) >= SHOWN_FROM)
    names = ("boxes", "classes", "scores", "masks", "keypoints")
    return {name: np.asarray(predictions[name])[shown] for name in names if name in predictions}


def _truth(batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> dict[str, np.ndarray]:
    """The objects of one image, masks without the padding of the image."""
    there = np.asarray(batch["valid"], bool)
    names = ("boxes", "classes", "crowd", "masks", "keypoints")
    truth = {name: np.asarray(batch[name])[there] for name in names if name in batch}
    if "masks" in truth:
        truth["masks"] = truth["masks"][:, : shape[0], : shape[1]]
    return truth


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(D, 4), (N, 4) -> (D, N), 0 for empty boxes."""
    one, other = np.asarray(one, np.float64)[:, None], np.asarray(other, np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1) for boxes in (one, other)]
    union = areas[0] + areas[1] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"
