"""Average precision of detections against the truth, by the reference evaluator of COCO, and VOC's mean AP."""

from typing import Any

import numpy as np


def average_precision(examples: list[dict[str, Any]], class_names: tuple[str, ...]) -> dict[str, float | np.ndarray]:
    """COCO's metrics over the examples that `detection.detector` has collected."""
    raise NotImplementedError
