"""What an evaluation leaves for people to look at: the argument of every function in `plots.PLOTS`."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Results:
    """An evaluation's results on one split; N images are a sample of it, the metrics are of the whole split.

    Attributes:
        images: N images as fed to the model, before normalisation: uint8 (H, W, C) with C 1 or 3, sizes may differ.
        predictions: what the task predicts, name -> (N, ...): "probabilities" (N, C), "reconstruction" (N, H, W, C).
        batch: what the data says about the images, name -> (N, ...): "label" (N,), ...
        class_names: name of each class; empty where there are no classes.
        arrays: the metrics that are arrays: "confusion_matrix" (classes, classes), rows true, columns predicted.
        metrics: the metrics that are numbers.
        split: the split's label in the configuration, for titles: "test".
    """

    images: Sequence[np.ndarray]
    predictions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    batch: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] = ()
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    split: str = "test"
