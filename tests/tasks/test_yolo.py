"""YOLO's losses and detections against loops in NumPy that follow the papers, and what must not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision import tasks
from vision.errors import UsageError
from vision.models.yolo import place_anchors
from vision.tasks import yolo

CLASSES, OBJECTS, BATCH = 3, 4, 3
CANVAS = (24, 32)  # height, width
GRID = (3, 4)
SHAPES = ((5, 4), (6, 12), (10, 9), (22, 18))
MAPS, STRIDES = [(6, 8), (3, 4)], (4, 8)
ANCHORS, SIDES = place_anchors(MAPS, STRIDES, SHAPES)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def entropy(p, target):
    target = np.asarray(target, float)
    return -target * np.log(p) - (1 - target) * np.log(1 - p)


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both)


def scene(seed, counts=(2, 4, 0), apart=True):
    """A batch; where apart, no two objects have their centres in one cell of `GRID`."""
    rng = np.random.default_rng(seed)
    boxes, classes = np.zeros((BATCH, OBJECTS, 4), np.float32), np.zeros((BATCH, OBJECTS), np.int32)
    for image, count in enumerate(counts):
        cells = rng.permutation(GRID[0] * GRID[1])[:count] if apart else np.zeros(count, int)
        for index, cell in enumerate(cells):
            centre = (np.array(divmod(cell, GRID[1]))[::-1] + rng.uniform(0.05, 0.95, 2)) * 8
            half = np.minimum(rng.uniform(1, 9, 2), np.minimum(centre, np.array(CANVAS)[::-1] - centre))
            boxes[image, index] = [*(centre - half), *(centre + half)]
            classes[image, index] = rng.integers(CLASSES)
    return {
        "image": np.zeros((BATCH, *CANVAS, 3), np.uint8),
        "boxes": boxes,
        "classes": classes,
        "valid": np.arange(OBJECTS) < np.array(counts)[:, None],
        "mask": np.ones(BATCH, np.float32),
    }


def v1_outputs(seed, size=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"class_scores": (CLASSES,), "confidences": (2,), "cell_boxes": (2, 4)}
    return {name: (size * rng.normal(size=(BATCH, *GRID, *s))).astype(np.float32) for name, s in shapes.items()}


def v3_outputs(seed, size=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"offsets": (4,), "objectness": (), "logits": (CLASSES,)}
    found = {name: (size * rng.normal(size=(BATCH, len(ANCHORS), *s))).astype(np.float32) for name, s in shapes.items()}
    return found | {"anchors": ANCHORS, "strides": SIDES}


MAKE = {"yolov1": v1_outputs, "yolov3": v3_outputs}


@functools.cache
def task(name, **arguments):
    return tasks.create(name, class_names=("a", "b", "c"), **arguments)


@functools.cache
def compiled(name, **arguments):
    """Losses' means, monitored values and the gradient of the sum of the means."""
    made = task(name, **arguments)

    def total(numbers, rest, batch):
        terms = made.loss(numbers | rest, batch)
        means = {key: term.total / jnp.maximum(term.count, 1) for key, term in terms.items()}
        return sum(means.values()), (means, made.monitor(numbers | rest, batch))

    @jax.jit
    def run(numbers, rest, batch):
        (_, (means, monitored)), slope = jax.value_and_grad(total, has_aux=True)(numbers, rest, batch)
        return means, monitored, slope

    def call(outputs, batch):
        rest = {key: outputs[key] for key in ("anchors", "strides") if key in outputs}
        return run({key: value for key, value in outputs.items() if key not in rest}, rest, batch)

    return call


