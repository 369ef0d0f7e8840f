"""The contract between task and trainer fits two-stage detection: a toy detector in three new table entries.

It has what Mask R-CNN asks for: padded ground truth in the training forward pass and none in evaluation, sampling with
a random stream of its own, loss terms over different counts (none at all in an image without objects), and average
precision on the host. Nothing in `vision.train` knows of it.

Eight simulated CPU devices need a process of their own: this file is also the script that runs in it.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision import models, tasks
from vision.data import catalog, preprocess
from vision.data.source import Source
from vision.tasks import Mean, Task
from vision.train import optimizer as optimizers
from vision.train import parallel, state, step
from vision.train.durations import Clock

SIDE, STRIDE, MOST = 24, 4, 3  # image side and cell size in pixels; most objects in an image
CELLS = SIDE // STRIDE
BRIGHTNESS = {"grey": 110, "white": 250}
DEVICES, BATCH = 8, 32

# Data: rectangles on noise.


@dataclasses.dataclass(frozen=True)
class Rectangles:
    """Images with 0 to `MOST` rectangles apart from each other, of two classes of brightness."""

    examples: int
    seed: int

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        image = rng.integers(0, 40, (SIDE, SIDE, 1)).astype(np.uint8)
        free = np.ones((SIDE, SIDE), bool)
        boxes, classes = np.zeros((MOST, 4), np.float32), np.zeros(MOST, np.int32)
        count = 0
        for _ in range(index % (MOST + 1)):
            width, height = rng.integers(5, 11, 2)
            x, y = rng.integers(0, SIDE - width + 1), rng.integers(0, SIDE - height + 1)
            if free[y : y + height, x : x + width].all():
                free[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2] = False
                boxes[count], classes[count] = (x, y, x + width, y + height), rng.integers(2)
                image[y : y + height, x : x + width] = list(BRIGHTNESS.values())[classes[count]]
                count += 1
        return {"image": image, "boxes": boxes, "classes": classes, "valid": np.arange(MOST) < count}

    def describe(self, index):
        return f"rectangles {index}"

    def labels(self):
        """The class of every object."""
        records = [self[index] for index in range(len(self))]
        return np.concatenate([record["classes"][record["valid"]] for record in records])


def open_rectangles(rest, split, where):
    records = Rectangles(int(rest), {"train": 0, "test": 1}[split])
    return Source(f"rectangles:{rest}", split, records, tuple(BRIGHTNESS))


# Model: one box a cell, and a classifier of what is inside a proposal.

CALLS = set()  # (training, ground truth given) of every forward pass that was traced


class Detector(nn.Module):
    """Proposals from a grid of cells; each proposal's features are averaged and classified.

    Attributes:
        num_classes: number of classes.
        jitter: standard deviation, in pixels, of what is added to the true boxes to make proposals for training.
        dtype: dtype of the computation.
    """

    num_classes: int = 2
    jitter: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image, targets=None, train=False):
        """image (B, H, W, C); targets {"boxes" (B, N, 4), "valid" (B, N)}, in training only."""
        CALLS.add((train, targets is not None))
        if train != (targets is not None):
            raise ValueError("Ground truth is for training, and only for training.")
        x = nn.relu(nn.Conv(16, (5, 5), 2)(image))
        x = nn.relu(nn.Conv(32, (5, 5), 2)(x))
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        objectness = nn.Conv(1, (1, 1))(x).reshape(len(x), -1)
        reach = STRIDE * nn.softplus(nn.Conv(4, (1, 1))(x)).reshape(len(x), -1, 4)  # to the left, up, right, down
        centers = STRIDE * (jnp.stack(jnp.meshgrid(jnp.arange(CELLS), jnp.arange(CELLS)), -1).reshape(-1, 2) + 0.5)
        boxes = jnp.concatenate([centers - reach[..., :2], centers + reach[..., 2:]], axis=-1)
        outputs = {"objectness": objectness, "cell_boxes": boxes}
        if train:
            noise = self.jitter * jax.random.normal(self.make_rng("sample"), targets["boxes"].shape)
            proposals = jnp.where(targets["valid"][..., None], targets["boxes"] + noise, 0.0)
        else:
            scores, best = jax.lax.top_k(nn.sigmoid(objectness), MOST + 1)
            proposals = jnp.take_along_axis(boxes, best[..., None], axis=1)
            outputs |= {"scores": scores}
        logits = nn.Dense(self.num_classes)(nn.relu(nn.Dense(32)(average_in_boxes(x, proposals))))
        return outputs | {"boxes": proposals, "logits": logits}


def average_in_boxes(x, boxes):
    """(B, cells, cells, C) and (B, P, 4) in pixels -> (B, P, C), weighted by how much of a cell lies in the box."""
    start = STRIDE * jnp.arange(CELLS)

    def overlap(low, high):  # (B, P) each -> (B, P, cells)
        inside = jnp.minimum(high[..., None], start + STRIDE) - jnp.maximum(low[..., None], start)
        return jnp.maximum(inside, 0.0)

    across, down = overlap(boxes[..., 0], boxes[..., 2]), overlap(boxes[..., 1], boxes[..., 3])
    total = jnp.einsum("bpx,bpy,byxc->bpc", across, down, x)
    return total / jnp.maximum(jnp.einsum("bpx,bpy->bp", across, down), 1e-6)[..., None]


# Task: objectness of all cells; box and class of what is there.


def detection(*, num_classes: int, box_weight: float = 0.3) -> Task:
    """Toy detection.

    Args:
        num_classes: number of classes.
        box_weight: weight of the distance in pixels.
    """

    def inputs(batch, train):
        targets = {"targets": {"boxes": batch["boxes"], "valid": batch["valid"]}} if train else {}
        return {"image": batch["image"], **targets}

    def real(batch):
        return batch["valid"] * batch["mask"][:, None]

    def cells(batch):
        """(B, N): the cell that holds each object's centre."""
        center = (batch["boxes"][..., :2] + batch["boxes"][..., 2:]) / 2
        column, row = jnp.moveaxis((center // STRIDE).astype(jnp.int32), -1, 0)
        return row * CELLS + column

    def objectness(outputs, batch):
        """(B,): sum over cells of the cross entropy."""
        rows = jnp.arange(len(batch["mask"]))[:, None]
        target = jnp.zeros_like(outputs["objectness"]).at[rows, cells(batch)].max(real(batch))
        return optax.sigmoid_binary_cross_entropy(outputs["objectness"], target).sum(axis=-1)

    def loss(outputs, batch):
        there = real(batch)
        mine = jnp.take_along_axis(outputs["cell_boxes"], cells(batch)[..., None], axis=1)
        distance = jnp.abs(mine - batch["boxes"]).mean(axis=-1)
        entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], batch["classes"])
        mask = batch["mask"]
        return {
            "objectness": Mean(jnp.sum(objectness(outputs, batch) * mask), jnp.sum(mask)),
            "box": Mean(box_weight * jnp.sum(distance * there), jnp.sum(there)),
            "class": Mean(jnp.sum(entropy * there), jnp.sum(there)),
        }

    def metrics(outputs, batch):
        mask = batch["mask"]
        return {"loss": jnp.sum(objectness(outputs, batch) * mask), "examples": jnp.sum(mask)}

    def predict(outputs, batch):
        return {name: outputs[name] for name in ("boxes", "scores")} | {"classes": outputs["logits"].argmax(axis=-1)}

    def collect(outputs, batch):
        return {"found": predict(outputs, batch), "true": {name: batch[name] for name in ("boxes", "classes", "valid")}}

    def describe(predictions, class_names):
        found = zip(predictions["boxes"], predictions["classes"], predictions["scores"], strict=True)
        return {
            "objects": [
                {"box": box.tolist(), "class": class_names[label], "score": float(score)} for box, label, score in found
            ]
        }

    return Task(
        loss=loss,
        inputs=inputs,
        metrics=metrics,
        summarize=lambda sums: {"loss": float(sums["loss"]) / max(float(sums["examples"]), 1)},
        predict=predict,
        collect=collect,
        summarize_collected=lambda examples: {"AP50": average_precision(examples, num_classes)},
        describe=describe,
        best="AP50",
    )


