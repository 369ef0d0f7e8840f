"""One pass over a split counts every example exactly once, whatever the batch size and the number of devices.

Eight simulated CPU devices need a process of their own: this file is also the script that runs in it.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICES, EXAMPLES, CLASSES = 8, 101, 10
SOURCE = f"fake:8x8x1:{CLASSES}:{EXAMPLES}"
COUNTS = ("confusion_matrix", "accuracy", "top5_accuracy", "precision", "recall", "f1", "macro_f1")


def opened(batch_size, source=SOURCE):
    from vision import data

    return data.create(source, "test", batch_size, "", train=False)


def weights():
    """(kernel (64, classes), bias (classes,)) of a linear classifier, in float32."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 0.3, (64, CLASSES)).astype(np.float32), rng.normal(0, 1, CLASSES).astype(np.float32)


class Linear:
    """A model without Linen: the logits are one matrix product."""

    def apply(self, variables, image, train):
        assert not train
        kernel, bias = variables["params"]
        return {"logits": image.reshape(len(image), -1) @ kernel + bias}


def scaled(image):
    return image.astype("float32") / 255


def evaluated(pipeline, devices=1, task=None, show=0):
    """The linear classifier's Evaluation, on so many devices."""
    import jax

    from vision import tasks
    from vision.train import evaluation, parallel, step

    task = task or tasks.create("classification", num_classes=CLASSES)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    compiled = parallel.compile_evaluation_step(step.make_evaluation_step(Linear(), task, scaled), mesh)
    return evaluation.evaluate(compiled, {"params": weights()}, pipeline, task, mesh, show)


@functools.cache
def truth():
    """(images (N, 8, 8, 1) uint8, labels (N,), probabilities (N, classes) in float64), computed by NumPy alone."""
    from vision import data

    records = data.open_source(SOURCE, "test").records
    images = np.stack([records[index]["image"] for index in range(EXAMPLES)])
    labels = np.array([records[index]["label"] for index in range(EXAMPLES)])
    kernel, bias = (array.astype(np.float64) for array in weights())
    logits = images.reshape(EXAMPLES, -1) / 255 @ kernel + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return images, labels, exponentials / exponentials.sum(axis=1, keepdims=True)


def expected(rows=slice(None)):
    """Every metric by scikit-learn, of some of the examples."""
    _, labels, probabilities = truth()
    labels, probabilities = labels[rows], probabilities[rows]
    classes, said = np.arange(CLASSES), probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, said, labels=classes, zero_division=np.nan
    )
    return {
        "loss": sklearn.metrics.log_loss(labels, probabilities, labels=classes),
        "accuracy": sklearn.metrics.accuracy_score(labels, said),
        "top5_accuracy": sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=classes),
        "confusion_matrix": sklearn.metrics.confusion_matrix(labels, said, labels=classes),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "macro_f1": np.nanmean(f1),
    }


def assert_equal(found, wanted):
    """Counts and their ratios exactly, the loss to rounding."""
    assert set(found) == set(wanted)
    for name in COUNTS:
        np.testing.assert_array_max_ulp(np.asarray(found[name], float), np.asarray(wanted[name], float), maxulp=2)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6)


def values(evaluation):
    return evaluation.metrics | evaluation.arrays


def test_the_reference_can_fail():
    """The classifier is neither right nor wrong everywhere, and who is first or fifth is no matter of rounding."""
    wanted = expected()
    assert 0 < wanted["accuracy"] < wanted["top5_accuracy"] < 1
    gaps = np.diff(np.sort(np.log(truth()[2]), axis=1), axis=1)
    assert gaps.min() > 1e-5


@given(batch_size=st.integers(1, 2 * EXAMPLES))
@hypothesis.example(1)
@hypothesis.example(EXAMPLES)
@settings(max_examples=5, deadline=None)  # a program is compiled for each
def test_any_batch_size_equals_scikit_learn(batch_size):
    assert_equal(values(evaluated(opened(batch_size))), expected())


def test_what_padding_holds_does_not_matter():
    """Padding with images and labels of its own, as a last batch left over from an earlier one would have."""

    def batches():
        rng = np.random.default_rng(0)
        for batch in opened(16).batches():
            padding = batch["mask"] == 0
            batch["image"][padding] = rng.integers(0, 256, batch["image"][padding].shape)
            batch["label"][padding] = 3
            yield batch

    pipeline = SimpleNamespace(batches=batches)
    assert sum(int((batch["mask"] == 0).sum()) for batch in pipeline.batches()) == 11
    assert_equal(values(evaluated(pipeline)), expected())
    for example in evaluated(pipeline, show=1000).shown:
        assert example["batch"]["index"] >= 0


