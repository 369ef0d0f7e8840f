"""Fast R-CNN: its size as published, what it learns from, and detections of the regions that it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, tasks
from vision.errors import UsageError
from vision.ops import boxes as box_ops

SIDE, IMAGES, PROPOSALS, CLASSES = 32, 3, 12, 2


def make_batch():
    """An image with two objects, one with none, and one that is no example; some proposals are padding."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((IMAGES, 2, 4), np.float32)
    boxes[0] = boxes[2] = (2, 2, 18, 16), (16, 12, 30, 30)
    valid = np.array([[1, 1], [0, 0], [1, 1]], bool)
    near = boxes[0][np.arange(6) % 2] + rng.uniform(-2, 2, (6, 4))
    corner, size = rng.uniform(0, 20, (6, 2)), rng.uniform(5, 12, (6, 2))
    proposals = np.concatenate([near, np.concatenate([corner, corner + size], axis=1)]).astype(np.float32)
    batch = {
        "image": rng.standard_normal((IMAGES, SIDE, SIDE, 3)).astype(np.float32),
        "boxes": boxes,
        "classes": np.array([[0, 1]] * IMAGES, np.int32),
        "valid": valid,
        "proposals": np.broadcast_to(proposals, (IMAGES, PROPOSALS, 4)),
        "proposals_valid": np.broadcast_to(np.arange(PROPOSALS) < PROPOSALS - 2, (IMAGES, PROPOSALS)),
        "mask": np.array([1, 1, 0], np.float32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


@functools.cache
def tiny():
    """Model, task and variables."""
    backbone = {"name": "alexnet", "form": "small", "width": 0.05}
    options = dict(stride=4, roi_size=2, roi_samples=8, hidden=(16,), score_threshold=0.0, max_detections=8)
    model = models.create("fast_rcnn", CLASSES, backbone=backbone, **options)
    task = tasks.create("rcnn")
    variables = models.initialize(model, jax.random.key(0), (SIDE, SIDE, 3))
    # Scores and offsets that differ from region to region.
    head = variables["params"]["box_head"]["head"]
    head["logits"]["kernel"] = 100 * head["logits"]["kernel"]
    return model, task, variables


@functools.cache
def compiled():
    model, task, variables = tiny()

    @jax.jit
    def learn(batch, key):
        def loss(params):
            inputs = task.inputs(batch, True)
            outputs = model.apply({"params": params}, **inputs, train=True, rngs={"sample": key, "dropout": key})
            terms = task.loss(outputs, batch)
            total = sum(term.total / jnp.maximum(term.count, 1) for term in terms.values())
            return total, (terms, outputs["rois"], task.monitor(outputs, batch))

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    @jax.jit
    def evaluate(batch):
        outputs = model.apply(variables, **task.inputs(batch, False))
        return {name: outputs[name] for name in ("logits", "offsets")}, task.predict(outputs, batch)

    return learn, evaluate


def test_parameters_at_the_published_size():
    """VGG-16's convolutions and its two dense layers of 4,096, 21 scores and 84 offsets (section 3.1)."""
    shapes = models.variable_shapes(models.create("fast_rcnn", 20), (224, 224, 3))
    dense = 512 * 49 * 4096 + 4096 + 4096 * 4096 + 4096
    assert models.count_parameters(shapes["params"]) == 14_714_688 + dense + 4097 * (21 + 84)


def test_what_is_learnt_from():
    learn, _ = compiled()
    batch = make_batch()
    (total, (terms, rois, seen)), slope = jax.device_get(learn(batch, jax.random.key(1)))
    overlaps = np.asarray(box_ops.pairwise(batch["boxes"][0], jnp.asarray(rois["boxes"][0])))
    filled, positive = rois["filled"][0], rois["positive"][0]
    best = overlaps.max(axis=0)
    assert (best[filled & positive] >= 0.5).all() and positive.sum() == 2  # a quarter of 8
    assert ((best >= 0.1) & (best < 0.5))[filled & ~positive].all() and (filled & ~positive).any()
    assert (rois["labels"][0] == np.where(positive, 1 + overlaps.argmax(axis=0), 0)).all()
    # Without objects there is background everywhere, and nothing else.
    assert rois["filled"][1].all() and not rois["positive"][1].any()
    count = rois["filled"][:2].sum()  # the third image is no example
    assert terms["classification"].count == terms["box"].count == count
    logits = rois["logits"][:2][rois["filled"][:2]].astype(np.float64)
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(count), rois["labels"][:2][rois["filled"][:2]]]
    assert terms["classification"].total == pytest.approx(entropy.sum(), rel=1e-4)
    assert set(terms) == {"classification", "box"} and np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert seen["proposal_recall"] == (2, 2)


def test_detections_are_of_the_regions_given_and_padding_is_no_matter():
    _, evaluate = compiled()
    batch = {name: make_batch()[name] for name in ("image", "proposals", "proposals_valid")}
    outputs, found = jax.device_get(evaluate(batch))
    assert found["valid"][0].any() and (np.diff(found["scores"], axis=1) <= 0).all()
    logits = outputs["logits"][0, : PROPOSALS - 2].astype(np.float64)
    best = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, 1:].max()
    assert found["scores"][0, 0] == pytest.approx(best, rel=1e-5)
    other = batch | {"proposals": batch["proposals"].at[:, -2:].set(7.0)}
    _, again = jax.device_get(evaluate(other))
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_what_is_missing_is_told():
    model, task, variables = tiny()
    batch = make_batch()
    with pytest.raises(UsageError, match="add the transform selective_search"):
        model.apply(variables, batch["image"], train=True, truth=batch)
    with pytest.raises(UsageError, match="background_from is a share"):
        model.clone(background_from=2.0).apply(variables, batch["image"])
    with pytest.raises(KeyError, match="proposals"):
        task.predict({"detections": {}}, batch)


def test_proposals_reach_the_network_in_training_evaluation_and_prediction():
    """The whole experiment is wired; predictions of new pictures go through the same search."""
    from pathlib import Path

    from ml_collections import ConfigDict

    from vision import experiment
    from vision.run import Run

    split = dict(name="fake_detection:32x48x3:2:8", split="train", batch_size=2)
    backbone = dict(name="alexnet", form="small", width=0.05)
    config = ConfigDict(
        dict(
            model=dict(name="fast_rcnn", backbone=backbone, stride=4, roi_size=2, hidden=(16,), score_threshold=0.0),
            task=dict(name="rcnn"),
            data=dict(
                preprocess=dict(name="normalize"),
                train=dict(transforms="decode|selective_search(20)|flip", **split),
                eval=dict(test=dict(transforms="decode|selective_search(20)", **split)),
            ),
            optimizer=dict(name="sgd", learning_rate=0.1),
            train=dict(steps=1),
        )
    )
    wired = experiment.build(config)
    assert wired.train_data.element_spec["proposals"].shape == (2, 20, 4)
    run = Run(Path("."), wired.config, wired.network, tiny()[2], 0)
    image = np.full((32, 48, 3), 100, np.uint8)
    image[4:20, 8:30] = 250
    (found,) = run.predictions([image], batch_size=1)
    assert found["predictions"]["valid"].any()

    config.data.eval.test.transforms = "decode"
    with pytest.raises(UsageError, match="'rcnn' needs 'proposals'"):
        experiment.build(config)
