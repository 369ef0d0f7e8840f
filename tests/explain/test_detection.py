"""Pictures of detectors: what is counted as right, what is drawn, and that it is drawn."""

import dataclasses

import cv2
import numpy as np
import pytest

from vision.explain import bars, detection, plots
from vision.explain.results import Results

NAMES = ("cell", "platelet")


def objects(*rows, **further):
    """{"boxes", "classes"} of (x0, y0, x1, y1, class)."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return {"boxes": rows[:, :4], "classes": rows[:, 4].astype(np.int32), **further}


def results(count=3, masks=False, **further):
    """Images with two objects each, of which image i has i detections right and one wrong one of little score."""
    image = np.full((40, 60, 3), 200, np.uint8)
    truth = objects((5, 5, 20, 20, 0), (30, 10, 50, 30, 1), (0, 0, 0, 0, 0))
    batch = {name: np.stack([values] * count) for name, values in truth.items()}
    batch["valid"] = np.array([[True, True, False]] * count)
    predictions = {name: np.array(values) for name, values in batch.items()}
    predictions["scores"] = np.array([[0.9 if row < i else 0.2 for row in range(3)] for i in range(count)])
    predictions["valid"] = np.ones((count, 3), bool)
    if masks:
        batch["masks"] = np.zeros((count, 3, 50, 60), np.uint8)  # padded below
        batch["masks"][:, 0, 5:20, 5:20] = 1
        predictions["masks"] = np.ones((count, 3, 7, 7), np.float32)
    return Results([image] * count, predictions, batch, NAMES, **further)


def test_detections_are_right_wrong_or_missing():
    one, two = (0, 0, 10, 10, 0), (20, 20, 40, 40, 1)
    truth = objects(one, two)
    score = np.array([0.9, 0.8])
    assert detection.compare(objects(one, two, scores=score), truth) == (2, 0, 0)
    assert detection.compare(objects(one, one, scores=score), truth) == (1, 1, 1)  # found twice
    assert detection.compare(objects((0, 0, 10, 10, 1), two, scores=score), truth) == (1, 1, 1)
    assert detection.compare(objects((0, 0, 4.9, 10, 0), scores=score[:1]), truth) == (0, 1, 2)
    assert detection.compare(objects(scores=score[:0]), truth) == (0, 0, 2)
    assert detection.compare(objects(one, scores=score[:1]), objects()) == (0, 1, 0)
    assert detection.compare(objects(scores=score[:0]), objects()) == (0, 0, 0)
    crowd = truth | {"crowd": np.array([False, True])}
    assert detection.compare(objects(two, two, scores=score), crowd) == (0, 0, 1)  # neither way


def test_the_worst_images_come_first_with_their_truth(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(detection, "grid", lambda path, cells, *rest, **style: seen.append((cells, rest)))
    detection.detection_grid(tmp_path / "a.png", results(metrics={"AP": 0.5}))
    cells, (title, subtitle, group, _) = seen[0]
    captions = [cell.caption[0].text for cell in cells]
    assert captions[:4] == [
        "truth: 2 objects",
        "0 right, 0 wrong, 2 missed",
        "truth: 2 objects",
        "1 right, 0 wrong, 1 missed",
    ]
    assert captions[5] == "2 right, 0 wrong, 0 missed"
    assert group == 2 and title == "Detections on test" and "AP of the whole split 0.500" in subtitle
    truth, found = cells[0].image, cells[1].image
    assert truth.shape == found.shape and not np.array_equal(truth, found)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1  # nothing certain enough to be drawn


def test_what_is_ignored_is_said(monkeypatch, tmp_path):
    seen, made = [], results(count=1)
    made.batch["crowd"] = np.array([[True, False, False]])
    monkeypatch.setattr(detection, "grid", lambda path, cells, *rest, **style: seen.extend(cells))
    detection.detection_grid(tmp_path / "a.png", made)
    assert [cell.caption[0].text for cell in seen] == ["truth: 1 object, 1 ignored", "0 right, 0 wrong, 1 missed"]


def test_masks_of_the_truth_are_drawn_without_padding(tmp_path):
    plots.PLOTS["detection_grid"](tmp_path / "a.png", results(masks=True))
    assert cv2.imread(str(tmp_path / "a.png")) is not None


@pytest.mark.parametrize("count", [2, 12])
def test_curves_and_bars_are_drawn(tmp_path, count):
    rng = np.random.default_rng(0)
    curves = np.sort(rng.random((2, count, 101)), axis=2)[:, :, ::-1].copy()
    curves[:, 0] = np.nan  # a class without objects
    arrays = {"curves": curves, "mask_curves": curves, "class_AP": curves.mean(axis=(0, 2)) / 2}
    arrays["class_AP50"] = curves[0].mean(axis=1)
    made = dataclasses.replace(results(arrays=arrays), class_names=[f"class {index}" for index in range(count)])
    for name in ("precision_recall", "class_ap"):
        plots.PLOTS[name](tmp_path / f"{name}.png", made)
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture.shape[0] > 200 and picture.std() > 5


def test_without_any_object_there_are_still_pictures(tmp_path):
    arrays = {"curves": np.full((2, 2, 101), np.nan), "class_AP": np.full(2, np.nan), "class_AP50": np.full(2, np.nan)}
    for name in ("precision_recall", "class_ap"):
        plots.PLOTS[name](tmp_path / f"{name}.png", results(arrays=arrays))
        assert (tmp_path / f"{name}.png").exists()


def test_of_many_classes_the_best_and_the_worst_have_bars(tmp_path):
    values = np.linspace(0, 1, 90)
    names = [f"class {index}" for index in range(90)]
    bars.class_bars(
        tmp_path / "a.png", names, values, "Values", "value", "absent", ("twice", np.minimum(1, 2 * values))
    )
    assert cv2.imread(str(tmp_path / "a.png")).shape[0] < 2200


def test_predictions_of_files_are_a_grid_and_a_picture_each(monkeypatch, tmp_path):
    made = results(count=3)
    made.batch["file"] = ["a/one.png", "two.png", "three.png"]
    seen = []
    monkeypatch.setattr(detection, "grid", lambda path, cells, *rest, **style: seen.extend(cells))
    detection.detection_overlays(tmp_path / "a.png", made, limit=2)
    assert [[line.text for line in cell.caption] for cell in seen] == [
        ["one.png", "0 objects"],
        ["two.png", "1 object"],
    ]
    one = {name: values[2] for name, values in made.predictions.items()}
    file = plots.FILES["detection_overlay"](tmp_path / "three", made.images[2], one, NAMES)
    assert file == tmp_path / "three_objects.png"
    assert cv2.imread(str(file)).shape[:2] == (8 * 40, 8 * 60)
    assert [path.name for path in tmp_path.iterdir()] == ["three_objects.png"]
