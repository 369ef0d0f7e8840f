"""OverFeat's detection: the losses of windows against a loop, and detections that many windows agree on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import tasks
from vision.ops.windows import sliding_windows

SIDE, STRIDE, CLASSES, IMAGES = 24, 8, 2, 3
WINDOWS = np.asarray(sliding_windows((3, 2), SIDE, STRIDE))  # of 40 x 32 pixels


def make_batch():
    """An image with two objects, one with none, and one that is no example."""
    boxes = np.zeros((IMAGES, 2, 4), np.float32)
    boxes[0] = boxes[2] = (3, 4, 17, 14), (14, 22, 30, 39)
    batch = {
        "image": np.zeros((IMAGES, 40, 32, 3), np.uint8),
        "boxes": boxes,
        "classes": np.array([[0, 1]] * IMAGES, np.int32),
        "valid": np.array([[1, 1], [0, 0], [1, 1]], bool),
        "mask": np.array([1, 1, 0], np.float32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


def covered(box, window):
    sides = np.minimum(box[2:], window[2:]) - np.maximum(box[:2], window[:2])
    return np.prod(np.maximum(sides, 0)) / np.prod(box[2:] - box[:2])


@pytest.mark.parametrize("per_class", [False, True])
def test_losses_and_detections_of_windows(per_class):
    rng = np.random.default_rng(0)
    batch, task = make_batch(), tasks.create("overfeat", box_weight=2.0, beta=0.2)
    logits = rng.normal(0, 1, (IMAGES, 6, CLASSES))
    shares = rng.normal(0.5, 0.3, (IMAGES, 6, CLASSES if per_class else 1, 4))
    boxes, classes = np.asarray(batch["boxes"], np.float64), np.asarray(batch["classes"])
    entropy = distance = positive = 0
    for image in (0, 1):
        for place, window in enumerate(WINDOWS):
            seen = np.array([covered(box, window) for box in boxes[image]]) if image == 0 else np.zeros(2)
            area = np.where(seen >= 0.5, seen * np.prod(boxes[image, :, 2:] - boxes[image, :, :2], axis=1), 0)
            best, target = area.argmax(), np.zeros(CLASSES)
            if area.max() > 0:
                label = classes[image, best]
                target[label] = 1
                true = (boxes[image, best] - np.tile(window[:2], 2)) / SIDE
                away = np.abs(shares[image, place, label if per_class else 0] - true)
                distance += np.where(away < 0.2, away**2 / 0.4, away - 0.1).sum()
                positive += 1
            p = 1 / (1 + np.exp(-logits[image, place]))
            entropy -= (target * np.log(p) + (1 - target) * np.log(1 - p)).sum()
    assert positive >= 4
    outputs = {
        "score_map": jnp.asarray(logits.reshape(IMAGES, 3, 2, CLASSES), jnp.float32),
        "box_map": jnp.asarray(shares.reshape(IMAGES, 3, 2, -1, 4), jnp.float32),
        "windows": jnp.asarray(WINDOWS.reshape(3, 2, 4)),
    }
    terms = jax.device_get(jax.jit(task.loss)(outputs, batch))
    np.testing.assert_allclose(terms["class"], (entropy, 12), rtol=1e-5)
    np.testing.assert_allclose(terms["box"], (2 * distance, positive), rtol=1e-4)

    # All windows say where the first object is, two of them with certainty.
    true = (boxes[0, 0] - np.tile(WINDOWS[:, :2], 2)) / SIDE
    probability = np.array([0.9, 0.8, 0.1, 0.1, 0.1, 0.1])
    certain = np.stack([np.log(probability / (1 - probability)), np.full(6, -9.0)], axis=1)
    outputs["score_map"] = jnp.asarray(np.broadcast_to(certain.reshape(1, 3, 2, CLASSES), (IMAGES, 3, 2, CLASSES)))
    kinds = CLASSES if per_class else 1
    outputs["box_map"] = jnp.asarray(np.broadcast_to(true.reshape(1, 3, 2, 1, 4), (IMAGES, 3, 2, kinds, 4)))
    found = jax.device_get(jax.jit(task.predict)(outputs, {"image": batch["image"]}))
    assert found["valid"].sum(axis=1).tolist() == [1] * IMAGES and found["classes"][0, 0] == 0
    np.testing.assert_allclose(found["boxes"][0, 0], boxes[0, 0], atol=1e-3)
    assert found["scores"][0, 0] == pytest.approx(1 - 0.1 * 0.2, rel=1e-4)
    assert not found["boxes"][:, 1:].any() and not found["scores"][:, 1:].any()
