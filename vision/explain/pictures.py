"""Grids of pictures: predictions with mistakes first, reconstructions with the worst first, and batches as fed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vision.explain import objects, palette
from vision.explain.figure import (
    DPI,
    FAINT,
    GREEN,
    GREY,
    INK,
    VERMILION,
    draw_legend,
    legend_height,
    new_figure,
    shorten,
)
from vision.explain.results import Results
from vision.ops import patches

_MOST_WITH_OBJECTS = 24  # images, for they are drawn larger
_TITLE_INCHES = 0.62
_MARGIN_INCHES = 0.18
_GAP_INCHES = 0.12
_LINE_INCHES = 0.165
_CAPTION_POINTS = 8.5
_CHARACTER_INCHES = {False: 0.070, True: 0.079}  # mean width of a letter at that size, in regular and in bold type


class Line(NamedTuple):
    """One line of a caption; where it is too long the text is shortened, all but its last `ending` characters."""

    text: str
    color: str = INK
    bold: bool = False
    ending: int = 0


class Cell(NamedTuple):
    """One place of a grid: an image, uint8 (H, W, C) or (H, W), the lines under it, the frame's colour, and dimming."""

    image: np.ndarray
    caption: Sequence[Line] = ()
    frame: str = FAINT
    dim: bool = False


def predictions(path: str | Path, results: Results, limit: int = 40) -> None:
    """Images with the predicted class and its probability; mistakes, with the true class, come first.

    Args:
        path: the PNG file.
        results: with "probabilities" among the predictions and "label" in the batch.
        limit: most images to draw.
    """
    labels = np.asarray(results.batch["label"])
    probabilities = np.asarray(results.predictions["probabilities"], np.float32)
    predicted = probabilities.argmax(axis=-1)
    confidence = np.take_along_axis(probabilities, predicted[:, None], axis=-1)[:, 0]
    cells = []
    for index in mistakes_first(labels, predicted, confidence)[:limit]:
        right = predicted[index] == labels[index]
        color = GREEN if right else VERMILION
        mark = "✓" if right else "✗"
        said = _said(f"{mark} {_name(results.class_names, predicted[index])}", confidence[index], color)
        truth = Line("" if right else f"true: {_name(results.class_names, labels[index])}")
        cells.append(Cell(results.images[index], (said, truth), color))
    wrong, examples = int(np.sum(predicted != labels)), len(labels)
    if "confusion_matrix" in results.arrays:  # of the whole split; the images are a sample of it
        counts = np.asarray(results.arrays["confusion_matrix"])
        wrong, examples = int(counts.sum() - np.trace(counts)), int(counts.sum())
    order = "mistakes first, the most certain one at the top" if wrong else "the least certain first"
    grid(path, cells, f"Predictions on {results.split}", f"{wrong:,} wrong of {examples:,}; {order}")


