"""Pictures of segmentations: overlays with a legend, errors beside the truth, IoU per class, masks as files."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision.explain.bars import class_bars
from vision.explain.figure import DPI, GREY, VERMILION, draw_legend, legend_height, new_figure
from vision.explain.palette import as_rgb, class_palette, classes_shown, hexadecimal, legend, overlay
from vision.explain.pictures import Cell, Line, grid, which, worst_then_typical
from vision.explain.results import Results
from vision.ops.segmentation import IGNORE

_CELL_INCHES = 1.7
_WRONG = np.array([205, 15, 25], np.float32)
_UNKNOWN = np.array([170, 170, 170], np.float32)
_LEAST_SIDE = 480  # pixels of the longer side of an overlay's picture: a smaller image is enlarged by whole factors


def segmentation_grid(path: str | Path, results: Results, limit: int = 8) -> None:
    """Image, truth, prediction and errors side by side, with the mean IoU of each image: the worst, then typical ones.

    The mean of an image is over the classes in its truth or prediction; of a split (`mean_iou`) it is another.

    Args:
        path: the PNG file.
        results: with "segmentation" (H, W) among the predictions and in the batch; sizes may differ.
        limit: most images to draw.
    """
    truths, predicted = results.batch["segmentation"], results.predictions["segmentation"]
    scores = np.array([image_iou(*pair) for pair in zip(truths, predicted, strict=True)])
    worst, typical = worst_then_typical(1 - np.nan_to_num(scores, nan=1.0), limit)
    cells = []
    for index, color in [(index, VERMILION) for index in worst] + [(index, GREY) for index in typical]:
        image, truth, found = results.images[index], truths[index], predicted[index]
        score = f"mean IoU {scores[index]:.2f}" if math.isfinite(scores[index]) else "nothing to compare"
        cells += [
            Cell(image, [Line("image", GREY)], color),
            Cell(overlay(image, truth, results.class_names), [Line("truth", GREY)], color),
            Cell(overlay(image, found, results.class_names), [Line("prediction", GREY)], color),
            Cell(error_map(image, truth, found), [Line(score, color, bold=True)], color),
        ]
    subtitle = which(worst, typical, results)
    if "mean_iou" in results.metrics:
        subtitle += f"; mean IoU of the whole split {results.metrics['mean_iou']:.3f}"
    colors = [
        *legend(results.class_names, [*truths, *predicted]),
        ("wrong", hexadecimal(_WRONG)),
    ]
    grid(path, cells, f"Segmentations on {results.split}", subtitle, 4, _CELL_INCHES, colors)


def segmentation_overlays(path: str | Path, results: Results, limit: int = 24) -> None:
    """Images with the predicted classes laid over them, for images without a truth, in the order given.

    Args:
        path: the PNG file.
        results: with "segmentation" (H, W) among the predictions, and in the batch "file", the name of each file.
        limit: most images to draw.
    """
    maps = results.predictions["segmentation"][:limit]
    cells = [
        Cell(overlay(image, ids, results.class_names), [Line(Path(file).name, GREY, ending=7)])
        for image, ids, file in zip(results.images[:limit], maps, results.batch["file"][:limit], strict=True)
    ]
    count = len(results.images)
    subtitle = f"{count:,} image{'' if count == 1 else 's'}" + (f", the first {limit}" if count > limit else "")
    grid(path, cells, "Predictions", subtitle, cell_inches=2.0, legend=legend(results.class_names, maps))


def image_iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean IoU of one image over the classes in its truth or prediction; NaN where all of it is ignored."""
    valid = truth != IGNORE
    truth, predicted = truth[valid], predicted[valid]
    classes = np.union1d(truth, predicted)
    scores = [
        np.sum((truth == label) & (predicted == label)) / np.sum((truth == label) | (predicted == label))
        for label in classes
    ]
    return float(np.mean(scores)) if scores else math.nan


def error_map(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What is right as a faint grey image, what is wrong red, what is ignored grey, (H, W, 3) uint8."""
    grey = as_rgb(image).astype(np.float32).mean(axis=-1, keepdims=True)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1.0)
    result = np.repeat(222 + 30 * grey, 3, axis=-1)
    result[truth != predicted] = _WRONG
    result[truth == IGNORE] = _UNKNOWN
    return np.round(result).astype(np.uint8)


def class_iou(path: str | Path, results: Results) -> None:
    """Intersection over union of each class as bars, the best on top, and their mean.

    Args:
        path: the PNG file.
        results: with "iou" (classes,) among the arrays, NaN for classes that do not occur.
    """
    title = f"IoU of each class on {results.split}"
    absent = "neither in the truth nor predicted"
    class_bars(path, results.class_names, results.arrays["iou"], title, "intersection over union", absent)


def write_mask(path: Path, image: np.ndarray, predictions: dict[str, np.ndarray], class_names: Sequence[str]) -> Path:
    """Writes `PATH_mask.png`: a palette PNG whose values are the class ids, and whose colours are those of overlays.

    Args:
        path: without the ending.
        image: not used.
        predictions: "segmentation" (H, W) uint8.
        class_names: the table of classes.
    """
    del image
    from PIL import Image

    colors = np.full((256, 3), 128, np.uint8)
    colors[: len(class_names)] = class_palette(class_names)
    file = path.with_name(f"{path.name}_mask.png")
    picture = Image.fromarray(np.ascontiguousarray(predictions["segmentation"], np.uint8))
    picture.putpalette(colors.ravel().tolist())  # an image of ids becomes one of mode "P"
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG", optimize=True)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def write_overlay(
    path: Path, image: np.ndarray, predictions: dict[str, np.ndarray], class_names: Sequence[str]
) -> Path:
    """Writes `PATH_overlay.png`: the image with the predicted classes in colour, every pixel shown, and their legend.

    Args:
        path: without the ending.
        image: (H, W, C) uint8.
        predictions: "segmentation" (H, W) uint8.
        class_names: the table of classes.
    """
    ids = np.asarray(predictions["segmentation"])
    picture = overlay(image, ids, class_names)
    factor = max(1, math.ceil(_LEAST_SIDE / max(picture.shape[:2])))
    high, wide = (side * factor / DPI for side in picture.shape[:2])
    shares, colors = np.bincount(ids.ravel(), minlength=256) / ids.size, class_palette(class_names)
    entries = [
        (f"{class_names[index]} {_percent(shares[index])}", hexadecimal(colors[index]))
        for index in classes_shown(class_names, [ids])
    ]
    below = 0.1 + legend_height(entries, wide - 0.2) if entries else 0.0
    file = path.with_name(f"{path.name}_overlay.png")
    with new_figure(file, wide, high + below) as figure:
        height = high + below
        axes = figure.add_axes((0, below / height, 1, high / height))
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        draw_legend(figure, entries, 0.1, high + 0.1, wide - 0.2)
    return file


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.0095 else "<1%"
