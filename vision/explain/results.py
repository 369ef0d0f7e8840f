"""What an evaluation leaves for people to look at: the argument of every function in `plots.PLOTS`."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Results:
    """An evaluation's results on one split; N images are a sample of it, the metrics are of the whole split.

    Attributes:
        images: N images as fed to the model, before normalisation: uint8 (H, W, C) with C 1 or 3, sizes may differ.
        predictions: what the task predicts, name -> (N, ...): "probabilities" (N, C), "reconstruction" (N, H, W, C);
            a list of N arrays where their sizes differ.
        batch: what the data says about the images, name -> (N, ...): "label" (N,), ...; a list where sizes differ.
        class_names: name of each class; empty where there are no classes.
        arrays: the metrics that are arrays: "confusion_matrix" (classes, classes), rows true, columns predicted.
        metrics: the metrics that are numbers.
        split: the split's label in the configuration, for titles: "test".
        count: how many images the N are chosen from, as those most worth looking at; None for the N themselves.
    """

    images: Sequence[np.ndarray]
    predictions: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
    batch: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] = ()
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    split: str = "test"
    count: int | None = None


def without_padding(example: Mapping[str, np.ndarray], names: Collection[str], size: Sequence[int] | None) -> dict:
    """One example's arrays, those of the given names cut to the part that is not padding.

    Args:
        example: name -> array.
        names: of arrays (H, W, ...), pixel by pixel of a padded image; padding is at the bottom and the right.
        size: (height, width) of the image without it; None: nothing is padded.
    """
    if size is None:
        return dict(example)
    height, width = (int(side) for side in size)
    return {name: array[:height, :width] if name in names else array for name, array in example.items()}
