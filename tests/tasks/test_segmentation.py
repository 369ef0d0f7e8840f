"""Segmentation: losses and scores against NumPy, several views at test time, and a small network through the trainer.

This file is also a script: `launch.predict` with the network and the data below.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision import models, tasks
from vision.data import catalog
from vision.data.images import opencv
from vision.data.source import Source
from vision.errors import UsageError
from vision.explain import plots
from vision.explain.segmentation import image_iou
from vision.tasks import Mean, views
from vision.train import step

IGNORE = 255
NAMES = ("background", "bright", "dark")
SIDE = 24


def task(num_classes=3, class_names=NAMES, **arguments):
    """The task, its sums compiled: operation by operation they take seconds."""
    plain = tasks.create("segmentation", num_classes=num_classes, class_names=class_names, **arguments)
    return dataclasses.replace(plain, loss=jax.jit(plain.loss), metrics=jax.jit(plain.metrics))


def batch_of(seed=0, batch=4, height=12, width=10, classes=3, mask=None):
    """Labels in blocks of four pixels, some of them ignored, as jax arrays."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (batch, -(-height // 4), -(-width // 4)))
    labels = labels.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width].astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    mask = np.ones(batch) if mask is None else mask
    return {"segmentation": jnp.asarray(labels), "mask": jnp.asarray(mask, jnp.float32)}


def outputs_of(seed=0, batch=4, height=12, width=10, classes=3):
    logits = np.random.default_rng(seed + 99).normal(0, 2, (batch, height, width, classes))
    return {"logits": jnp.asarray(logits, jnp.float32)}


