"""SSD's and RetinaNet's losses and detections against loops in NumPy, and what must not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision import tasks
from vision.errors import UsageError
from vision.ops import anchors

SIDE, CLASSES, OBJECTS, IMAGES = 96, 3, 6, 4
MAPS = ((6, 6), (3, 3))
ANCHORS = {
    "ssd": np.asarray(anchors.default_boxes((SIDE, SIDE), MAPS, (0.15, 0.3, 0.6), ((2.0,), (2.0,)))),
    "retinanet": np.asarray(anchors.anchors(MAPS, [(16, 16), (32, 32)], [(20,), (40,)], [(0.5, 1, 2)] * 2)),
}
OPTIONS = {
    "ssd": dict(score_threshold=0.2, candidates=20, detections=12),
    "retinanet": dict(score_threshold=0.4, candidates=50, detections=40),
}


# Batches.


def make_batch(seed, objects=OBJECTS):
    """Four images: with objects and padding, none, one that is no example, and with a crowd."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 60, (IMAGES, objects, 2)), rng.uniform(8, 50, (IMAGES, objects, 2))
    boxes = np.concatenate([corner, np.minimum(corner + size, SIDE)], axis=-1).astype(np.float32)
    valid = np.arange(objects) < np.array([objects - 2, 0, objects, objects])[:, None]
    return {
        "image": np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8),
        "boxes": np.where(valid[..., None], boxes, 0),
        "classes": np.where(valid, rng.integers(0, CLASSES, (IMAGES, objects)), 0).astype(np.int32),
        "valid": valid,
        "crowd": valid & (np.arange(IMAGES)[:, None] == 3) & (np.arange(objects) == 1),
        "mask": np.array([1, 1, 0, 1], np.float32),
    }


def make_outputs(name, seed):
    rng = np.random.default_rng([seed, 1])
    boxes = ANCHORS[name]
    background = 1 if name == "ssd" else 0
    return {
        "logits": rng.standard_normal((IMAGES, len(boxes), CLASSES + background)).astype(np.float32),
        "offsets": rng.standard_normal((IMAGES, len(boxes), 4)).astype(np.float32),
        "anchors": jnp.asarray(boxes),
        "features": {2**level: np.zeros((IMAGES, *size, 1), np.float32) for level, size in enumerate(MAPS, start=4)},
    }


@functools.cache
def compiled(name, **options):
    """(outputs, batch) -> (loss, terms, its gradient by logits and offsets), compiled."""
    task = tasks.create(name, **(OPTIONS[name] | options))

    def loss(predicted, outputs, batch):
        terms = task.loss(outputs | predicted, batch)
        total = sum(term.total / jnp.maximum(term.count, 1e-12) for term in terms.values())  # as the trainer has it
        return total, terms

    @jax.jit
    def both(outputs, batch):
        predicted = {key: outputs[key] for key in ("logits", "offsets")}
        rest = {"anchors": outputs["anchors"]}
        (total, terms), slope = jax.value_and_grad(loss, has_aux=True)(predicted, rest, batch)
        return total, terms, slope

    return lambda outputs, batch: jax.device_get(both({k: outputs[k] for k in outputs if k != "features"}, batch))


# The straightforward versions.


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    union = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both
    return both / union if union > 0 else 0.0


def quality_of(boxes, anchors):
    return np.array([[iou(box, anchor) for anchor in anchors] for box in boxes]).reshape(len(boxes), len(anchors))


def crowded(anchors, crowds):
    """Anchors half of which lies in a crowd."""
    result = np.zeros(len(anchors), bool)
    for crowd in crowds:
        for index, anchor in enumerate(anchors):
            low, high = np.maximum(anchor[:2], crowd[:2]), np.minimum(anchor[2:], crowd[2:])
            result[index] |= np.prod(np.maximum(high - low, 0)) >= 0.5 * np.prod(anchor[2:] - anchor[:2])
    return result