def mistakes_first(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The order in which people should see predictions, as indices (N,).

    Mistakes come first, the most confident first; then what is right, the least confident first.

    Args:
        labels: (N,) true classes.
        predicted: (N,) predicted classes.
        confidence: (N,) probabilities of the predicted classes.
    """
    right = np.asarray(predicted) == np.asarray(labels)
    return np.lexsort((np.where(right, confidence, -np.asarray(confidence)), right))


def reconstructions(path: str | Path, results: Results, limit: int = 12) -> None:
    """Input and reconstruction side by side, and the truth where it is not the input: the worst, then typical ones.

    Denoising shows the noisy, the restored and the clean image, with the peak signal-to-noise ratio of the first two. A
    masked autoencoder shows what it saw, the hidden patches filled in by it, and the original; errors are of the hidden
    pixels.

    Args:
        path: the PNG file.
        results: with "reconstruction" (N, H, W, C), in [0, 1], among the predictions, or "normalized_reconstruction" to
            be scaled by the truth's patches; "masked" (N, h, w) where patches were hidden; "target" (N, H, W, C) uint8
            in the batch where it is to be compared with that.
        limit: most of them to draw.
    """
    given = np.stack([_with_channels(image) for image in results.images]).astype(np.float32) / 255
    truth = np.asarray(results.batch["target"], np.float32) / 255 if "target" in results.batch else given
    decoded, hidden = _decoded(results.predictions, truth)
    errors = _mean_squares(decoded, truth, hidden)
    found = [f"error {error:.2g}" for error in errors]
    if "target" in results.batch:
        noisy, found = _decibels(_mean_squares(given, truth, hidden)), _decibels(errors)
        parts = [(given, noisy, False), (decoded, found, True), (truth, ["clean"] * len(truth), False)]
        what, title = "noisy, restored and clean", "Denoised images"
    elif "masked" in results.predictions:
        seen = [f"{1 - share:.0%} seen" for share in hidden.mean(axis=(1, 2, 3))]
        original = (truth, ["original"] * len(truth), False)
        parts = [(np.where(hidden, 0.5, given), seen, False), (np.where(hidden, decoded, truth), found, True), original]
        what, title = "what was seen, hidden patches filled in, and the original", "Reconstructions"
    else:
        parts = [(given, ["input"] * len(given), False), (decoded, found, True)]
        what, title = "input and output", "Reconstructions"
    worst, typical = worst_then_typical(errors, limit)
    cells = []
    for index, color in [(index, VERMILION) for index in worst] + [(index, GREY) for index in typical]:
        for images, captions, is_found in parts:
            image = np.round(255 * np.clip(np.nan_to_num(images[index]), 0, 1)).astype(np.uint8)
            style = (color, color == VERMILION) if is_found else (GREY, False)
            cells.append(Cell(image, [Line(captions[index], *style)], color))
    subtitle = f"{what} side by side; first {which(worst, typical, results)}"
    if math.isfinite(results.metrics.get("mse", math.nan)):
        subtitle += f"; mean squared error of the whole split {results.metrics['mse']:.2g}"
    grid(path, cells, f"{title} on {results.split}", subtitle, group=len(parts))


def _decoded(predictions: Mapping[str, np.ndarray], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reconstructions (N, H, W, C), and which pixels (N, H, W, 1) were hidden: all, where nothing says so."""
    if "masked" not in predictions:
        return np.asarray(predictions["reconstruction"], np.float32), np.ones((*truth.shape[:3], 1), bool)
    masked = jnp.asarray(predictions["masked"])
    hidden = np.asarray(patches.spread(masked, *truth.shape[1:3])) > 0
    if "reconstruction" in predictions:
        return np.asarray(predictions["reconstruction"], np.float32), hidden
    mean, deviation = (np.asarray(values) for values in patches.moments(jnp.asarray(truth), *masked.shape[1:]))
    return np.asarray(predictions["normalized_reconstruction"], np.float32) * deviation + mean, hidden


def _mean_squares(decoded: np.ndarray, truth: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.square(np.clip(decoded, 0, 1) - truth).mean(axis=(1, 2, 3), where=where)


def _decibels(errors: np.ndarray) -> list[str]:
    return [f"{decibels:.1f} dB" for decibels in -10 * np.log10(np.maximum(errors, 1e-10))]


def worst_then_typical(errors: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the worst half of `limit` examples, worst first, and of as many around the median error.

    Args:
        errors: (N,) error of each example; NaN is the worst.
        limit: number of indices in all; fewer where there are fewer examples.
    """
    order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")
    worst = order[: math.ceil(limit / 2)]
    rest = order[len(worst) :]
    middle = len(order) // 2 - len(worst)  # where the median stands among the rest
    start = int(np.clip(middle - limit // 4, 0, max(0, len(rest) - limit // 2)))
    return worst, rest[start : start + limit // 2]


def which(worst: np.ndarray, typical: np.ndarray, results: Results) -> str:
    """ "the 4 worst of 60 images, then 4 typical ones": what `worst_then_typical` has chosen, as a subtitle tells it.

    Where only the worst of a split are at hand, none of them is typical, and the text says so.
    """
    at_hand = len(results.images)
    count = max(results.count or 0, at_hand)
    if not len(typical):
        return f"the {len(worst)} worst of {count:,} images"
    others = "typical ones" if count == at_hand else f"from the middle of the {at_hand} worst"
    return f"the {len(worst)} worst of {count:,} images, then {len(typical)} {others}"


def show_batch(
    path: str | Path,
    batch: Mapping[str, Any],
    step: int,
    class_names: Sequence[str] = (),
    limit: int = 64,
) -> None:
    """The pictures of one training batch as the model gets them, with what is known of them; padding is dimmed.

    Args:
        path: the PNG file.
        batch: the batch, `image (B, H, W, C)` in uint8; `label (B,)`, `segmentation (B, H, W)`, `mask (B,)` and objects
            (`boxes (B, N, 4)`, `classes` and `valid (B, N)`, `crowd`, `masks`, `keypoints`) are drawn where there are
            any.
        step: the step that the batch is of.
        class_names: name of each class; where empty, labels are drawn as numbers.
        limit: most images to draw; of those with objects, 24.
    """
    images = np.asarray(batch["image"])
    real = np.asarray(batch.get("mask", np.ones(len(images)))) > 0
    labels = np.asarray(batch["label"]) if "label" in batch else None
    limit = min(limit, _MOST_WITH_OBJECTS) if "boxes" in batch else limit
    maps = np.asarray(batch["segmentation"])[:limit] if "segmentation" in batch else ()
    cells = []
    for index in range(min(len(images), limit)):
        caption = [Line("padding", GREY)]
        if real[index]:
            caption = [] if labels is None else [Line(_name(class_names, labels[index]))]
        image = images[index]
        if len(maps):
            image = palette.overlay(image, maps[index], class_names)
        if "boxes" in batch:
            # Where there are classes of pixels as well, the names are theirs.
            image = _with_objects(image, batch, index, () if len(maps) else class_names)
        cells.append(Cell(image, caption, dim=not real[index]))
    size = "×".join(str(side) for side in images.shape[1:])
    subtitle = f"{int(real.sum())} images of {size}" + (f", the first {limit}" if len(images) > limit else "")
    if not real.all():
        subtitle += f", and {int((~real).sum())} rows of padding"
    look = {}
    if len(maps):
        look = {"cell_inches": 1.7, "legend": palette.legend(class_names, maps)}
    if "boxes" in batch:
        subtitle += f"; {int(np.sum(np.asarray(batch['valid'])[real] > 0)):,} objects"
        look["cell_inches"] = 2.6
    grid(path, cells, f"Batch of step {step:,}", subtitle, **look)


def _with_objects(image: np.ndarray, batch: Mapping[str, Any], index: int, class_names: Sequence[str]) -> np.ndarray:
    """An image of a batch with its objects."""
    valid = np.asarray(batch["valid"][index]) > 0
    more = {name: np.asarray(batch[name][index])[valid] for name in ("masks", "keypoints", "crowd") if name in batch}
    boxes, classes = (np.asarray(batch[name][index])[valid] for name in ("boxes", "classes"))
    return objects.draw_objects(image, boxes, classes, class_names, **more)


def prediction_grid(path: str | Path, results: Results, limit: int = 64) -> None:
    """Images with the predicted class, its probability and the file's name, in the order given.

    Args:
        path: the PNG file.
        results: with "probabilities" among the predictions, and in the batch "file", the name of each image's file.
        limit: most images to draw.
    """
    probabilities = np.asarray(results.predictions["probabilities"], np.float32)
    cells = []
    for image, row, file in list(zip(results.images, probabilities, results.batch["file"], strict=True))[:limit]:
        said = _said(_name(results.class_names, row.argmax()), row.max())
        cells.append(Cell(image, (said, Line(Path(file).name, GREY, ending=7))))
    count = len(results.images)
    subtitle = f"{count:,} image{'' if count == 1 else 's'}" + (f", the first {limit}" if count > limit else "")
    grid(path, cells, "Predictions", subtitle)


def grid(
    path: str | Path,
    cells: Sequence[Cell],
    title: str,
    subtitle: str = "",
    group: int = 1,
    cell_inches: float | None = None,
    legend: Sequence[tuple[str, str]] = (),
    columns: int | None = None,
) -> None:
    """Draws the cells in rows: small images with crisp pixels, large ones scaled down.

    Args:
        path: the PNG file.
        cells: what to draw, row by row.
        title: over the grid, in bold.
        subtitle: under the title.
        group: cells that belong together: never in different rows, and closer to each other.
        cell_inches: width of a cell; by default small enough for ten columns.
        legend: (name, colour) of what colours in the pictures mean, drawn under the subtitle.
        columns: most cells in a row, a multiple of `group`; by default as many as make a picture of pleasant shape.
    """
    columns = min(columns or 10, _columns(len(cells), group))
    rows = max(1, math.ceil(len(cells) / columns))
    heights = [_size(cell.image)[0] / _size(cell.image)[1] for cell in cells] or [1.0]
    cell_width = cell_inches or (min(1.25, max(1.0, 10.4 / columns)) if columns > 4 else 1.6)
    image_height = cell_width * min(1.5, max(0.6, float(np.median(heights))))
    caption_height = _LINE_INCHES * max([len(cell.caption) for cell in cells], default=0) + 0.06
    pair_gap = _GAP_INCHES if group == 1 else 0.03
    group_gap = _GAP_INCHES if group == 1 else 0.24
    groups = columns // group

    width = 2 * _MARGIN_INCHES + groups * (group * cell_width + (group - 1) * pair_gap) + (groups - 1) * group_gap
    width = max(width, 2 * _MARGIN_INCHES + 0.085 * len(subtitle), 3.2)
    above = _TITLE_INCHES + legend_height(legend, width - 2 * _MARGIN_INCHES)
    height = above + rows * (image_height + caption_height + _GAP_INCHES) + _MARGIN_INCHES
    with new_figure(path, width, height) as figure:

        def text(x: float, y: float, line: str, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, line, va="top", **style)

        text(_MARGIN_INCHES, 0.12, title, fontsize=12, fontweight="bold")
        text(_MARGIN_INCHES, 0.36, subtitle, fontsize=9, color=GREY)
        draw_legend(figure, legend, _MARGIN_INCHES, _TITLE_INCHES, width - 2 * _MARGIN_INCHES)
        for position, cell in enumerate(cells):
            row, column = divmod(position, columns)
            x = _MARGIN_INCHES + column * (cell_width + pair_gap) + (column // group) * (group_gap - pair_gap)
            y = above + row * (image_height + caption_height + _GAP_INCHES)
            box = (x / width, 1 - (y + image_height) / height, cell_width / width, image_height / height)
            _draw_image(figure.add_axes(box), cell, cell_width, image_height)
            for number, line in enumerate(cell.caption):
                text(
                    x + cell_width / 2,
                    y + image_height + 0.05 + number * _LINE_INCHES,
                    shorten(line.text, int(cell_width / _CHARACTER_INCHES[line.bold]), line.ending),
                    ha="center",
                    fontsize=_CAPTION_POINTS,
                    color=line.color,
                    fontweight="bold" if line.bold else "normal",
                )


def _draw_image(axes: Any, cell: Cell, width: float, height: float) -> None:
    image = _reduced(_with_channels(cell.image), 2 * int(DPI * max(width, height)))
    small = max(image.shape[:2]) < DPI * min(width, height)
    axes.imshow(
        np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3],
        interpolation="nearest" if small else "antialiased",
        alpha=0.25 if cell.dim else 1.0,
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=cell.frame, linewidth=0.6 if cell.frame == FAINT else 1.6)


def _columns(cells: int, group: int) -> int:
    """About three columns for two rows, at most ten, and a multiple of the group."""
    groups = max(1, math.ceil(cells / group))
    most = max(1, (10 if group == 1 else 9) // group)
    return group * min(most, groups if groups <= 4 else math.ceil(math.sqrt(1.6 * groups)))


def _reduced(image: np.ndarray, most: int) -> np.ndarray:
    """The image with at most about `most` pixels a side, by means over blocks: bounds memory and time."""
    factor = max(image.shape[:2]) // most
    if factor < 2:
        return image
    height, width = (max(1, side // factor) for side in image.shape[:2])
    rows, columns = min(factor, image.shape[0]), min(factor, image.shape[1])
    blocks = image[: height * rows, : width * columns].reshape(height, rows, width, columns, -1)
    return blocks.mean(axis=(1, 3)).astype(image.dtype)


def _with_channels(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    return image[..., None] if image.ndim == 2 else image


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _name(class_names: Sequence[str], label: int) -> str:
    return str(class_names[label]) if 0 <= label < len(class_names) else str(int(label))


def _said(name: str, probability: float, color: str = INK) -> Line:
    percent = f" ({_percent(probability)})"
    return Line(name + percent, color, bold=True, ending=len(percent))


def _percent(probability: float) -> str:
    if not math.isfinite(probability):
        return "?"
    percent = 100 * float(probability)
    return f"{percent:.0f}%" if percent <= 99 or percent == 100 else f"{min(percent, 99.9):.1f}%"