def entropies(logits, labels):
    """(P,) cross entropy and labels of the valid pixels."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    valid = labels != IGNORE
    logits, labels = logits[valid], labels[valid]
    log_sum = np.log(np.exp(logits).sum(axis=-1))
    return log_sum - np.take_along_axis(logits, labels[:, None].astype(int), axis=-1)[:, 0], labels


def confusion(labels, predicted, classes=3):
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    valid = labels != IGNORE
    cells = labels[valid].astype(int) * classes + predicted[valid]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


# Loss.


def test_cross_entropy_is_the_mean_over_the_valid_pixels_of_the_batch():
    batch, outputs = batch_of(mask=[1, 1, 1, 0]), outputs_of()
    (term,) = task().loss(outputs, batch).values()
    expected, _ = entropies(outputs["logits"][:3], batch["segmentation"][:3])
    assert float(term.count) == len(expected)
    np.testing.assert_allclose(term.total / term.count, expected.mean(), rtol=1e-5)


def test_class_weights_make_a_weighted_mean():
    batch, outputs, weights = batch_of(), outputs_of(), (0.5, 0.0, 2.0)
    (term,) = task(class_weights=weights).loss(outputs, batch).values()
    values, labels = entropies(outputs["logits"], batch["segmentation"])
    expected = np.average(values, weights=np.array(weights)[labels])
    np.testing.assert_allclose(term.total / term.count, expected, rtol=1e-5)


def test_terms_and_auxiliary_heads_have_their_weights():
    batch, outputs = batch_of(), outputs_of()
    one = task(cross_entropy=1.0, dice=1.0, focal=1.0).loss(outputs, batch)
    two = task(cross_entropy=0.5, dice=2.0, focal=3.0).loss(outputs | {"aux_logits": (outputs["logits"],)}, batch)
    assert sorted(one) == ["cross_entropy", "dice", "focal"]
    assert sorted(two) == ["auxiliary_1", "cross_entropy", "dice", "focal"]
    for name, factor in {"cross_entropy": 0.5, "dice": 2.0, "focal": 3.0}.items():
        np.testing.assert_allclose(two[name].total, factor * one[name].total, rtol=1e-6)
        assert float(two[name].count) == float(one[name].count)
    np.testing.assert_allclose(two["auxiliary_1"].total, 0.4 * one["cross_entropy"].total, rtol=1e-6)
    assert float(one["dice"].count) == 4
    assert list(task(cross_entropy=0.0, focal=1.0).loss(outputs, batch)) == ["focal"]


def test_terms_of_the_parts_of_a_batch_add_up():
    """So that the loss does not depend on how many devices share a batch."""
    batch, outputs, loss = batch_of(), outputs_of(), task(dice=1.0, focal=1.0).loss
    whole = loss(outputs, batch)
    parts = [
        loss({"logits": outputs["logits"][rows]}, {name: value[rows] for name, value in batch.items()})
        for rows in (slice(0, 1), slice(1, 4))
    ]
    for name, term in whole.items():
        summed = Mean(*(sum(values) for values in zip(*(part[name] for part in parts), strict=True)))
        np.testing.assert_allclose(summed, term, rtol=1e-5)


def test_a_batch_without_a_valid_pixel_adds_nothing():
    batch, outputs = batch_of(mask=np.zeros(4)), outputs_of()
    tested = task(dice=1.0, focal=1.0)
    for term in tested.loss(outputs, batch).values():
        assert float(term.total) == float(term.count) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(tested.metrics(outputs, batch)))
    found = tested.summarize(tested.metrics(outputs, batch))
    assert math.isnan(found["mean_iou"]) and math.isnan(found["boundary_f1"])


# Scores.


def by_definition(matrix):
    """Scores of a confusion matrix, class by class."""
    total, ious, recalls, weighted = matrix.sum(), [], [], 0.0
    for label in range(len(matrix)):
        true, said, right = matrix[label].sum(), matrix[:, label].sum(), matrix[label, label]
        if true + said:
            ious.append(right / (true + said - right))
            weighted += true / total * ious[-1]
        if true:
            recalls.append(right / true)
    return {
        "mean_iou": np.mean(ious),
        "pixel_accuracy": np.trace(matrix) / total,
        "mean_class_accuracy": np.mean(recalls),
        "frequency_weighted_iou": weighted,
        "foreground_iou": matrix[1:, 1:].sum() / (total - matrix[0, 0]),
    }


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores(classes):
    batch = batch_of(3, classes=min(classes, 5), mask=[1, 0, 1, 1])  # of seven classes two are not in the truth
    outputs = outputs_of(3, classes=classes)
    outputs["logits"] = outputs["logits"].at[..., classes - 1].add(-100 if classes == 7 else 0)  # nor one predicted
    tested = task(classes, ("background", *map(str, range(1, classes))))
    found = tested.summarize(jax.device_get(tested.metrics(outputs, batch)))
    rows = np.array([0, 2, 3])
    matrix = confusion(batch["segmentation"][rows], outputs["logits"][rows].argmax(axis=-1), classes)
    np.testing.assert_array_equal(found["confusion_matrix"], matrix)
    for name, expected in by_definition(matrix).items():
        np.testing.assert_allclose(found[name], expected, err_msg=name)
    assert np.isnan(found["iou"][-1]) == (classes == 7)
    np.testing.assert_allclose(found["mean_iou"], np.nanmean(found["iou"]))
    expected, _ = entropies(outputs["logits"][rows], batch["segmentation"][rows])
    np.testing.assert_allclose(found["loss"], expected.mean(), rtol=1e-5)
    if classes == 2:
        np.testing.assert_allclose(found["foreground_iou"], found["iou"][1])


def test_foreground_is_known_where_the_first_class_is_the_background():
    batch, outputs = batch_of(), outputs_of()
    for names, known in ((NAMES, True), (("road", "car", "sky"), False), ((), False)):
        tested = task(class_names=names)
        assert ("foreground_iou" in tested.summarize(tested.metrics(outputs, batch))) == known


def test_boundaries_may_be_left_out():
    tested = task(boundary_tolerance=None)
    assert "boundary_f1" not in tested.summarize(tested.metrics(outputs_of(), batch_of()))


def add(sums, new):
    return new if sums is None else jax.tree.map(np.add, sums, new)


def test_padded_batches_score_as_the_images_one_by_one():
    """Images of two sizes, padded at the bottom and the right with 255, through a network of single pixels."""
    tested, rng = task(boundary_tolerance=0.1), np.random.default_rng(0)
    metrics = tested.metrics
    kernel = rng.normal(0, 1, (3, 3)).astype(np.float32)
    sizes = [(12, 10), (16, 16), (12, 10), (12, 10)]
    images = [rng.normal(0, 1, (*size, 3)).astype(np.float32) for size in sizes]
    truths = [np.asarray(batch_of(i, 1, *size)["segmentation"])[0] for i, size in enumerate(sizes)]
    alone = None
    for image, truth in zip(images, truths, strict=True):
        batch = {"segmentation": jnp.asarray(truth)[None], "mask": jnp.ones(1)}
        alone = add(alone, jax.device_get(metrics({"logits": jnp.asarray(image @ kernel)[None]}, batch)))
    padded = np.full((5, 16, 16, 3), 7.0, np.float32)
    labels = np.full((5, 16, 16), IGNORE, np.uint8)
    labels[4] = 1  # a row that is no example
    for row, ((height, width), image, truth) in enumerate(zip(sizes, images, truths, strict=True)):
        padded[row, :height, :width], labels[row, :height, :width] = image, truth
    batch = {"segmentation": jnp.asarray(labels), "mask": jnp.array([1.0, 1, 1, 1, 0])}
    batch["size"] = jnp.array([*sizes, (16, 16)], jnp.int32)
    together = jax.device_get(metrics({"logits": jnp.asarray(padded @ kernel)}, batch))
    expected = sum(confusion(t, (i @ kernel).argmax(-1)) for i, t in zip(images, truths, strict=True))
    np.testing.assert_array_equal(together["confusion_matrix"], expected)
    one, other = tested.summarize(alone), tested.summarize(together)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, err_msg=name)


def test_a_network_scores_batches_of_few_shapes_as_their_images_one_by_one():
    """Images of eight sizes in two shapes: what stands beside an image in a batch changes nothing."""
    tested, rng = task(boundary_tolerance=0.1), np.random.default_rng(0)
    model = models.create("unet", 3, width=4, depth=1, norm="group")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    score = jax.jit(lambda image, batch: tested.metrics(model.apply(variables, image), batch))

    def padded(size, shape, seed):
        image, labels = np.zeros((*shape, 3), np.float32), np.full(shape, IGNORE, np.uint8)
        image[: size[0], : size[1]] = rng.normal(0, 1, (*size, 3))
        labels[: size[0], : size[1]] = batch_of(seed, 1, *size)["segmentation"][0]
        facts = {"segmentation": labels, "size": np.array(size, np.int32), "mask": np.float32(1)}
        return image, facts

    alone, together = None, None
    for shape in ((16, 24), (24, 16)):
        sizes = [(shape[0] - low, shape[1] - less) for low, less in ((0, 0), (1, 3), (4, 0), (5, 7))]
        images, facts = zip(*(padded(size, shape, seed) for seed, size in enumerate(sizes)), strict=True)
        for image, fact in zip(images, facts, strict=True):
            alone = add(alone, jax.device_get(score(image[None], jax.tree.map(lambda x: x[None], fact))))
        batch = jax.tree.map(lambda *values: np.stack(values), *facts)
        together = add(together, jax.device_get(score(np.stack(images), batch)))
    one, other = tested.summarize(alone), tested.summarize(together)
    np.testing.assert_allclose(one["mean_iou"], other["mean_iou"], atol=1e-6)
    np.testing.assert_allclose(one["boundary_f1"], other["boundary_f1"], atol=1e-6)


def test_the_worst_images_are_those_of_the_least_iou():
    outputs, batch = outputs_of(), batch_of()
    batch["segmentation"] = batch["segmentation"].at[1].set(IGNORE)  # nothing to compare
    found = task().interest(outputs, batch)
    predicted = np.asarray(outputs["logits"]).argmax(-1)
    scores = [image_iou(*pair) for pair in zip(np.asarray(batch["segmentation"]), predicted, strict=True)]
    np.testing.assert_allclose(found, 1 - np.nan_to_num(scores, nan=1.0), atol=1e-6)


def test_logits_of_another_size_are_an_error():
    with pytest.raises(UsageError, match=r"\(4, 6, 10, 3\).*\(4, 12, 10\)"):
        task().loss({"logits": outputs_of()["logits"][:, ::2]}, batch_of())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "2 to 255 classes"),
        ({"num_classes": 256}, "2 to 255 classes"),
        ({"cross_entropy": 0.0}, "all 0"),
        ({"dice": -1.0}, "config.task.dice"),
        ({"focal_gamma": -0.1}, "focal_gamma"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"class_weights": (1.0, 2.0)}, "2 weights are given, and the data have 3"),
        ({"class_weights": (0.0, 0.0, 0.0)}, "some above 0"),
        ({"boundary_tolerance": 0.0}, "boundary_tolerance"),
        ({"boundary_tolerance": math.nan}, "boundary_tolerance"),
        ({"auxiliary_weight": -1.0}, "config.task.auxiliary_weight"),
        ({"class_weights": (1.0, math.nan, 1.0)}, "some above 0"),
        ({"window": 0}, "config.task.window"),
        ({"window_stride": 8}, "no window"),
        ({"window": (8, 16), "window_stride": 12}, "1 to the window's side"),
        ({"scales": ()}, "config.task.scales"),
        ({"scales": (1.0, 0.0)}, "config.task.scales"),
        ({"windows": 3}, "did you mean 'window'"),
    ],
)
def test_values_out_of_range_are_errors(arguments, message):
    with pytest.raises(UsageError, match=message):
        task(**arguments)


def test_prediction_and_its_facts():
    outputs = outputs_of()
    found = jax.device_get(task().predict(outputs, {}))
    assert found["segmentation"].dtype == np.uint8 and found["segmentation"].shape == (4, 12, 10)
    np.testing.assert_array_equal(found["segmentation"], outputs["logits"].argmax(axis=-1))
    np.testing.assert_allclose(found["confidence"], jax.nn.softmax(outputs["logits"]).max(axis=-1), rtol=1e-6)
    ids = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.uint8)
    facts = task().describe({"segmentation": ids, "confidence": np.full(ids.shape, 0.75, np.float32)}, NAMES)
    assert facts == {"classes": {"background": 0.75, "dark": 0.25}, "confidence": 0.75}
    assert json.loads(json.dumps(facts)) == facts


def test_all_pictures_of_the_task_are_in_the_tables():
    tested = task()
    assert {*tested.plots, tested.prediction_plot} <= set(plots.PLOTS)
    assert set(tested.prediction_files) <= set(plots.FILES)


# Several views.


KERNEL = np.random.default_rng(1).normal(0, 1, (3, 4)).astype(np.float32)


def by_pixel(inputs):
    """A network of single pixels: what it says of one does not depend on the others."""
    return {"logits": inputs["image"] @ KERNEL, "features": {}}


def image_of(height=11, width=17, batch=2):
    return {"image": jnp.asarray(np.random.default_rng(2).normal(0, 1, (batch, height, width, 3)), jnp.float32)}


def probabilities(outputs):
    return np.asarray(jax.nn.softmax(outputs["logits"], axis=-1))


def test_the_plain_view_is_the_model_itself():
    inputs = image_of()
    assert task().forward(by_pixel, inputs).keys() == {"logits", "features"}
    np.testing.assert_array_equal(task().forward(by_pixel, inputs)["logits"], by_pixel(inputs)["logits"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"window": 5},
        {"window": (4, 9), "window_stride": (1, 7)},
        {"window": 64},
        {"flip": True},
        {"window": 6, "flip": True},
    ],
)
def test_views_of_a_network_of_single_pixels_change_nothing(arguments):
    inputs = image_of()
    found = jax.jit(lambda inputs: task(**arguments).forward(by_pixel, inputs))(inputs)
    np.testing.assert_allclose(probabilities(found), probabilities(by_pixel(inputs)), atol=1e-6)
    np.testing.assert_array_equal(found["logits"].argmax(-1), by_pixel(inputs)["logits"].argmax(-1))


def test_windows_are_seen_one_by_one_and_averaged():
    """A network that adds the window's mean to each pixel, against a loop in NumPy."""
    image = image_of(7, 10)["image"]

    def see(image):
        return jax.nn.softmax((image + image.mean(axis=(1, 2), keepdims=True)) @ KERNEL, axis=-1)

    found = jax.jit(lambda image: views.in_windows(see, image, (4, 5), (3, 4)))(image)
    total, counts = np.zeros((2, 7, 10, 4)), np.zeros((7, 10, 1))
    for top in (0, 3):
        for left in (0, 4, 5):
            here = np.s_[:, top : top + 4, left : left + 5]
            total[here] += see(image[here])
            counts[here[1:]] += 1
    np.testing.assert_allclose(found, total / counts, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 400))
