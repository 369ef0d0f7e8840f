"""Classification and localisation: the loss against NumPy, sums against hand counts, and a few steps of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, tasks
from vision.errors import UsageError

HEIGHT, WIDTH, CLASSES, IMAGES = 40, 80, 3, 6


def make_batch(seed=0):
    """Six images: with an object, one in the second row, none, a crowd first, no example, and one that is padded."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 20, (IMAGES, 2, 2)), rng.uniform(8, 20, (IMAGES, 2, 2))
    valid = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [1, 0], [1, 0]], bool)
    batch = {
        "image": np.zeros((IMAGES, HEIGHT, WIDTH, 3), np.uint8),
        "boxes": np.where(valid[..., None], np.concatenate([corner, corner + size], -1), 0).astype(np.float32),
        "classes": rng.integers(0, CLASSES, (IMAGES, 2)).astype(np.int32),
        "valid": valid,
        "crowd": np.array([[0, 0], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], bool),
        "size": np.array([[HEIGHT, WIDTH]] * 5 + [[30, 35]], np.int32),
        "mask": np.array([1, 1, 1, 1, 0, 1], np.float32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


COUNTED = ((0, 0), (1, 1), (3, 1), (5, 0))  # (image, row) of the objects to be learnt
SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])


def make_outputs(batch, boxes=1, seed=1):
    rng = np.random.default_rng(seed)
    rows = dict(COUNTED)
    near = np.stack([batch["boxes"][image, rows.get(image, 0)] for image in range(IMAGES)])[:, None] / SCALE
    return {
        "logits": jnp.asarray(rng.standard_normal((IMAGES, CLASSES)), jnp.float32),
        "boxes": jnp.asarray(near + rng.normal(0, 0.02, (IMAGES, boxes, 4)), jnp.float32),
    }


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both)


@functools.cache
def compiled(kind):
    """(outputs, batch) -> the loss's terms, its gradient by the boxes, the predictions and the metrics' sums."""
    task = tasks.create("localization", num_classes=CLASSES, box_loss=kind, beta=0.04, box_weight=2.0)

    def total(boxes, outputs, batch):
        terms = task.loss(outputs | {"boxes": boxes}, batch)
        return sum(term.total for term in terms.values()), terms

    @jax.jit
    def everything(outputs, batch):
        slope, terms = jax.grad(total, has_aux=True)(outputs["boxes"], outputs, batch)
        picture = {name: batch[name] for name in ("image", "size")}
        return terms, slope, task.predict(outputs, picture), task.metrics(outputs, batch)

    return task, lambda outputs, batch: jax.device_get(everything(outputs, batch))


@pytest.mark.parametrize("boxes, kind", [(CLASSES, "smooth_l1"), (1, "giou")])
def test_losses_are_those_of_a_loop(boxes, kind):
    inputs = make_batch()
    given = make_outputs(inputs, boxes)
    terms = compiled(kind)[1](given, inputs)[0]
    outputs, batch = jax.device_get((given, inputs))
    entropy, distance = 0.0, 0.0
    for image, row in COUNTED:
        logits, label = outputs["logits"][image].astype(np.float64), batch["classes"][image, row]
        entropy += np.log(np.exp(logits).sum()) - logits[label]
        said = outputs["boxes"][image, label if boxes > 1 else 0].astype(np.float64)
        true = batch["boxes"][image, row] / SCALE
        if kind == "smooth_l1":
            away = np.abs(said - true)
            distance += 2 * np.where(away < 0.04, away**2 / 0.08, away - 0.02).sum()
        else:
            overlap = iou(said, true)
            hull = np.prod(np.maximum(said[2:], true[2:]) - np.minimum(said[:2], true[:2]))
            areas = np.prod(said[2:] - said[:2]) + np.prod(true[2:] - true[:2])
            union = areas / (1 + overlap)
            distance += 2 * (1 - overlap + (hull - union) / hull)
    np.testing.assert_allclose(terms["class"], (entropy, 4), rtol=1e-5)
    np.testing.assert_allclose(terms["box"], (distance, 4), rtol=1e-4)