def encoded(box, anchor, weights):
    size, anchor_size = box[2:] - box[:2], anchor[2:] - anchor[:2]
    shift = (box[:2] + box[2:] - anchor[:2] - anchor[2:]) / 2 / anchor_size
    return np.concatenate([shift, np.log(size / anchor_size)]) * weights


def decoded(offsets, anchor, weights, clipped=True):
    offsets, size = offsets / np.array(weights), anchor[2:] - anchor[:2]
    centre = (anchor[:2] + anchor[2:]) / 2 + offsets[:2] * size
    half = size * np.exp(offsets[2:]) / 2
    box = np.concatenate([centre - half, centre + half])
    return np.clip(box, 0, SIDE) if clipped else box


def objects_of(batch, image):
    """(boxes, classes, crowds) of one image."""
    taken = batch["valid"][image] & ~batch["crowd"][image]
    return batch["boxes"][image][taken], batch["classes"][image][taken], batch["boxes"][image][batch["crowd"][image]]


def ssd_matches(quality, threshold):
    matches = np.where(quality.max(axis=0, initial=0) >= threshold, quality.argmax(axis=0) if len(quality) else 0, -1)
    left = quality.copy()
    for _ in range(len(quality)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        matches[column] = row
        left[row], left[:, column] = -1, -1
    return matches


def ssd_terms(outputs, batch):
    """(cross entropy, smooth L1, matched boxes) summed over the batch."""
    default_boxes, weights = ANCHORS["ssd"], (10, 10, 5, 5)
    total, distance, count = 0.0, 0.0, 0
    for image in np.flatnonzero(batch["mask"]):
        boxes, classes, crowds = objects_of(batch, image)
        matches = ssd_matches(quality_of(boxes, default_boxes), 0.5)
        ignored = crowded(default_boxes, crowds)
        logits = outputs["logits"][image].astype(np.float64)
        entropies = np.log(np.exp(logits).sum(axis=1))
        background = []
        for anchor, match in enumerate(matches):
            if match >= 0:
                total += entropies[anchor] - logits[anchor, 1 + classes[match]]
                away = encoded(boxes[match], default_boxes[anchor], weights) - outputs["offsets"][image, anchor]
                distance += sum(x * x / 2 if abs(x) < 1 else abs(x) - 0.5 for x in away)
            elif not ignored[anchor]:
                background.append(entropies[anchor] - logits[anchor, 0])
        positives = int(np.sum(matches >= 0))
        total += sum(sorted(background, reverse=True)[: 3 * positives])
        count += positives
    return total, distance, count


def retinanet_terms(outputs, batch, box_loss="l1"):
    """(focal loss, loss of the boxes), each image's divided by its number of matched anchors, summed over images."""
    total, distance = 0.0, 0.0
    for image in np.flatnonzero(batch["mask"]):
        boxes, classes, crowds = objects_of(batch, image)
        quality = quality_of(boxes, ANCHORS["retinanet"])
        ignored = crowded(ANCHORS["retinanet"], crowds)
        focal, away, positives = 0.0, 0.0, 0
        for index, anchor in enumerate(ANCHORS["retinanet"]):
            best = quality[:, index].max(initial=0)
            own = any(quality[row, index] == quality[row].max() > 0 for row in range(len(boxes)))
            target = np.zeros(CLASSES)
            if best >= 0.5 or own:
                match = quality[:, index].argmax()
                target[classes[match]] = 1
                positives += 1
                away += box_distance(outputs["offsets"][image, index], boxes[match], anchor, box_loss)
            elif best >= 0.4 or ignored[index]:
                continue
            p = 1 / (1 + np.exp(-outputs["logits"][image, index].astype(np.float64)))
            focal -= np.sum(0.25 * target * (1 - p) ** 2 * np.log(p) + 0.75 * (1 - target) * p**2 * np.log(1 - p))
        total += focal / max(positives, 1)
        distance += away / max(positives, 1)
    return total, distance


def box_distance(offsets, box, anchor, box_loss):
    if box_loss == "giou":
        predicted = decoded(offsets, anchor, (1, 1, 1, 1), clipped=False)
        enclosing = np.prod(np.maximum(predicted[2:], box[2:]) - np.minimum(predicted[:2], box[:2]))
        overlap = iou(predicted, box)
        union = (np.prod(predicted[2:] - predicted[:2]) + np.prod(box[2:] - box[:2])) / (1 + overlap)
        return 1 - overlap + (enclosing - union) / enclosing
    away = np.abs(encoded(box, anchor, 1) - offsets)
    return np.sum(away if box_loss == "l1" else np.where(away < 0.11, away**2 / 0.22, away - 0.055))


def greedy(candidates, threshold):
    """Of (score, class, box) those that no better one of their class overlaps, the best first."""
    kept = []
    for candidate in sorted(candidates, key=lambda found: -found[0]):
        if all(candidate[1] != other[1] or iou(candidate[2], other[2]) <= threshold for other in kept):
            kept.append(candidate)
    return kept


def check_found(found, image, expected, detections):
    expected = expected[:detections]
    assert found["valid"][image].tolist() == [index < len(expected) for index in range(detections)]
    for index, (score, label, box) in enumerate(expected):
        assert found["classes"][image, index] == label
        np.testing.assert_allclose(found["scores"][image, index], score, rtol=1e-5)
        np.testing.assert_allclose(found["boxes"][image, index], box, atol=1e-3)
    for key in ("boxes", "scores", "classes"):
        assert not found[key][image][len(expected) :].any()


# SSD.


@pytest.mark.parametrize("seed", range(3))
def test_loss_of_ssd(seed):
    outputs, batch = make_outputs("ssd", seed), make_batch(seed)
    _, terms, _ = compiled("ssd")(outputs, batch)
    entropy, distance, count = ssd_terms(outputs, batch)
    assert terms["class"].count == terms["box"].count == count > 0
    np.testing.assert_allclose(terms["class"].total, entropy, rtol=1e-5)
    np.testing.assert_allclose(terms["box"].total, distance, rtol=1e-5)


def test_detections_of_ssd():
    outputs, batch = make_outputs("ssd", 0), make_batch(0)
    task = tasks.create("ssd", **OPTIONS["ssd"])
    found = jax.device_get(jax.jit(task.predict)(outputs, {"image": batch["image"]}))
    boxes, logits = ANCHORS["ssd"], outputs["logits"].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for image in range(IMAGES):
        candidates = []
        for label in range(CLASSES):
            scores = probabilities[image, :, 1 + label]
            best = [index for index in np.argsort(-scores)[:20] if scores[index] > 0.2]
            candidates += [
                (scores[i], label, decoded(outputs["offsets"][image, i], boxes[i], (10, 10, 5, 5))) for i in best
            ]
        check_found(found, image, greedy(candidates, 0.45), 12)


# RetinaNet.


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou"])
def test_loss_of_retinanet(box_loss):
    for seed in range(3 if box_loss == "l1" else 1):
        outputs, batch = make_outputs("retinanet", seed), make_batch(seed)
        options = {} if box_loss == "l1" else {"box_loss": box_loss}
        _, terms, slope = compiled("retinanet", **options)(outputs, batch)
        focal, distance = retinanet_terms(outputs, batch, box_loss)
        assert terms["class"].count == terms["box"].count == 3  # images
        np.testing.assert_allclose(terms["class"].total, focal, rtol=1e-5)
        np.testing.assert_allclose(terms["box"].total, distance, rtol=1e-5)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_detections_of_retinanet():
    """The best 50 of each level, which has 3 anchors at a place; an anchor may be of several classes."""
    outputs, batch = make_outputs("retinanet", 0), make_batch(0)
    task = tasks.create("retinanet", **OPTIONS["retinanet"])
    found = jax.device_get(jax.jit(task.predict)(outputs, {"image": batch["image"]}))
    scores = 1 / (1 + np.exp(-outputs["logits"].astype(np.float64)))
    levels = (range(3 * 36), range(3 * 36, 3 * 45))
    for image in range(IMAGES):
        candidates = []
        for level in levels:
            best = sorted(
                ((scores[image, i, label], label, i) for i in level for label in range(CLASSES)), reverse=True
            )
            candidates += [
                (score, label, decoded(outputs["offsets"][image, i], ANCHORS["retinanet"][i], (1, 1, 1, 1)))
                for score, label, i in best[:50]
                if score > 0.4
            ]
        expected = greedy([found for found in candidates if (found[2][2:] > found[2][:2]).all()], 0.5)
        check_found(found, image, expected, 40)


# Both.


@pytest.mark.parametrize("name", ANCHORS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_order_and_padding_do_not_matter(name, seed):
    """Objects in another order, padding among them and not of zeros, and another number of rows."""
    outputs, batch = make_outputs(name, seed), make_batch(seed)
    total, terms, slope = compiled(name)(outputs, batch)
    rng = np.random.default_rng(seed)
    changed = dict(batch)
    filled = rng.uniform(0, SIDE, batch["boxes"].shape).astype(np.float32)
    changed["boxes"] = np.where(batch["valid"][..., None], batch["boxes"], filled)
    order = rng.permuted(np.tile(np.arange(OBJECTS), (IMAGES, 1)), axis=1)
    for key in ("boxes", "classes", "valid", "crowd"):
        changed[key] = np.stack([rows[places] for rows, places in zip(changed[key], order, strict=True)])
    for other in (changed, pad(batch, 3)):
        other_total, other_terms, other_slope = compiled(name)(outputs, other)
        np.testing.assert_allclose(other_total, total, rtol=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), other_terms, terms)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), other_slope, slope)