def test_skipped_images_do_not_count():
    """Unreadable images leave holes in the middle of batches; what is left is counted, once."""
    import cv2

    from vision.data import Pipeline, Source

    images, labels, _ = truth()
    broken = [0, 17, 18, 100]

    class Encoded:
        def __len__(self):
            return EXAMPLES

        def __getitem__(self, index):
            encoded = cv2.imencode(".png", images[index])[1].tobytes()
            return {"image": encoded[:20] if index in broken else encoded, "label": int(labels[index])}

        def describe(self, index):
            return f"record {index}"

        def labels(self):
            return labels

    pipeline = Pipeline(
        Source("encoded", "test", Encoded()),
        16,
        "decode(channels=1)",
        train=False,
        on_bad_image="skip",
        max_bad_share=0.1,
    )
    assert_equal(values(evaluated(pipeline)), expected(np.setdiff1d(np.arange(EXAMPLES), broken)))
    assert sorted(pipeline.bad_images) == broken


def collecting():
    """A task whose only metrics are computed on the host, from each example's own dict."""
    from vision import tasks

    seen = []

    def summarize_collected(examples):
        seen.append(examples)
        return {"seen": float(len(examples)), "order": np.array([example["index"] for example in examples])}

    task = tasks.Task(
        loss=lambda outputs, batch: {},
        metrics=lambda outputs, batch: {},
        summarize=lambda sums: {},
        predict=lambda outputs, batch: {},
        collect=lambda outputs, batch: {
            "index": batch["index"],
            "image": batch["image"],
            "scores": {"logits": outputs["logits"]},
        },
        summarize_collected=summarize_collected,
    )
    return task, seen


@pytest.mark.parametrize("batch_size", [1, 16, 101, 150])
def test_the_host_sees_every_real_example_once_in_order(batch_size):
    task, seen = collecting()
    found = evaluated(opened(batch_size), task=task)
    (examples,) = seen
    assert found.metrics == {"seen": EXAMPLES}
    assert found.arrays["order"].tolist() == list(range(EXAMPLES))
    images, _, probabilities = truth()
    np.testing.assert_array_equal(np.stack([example["image"] for example in examples]), images)
    logits = np.stack([example["scores"]["logits"] for example in examples])
    assert logits.argmax(axis=1).tolist() == probabilities.argmax(axis=1).tolist()


@pytest.mark.parametrize("batch_size", [7, 16, 150])
def test_shows_the_most_interesting_examples_in_order(batch_size):
    images, labels, probabilities = truth()
    said, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = [index for index in np.argsort(-confidence) if said[index] != labels[index]]
    shown = evaluated(opened(batch_size), show=12).shown
    assert [int(example["batch"]["index"]) for example in shown] == mistakes[:12]
    for example in shown:
        index = int(example["batch"]["index"])
        np.testing.assert_array_equal(example["batch"]["image"], images[index])
        assert example["batch"]["label"] == labels[index]
        assert "mask" not in example["batch"]
        np.testing.assert_allclose(example["predictions"]["probabilities"], probabilities[index], atol=1e-5)


def test_shows_no_more_than_there_are():
    found = evaluated(opened(16), show=1000)
    shown = found.shown
    assert found.count == EXAMPLES
    assert sorted(int(example["batch"]["index"]) for example in shown) == list(range(EXAMPLES))
    assert evaluated(opened(16)).shown == []


def test_nothing_is_more_interesting_than_not_a_number():
    """Examples for which a network computes nonsense are to be seen first."""
    import dataclasses

    import jax.numpy as jnp

    from vision import tasks

    def interest(outputs, batch):
        return jnp.where(batch["index"] % 40 == 3, jnp.nan, batch["index"] / 1.0)

    task = dataclasses.replace(tasks.create("classification", num_classes=CLASSES), interest=interest)
    shown = evaluated(opened(16), task=task, show=5).shown
    assert [int(example["batch"]["index"]) for example in shown] == [3, 43, 83, 100, 99]