def v1_loss(outputs, batch):
    """Equation 3 of Redmon et al. 2016, cell by cell."""
    terms = dict.fromkeys(("coordinates", "object", "no_object", "class"), 0.0)
    height, width = CANVAS
    for b in range(BATCH):
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                here = None
                for box, label in zip(batch["boxes"][b][batch["valid"][b]], batch["classes"][b], strict=False):
                    x, y = (box[0] + box[2]) / 2 * GRID[1] / width, (box[1] + box[3]) / 2 * GRID[0] / height
                    if here is None and (int(y), int(x)) == (row, column):
                        here = (box, label, x - column, y - row)
                confidences = outputs["confidences"][b, row, column]
                cell_boxes = outputs["cell_boxes"][b, row, column]
                if here is None:
                    terms["no_object"] += 0.5 * np.sum(confidences**2)
                    continue
                box, label, x, y = here
                w, h = (box[2] - box[0]) / width, (box[3] - box[1]) / height
                overlaps, distances = [], []
                for px, py, pw, ph in cell_boxes:
                    cx, cy = (column + px) / GRID[1] * width, (row + py) / GRID[0] * height
                    half = np.array([pw**2 * width, ph**2 * height]) / 2
                    overlaps.append(iou(np.array([cx - half[0], cy - half[1], cx + half[0], cy + half[1]]), box))
                    distances.append(
                        ((px - x) / GRID[1]) ** 2 + ((py - y) / GRID[0]) ** 2 + (pw**2 - w) ** 2 + (ph**2 - h) ** 2
                    )
                best = int(np.argmax(overlaps)) if max(overlaps) > 0 else int(np.argmin(distances))
                target = np.array([x, y, np.sqrt(w), np.sqrt(h)])
                terms["coordinates"] += 5 * np.sum((cell_boxes[best] - target) ** 2)
                terms["object"] += (confidences[best] - overlaps[best]) ** 2
                terms["no_object"] += 0.5 * (np.sum(confidences**2) - confidences[best] ** 2)
                terms["class"] += np.sum((outputs["class_scores"][b, row, column] - np.eye(CLASSES)[label]) ** 2)
    return {name: value / BATCH for name, value in terms.items()}


@pytest.mark.parametrize("seed, size", [(0, 1.0), (1, 0.3), (2, 0.05)])
def test_v1_loss_is_equation_3(seed, size):
    """Of several objects in one cell, the first counts; small predictions overlap nothing, the nearest answers."""
    outputs = v1_outputs(seed, size)
    for apart in (True, False):
        batch = scene(seed, apart=apart)
        means, monitored, _ = compiled("yolov1")(outputs, batch)
        for name, expected in v1_loss(outputs, batch).items():
            np.testing.assert_allclose(means[name], expected, rtol=1e-4, err_msg=name)
        assert int(monitored["iou"].count) == (6 if apart else 2)