def test_windows_cover_every_pixel_and_stay_inside(side, window, stride):
    window = min(side, window)
    stride = min(stride, window)
    starts = views.window_starts(side, window, stride)
    covered = np.zeros(side, int)
    for start in starts:
        assert 0 <= start <= side - window
        covered[start : start + window] += 1
    assert covered.all() and len(set(starts)) == len(starts) and starts == sorted(starts)
    assert len(starts) == math.ceil((side - window) / stride) + 1  # no more than needed


def test_the_mirror_image_is_mirrored_back():
    """A network that tells left from right: its mean over both is symmetric on a symmetric image."""
    inputs = {"image": jnp.ones((1, 4, 6, 3))}
    ramp = jnp.arange(6.0)[:, None] * jnp.array([1.0, -1.0])

    def slanted(inputs):
        return {"logits": jnp.broadcast_to(ramp, (1, 4, 6, 2))}

    found = probabilities(task(2, (), flip=True).forward(slanted, inputs))
    one = probabilities(slanted(inputs))
    np.testing.assert_allclose(found, (one + one[:, :, ::-1]) / 2, atol=1e-6)
    np.testing.assert_allclose(found, found[:, :, ::-1], atol=1e-6)


def test_scales_of_constant_images_change_nothing():
    inputs = {"image": jnp.broadcast_to(jnp.array([0.3, -1.0, 2.0]), (2, 10, 14, 3))}
    seen = []

    def noting(inputs):
        seen.append(inputs["image"].shape[1:3])
        return by_pixel(inputs)

    found = jax.jit(lambda inputs: task(scales=(0.5, 1.0, 1.75), flip=True).forward(noting, inputs))(inputs)
    assert seen == [(5, 7), (5, 7), (10, 14), (10, 14), (18, 24), (18, 24)]
    np.testing.assert_allclose(probabilities(found), probabilities(by_pixel(inputs)), atol=1e-5)


