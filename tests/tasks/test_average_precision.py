"""Average precision equals an evaluator written out in NumPy, and COCO's own on files of the same detections."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import masks_and_keypoints as ops
from vision.tasks import objects
from vision.tasks.average_precision import RECALLS, average_precision, truth_json

CLASSES = ("disc", "cross", "ring", "nowhere")
SIDE, POINTS = 120, 5  # pixels of an image; keypoints of an object
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}


def made_up(seed, most=6, extra=5, crowds=True):
    """One example: up to `most` objects, found more or less, and up to `extra` detections of nothing."""
    rng = np.random.default_rng(seed)
    count, further = int(rng.integers(0, most + 1)), int(rng.integers(0, extra + 1))
    places, slots = most + 1, most + extra + 1  # the last row of both is padding

    def some_boxes(number):
        start = rng.uniform(0, SIDE * 0.5, (number, 2))
        return np.concatenate([start, start + rng.choice([12.0, 45.0, 110.0], (number, 2))], axis=1)

    boxes, classes = np.zeros((places, 4), np.float32), np.zeros(places, np.int32)
    boxes[:count], classes[:count] = np.clip(some_boxes(count), 0, SIDE), rng.integers(0, 3, count)
    found = np.zeros((slots, 4), np.float32)
    found[:count] = boxes[:count] + rng.normal(0, 3, (count, 4))
    found[count : count + further] = some_boxes(further)
    labels = np.zeros(slots, np.int32)
    labels[:count] = np.where(rng.random(count) < 0.8, classes[:count], rng.integers(0, 3, count))
    labels[count : count + further] = rng.integers(0, 3, further)
    order = np.concatenate([rng.permutation(count + further), np.arange(count + further, slots)])
    points = np.zeros((places, POINTS, 3), np.float32)
    points[:count, :, :2] = boxes[:count, None, :2] + rng.random((count, POINTS, 2)) * 30
    points[:count, :, 2] = rng.integers(0, 3, (count, POINTS))
    found_points = np.zeros((slots, POINTS, 3), np.float32)
    found_points[:count] = points[:count] + rng.normal(0, 1.5, (count, POINTS, 3))
    found_points[count : count + further, :, :2] = rng.uniform(0, SIDE, (further, POINTS, 2))
    columns, rows = np.arange(SIDE) + 0.5, np.arange(SIDE)[:, None] + 0.5
    masks = np.zeros((places, SIDE, SIDE), np.uint8)
    for index, (x0, y0, x1, y1) in enumerate(boxes[:count]):  # an ellipse in each box
        masks[index] = ((2 * columns - x0 - x1) / (x1 - x0)) ** 2 + ((2 * rows - y0 - y1) / (y1 - y0)) ** 2 <= 1
    cells = np.linspace(-1, 1, 15)[:-1] + 1 / 14
    disc = 1 / (1 + np.exp(12 * (np.hypot(cells, cells[:, None]) - 1)))
    return {
        "boxes": boxes,
        "classes": classes,
        "valid": np.arange(places) < count,
        "crowd": (rng.random(places) < 0.15) & crowds,
        "area": (0.7 * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).astype(np.float32),
        "masks": masks,
        "keypoints": points,
        "size": np.array([SIDE, SIDE], np.int32),
        "found_boxes": np.clip(found, 0, SIDE)[order],
        "found_scores": np.sort(rng.integers(1, 40, slots).astype(np.float32) / 40)[::-1].copy(),  # with ties
        "found_classes": labels[order],
        "found_valid": np.arange(slots) < count + further,
        "found_masks": np.clip(disc + rng.normal(0, 0.1, (slots, 14, 14)), 0, 1).astype(np.float32),
        "found_keypoints": found_points[order],
    }


compiled_paste = jax.jit(ops.paste_masks, static_argnums=2)


def paste_masks(masks, boxes, size=(SIDE, SIDE)):
    return np.asarray(compiled_paste(jnp.asarray(masks), jnp.asarray(boxes), size))


@pytest.fixture(scope="module")
def examples():
    return [made_up(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def metrics(examples):
    return average_precision(examples, CLASSES)


# COCO's evaluation as its paper and code describe it, one comparison at a time.


def box_overlap(found, truth, crowd):
    inter = np.prod(np.maximum(np.minimum(found[2:], truth[2:]) - np.maximum(found[:2], truth[:2]), 0))
    one, other = np.prod(found[2:] - found[:2]), np.prod(truth[2:] - truth[:2])
    return inter / (one if crowd else one + other - inter)


def mask_overlap(found, truth, crowd):
    both = np.sum(found & truth)
    return both / (np.sum(found) if crowd else np.sum(found | truth))


def similarity(found, truth):
    """OKS (x, y, visible) of one object; its area and box come with it."""
    points, area, box = truth
    seen = points[:, 2] > 0
    if seen.any():
        distance = np.sum((found[:, :2] - points[:, :2]) ** 2, axis=1)[seen]
    else:  # how far it is outside of a box of three times the size
        start, end = box[:2] - (box[2:] - box[:2]), box[2:] + (box[2:] - box[:2])
        outside = np.maximum(start - found[:, :2], 0) + np.maximum(found[:, :2] - end, 0)
        distance = np.sum(outside**2, axis=1)
    return np.mean(np.exp(-distance / (2 * 0.05) ** 2 / (area + np.spacing(1)) / 2))


def things(example, kind):
    """(truth, found): lists of (class, what is compared, area, ignored, crowd or score)."""
    truth, found = [], []
    for i in np.flatnonzero(example["valid"]):
        box, crowd, area = example["boxes"][i].astype(float), bool(example["crowd"][i]), float(example["area"][i])
        points = example["keypoints"][i].astype(float)
        what = {"": box, "mask_": example["masks"][i] > 0, "keypoint_": (points, area, box)}[kind]
        ignored = crowd or (kind == "keypoint_" and not (points[:, 2] > 0).any())
        truth.append((example["classes"][i], what, area, ignored, crowd))
    pasted = paste_masks(example["found_masks"], example["found_boxes"]) >= 0.5
    for i in np.flatnonzero(example["found_valid"]):
        box, points = example["found_boxes"][i].astype(float), example["found_keypoints"][i].astype(float)
        what = {"": box, "mask_": pasted[i], "keypoint_": points}[kind]
        extent = {"": box[2:] - box[:2], "keypoint_": np.ptp(points[:, :2], axis=0)}.get(kind)
        area = float(pasted[i].sum()) if kind == "mask_" else float(np.prod(extent))
        found.append((example["found_classes"][i], what, area, False, float(example["found_scores"][i])))
    return truth, found


def overlap_of(found, truth, kind):
    if kind == "keypoint_":
        return similarity(found[1], truth[1])
    return (mask_overlap if kind == "mask_" else box_overlap)(found[1], truth[1], truth[4])


def with_overlaps(examples, kind):
    """The things of each example, and their overlaps (found, truth)."""
    for truth, found in (things(example, kind) for example in examples):
        overlaps = [[overlap_of(one, other, kind) for other in truth] for one in found]
        yield truth, found, overlaps


def brute_force(everything, area_range, most):
    """(precision (10, 101, classes), recall (10, classes)), NaN for classes without objects."""
    low, high = area_range
    precision, recall = np.full((10, 101, len(CLASSES)), np.nan), np.full((10, len(CLASSES)), np.nan)
    for label in range(len(CLASSES)):
        for number, threshold in enumerate(THRESHOLDS):
            outcomes, total = [], 0  # (score, right, ignored)
            for truth, found, overlaps in everything:
                ignored = [t[3] or not low <= t[2] <= high for t in truth]
                order = sorted((i for i, t in enumerate(truth) if t[0] == label), key=lambda i: ignored[i])
                total += sum(not ignored[i] for i in order)
                taken = set()
                own = [i for i, f in enumerate(found) if f[0] == label]
                for place in sorted(own, key=lambda i: -found[i][4])[:most]:
                    one = found[place]
                    best, chosen = threshold, None
                    for i in order:
                        if i in taken and not truth[i][4]:
                            continue
                        if chosen is not None and not ignored[chosen] and ignored[i]:
                            break
                        value = overlaps[place][i]
                        if value >= best:
                            best, chosen = value, i
                    if chosen is None:
                        outcomes.append((one[4], False, not low <= one[2] <= high))
                    else:
                        taken.add(chosen)
                        outcomes.append((one[4], True, ignored[chosen]))
            if not total:
                continue
            outcomes = [o for o in sorted(outcomes, key=lambda o: -o[0]) if not o[2]]
            right = np.cumsum([o[1] for o in outcomes])
            at = right / np.arange(1, len(right) + 1)
            recall[number, label] = right[-1] / total if len(right) else 0
            for place, wanted in enumerate(RECALLS):
                reached = [p for p, r in zip(at, right / total, strict=True) if r >= wanted]
                precision[number, place, label] = max(reached, default=0)
    return precision, recall


def mean(values):
    return np.nan if np.isnan(values).all() else np.nanmean(values)


@pytest.mark.parametrize("kind", ["", "mask_", "keypoint_"])
def test_it_equals_the_evaluation_written_out(examples, metrics, kind):
    everything = list(with_overlaps(examples, kind))
    for name, area in AREAS.items():
        if kind == "keypoint_" and name == "_small":
            continue
        precision, recall = brute_force(everything, area, 20 if kind == "keypoint_" else 100)
        assert metrics[f"{kind}AP{name}"] == pytest.approx(mean(precision), abs=1e-9, nan_ok=True)
        recall_name = f"{kind}AR{name}" if name or kind == "keypoint_" else f"{kind}AR100"
        assert metrics[recall_name] == pytest.approx(mean(recall), abs=1e-9, nan_ok=True)
        if not name:
            assert metrics[f"{kind}AP50"] == pytest.approx(mean(precision[0]), abs=1e-9)
            assert metrics[f"{kind}AP75"] == pytest.approx(mean(precision[5]), abs=1e-9)
            np.testing.assert_allclose(
                metrics[f"class_{kind}AP"], [mean(precision[..., label]) for label in range(4)], atol=1e-9
            )
            np.testing.assert_allclose(metrics[f"{kind}curves"], precision[[0, 5]].transpose(0, 2, 1), atol=1e-9)
            assert 0.1 < metrics[f"{kind}AP"] < 0.9  # or else little would be compared


def test_the_number_of_detections_of_an_image_is_limited(examples, metrics):
    everything = list(with_overlaps(examples, ""))
    for most in (1, 10):
        _, recall = brute_force(everything, AREAS[""], most)
        assert metrics[f"AR{most}"] == pytest.approx(mean(recall), abs=1e-9)
    assert metrics["AR1"] < metrics["AR10"]


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_it_equals_cocos_evaluator_on_files(examples, metrics, kind, tmp_path, capsys):
    from faster_coco_eval import COCO, COCOeval_faster

    scenes = [objects.scene(example) for example in examples]
    (tmp_path / "truth.json").write_text(json.dumps(truth_json(scenes, CLASSES)))
    results = [entry for number, one in enumerate(scenes, 1) for entry in objects.coco_entries(one.found, number)]
    for entry in results:
        for other in {"bbox": ("segmentation", "keypoints"), "segm": ("bbox", "keypoints"), "keypoints": ("bbox",)}[
            kind
        ]:
            del entry[other]  # which the evaluator would take areas from
        if kind == "keypoints":
            del entry["segmentation"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    truth = COCO(str(tmp_path / "truth.json"))
    evaluator = COCOeval_faster(truth, truth.loadRes(str(tmp_path / "results.json")), kind)
    if kind == "keypoints":
        evaluator.params.kpt_oks_sigmas = np.full(POINTS, 0.05)
    evaluator.run()
    names = {
        "bbox": ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small"),
        "segm": ("mask_AP", "mask_AP50", "mask_AP75", "mask_AP_small", "mask_AP_medium", "mask_AP_large", "mask_AR1"),
        "keypoints": [
            f"keypoint_{what}{part}" for what in ("AP", "AR") for part in ("", "50", "75", "_medium", "_large")
        ],
    }[kind]
    for name, value in zip(names, evaluator.stats, strict=False):
        assert metrics[name] == value or (value == -1 and np.isnan(metrics[name])), name  # to the last bit
    assert len(results) > 100
    assert capsys.readouterr().out == ""


def test_pycocotools_takes_its_place_where_it_alone_is_installed(examples, metrics, monkeypatch, capsys):
    import sys

    import faster_coco_eval
    from faster_coco_eval.core import faster_eval_api

    class Talkative(faster_eval_api.COCOeval):
        def evaluate(self):
            print("Running per image evaluation...")
            super().evaluate()

    monkeypatch.setattr(faster_eval_api, "COCOeval", Talkative)
    for name in ("", ".coco", ".cocoeval", ".mask"):  # the same functions under its names
        monkeypatch.setitem(sys.modules, f"pycocotools{name}", None)
    faster_coco_eval.init_as_pycocotools()
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    values = average_precision(examples, CLASSES)
    assert objects.coco_library().COCOeval is Talkative
    for name, value in metrics.items():
        np.testing.assert_array_equal(values[name], value)
    assert capsys.readouterr().out == ""


def voc_brute_force(examples, label):
    """One class's average precision as of 2007 and 2012, as the development kit describes them."""
    left = {}
    for number, example in enumerate(examples):
        for i in np.flatnonzero(example["valid"] & (example["classes"] == label)):
            left[number, i] = bool(example["crowd"][i])
    total = sum(not difficult for difficult in left.values())
    found = [
        (float(example["found_scores"][i]), number, i)
        for number, example in enumerate(examples)
        for i in np.flatnonzero(example["found_valid"] & (example["found_classes"] == label))
    ]
    if not total:
        return None
    taken, right, wrong, points = set(), 0, 0, []
    for _, number, i in sorted(found, key=lambda row: -row[0]):
        box = examples[number]["found_boxes"][i].astype(float)
        overlaps = {
            key: box_overlap(box, examples[number]["boxes"][key[1]].astype(float), False)
            for key in left
            if key[0] == number
        }
        best = max(overlaps, key=overlaps.get, default=None)
        if best is None or overlaps[best] < 0.5:
            wrong += 1
        elif left[best]:
            continue
        elif best in taken:
            wrong += 1
        else:
            taken.add(best)
            right += 1
        points.append((right, right / (right + wrong)))
    of_2007 = np.mean([max((p for r, p in points if 10 * r >= k * total), default=0) for k in range(11)])
    of_2012 = sum(max(p for r, p in points if r >= step) for step in range(1, right + 1)) / total
    return of_2007, of_2012