def v3_loss(outputs, batch, threshold=0.5):
    """Section 2 of Redmon and Farhadi 2018: object by object, then anchor by anchor."""
    height, width = CANVAS
    terms, slopes = dict.fromkeys(("box", "objectness", "class"), 0.0), {}
    for name in ("offsets", "objectness", "logits"):
        slopes[name] = np.zeros(outputs[name].shape)
    centres = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
    for b in range(BATCH):
        true, labels = batch["boxes"][b][batch["valid"][b]], batch["classes"][b]
        owner, named = {}, {}
        for index, box in enumerate(true):
            w, h = box[2:] - box[:2]
            shape = int(np.argmax([iou(np.array([0, 0, w, h]), np.array([0, 0, *s])) for s in SHAPES]))
            level, slot = divmod(shape, 2)
            stride, columns = STRIDES[level], MAPS[level][1]
            column, row = ((box[:2] + box[2:]) / 2 // stride).astype(int)
            start = 2 * MAPS[0][0] * MAPS[0][1] if level else 0
            anchor = start + 2 * (row * columns + column) + slot
            owner[anchor] = index
            named.setdefault(anchor, set()).add(labels[index])
        for anchor, index in owner.items():
            box, stride, t = true[index], SIDES[anchor], outputs["offsets"][b, anchor]
            w, h = box[2:] - box[:2]
            place = ((box[:2] + box[2:]) / 2 - centres[anchor]) / stride + 0.5
            growth = np.log([w, h] / (ANCHORS[anchor, 2:] - ANCHORS[anchor, :2]))
            weight = 2 - w * h / (width * height)
            error = np.sum(entropy(sigmoid(t[:2]), place)) + np.sum((t[2:] - growth) ** 2) / 2
            terms["box"] += weight * error
            slopes["offsets"][b, anchor] = weight * np.concatenate([sigmoid(t[:2]) - place, t[2:] - growth])
            target = np.isin(np.arange(CLASSES), list(named[anchor]))
            terms["class"] += np.sum(entropy(sigmoid(outputs["logits"][b, anchor]), target))
            slopes["logits"][b, anchor] = sigmoid(outputs["logits"][b, anchor]) - target
        for anchor in range(len(ANCHORS)):
            t = outputs["offsets"][b, anchor]
            centre = centres[anchor] + (sigmoid(t[:2]) - 0.5) * SIDES[anchor]
            half = (ANCHORS[anchor, 2:] - ANCHORS[anchor, :2]) * np.exp(t[2:]) / 2
            box = np.concatenate([centre - half, centre + half])
            ignored = any(iou(box, other) > threshold for other in true)
            if anchor in owner or not ignored:
                p = sigmoid(outputs["objectness"][b, anchor])
                terms["objectness"] += entropy(p, anchor in owner)
                slopes["objectness"][b, anchor] = p - (anchor in owner)
    means = {name: value / BATCH for name, value in terms.items()}
    return means, {name: value / BATCH for name, value in slopes.items()}


@pytest.mark.parametrize("seed, size", [(0, 1.0), (1, 0.3), (2, 0.05)])
def test_v3_loss_and_its_gradient(seed, size):
    """The gradient is the difference of prediction and truth, as published. Objects may share an anchor."""
    outputs = v3_outputs(seed, size)
    for apart in (True, False):
        batch = scene(seed, apart=apart)
        means, _, slopes = compiled("yolov3")(outputs, batch)
        expected, expected_slopes = v3_loss(outputs, batch)
        for name, value in expected.items():
            np.testing.assert_allclose(means[name], value, rtol=1e-4, err_msg=name)
        for name, value in expected_slopes.items():
            np.testing.assert_allclose(slopes[name], value, atol=1e-5, err_msg=name)


def test_v3_weights_of_the_terms():
    batch, outputs = scene(1), v3_outputs(1)
    weights = {"box": 0.5, "objectness": 1.0, "class": 3.0}
    means, _, _ = compiled("yolov3", box_weight=weights["box"], class_weight=weights["class"])(outputs, batch)
    for name, value in v3_loss(outputs, batch)[0].items():
        np.testing.assert_allclose(means[name], weights[name] * value, rtol=1e-4, err_msg=name)


def test_v3_objects_that_share_an_anchor():
    """The last one's box, the classes of both."""
    batch = scene(0, (2, 0, 0))
    batch["boxes"][0, :2] = [[9, 9, 14, 13], [9, 9.5, 14, 13.5]]
    batch["classes"][0, :2] = [2, 0]
    outputs = v3_outputs(0)
    means, monitored, _ = compiled("yolov3")(outputs, batch)
    assert int(monitored["iou"].count) == 1
    np.testing.assert_allclose(means["class"], v3_loss(outputs, batch)[0]["class"], rtol=1e-4)
    np.testing.assert_allclose(means["box"], v3_loss(outputs, batch)[0]["box"], rtol=1e-4)


@pytest.mark.parametrize("name", MAKE)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), more=st.integers(0, 3))
def test_order_and_padding_of_the_truth_do_not_matter(name, seed, more):
    batch, outputs = scene(seed, (3, 1, 2)), MAKE[name](seed)
    before, _, _ = compiled(name)(outputs, batch)
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(OBJECTS) for _ in range(BATCH)])
    moved = {key: np.take_along_axis(batch[key], order, axis=1) for key in ("classes", "valid")}
    moved["boxes"] = np.take_along_axis(batch["boxes"], order[..., None], axis=1)
    moved["boxes"][~moved["valid"]] = rng.uniform(0, 20, 4)  # nobody looks at padding
    moved["classes"][~moved["valid"]] = more
    after, _, _ = compiled(name)(outputs, batch | moved)
    for key in before:
        np.testing.assert_allclose(after[key], before[key], rtol=1e-5, err_msg=key)