def test_metrics_count_every_object_once():
    inputs = make_batch()
    given = make_outputs(inputs, CLASSES)
    task, everything = compiled("smooth_l1")
    terms, _, found, sums = everything(given, inputs)
    outputs, batch = jax.device_get((given, inputs))
    overlaps, named = [], []
    for image, row in COUNTED:
        label = outputs["logits"][image].argmax()
        height, width = batch["size"][image]
        box = np.clip(outputs["boxes"][image, label] * SCALE, 0, (width, height, width, height))
        np.testing.assert_allclose(found["boxes"][image, 0], box, rtol=1e-5)
        assert found["classes"][image, 0] == label and found["valid"][image, 0]
        overlaps.append(iou(box, batch["boxes"][image, row]))
        named.append(label == batch["classes"][image, row])
    overlaps, named = np.array(overlaps), np.array(named)
    metrics = task.summarize(sums)
    assert metrics["accuracy"] == pytest.approx(named.mean())
    assert metrics["mean_iou"] == pytest.approx(overlaps.mean(), rel=1e-5)
    assert metrics["localization_accuracy"] == pytest.approx((overlaps >= 0.5).mean())
    assert metrics["top1_localization"] == pytest.approx((named & (overlaps >= 0.5)).mean())
    assert metrics["confusion_matrix"].sum() == 4
    assert metrics["loss"] == pytest.approx(float((terms["class"].total + terms["box"].total) / 4), rel=1e-5)


def test_a_batch_without_objects_is_no_matter():
    batch = make_batch()
    task, everything = compiled("smooth_l1")
    terms, slope, _, sums = everything(make_outputs(batch, CLASSES), batch | {"valid": jnp.zeros((IMAGES, 2), bool)})
    assert not np.any(slope) and terms["box"] == terms["class"] == (0, 0)
    assert np.isnan(task.summarize(sums)["accuracy"])


def test_wrong_settings_are_told():
    with pytest.raises(UsageError, match="at least two classes"):
        tasks.create("localization", num_classes=1)
    with pytest.raises(UsageError, match=r"config\.task\.beta"):
        tasks.create("localization", num_classes=3, beta=-1.0)
    with pytest.raises(UsageError, match="no features by stride"):
        models.variable_shapes(models.create("localizer", 3, backbone={"name": "mlp", "hidden": (4,)}), (8, 8, 3))


@functools.cache
def scenes():
    """Bright squares on grey: the class is their colour."""
    rng = np.random.default_rng(0)
    image = np.full((16, 32, 32, 3), 100, np.uint8)
    size, classes = rng.integers(8, 16, 16), rng.integers(0, 3, 16)
    corner = np.stack([rng.integers(0, 33 - side, 2) for side in size])
    for index, ((x, y), side, label) in enumerate(zip(corner, size, classes, strict=True)):
        image[index, y : y + side, x : x + side, label] = 255
    boxes = np.concatenate([corner, corner + size[:, None]], axis=1).astype(np.float32)
    truth = {"boxes": boxes[:, None], "classes": classes[:, None].astype(np.int32), "valid": np.ones((16, 1), bool)}
    batch = {"image": image, **truth, "label": classes, "mask": np.ones(16, np.float32)}
    return {name: jnp.asarray(value) for name, value in batch.items()}


def test_a_few_steps_find_squares():
    import optax

    batch, task = scenes(), tasks.create("localization", num_classes=3)
    backbone = {"name": "resnet", "stage_sizes": (1, 1), "width": 8, "small_images": True}
    model = models.create("localizer", 3, backbone=backbone, per_class=True, window=4, hidden=(32,))
    variables = models.initialize(model, jax.random.key(0), (32, 32, 3))
    optimizer = optax.adam(5e-3)
    image = jnp.asarray(batch["image"], jnp.float32) / 128 - 1

    def loss(params, state):
        outputs, changed = model.apply({"params": params, **state}, image, train=True, mutable=["batch_stats"])
        terms = task.loss(outputs, batch)
        return sum(term.total / term.count for term in terms.values()), (changed, task.monitor(outputs, batch))

    @jax.jit
    def step(params, state, moments):
        (value, (state, seen)), slope = jax.value_and_grad(loss, has_aux=True)(params, state)
        updates, moments = optimizer.update(slope, moments)
        return optax.apply_updates(params, updates), state, moments, value, seen

    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    moments, losses = optimizer.init(params), []
    for _ in range(40):
        params, state, moments, value, seen = step(params, state, moments)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 3
    assert seen["mean_iou"].total / seen["mean_iou"].count > 0.5