def test_vocs_means_equal_the_rules_written_out(examples, metrics):
    values = [voc_brute_force(examples, label) for label in range(len(CLASSES))]
    assert values[3] is None
    expected = np.mean(values[:3], axis=0)
    assert metrics["voc07_mAP"] == pytest.approx(expected[0], abs=1e-12)
    assert metrics["voc12_mAP"] == pytest.approx(expected[1], abs=1e-12)
    assert metrics["voc07_mAP"] != pytest.approx(metrics["voc12_mAP"], abs=1e-4)


def test_a_second_detection_of_an_object_is_wrong_even_where_another_object_is_near():
    """VOC looks at the object that is overlapped most; COCO gives the detection the next one that is free."""
    example = made_up(0, crowds=False) | {"size": np.array([SIDE, SIDE])}
    for name in ("masks", "keypoints"):
        del example[name]
    example["valid"] = np.arange(7) < 2
    example["boxes"][:2] = [[0, 0, 20, 20], [2, 0, 22, 20]]
    example["classes"][:2] = 0
    example["found_valid"] = np.arange(12) < 2
    example["found_boxes"][:2] = [[0, 0, 20, 20], [0.5, 0, 20.5, 20]]
    example["found_classes"][:2] = 0
    values = average_precision([example], CLASSES)
    assert values["AP50"] == pytest.approx(1.0)
    assert values["voc12_mAP"] == pytest.approx(0.5)