LOSSES = [("yolov1", {}), *(("yolov3", {"box_loss": name}) for name in ("offsets", "giou", "ciou"))]


@pytest.mark.parametrize("name, arguments", LOSSES)
@pytest.mark.parametrize("outputs", ["zero", "huge", "usual"])
def test_everything_is_finite(name, arguments, outputs):
    """Also where a side is predicted as 0, where no image has an object, and where no example is real."""
    made = MAKE[name](0, {"zero": 0.0, "huge": 1e4, "usual": 1.0}[outputs])
    some, none = scene(0), scene(0, (0, 0, 0))
    for batch in (some, none, some | {"mask": np.zeros(BATCH, np.float32)}):
        means, monitored, slopes = compiled(name, **arguments)(made, batch)
        for value in jax.tree.leaves((means, monitored, slopes)):
            assert np.all(np.isfinite(value))
    assert not any(np.any(slope) for slope in slopes.values())  # nothing is learnt from padding


@pytest.mark.parametrize("name", MAKE)
def test_padded_examples_count_nothing(name):
    """The mean over three images is that over two of them and over the other one, weighted."""
    batch, outputs = scene(0, (2, 4, 3)), MAKE[name](0)
    masks = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1]], np.float32)
    whole, pair, single = (compiled(name)(outputs, batch | {"mask": mask}) for mask in masks)
    for key, value in whole[0].items():
        np.testing.assert_allclose(3 * value, 2 * pair[0][key] + single[0][key], rtol=1e-5)
    for slope in pair[2].values():
        assert np.any(slope[:2]) and not np.any(slope[2])


@pytest.mark.parametrize("name", MAKE)
def test_crowds_are_neither_learnt_nor_background(name):
    """A crowd over the whole image leaves nothing to learn; one elsewhere changes only what lies there."""
    batch, outputs = scene(0, (1, 1, 1)), MAKE[name](0)
    crowd = np.zeros((BATCH, OBJECTS), bool)
    crowd[:, 0] = True
    batch["boxes"][:, 0] = [-40, -40, 80, 80]
    means, _, slopes = compiled(name)(outputs, batch | {"crowd": crowd})
    assert all(float(value) == 0 for value in means.values())
    batch["boxes"][:, 0] = [0, 0, 8, 8]
    means, _, slopes = compiled(name)(outputs, batch | {"crowd": crowd})
    slope = np.asarray(slopes["confidences" if name == "yolov1" else "objectness"])
    if name == "yolov1":
        assert not np.any(slope[:, 0, 0]) and np.all(slope[:, 1:]) and np.all(slope[:, 0, 1:])
    else:
        inside = np.prod(
            np.maximum(np.minimum(ANCHORS[:, 2:], 8) - np.maximum(ANCHORS[:, :2], 0), 0), axis=1
        ) >= 0.5 * np.prod(ANCHORS[:, 2:] - ANCHORS[:, :2], axis=1)
        np.testing.assert_array_equal(slope == 0, np.broadcast_to(inside, slope.shape))
        assert inside.any()


# Detections.


@functools.cache
def detect(name):
    return jax.jit(task(name, detections=10).predict)


def seen(batch, sizes=(CANVAS,) * BATCH):
    """What is known of images without a truth."""
    return {"image": batch["image"], "size": np.array(sizes, np.int32)}