def test_certain_probabilities_have_finite_logits():
    inputs = {"image": 1000.0 * image_of()["image"]}
    assert np.isfinite(task(flip=True).forward(by_pixel, inputs)["logits"]).all()


def test_views_are_for_evaluation_and_not_for_training():
    seen = []

    class Noting:
        """A model that notes what it sees."""

        def apply(self, variables, image, train, rngs=None, mutable=None):
            seen.append((train, image.shape[1:3]))
            return (by_pixel({"image": image}), {}) if train else by_pixel({"image": image})

    for rng in (jax.random.key(0), None):
        step.apply_model(Noting(), task(4, window=5), lambda image: image, {"params": {}}, image_of(), rng)
    assert seen[0] == (True, (11, 17))
    assert set(seen[1:]) == {(False, (5, 5))}


# Through the whole trainer: bright and dark squares on grey, images of different sizes in one padded batch.


@dataclasses.dataclass(frozen=True)
class Squares:
    """A bright and a dark square on noisy grey; the bottom and the right are padding, of which `size` tells."""

    examples: int
    seed: int

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        size = rng.integers(16, SIDE + 1, 2)
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        segmentation = np.full((SIDE, SIDE), IGNORE, np.uint8)
        inside, truth = image[: size[0], : size[1]], segmentation[: size[0], : size[1]]
        inside[:], truth[:] = rng.integers(90, 150, (*size, 3)), 0
        for label, values in ((1, (180, 256)), (2, (0, 60))):
            y, x = rng.integers(0, size - 6)
            inside[y : y + 6, x : x + 6], truth[y : y + 6, x : x + 6] = rng.integers(*values, (6, 6, 3)), label
        return {"image": image, "segmentation": segmentation, "size": size.astype(np.int32)}

    def describe(self, index):
        return f"squares {index}"

    def labels(self):
        return np.tile(np.arange(3), len(self))