# What surrounds it.


def test_an_image_that_was_resized_and_padded_gives_the_metrics_of_its_file(examples, metrics):
    def moved(example, factor, shift):
        result = dict(example)
        for name in ("boxes", "found_boxes"):
            result[name] = factor * example[name] + np.tile(shift, 2)
        for name in ("keypoints", "found_keypoints"):
            points = factor * example[name][..., :2] + shift
            result[name] = np.concatenate([points, example[name][..., 2:]], axis=-1)
        del result["masks"]
        placement = np.array([factor, 0, shift[0], 0, factor, shift[1]], np.float32)
        return result | {"placement": placement, "size": np.array([500, 500])}

    values = average_precision([moved(e, 4.0, np.array([8.0, -16.0])) for e in examples], CLASSES)
    for name, value in values.items():
        np.testing.assert_array_equal(value, metrics[name], err_msg=name)
    sized = average_precision([{k: v for k, v in moved(e, 4.0, np.zeros(2)).items() if k != "area"} for e in examples])
    assert sized["AP_large"] != pytest.approx(metrics["AP"]) and sized["AP_small"] > 0


def test_the_area_of_a_mask_is_that_in_the_file():
    example = made_up(4)
    del example["area"]
    placement = np.array([0.5, 0, 0, 0, 0.5, 0], np.float32)
    once, twice = objects.scene(example), objects.scene(example | {"placement": placement})
    np.testing.assert_allclose(twice.truth.area, 4 * once.truth.area)
    np.testing.assert_array_equal(once.truth.area, example["masks"][example["valid"]].sum(axis=(1, 2)))
    assert once.truth.masks == twice.truth.masks