def perfect(name, batch):
    """The outputs that say exactly what is there."""
    height, width = CANVAS
    outputs = {key: np.array(value) for key, value in MAKE[name](0, 0.0).items()}
    for b in range(BATCH):
        for box, label in zip(batch["boxes"][b][batch["valid"][b]], batch["classes"][b], strict=False):
            centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            if name == "yolov1":
                place = centre / 8
                column, row = place.astype(int)
                outputs["class_scores"][b, row, column, label] = 1
                outputs["confidences"][b, row, column, 1] = 0.9
                outputs["cell_boxes"][b, row, column, 1] = [*(place % 1), *np.sqrt(sides / [width, height])]
            else:
                index = yolo.responsible_anchors(
                    jnp.array(box[None]), jnp.array([True]), jnp.array(ANCHORS), jnp.array(SIDES)
                )[0][0]
                own = (ANCHORS[index, :2] + ANCHORS[index, 2:]) / 2
                place = (centre - own) / SIDES[index] + 0.5
                growth = np.log(sides / (ANCHORS[index, 2:] - ANCHORS[index, :2]))
                outputs["offsets"][b, index] = [*np.log(place / (1 - place)), *growth]
                outputs["logits"][b, index] = np.where(np.arange(CLASSES) == label, 20.0, -20.0)
                outputs["objectness"][b, index] = 20.0
    if name == "yolov3":
        outputs["objectness"] -= 10.0
        outputs["logits"] -= 10.0
    return outputs


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("seed", range(3))
def test_perfect_outputs_become_the_truth(name, seed):
    batch = scene(seed)
    outputs = perfect(name, batch)
    found = detect(name)(outputs, seen(batch))
    assert {key: value.shape for key, value in found.items()} == {
        "boxes": (BATCH, 10, 4),
        "scores": (BATCH, 10),
        "classes": (BATCH, 10),
        "valid": (BATCH, 10),
    }
    for b in range(BATCH):
        valid = batch["valid"][b]
        assert np.array_equal(found["valid"][b], np.arange(10) < valid.sum())
        given = sorted(zip(found["boxes"][b].tolist(), found["classes"][b].tolist(), strict=True))[-valid.sum() or 10 :]
        true = sorted(zip(batch["boxes"][b][valid].tolist(), batch["classes"][b][valid].tolist(), strict=True))
        for (box, label), (true_box, true_label) in zip(given, true, strict=False):
            np.testing.assert_allclose(box, true_box, atol=1e-3)
            assert label == true_label


@pytest.mark.parametrize("name", MAKE)
def test_perfect_boxes_cost_nothing(name):
    batch = scene(1)
    means, monitored, _ = compiled(name)(perfect(name, batch), batch)
    total, count = monitored["iou"]
    assert count == 6 and total / count == pytest.approx(1, abs=1e-3)
    if name == "yolov1":
        assert means["coordinates"] == pytest.approx(0, abs=1e-6)
        assert means["class"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_detections_end_where_images_end(name):
    batch = seen(scene(0), ((24, 32), (20, 10), (8, 32)))
    found = detect(name)(MAKE[name](3), batch)
    valid = np.asarray(found["valid"])
    for b, (height, width) in enumerate(batch["size"]):
        assert np.all(found["boxes"][b] >= 0) and np.all(found["boxes"][b] <= np.array([width, height] * 2))
    sides = np.asarray(found["boxes"])[..., 2:] - np.asarray(found["boxes"])[..., :2]
    assert np.all(sides[valid] > 0)
    scores = np.asarray(found["scores"])
    assert np.all(np.diff(scores, axis=1) <= 0) and np.all((scores >= 0) & (scores <= 1))
    assert not np.any(scores[~valid])


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("yolov1", {"lambda_coord": -1.0}, "config.task.lambda_coord: expected a weight of 0 or more, given -1.0"),
        ("yolov3", {"class_weight": -2.0}, "config.task.class_weight: expected a weight of 0 or more, given -2.0"),
        ("yolov1", {"lamda_noobj": 1.0}, "did you mean 'lambda_noobj'"),
        ("yolov3", {"ignore_threshold": 1.5}, "config.task.ignore_threshold: expected a number from 0 to 1"),
        ("yolov3", {"box_loss": "iou"}, "config.task.box_loss: expected 'offsets' or 'giou' or 'diou' or 'ciou'"),
        ("yolov3", {"detections": 0}, "config.task.detections: expected 1 or more, given 0"),
    ],
)
def test_mistakes(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.create(name, **arguments)