class Sizes:
    """Images of 40 sizes, and the brightness of each pixel, in four classes, as its truth."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        shape = 3 + index % 14, 4 + 7 * index % 29
        image = np.random.default_rng(index).integers(0, 256, (*shape, 1), np.uint8)
        return {"image": image, "segmentation": image[..., 0] // 64}

    def describe(self, index):
        return str(index)

    def labels(self):
        return None


@pytest.mark.parametrize("batch_size", [3, 8])
def test_images_of_many_sizes_need_few_programs_and_give_what_they_give_one_by_one(batch_size):
    import jax
    import jax.numpy as jnp

    from vision import tasks, training
    from vision.data.pipeline import Pipeline
    from vision.data.source import Source
    from vision.train import evaluation, parallel

    def metrics(batch):
        known = (batch["segmentation"] != 255) & (batch["mask"][:, None, None] > 0)
        said = batch["image"][..., 0] // 50
        return {"right": jnp.sum(known & (said == batch["segmentation"])), "pixels": jnp.sum(known)}, said

    def step(variables, batch):
        del variables
        sums, said = metrics(batch)
        return sums, {"index": batch["index"], "size": batch["size"]}, {"said": said}, batch["index"]

    task = tasks.Task(
        loss=lambda outputs, batch: {},
        metrics=lambda outputs, batch: {},
        summarize=lambda sums: {"accuracy": sums["right"] / sums["pixels"]},
        predict=lambda outputs, batch: {},
        summarize_collected=lambda rows: {"order": np.array([row["index"] for row in rows])},
    )
    mesh = parallel.make_mesh(jax.devices()[:1])
    compiled = parallel.compile_evaluation_step(step, mesh)
    padded = Pipeline(Source("sizes", "", Sizes()), batch_size, "pad_to(((10, 20), (16, 16), (16, 32)))", train=False)
    found = evaluation.evaluate(compiled, {}, padded, task, mesh, show=12)
    assert 2 <= compiled._cache_size() <= 3

    right, pixels = 0, 0
    for index in range(40):
        record = Sizes()[index]
        right += np.sum(record["image"][..., 0] // 50 == record["segmentation"])
        pixels += record["segmentation"].size
    assert found.metrics["accuracy"] == pytest.approx(right / pixels, abs=1e-9)
    assert found.arrays["order"].tolist() == list(range(40))

    results = training.as_results(found, "test", (), maps=("said",))
    assert results.batch["index"].tolist() == list(range(39, 27, -1))
    assert len({said.shape for said in results.predictions["said"]}) > 1
    for index, image, said in zip(results.batch["index"], results.images, results.predictions["said"], strict=True):
        np.testing.assert_array_equal(image, Sizes()[index]["image"])
        np.testing.assert_array_equal(said, image[..., 0] // 50)


def test_metric_names_without_computing():
    """From shapes alone: neither weights nor images are there."""
    import jax

    from vision import tasks
    from vision.train import evaluation, step

    shapes = {"params": tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in weights())}
    task = tasks.create("classification", num_classes=CLASSES)
    pure = step.make_evaluation_step(Linear(), task, scaled)
    names = evaluation.metric_names(pure, shapes, opened(16).element_spec, task)
    assert set(names) == set(evaluated(opened(16)).metrics) == {"loss", "accuracy", "macro_f1", "top5_accuracy"}

    task, seen = collecting()
    pure = step.make_evaluation_step(Linear(), task, scaled)
    assert evaluation.metric_names(pure, shapes, opened(16).element_spec, task) == ("seen",)
    ((example,),) = seen  # one of zeros, from which it can tell what is collected
    assert set(example) >= {"image"} and not any(map(np.any, jax.tree.leaves(example)))


def main():
    """Prints what eight devices find, for some batch sizes, as JSON."""
    found = {}
    for batch_size in (8, 16, 104):
        task, _ = collecting()
        metrics = values(evaluated(opened(batch_size), DEVICES))
        order = evaluated(opened(batch_size), DEVICES, task).arrays["order"]
        shown = [int(example["batch"]["index"]) for example in evaluated(opened(batch_size), DEVICES, show=12).shown]
        metrics = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        found[batch_size] = {"metrics": metrics, "order": order.tolist(), "shown": shown}
    print(json.dumps(found))


@pytest.mark.slow
def test_eight_devices_equal_scikit_learn():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"8", "16", "104"}
    one = [int(example["batch"]["index"]) for example in evaluated(opened(16), show=12).shown]
    for result in found.values():
        assert_equal(result["metrics"], expected())
        assert result["order"] == list(range(EXAMPLES))
        assert result["shown"] == one


if __name__ == "__main__":
    main()