def test_a_turned_image_gives_upright_hulls():
    turn = np.array([0, -2, 30, 2, 0, 10], np.float32)  # a quarter, twice as large
    box = np.array([1.0, 2.0, 4.0, 8.0])
    corners = np.array([[x, y] for x in box[::2] for y in box[1::2]]) @ [[0, 2], [-2, 0]] + [30, 10]
    there = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    np.testing.assert_allclose(objects.boxes_in_file(there, turn), box)
    np.testing.assert_allclose(objects.points_in_file(np.array([[26.0, 12, 0.5]]), turn), [[1, 2, 0.5]])


def test_perfect_detections_have_an_ap_of_one(examples):
    def perfect(example):
        masks = np.ones((7, 14, 14))
        found = {f"found_{name}": example[name] for name in ("boxes", "classes", "keypoints", "valid")}
        found |= {"found_scores": np.ones(7), "found_masks": masks}
        return example | found | {"masks": paste_masks(masks, example["boxes"]) >= 0.5}

    values = average_precision([perfect(example) for example in examples], CLASSES)
    for name in ("AP", "AP50", "AP_small", "AR100", "mask_AP", "voc07_mAP", "voc12_mAP"):
        assert values[name] == pytest.approx(1.0), name
    assert values["keypoint_AP"] == pytest.approx(1.0)
    assert list(np.isnan(values["class_AP"])) == [False, False, False, True]  # and is left out of the mean
    assert values["class_objects"][3] == 0 < values["class_objects"][0]