def average_precision(examples, num_classes, threshold=0.5):
    """Mean over classes of the area under precision against recall, on the host: no sum over batches gives it."""
    areas = []
    for label in range(num_classes):
        hits, objects = [], 0
        for example in examples:
            found, true = example["found"], example["true"]
            left = [
                box for box, own in zip(true["boxes"][true["valid"]], true["classes"], strict=False) if own == label
            ]
            objects += len(left)
            for index in np.argsort(-found["scores"]):
                if found["classes"][index] != label:
                    continue
                overlaps = [iou(found["boxes"][index], box) for box in left]
                hit = bool(overlaps) and max(overlaps) >= threshold
                if hit:
                    left.pop(int(np.argmax(overlaps)))
                hits.append((found["scores"][index], hit))
        hits = np.array([hit for _, hit in sorted(hits, key=lambda pair: -pair[0])], float)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        areas.append(np.sum(precision * hits) / max(objects, 1))
    return float(np.mean(areas))


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / max(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both, 1e-9)


# Through the whole trainer.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, config, folder) of the detector, trained by `vision.fit`."""
    from ml_collections import ConfigDict

    import vision
    from vision.train.writers import Console

    config = ConfigDict()
    config.model = dict(name="toy_detector")
    config.task = dict(name="toy_detection")
    config.data = dict(
        preprocess=dict(name="normalize"),
        train=dict(name="rectangles:256", split="train", batch_size=BATCH, transforms=""),
        eval=dict(test=dict(name="rectangles:50", split="test", batch_size=16, transforms="")),
    )
    config.optimizer = dict(name="adam", learning_rate=5e-3, schedule="cosine", ema=0.9)
    config.train = dict(steps=200)
    config.evaluate = dict(every=40)
    config.log = dict(every=10)
    config.checkpoint = dict(every=0, best="test/AP50")
    workdir = tmp_path_factory.mktemp("runs") / "detector"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy_detector", Detector)
        patch.setitem(tasks.TASKS, "toy_detection", detection)
        patch.setitem(catalog.SOURCES, "rectangles", open_rectangles)
        CALLS.clear()
        with open(os.devnull, "w") as silent:
            run = vision.fit(config, workdir, console=Console(workdir.parent / "log.txt", stream=silent))
        yield run, config, workdir


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_truth_reaches_the_training_forward_pass_only(trained):
    del trained
    assert sorted(CALLS) == [(False, False), (True, True)]


