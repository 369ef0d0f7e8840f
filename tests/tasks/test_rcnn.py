"""Two-stage detectors learn: samples checked against the truth, losses against NumPy, images without objects."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, tasks
from vision.errors import UsageError
from vision.tasks.rcnn import rcnn

CLASSES, SIDE, OBJECTS, POINTS = 3, 48, 4, 2
MODEL = dict(
    backbone={"name": "vgg11", "stage_sizes": (1, 1, 1, 1), "width": 4},  # without norms, so images are on their own
    strides=(8,),
    pyramid="none",
    anchor_sizes=((8, 16, 32),),
    rpn_samples=24,
    before_nms=(30, 20),
    proposals=(16, 8),
    roi_size=3,
    roi_samples=16,
    roi_positives=0.5,
    box_hidden=(16,),
    max_detections=5,
    masks=True,
    mask_size=6,
    mask_convolutions=(4,),
    keypoints=POINTS,
    keypoint_size=4,
    keypoint_convolutions=(4,),
)
WEIGHTS = dict(objectness=1.0, rpn_box=2.0, classification=3.0, box=4.0, mask=5.0, keypoint=6.0)


def make_batch(counts, seed=0, crowds=0, real=None):
    """Images with filled rectangles, as many as `counts` says; of each the last `crowds` are crowds."""
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.uniform(0, 0.2, (len(counts), SIDE, SIDE, 3)).astype(np.float32),
        "boxes": np.zeros((len(counts), OBJECTS, 4), np.float32),
        "classes": np.zeros((len(counts), OBJECTS), np.int32),
        "valid": np.arange(OBJECTS) < np.array(counts)[:, None],
        "crowd": np.zeros((len(counts), OBJECTS), bool),
        "masks": np.zeros((len(counts), OBJECTS, SIDE, SIDE), np.uint8),
        "keypoints": np.zeros((len(counts), OBJECTS, POINTS, 3), np.float32),
        "mask": np.ones(len(counts), np.float32) if real is None else np.array(real, np.float32),
    }
    for row, count in enumerate(counts):
        for index in range(count):
            width, height = rng.integers(8, 24, 2)
            x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
            label = rng.integers(CLASSES)
            batch["boxes"][row, index] = x, y, x + width, y + height
            batch["classes"][row, index] = label
            batch["masks"][row, index, y : y + height, x : x + width] = 1
            batch["image"][row, y : y + height, x : x + width, label] = 1
            corners = [(x + 1, y + 1, 2), (x + width - 1, y + height - 1, index % 2)]
            batch["keypoints"][row, index] = corners
            batch["crowd"][row, index] = index >= count - crowds
    return batch


@functools.cache
def compiled():
    """(variables, function of variables, batch and key that gives (loss, terms, outputs, monitored), new variables)."""
    model, task = models.create("faster_rcnn", CLASSES, **MODEL), tasks.create("rcnn", **WEIGHTS)

    def loss(variables, batch, key):
        inputs = task.inputs(batch, True)
        outputs = model.apply(variables, **inputs, train=True, rngs={"sample": key, "dropout": key})
        terms = task.loss(outputs, batch)
        total = sum(term.total / jnp.maximum(term.count, 1) for term in terms.values())
        outputs.pop("features")
        return total, (terms, outputs, task.monitor(outputs, batch))

    @jax.jit
    def step(variables, batch, key):
        (total, more), gradient = jax.value_and_grad(loss, has_aux=True)(variables, batch, key)
        return (total, *more), jax.tree.map(lambda value, slope: value - 0.02 * slope, variables, gradient)

    random = np.random.default_rng(0)

    def value(shape):
        return (random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]), 1))).astype(np.float32)

    return jax.tree.map(lambda leaf: value(leaf.shape), models.variable_shapes(model, (SIDE, SIDE, 3))), step


def learned(batch, seed=0):
    variables, step = compiled()
    found, new = step(variables, batch, jax.random.key(seed))
    return jax.device_get(found), jax.device_get(new)


def overlaps(one, other):
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return both / np.maximum(area[0][:, None] + area[1] - both, 1e-9)


def true_objects(batch, row):
    return batch["valid"][row] & ~batch["crowd"][row]


BATCH = make_batch([3, 0, 4, 2], crowds=1)


def test_regions_are_labelled_as_the_truth_says():
    (_, _, outputs, _), _ = learned(BATCH)
    rois = outputs["rois"]
    assert (rois["positive"].sum(axis=1) > 0).tolist() == [True, False, True, True]
    assert (rois["positive"].sum(axis=1) <= 8).all() and rois["filled"].any(axis=1).all()
    for row in range(4):
        there = true_objects(BATCH, row)
        boxes, labels = BATCH["boxes"][row][there], BATCH["classes"][row][there] + 1
        quality = overlaps(rois["boxes"][row], boxes) if len(boxes) else np.zeros((16, 1))
        best = quality.max(axis=1)
        holds = (best >= 0.5) & rois["filled"][row]
        np.testing.assert_array_equal(rois["positive"][row], holds)
        wanted = np.where(holds, np.append(labels, 0)[quality.argmax(axis=1)], 0)
        np.testing.assert_array_equal(rois["labels"][row], wanted)
        for index in np.flatnonzero(holds):
            box, target = rois["boxes"][row, index], boxes[quality[index].argmax()]
            size, true_size = box[2:] - box[:2], target[2:] - target[:2]
            moved = (target[:2] + target[2:] - box[:2] - box[2:]) / 2 / size * 10
            offsets = np.concatenate([moved, np.log(true_size / size) * 5])
            np.testing.assert_allclose(rois["true_offsets"][row, index], offsets, atol=1e-3)
            # The objects' masks fill their boxes, so that a region is covered as far as the boxes overlap.
            both = np.prod(np.minimum(box[2:], target[2:]) - np.maximum(box[:2], target[:2]))
            assert outputs["masks"]["targets"][row, index].mean() == pytest.approx(both / np.prod(size), abs=0.15)


def test_anchors_are_balanced():
    (_, _, outputs, monitored), _ = learned(BATCH)
    drawn = outputs["rpn"]
    assert drawn["filled"].all()
    # Every object has an anchor, even where none overlaps it well; one that lies with others takes them along.
    for row, positives in enumerate(drawn["positive"].sum(axis=1)):
        assert (positives > 0) == bool(true_objects(BATCH, row).any()) and positives <= 12
    total, count = monitored["rpn_positives"]
    assert total == drawn["positive"].sum() and count == 4 * 24


def sigmoid_entropy(logits, targets):
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(targets * np.log(probability) + (1 - targets) * np.log(1 - probability))


def softmax_entropy(logits, labels):
    logits = logits.astype(np.float64)
    logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def smooth_l1(one, other, beta=1 / 9):
    difference = np.abs(one - other)
    return np.where(difference < beta, difference**2 / 2 / beta, difference - beta / 2).sum(axis=-1)


def test_losses_equal_numpy():
    """Also with a row that is no example: it is left out."""
    for real in ([1, 1, 1, 1], [1, 1, 0, 1]):
        batch = BATCH | {"mask": np.array(real, np.float32)}
        (total, terms, outputs, _), _ = learned(batch)
        rows = np.array(real, bool)
        found = {
            name: {key: x[rows] for key, x in outputs[name].items()} for name in ("rpn", "rois", "masks", "keypoints")
        }
        anchors, rois, masks, points = found.values()
        filled, positive = rois["filled"], rois["positive"]
        pixels = sigmoid_entropy(masks["logits"], masks["targets"]).mean(axis=(2, 3))
        expected = {
            "objectness": (sigmoid_entropy(anchors["logits"], anchors["positive"])[anchors["filled"]]).mean(),
            "rpn_box": smooth_l1(anchors["offsets"], anchors["true_offsets"])[anchors["positive"]].sum()
            / anchors["filled"].sum(),
            "classification": softmax_entropy(rois["logits"], rois["labels"])[filled].mean(),
            "box": smooth_l1(rois["offsets"], rois["true_offsets"])[positive].sum() / filled.sum(),
            "mask": pixels[positive[:, :8]].mean(),
            "keypoint": softmax_entropy(points["logits"], points["targets"])[points["valid"]].mean(),
        }
        assert set(terms) == set(expected)
        for name, value in expected.items():
            given = terms[name].total / terms[name].count
            assert given == pytest.approx(WEIGHTS[name] * value, rel=1e-4), name
        assert total == pytest.approx(sum(WEIGHTS[name] * value for name, value in expected.items()), rel=1e-4)


@pytest.mark.parametrize("counts", [[0, 0, 0, 0], [2, 0, 0, 0]])
def test_images_without_objects(counts):
    """Nothing is NaN, no gradient either; what there is to learn is that there is nothing."""
    (total, terms, outputs, monitored), new = learned(make_batch(counts, seed=3))
    assert np.isfinite(total)
    for leaf in jax.tree.leaves((terms, outputs, monitored, new)):
        assert np.isfinite(leaf).all()
    assert terms["objectness"].count == 4 * 24 and terms["classification"].count > 0
    if not any(counts):
        assert terms["mask"] == terms["keypoint"] == (0, 0) and terms["box"].total == terms["rpn_box"].total == 0
        before, _ = compiled()
        heads = [new["params"][name] for name in ("mask_head", "keypoint_head")]
        unchanged = [before["params"][name] for name in ("mask_head", "keypoint_head")]
        jax.tree.map(np.testing.assert_array_equal, heads, jax.device_get(unchanged))


def test_nothing_is_learnt_from_rows_that_are_no_examples():
    (total, terms, _, monitored), new = learned(make_batch([2, 1, 3, 2], real=[0, 0, 0, 0]))
    assert total == 0 and all(term == (0, 0) for term in (*terms.values(), *monitored.values()))
    before, _ = compiled()
    jax.tree.map(np.testing.assert_array_equal, new, jax.device_get(before))


def test_no_room_for_objects():
    """A data set's padding may have no place for an object at all."""
    batch = {name: x[:, :0] if x.ndim > 1 and x.shape[1] == OBJECTS else x for name, x in make_batch([0, 0]).items()}
    model, task = models.create("faster_rcnn", CLASSES, **MODEL), tasks.create("rcnn")
    variables = jax.eval_shape(lambda: compiled()[0])

    def loss(variables, batch):
        rngs = {"sample": jax.random.key(0), "dropout": jax.random.key(0)}
        return task.loss(model.apply(variables, **task.inputs(batch, True), train=True, rngs=rngs), batch)

    assert set(jax.eval_shape(loss, variables, batch)) == set(WEIGHTS)


