"""Average precision of detections against the truth, by COCO's reference evaluator, and Pascal VOC's mean of it."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.tasks.objects import Scene, coco_entries, coco_library, scene
from vision.tasks.voc_precision import voc_map

PREFIXES = {"bbox": "", "segm": "mask_", "keypoints": "keypoint_"}
RECALLS = np.linspace(0, 1, 101)  # where COCO's precision-recall curves are read
CURVES_AT = (0.5, 0.75)  # the IoU of the curves that are kept

# What COCO's tables report: name -> which part of the arrays precision (IoU, recall, class, area, most detections) and
# recall (IoU, class, area, most detections) it is the mean of. IoU goes from 0.5 to 0.95 in steps of 0.05; areas are
# all, small, medium and large, those of keypoints without small; detections at most 1, 10 and 100, of keypoints 20.
_ALL = slice(None)
_BOXES = {
    "AP": ("precision", (_ALL, _ALL, _ALL, 0, -1)),
    "AP50": ("precision", (0, _ALL, _ALL, 0, -1)),
    "AP75": ("precision", (5, _ALL, _ALL, 0, -1)),
    "AP_small": ("precision", (_ALL, _ALL, _ALL, 1, -1)),
    "AP_medium": ("precision", (_ALL, _ALL, _ALL, 2, -1)),
    "AP_large": ("precision", (_ALL, _ALL, _ALL, 3, -1)),
    "AR1": ("recall", (_ALL, _ALL, 0, 0)),
    "AR10": ("recall", (_ALL, _ALL, 0, 1)),
    "AR100": ("recall", (_ALL, _ALL, 0, 2)),
    "AR_small": ("recall", (_ALL, _ALL, 1, -1)),
    "AR_medium": ("recall", (_ALL, _ALL, 2, -1)),
    "AR_large": ("recall", (_ALL, _ALL, 3, -1)),
}
_KEYPOINTS = {
    "AP": ("precision", (_ALL, _ALL, _ALL, 0, -1)),
    "AP50": ("precision", (0, _ALL, _ALL, 0, -1)),
    "AP75": ("precision", (5, _ALL, _ALL, 0, -1)),
    "AP_medium": ("precision", (_ALL, _ALL, _ALL, 1, -1)),
    "AP_large": ("precision", (_ALL, _ALL, _ALL, 2, -1)),
    "AR": ("recall", (_ALL, _ALL, 0, -1)),
    "AR50": ("recall", (0, _ALL, 0, -1)),
    "AR75": ("recall", (5, _ALL, 0, -1)),
    "AR_medium": ("recall", (_ALL, _ALL, 1, -1)),
    "AR_large": ("recall", (_ALL, _ALL, 2, -1)),
}
_PERSON_KEYPOINTS = 17  # COCO's, for which its evaluator knows how exactly people mark each
_SIGMA = 0.05  # of other keypoints: about that of COCO's wrists (0.062) and ankles (0.089), eyes (0.025) and nose


def average_precision(
    examples: Sequence[Mapping[str, np.ndarray] | Scene], class_names: Sequence[str] = ()
) -> dict[str, float | np.ndarray]:
    """COCO's and VOC's metrics over the examples that `detection.detector` has collected.

    Sizes are those of the images' files: small objects have less than 32^2 pixels, large ones more than 96^2.

    Args:
        examples: as `objects.scene` takes or gives them.
        class_names: of the data; where empty, classes go up to the largest id that occurs.

    Returns:
        Scalars, NaN where the truth has no object they could be of:

        * `AP` (the mean over IoU thresholds from 0.5 to 0.95), `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, and
          the average recall `AR1`, `AR10`, `AR100` (with so many detections an image), `AR_small`, ...;
        * `mask_AP`, ..., the same with the overlap of masks, where detections and truth have masks;
        * `keypoint_AP`, `keypoint_AP50`, ..., `keypoint_AR`, ... with the similarity of keypoints, where both have them
          (of more or fewer than COCO's 17, all count the same);
        * `voc07_mAP` and `voc12_mAP`, see `voc_precision.voc_map`.

        And arrays: `class_AP` and `class_AP50` (classes,), `class_objects` (classes,) the number of objects, `curves`
        (2, classes, 101) precision at the recalls `RECALLS` and the IoUs `CURVES_AT`; `class_mask_AP`, `mask_curves`
        and so on.
    """
    scenes = [example if isinstance(example, Scene) else scene(example) for example in examples]
    num_classes = len(class_names) or _classes_seen(scenes)
    result = coco_metrics(scenes, num_classes, "bbox")
    if any(one.truth.masks is not None for one in scenes):
        result |= coco_metrics(scenes, num_classes, "segm")
    if any(one.truth.keypoints is not None for one in scenes):
        result |= coco_metrics(scenes, num_classes, "keypoints")
    result["voc07_mAP"], result["voc12_mAP"] = voc_map(scenes, num_classes)
    result["class_objects"] = np.zeros(num_classes, int)
    for one in scenes:
        np.add.at(result["class_objects"], one.truth.classes[~one.truth.crowd], 1)
    return result


def coco_metrics(scenes: Sequence[Scene], num_classes: int, kind: str) -> dict[str, float | np.ndarray]:
    """COCO's metrics of boxes, masks or keypoints, as `average_precision` gives them.

    Args:
        scenes: the images.
        num_classes: number of classes.
        kind: "bbox", "segm" or "keypoints".
    """
    arrays = _evaluated(scenes, num_classes, kind)
    prefix, table = PREFIXES[kind], _KEYPOINTS if kind == "keypoints" else _BOXES
    result = {f"{prefix}{name}": _mean(arrays[which][part]) for name, (which, part) in table.items()}
    precision = np.where(arrays["precision"] > -1, arrays["precision"], np.nan)[:, :, :, 0, -1]
    result[f"class_{prefix}AP"] = np.array([_mean(precision[:, :, label]) for label in range(num_classes)])
    result[f"class_{prefix}AP50"] = np.array([_mean(precision[0, :, label]) for label in range(num_classes)])
    result[f"{prefix}curves"] = precision[[0, 5]].transpose(0, 2, 1)
    return result


def truth_json(scenes: Sequence[Scene], class_names: Sequence[str]) -> dict[str, Any]:
    """The truth in COCO's format, images and categories numbered from 1 in their order; areas as they are in files."""
    annotations = []
    for number, one in enumerate(scenes, start=1):
        for index, entry in enumerate(coco_entries(one.truth, number)):
            del entry["score"]
            entry |= {"id": len(annotations) + 1, "area": float(one.truth.area[index])}
            entry["iscrowd"] = int(one.truth.crowd[index])
            if "keypoints" in entry:
                entry["num_keypoints"] = sum(shown > 0 for shown in entry["keypoints"][2::3])
            annotations.append(entry)
    images = [{"id": number, "height": h, "width": w} for number, (_, _, (h, w)) in enumerate(scenes, start=1)]
    categories = [{"id": number, "name": str(name)} for number, name in enumerate(class_names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _evaluated(scenes: Sequence[Scene], num_classes: int, kind: str) -> dict[str, np.ndarray]:
    """The evaluator's arrays, -1 where a class has no object.

    precision (IoUs, recalls, classes, areas, numbers of detections) and recall (IoUs, classes, areas, numbers).
    """
    areas, most = (3, 1) if kind == "keypoints" else (4, 3)
    if not any(len(one.truth.boxes) for one in scenes):
        shape = (10, num_classes, areas, most)
        return {"precision": np.full((10, len(RECALLS), *shape[1:]), -1.0), "recall": np.full(shape, -1.0)}
    library = coco_library()
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        truth, found = library.COCO(), library.COCO()
        truth.dataset = truth_json(scenes, [str(label) for label in range(num_classes)])
        found.dataset = truth.dataset | {"annotations": _results(scenes, kind)}
        truth.createIndex()
        found.createIndex()
        evaluator = library.COCOeval(truth, found, kind)
        evaluator.params.catIds = [category["id"] for category in truth.dataset["categories"]]
        if kind == "keypoints":
            evaluator.params.kpt_oks_sigmas = _sigmas(scenes, evaluator.params.kpt_oks_sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval


def _results(scenes: Sequence[Scene], kind: str) -> list[dict[str, Any]]:
    """The detections as the evaluator reads them from a file of results of that kind."""
    results = []
    for number, one in enumerate(scenes, start=1):
        for index, entry in enumerate(coco_entries(one.found, number)):
            box, area = entry["bbox"], float(one.found.area[index])
            if kind == "bbox":
                area = box[2] * box[3]
            elif kind == "keypoints":  # of which results have no box: it is that of the points
                xs, ys = entry["keypoints"][0::3], entry["keypoints"][1::3]
                area = (max(xs) - min(xs)) * (max(ys) - min(ys))
            results.append(entry | {"id": len(results) + 1, "iscrowd": 0, "area": area})
    return results


def _sigmas(scenes: Sequence[Scene], of_persons: np.ndarray) -> np.ndarray:
    """(K,) how far annotators differ about each keypoint, as a share of the object's size."""
    count = next(one.truth.keypoints.shape[1] for one in scenes if one.truth.keypoints is not None)
    return np.asarray(of_persons) if count == _PERSON_KEYPOINTS else np.full(count, _SIGMA)


def _classes_seen(scenes: Sequence[Scene]) -> int:
    return max((int(part.classes.max()) + 1 for one in scenes for part in one[:2] if len(part.classes)), default=0)


def _mean(values: np.ndarray) -> float:
    """Of those that there are: neither -1 nor NaN."""
    there = values[values > -1]
    return float(np.mean(there)) if there.size else np.nan