def test_every_term_and_the_average_precision_are_logged(trained):
    _, _, workdir = trained
    logged = rows(workdir)
    assert {"train/objectness", "train/box", "train/class", "train/loss", "test/AP50", "test/loss"} <= set(logged[-1])
    assert [row["step"] for row in logged if "test/AP50" in row] == [40, 80, 120, 160, 200]
    for row in logged:
        assert all(np.isfinite(value) for value in row.values()), row


def test_training_improves_it(trained):
    _, _, workdir = trained
    logged = rows(workdir)
    assert logged[-1]["train/loss"] < logged[0]["train/loss"] / 4
    precision = [row["test/AP50"] for row in logged if "test/AP50" in row]
    assert precision[0] < precision[-1]
    assert precision[-1] > 0.6


def test_the_best_checkpoint_is_the_one_of_the_highest_average_precision(trained):
    import vision

    run, _, workdir = trained
    summary = json.loads((workdir / "summary.json").read_text())
    logged = {row["step"]: row["test/AP50"] for row in rows(workdir) if "test/AP50" in row}
    assert summary["best"]["test/AP50"] == max(logged.values()) == logged[summary["best"]["step"]]
    assert summary["final"]["test/AP50"] == logged[200]
    assert vision.load(workdir).step == summary["best"]["step"]
    found = run.evaluate()["test"]
    assert found.metrics["AP50"] == pytest.approx(logged[200], abs=1e-6)


def test_a_metric_of_the_host_can_be_misspelt(trained):
    import copy

    import vision
    from vision.errors import UsageError

    _, config, workdir = trained
    config = copy.deepcopy(config)
    config.checkpoint.best = "test/AP05"
    with pytest.raises(UsageError, match="did you mean 'test/AP50'"):
        vision.fit(config, workdir.parent / "other")


def test_a_run_finds_the_objects_of_images(trained):
    """Every true box of three objects is found, with its class, in pixels of the image."""
    run, _, _ = trained
    records = Rectangles(50, 1)
    examples = [records[index] for index in range(3, 50, 4)]
    right = total = 0
    for example, said in zip(examples, run.predict([e["image"] for e in examples]), strict=True):
        for box, label in zip(example["boxes"][example["valid"]], example["classes"], strict=False):
            names = list(BRIGHTNESS)
            right += any(
                iou(np.array(found["box"]), box) > 0.5 and found["class"] == names[label] for found in said["objects"]
            )
            total += 1
    assert right / total > 0.7


# The step itself: unequal counts, and none.


def make_batch(counts, mask):
    """A batch of images with these numbers of objects at most, some rows being padding."""
    records = [Rectangles(10_000, 2)[4 * index + count] for index, count in enumerate(counts)]
    batch = {name: np.stack([record[name] for record in records]) for name in records[0]}
    return batch | {"mask": np.asarray(mask, np.float32)}


@functools.cache
def initial_variables():
    return models.initialize(Detector(), jax.random.key(0), (SIDE, SIDE, 1))