def test_a_sample_is_an_images_own():
    """Whatever else is in the batch, an image's regions are the same; with another key they are others."""
    one, other, batch = BATCH, make_batch([1, 4, 4, 4], seed=9), {}
    for name in one:
        batch[name] = np.concatenate([other[name][:2], one[name][2:]])
    (_, _, alone, _), _ = learned(one)
    (_, _, mixed, _), _ = learned(batch)
    (_, _, again, _), _ = learned(one, seed=1)
    for name in ("rpn", "rois", "masks", "keypoints"):
        for key in alone[name]:
            np.testing.assert_allclose(alone[name][key][2:], mixed[name][key][2:], atol=1e-5, err_msg=f"{name} {key}")
    assert not np.array_equal(alone["rois"]["boxes"], again["rois"]["boxes"])


def test_the_truth_is_for_training_only():
    task = tasks.create("rcnn")
    images = {name: jnp.asarray(value) for name, value in BATCH.items()}
    batch = {**images, "size": jnp.full((4, 2), SIDE)}
    assert set(task.inputs(batch, False)) == {"image", "size"}
    given = task.inputs(batch, True)
    assert isinstance(given["truth"], Mapping) and set(task.inputs(images, True)) == {"image", "truth"}
    # Crowds are no objects; where they are is passed on.
    np.testing.assert_array_equal(given["truth"]["valid"], BATCH["valid"] & ~BATCH["crowd"])
    np.testing.assert_array_equal(given["truth"]["ignored"].any(axis=-1), BATCH["crowd"])


def test_it_learns():
    """A few steps on one batch make every loss smaller."""
    variables, step = compiled()
    history = []
    for number in range(60):
        (total, terms, _, _), variables = step(variables, BATCH, jax.random.key(number))
        history.append({name: float(term.total / term.count) for name, term in terms.items()} | {"loss": float(total)})
    for name in ("loss", "objectness", "classification", "mask", "keypoint"):
        first, last = (np.mean([row[name] for row in rows]) for rows in (history[:5], history[-5:]))
        assert last < 0.9 * first, name


def test_wrong_weights_are_named():
    with pytest.raises(UsageError, match=r"config.task.mask: expected 0 or more, given -1.0"):
        rcnn(mask=-1.0)