def pad(batch, rows):
    return {
        key: np.pad(value, ((0, 0), (0, rows), *[(0, 0)] * (value.ndim - 2)))
        if key in ("boxes", "classes", "valid", "crowd")
        else value
        for key, value in batch.items()
    }


@pytest.mark.parametrize("name", ANCHORS)
def test_images_without_objects(name):
    """Alone they give neither NaN nor a gradient for boxes; beside others they do not change the box loss."""
    outputs, batch = make_outputs(name, 0), make_batch(0)
    empty = batch | {"valid": np.zeros_like(batch["valid"]), "crowd": np.zeros_like(batch["crowd"])}
    total, terms, slope = compiled(name)(outputs, empty)
    assert np.isfinite(total) and terms["box"].total == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert not slope["offsets"].any()
    assert slope["logits"][[0, 1, 3]].any() == (name != "ssd") and not slope["logits"][2].any()


@pytest.mark.parametrize("name", ANCHORS)
def test_rows_that_are_no_examples_teach_nothing(name):
    outputs, batch = make_outputs(name, 0), make_batch(0)
    _, _, slope = compiled(name)(outputs, batch)
    assert slope["logits"][0].any() and slope["offsets"][0].any()
    assert not slope["logits"][2].any() and not slope["offsets"][2].any()
    nothing = compiled(name)(outputs, batch | {"mask": np.zeros(IMAGES, np.float32)})
    assert nothing[0] == 0 and not any(leaf.any() for leaf in jax.tree.leaves(nothing[1:]))


@pytest.mark.parametrize("name", ANCHORS)
def test_boxes_end_where_the_image_ends(name):
    outputs = make_outputs(name, 0)
    batch = {"image": np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8), "size": np.tile([40, 64], (IMAGES, 1))}
    found = jax.device_get(jax.jit(tasks.create(name, **OPTIONS[name]).predict)(outputs, batch))
    boxes, valid = found["boxes"], found["valid"]
    assert valid.any() and (boxes >= 0).all() and (boxes <= [64, 40, 64, 40]).all()
    assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()


@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize("key, value", [("nms_threshold", 1.5), ("score_threshold", -0.1), ("detections", 0)])
def test_ranges(name, key, value):
    with pytest.raises(UsageError, match=f"config.task.{key}: expected .* given {value}"):
        tasks.create(name, **{key: value})