@functools.cache
def compiled(mode="jit", devices=None, jitter=0.0):
    """(mesh, state before the first step, jitted training step)."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    model, task = Detector(jitter=jitter), detection(num_classes=2)
    scaled = preprocess.create("normalize")
    variables = initial_variables()
    made = optimizers.create(name="momentum", learning_rate=0.02, params=variables["params"], clock=Clock(BATCH, 64, 9))

    def make(axis_name):
        return step.make_train_step(parallel.with_axis(model, axis_name), task, scaled, made, axis_name=axis_name)

    fresh = state.create(variables, made.transform, jax.random.key(1), False)
    return mesh, fresh, parallel.compile_train_step(make, mode, mesh)


def train(batches, mode="jit", devices=None, jitter=0.0):
    """The parameters after a step on each batch, and each step's metrics."""
    mesh, fresh, train_step = compiled(mode, devices, jitter)
    # The step takes the memory of the state that it is given.
    current = parallel.replicate(jax.tree.map(jnp.copy, fresh), mesh)
    logged = []
    for batch in batches:
        current, metrics = train_step(current, parallel.put_batch(batch, mesh, mode))
        logged.append(jax.device_get(metrics))
    return jax.device_get(current.params), logged


def unequal_batches():
    """One device has many objects, some have none or only padding; one batch has no object at all."""
    counts = [3, 3, 3, 3, 0, 0, 0, 0, 1, 0, 2, 0] + [0] * 4 + [3, 0, 0, 1] + [2] * 12
    mask = [1] * 12 + [0] * 4 + [1, 0, 1, 1] + [1] * 11 + [0]
    rng = np.random.default_rng(0)
    batches = [make_batch(counts, mask), make_batch([0] * BATCH, mask)]
    return [*batches, *(make_batch(rng.integers(0, MOST + 1, BATCH), rng.random(BATCH) > 0.3) for _ in range(3))]


def test_an_image_without_objects_only_teaches_that_there_are_none():
    batches = [make_batch([0] * BATCH, [1] * BATCH)]
    before, _ = train([], jitter=1.0)
    after, (metrics,) = train(batches, jitter=1.0)
    assert metrics["box"] == metrics["class"] == (0, 0)
    total, count = metrics["objectness"]
    assert count == BATCH
    assert metrics["loss"][0] == pytest.approx(total / count)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    moved = {name: not np.array_equal(before[name]["kernel"], after[name]["kernel"]) for name in before}
    assert moved == {"Conv_0": True, "Conv_1": True, "Conv_2": True, "Conv_3": True} | dict.fromkeys(
        ["Conv_4", "Dense_0", "Dense_1"], False
    )


def test_the_loss_is_the_sum_of_the_terms_means():
    _, logged = train(unequal_batches(), jitter=1.0)
    for metrics in logged:
        means = [total / max(count, 1) for total, count in (metrics[name] for name in ("objectness", "box", "class"))]
        assert metrics["loss"][0] == pytest.approx(sum(means), rel=1e-5)


def test_the_sampling_stream_is_new_in_every_step_and_the_same_in_every_run():
    batch = make_batch([3] * BATCH, [1] * BATCH)
    (one, two), (again, _), (exact, _) = (train([batch] * 2, jitter=jitter)[1] for jitter in (1.0, 1.0, 0.0))
    assert one["class"] == again["class"]
    assert one["objectness"] == exact["objectness"] and one["class"] != exact["class"]  # it moves proposals only
    assert two["class"] != one["class"]


def main():
    """Prints, for jit and pmap on eight devices, the largest relative differences from one device."""
    alone, alone_metrics = train(unequal_batches(), "jit", 1)
    found = {}
    for mode in ("jit", "pmap"):
        params, metrics = train(unequal_batches(), mode, DEVICES)
        found[mode] = {"params": difference(params, alone), "metrics": difference(metrics, alone_metrics)}
    print(json.dumps(found))


def difference(one, other):
    """Largest difference of any array, relative to that array's largest value."""

    def relative(a, b):
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3))

    return max(jax.tree.leaves(jax.tree.map(relative, one, other)))


@pytest.mark.slow
def test_one_device_equals_eight_by_jit_and_by_pmap():
    environment = os.environ | {
        # Compiling is most of the time; the numbers are to agree at any level of optimisation.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"jit", "pmap"}
    for mode, differences in found.items():
        for what, value in differences.items():
            assert value <= 1e-5, f"{mode}: {what} differs by {value}"


if __name__ == "__main__":
    main()