def open_squares(rest, split, where):
    return Source(f"squares:{rest}", split, Squares(int(rest), {"train": 0, "test": 1}[split]), NAMES)


class TinyFCN(nn.Module):
    """Two convolutions and a classifier of pixels, with an auxiliary one while training.

    Attributes:
        num_classes: number of classes.
        dtype: dtype of the computation.
    """

    num_classes: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.relu(nn.Conv(12, (3, 3))(image))
        outputs = {"aux_logits": (nn.Conv(self.num_classes, (1, 1), name="auxiliary")(x),)}
        x = nn.relu(nn.Conv(12, (3, 3))(x))
        return {"logits": nn.Conv(self.num_classes, (1, 1))(x)} | outputs


TABLES = ((models.MODELS, "tiny_fcn", TinyFCN), (catalog.SOURCES, "squares", open_squares))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, folder) of the network, trained by `vision.fit`."""
    from ml_collections import ConfigDict

    import vision
    from vision.train.writers import Console

    config = ConfigDict()
    config.model = dict(name="tiny_fcn")
    config.task = dict(name="segmentation", dice=0.5, flip=True, window=16)
    config.data = dict(
        preprocess=dict(name="normalize", low=-1.0),
        train=dict(name="squares:64", split="train", batch_size=16, transforms="decode"),
        eval=dict(test=dict(name="squares:21", split="test", batch_size=8, transforms="decode")),
    )
    config.optimizer = dict(name="adam", learning_rate=1e-2)
    config.train = dict(steps=50)
    config.evaluate = dict(every=25)
    workdir = tmp_path_factory.mktemp("runs") / "fcn"
    with pytest.MonkeyPatch.context() as patch:
        for table, name, entry in TABLES:
            patch.setitem(table, name, entry)
        with open(os.devnull, "w") as silent:
            run = vision.fit(config, workdir, console=Console(workdir.parent / "log.txt", stream=silent))
        yield run, workdir


def test_training_learns_to_segment(trained):
    _, workdir = trained
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"train/cross_entropy", "train/dice", "train/auxiliary_1", "train/pixel_accuracy"} <= set(rows[-1])
    assert rows[-1]["test/mean_iou"] > 0.8
    assert rows[-1]["test/foreground_iou"] > 0.8
    assert 0.5 < rows[-1]["test/boundary_f1"] <= 1
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best"]["test/mean_iou"] == max(row.get("test/mean_iou", 0) for row in rows)


def test_its_pictures_are_drawn(trained):
    _, workdir = trained
    for name in ("class_iou", "segmentation_grid", "mean_iou", "loss"):
        assert opencv().imread(str(workdir / "plots" / f"{name}.png")).std() > 1, name


def test_pictures_are_without_padding(trained):
    from vision.training import as_results

    run, _ = trained
    found = run.evaluate(show=5)["test"]
    results = as_results(found, "test", run.class_names, run.network.task.maps)
    sizes = [tuple(size) for size in results.batch["size"]]
    assert len(set(sizes)) > 1
    for arrays in (results.images, results.batch["segmentation"], results.predictions["segmentation"]):
        assert [array.shape[:2] for array in arrays] == sizes


@pytest.fixture(scope="module")
def predicted(trained):
    """What `launch.predict` writes for three files, two of one name and of unequal sizes: (process, folder)."""
    _, workdir = trained
    folder = workdir.parent
    record = Squares(3, 1)[0]
    height, width = record["size"]
    image = record["image"][:height, :width]
    large = image.repeat(3, axis=0).repeat(3, axis=1)
    for name, picture in (("a/1.png", image), ("b/1.png", large), ("b/2.png", image)):
        (folder / name).parent.mkdir(exist_ok=True)
        opencv().imwrite(str(folder / name), picture[..., ::-1])
    arguments = [f"--workdir={workdir}", "--images=a", "--images=b", "--out=out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done, folder


def test_files_of_one_name_have_outputs_of_their_own(predicted):
    done, folder = predicted
    names = {f"{name}_{kind}.png" for name in ("a_1", "b_1", "2") for kind in ("mask", "overlay")}
    assert {path.name for path in (folder / "out").iterdir()} == {*names, "predictions.jsonl", "predictions.png"}
    assert "6 files of the size of the images, such as out/a_1_mask.png" in done.stdout


def test_masks_are_ids_of_the_size_of_the_image(predicted):
    from PIL import Image

    _, folder = predicted
    for name, file in {"a_1": "a/1.png", "b_1": "b/1.png"}.items():
        mask = Image.open(folder / "out" / f"{name}_mask.png")
        assert mask.mode == "P" and mask.size == Image.open(folder / file).size
        assert set(np.unique(mask)) == {0, 1, 2}
        assert mask.getpalette()[:3] == [0, 0, 0]
    small, large = (np.asarray(Image.open(folder / "out" / f"{name}_mask.png")) for name in ("a_1", "b_1"))
    assert np.mean(small.repeat(3, axis=0).repeat(3, axis=1) == large) > 0.95


def test_lines_say_what_is_in_the_image(predicted):
    _, folder = predicted
    lines = [json.loads(line) for line in (folder / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["a/1.png", "b/1.png", "b/2.png"]
    for line in lines:
        assert next(iter(line["classes"])) == "background" and set(line["classes"]) == set(NAMES)
        assert sum(line["classes"].values()) == pytest.approx(1, abs=1e-5)


if __name__ == "__main__":
    from launch import command, predict
    from vision import run

    def load_with_resize(*arguments):
        """The run, as if it had been evaluated with images of one size."""
        found = load(*arguments)
        description = found.network.description | {"transforms": f"decode|resize({SIDE})"}
        return dataclasses.replace(found, network=dataclasses.replace(found.network, description=description))

    for table, name, entry in TABLES:
        table[name] = entry
    load, run.load = run.load, load_with_resize
    command.run(predict.main)