def test_without_objects_or_examples_there_are_names_and_no_numbers(metrics):
    scalars = {name for name, value in metrics.items() if np.ndim(value) == 0}
    nothing = made_up(1) | {"valid": np.zeros(7, bool)}
    for values in (average_precision([nothing, nothing], CLASSES), average_precision([nothing])):
        assert {name for name, value in values.items() if np.ndim(value) == 0} == scalars
        assert all(np.isnan(values[name]) for name in scalars)
    assert set(average_precision([], CLASSES)) < set(metrics)
    assert average_precision([], CLASSES)["class_AP"].shape == (4,)


def test_objects_that_nobody_finds_count_as_zero(examples):
    blind = [example | {"found_valid": np.zeros(12, bool)} for example in examples]
    values = average_precision(blind, CLASSES)
    for name in ("AP", "AR100", "mask_AP50", "keypoint_AP", "voc07_mAP", "voc12_mAP"):
        assert values[name] == 0, name


def test_detections_that_are_not_finite_are_left_out():
    example = made_up(3)
    example["found_boxes"] = np.full_like(example["found_boxes"], np.nan)
    assert len(objects.scene(example).found.boxes) == 0
    assert average_precision([example], CLASSES)["AP"] == 0


def test_without_names_of_classes_the_largest_id_counts(examples):
    assert len(average_precision(examples)["class_AP"]) == 3


@settings(max_examples=60)
@given(st.data())
def test_run_lengths_are_those_of_the_mask_on_its_image(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    top, left = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    h, w = data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
    bits = data.draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
    mask = np.array(bits, bool).reshape(h, w)
    whole = np.zeros((height, width), np.uint8)
    whole[top : top + h, left : left + w] = mask
    found = objects.run_lengths(mask, (top, left), (height, width))
    library = objects.coco_library().mask
    assert found["counts"] == library.encode(np.asfortranarray(whole))["counts"].decode()
    np.testing.assert_array_equal(library.decode(found), whole)
    assert objects.mask_area([found]) == whole.sum()


def test_a_pasted_mask_is_that_of_the_networks_own_function():
    rng = np.random.default_rng(0)
    masks = rng.random((40, 7, 7)).astype(np.float32)
    start = rng.uniform(-10, 50, (40, 2))
    boxes = np.concatenate([start, start + rng.uniform(-2, 40, (40, 2))], axis=1).astype(np.float32)
    expected = paste_masks(masks, boxes, (33, 47))
    for mask, box, values in zip(masks, boxes, expected, strict=True):
        part, (top, left) = objects.paste(mask, box, (33, 47))
        whole = np.zeros((33, 47), bool)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        clear = np.abs(values - 0.5) > 1e-5
        np.testing.assert_array_equal(whole[clear], (values >= 0.5)[clear])
