"""A run folder, loaded: its weights, and what they predict and evaluate, computed again by NumPy."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vision
from vision import config as configs
from vision.data.images import opencv
from vision.errors import UsageError
from vision.train.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = {
    "model.hidden": "(24,)",
    "optimizer.learning_rate": "2e-2",
    "optimizer.ema": "0.8",
    "train.steps": "30",
    "log.every": "10",
    "evaluate.every": "10",
    "checkpoint.every": "0",
    "checkpoint.keep": "3",
    "data.eval.again.name": "digits",
    "data.eval.again.split": "test[:101]",
    "data.eval.again.batch_size": "16",
    "data.eval.again.transforms": "decode(channels=1)",
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """What `vision.fit` gave; learning without data augmentation, so that the accuracy rises."""
    config = configs.load(f"{ROOT}/configs/digits.py:mlp")
    configs.override(config, OVERRIDES | {"data.train.transforms": "'decode(channels=1)'"})
    return vision.fit(config, tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def examples(fitted):
    """The test split: (uint8 images (N, 8, 8, 1), labels (N,))."""
    from vision.data import open_source

    source = open_source("digits", "test")
    cv2 = opencv()
    encoded = [np.frombuffer(source.records[i]["image"], np.uint8) for i in range(len(source))]
    return np.stack([cv2.imdecode(image, cv2.IMREAD_GRAYSCALE)[..., None] for image in encoded]), source.labels


def same(one, other):
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))


def metrics_of(run, step):
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["step"] == step)
    return {name: value for name, value in row.items() if name.startswith(("test/", "again/"))}


def by_hand(run, images):
    """Probabilities of the network, in NumPy, float64: standardise, dense, relu, dense, softmax."""
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), run.variables["params"])
    facts = run.network.description["preprocess"]
    x = (images / 255 - np.array(facts["mean"])) / np.array(facts["std"])
    x = x.reshape(len(x), -1) @ variables["dense_1"]["kernel"] + variables["dense_1"]["bias"]
    logits = np.maximum(x, 0) @ variables["head"]["kernel"] + variables["head"]["bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_fit_and_load_give_the_same_run(fitted):
    loaded = vision.load(fitted.workdir, "last")
    assert loaded.step == fitted.step == 30
    assert fitted.stopped_by is None
    assert loaded.config == fitted.config
    assert loaded.class_names == fitted.class_names == tuple("0123456789")
    assert json.dumps(loaded.network.description) == json.dumps(fitted.network.description)
    assert same(loaded.variables, fitted.variables)


@pytest.mark.parametrize("asked", ["last", "best", 20, "20"])
def test_the_checkpoint_asked_for_with_its_moving_average(fitted, asked):
    rows = {step: metrics_of(fitted, step)["test/accuracy"] for step in (10, 20, 30)}
    step = {"last": 30, "best": max(rows, key=lambda step: (rows[step], step))}.get(asked, 20)
    loaded = vision.load(fitted.workdir, asked)
    assert loaded.step == step
    with Checkpoints(fitted.workdir / "checkpoints", read_only=True) as saved:
        weights, _, _ = saved.restore_weights(step)
    assert same(loaded.variables["params"], weights["ema"]["params"])
    assert not same(loaded.variables["params"], weights["params"])


@pytest.mark.parametrize(
    ("folder", "asked", "message"),
    [
        ("", 7, r"no checkpoint 7 in .*; there are \[10, 20, 30\]"),
        ("", "lst", "--checkpoint=lst: expected best, last or a step"),
        ("nowhere", "last", "no such folder. Train first"),
        ("plots", "last", "no checkpoints"),
    ],
)
def test_what_cannot_be_loaded(fitted, folder, asked, message):
    with pytest.raises(UsageError, match=message):
        vision.load(fitted.workdir / folder, asked)


def test_predictions_are_those_computed_by_hand(fitted, examples):
    images, _ = examples
    expected = by_hand(fitted, images)
    found = fitted.predict(images, batch_size=100)
    assert len(found) == len(images)
    for facts, probabilities in zip(found, expected, strict=True):
        assert facts["class"] == str(probabilities.argmax())
        assert facts["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        assert [top["class"] for top in facts["top5"]] == [str(i) for i in np.argsort(-probabilities)[:5]]
        assert [top["probability"] for top in facts["top5"]] == pytest.approx(np.sort(probabilities)[:-6:-1], abs=1e-5)


def test_arrays_paths_and_bytes_give_the_same(fitted, examples, tmp_path):
    images, cv2 = list(examples[0][:7]), opencv()
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image)
    expected = fitted.predict(np.stack(images))
    assert fitted.predict(images) == expected
    assert fitted.predict([image[..., 0] for image in images]) == expected
    assert fitted.predict([np.repeat(image, 3, axis=-1) for image in images]) == expected  # grey, as RGB
    assert fitted.predict([str(path) for path in paths]) == expected
    assert fitted.predict(paths) == expected
    assert fitted.predict([path.read_bytes() for path in paths]) == expected
    assert fitted.predict([images[0], str(paths[1]), paths[2].read_bytes()]) == expected[:3]
    assert json.loads(json.dumps(expected)) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_the_batch_size_changes_nothing(fitted, examples, batch_size):
    images = examples[0][:7]
    expected, found = fitted.predictions(images), fitted.predictions(images, batch_size=batch_size)
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one["index"] == other["index"] == index
        assert np.array_equal(other["image"], images[index])
        np.testing.assert_allclose(
            other["predictions"]["probabilities"], one["predictions"]["probabilities"], atol=1e-6
        )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_images_of_different_sizes_come_back_in_the_order_given(batch_size, monkeypatch, tmp_path):
    """A network that says what it sees, behind transforms that pad to two sizes."""
    import vision.run

    task = vision.tasks.Task(None, None, None, None, maps=("red",))
    network = vision.experiment.Network(None, task, None, {"transforms": "decode|pad_to(((8, 8), (16, 24)))"})
    seen = []

    def predict(variables, batch):
        image = batch["image"]
        seen.append(image.shape[1:3])
        return {"sum": image.sum(axis=(1, 2, 3)), "red": image[..., 0]}

    monkeypatch.setattr(vision.run, "compile_prediction", lambda _: predict)
    run = vision.run.Run(tmp_path, None, network, {}, 0)
    sizes = [(8, 8), (9, 4), (3, 3), (16, 24), (5, 8), (8, 9), (1, 1), (2, 20)]
    images = [np.full((*size, 3), 1 + number, np.uint8) for number, size in enumerate(sizes)]
    images.insert(4, b"no image")
    found = list(run.predictions(images, batch_size, on_bad_image="skip"))
    assert [facts["index"] for facts in found] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert set(seen) == {(8, 8), (16, 24)}
    assert [facts["image"].shape[:2] for facts in found] == sizes
    for facts in found:
        image = images[facts["index"]]
        np.testing.assert_array_equal(facts["image"], image)
        np.testing.assert_array_equal(facts["predictions"]["red"], image[..., 0])
        assert facts["predictions"]["sum"] == image.astype(int).sum()


def test_unreadable_images_stop_or_are_left_out(fitted, examples, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [examples[0][0], str(tmp_path / "broken.png"), examples[0][1]]
    with pytest.raises(UsageError, match=r"broken\.png"):
        fitted.predict(images)
    assert [found["index"] for found in fitted.predictions(images, on_bad_image="skip")] == [0, 2]
    assert fitted.predict(images, on_bad_image="skip") == fitted.predict([images[0], images[2]])


def test_a_single_name_is_no_list_of_images(fitted):
    with pytest.raises(UsageError, match="predict takes several images"):
        fitted.predict("photo.png")


def test_evaluation_is_what_was_logged(fitted):
    for step in (20, 30):
        found = vision.load(fitted.workdir, step).evaluate()
        assert list(found) == ["again", "test"]
        metrics = {f"{label}/{name}": value for label, part in found.items() for name, value in part.metrics.items()}
        assert metrics == metrics_of(fitted, step)


def test_evaluation_counts_every_example_once(fitted, examples):
    """101 examples in batches of 16, and all 360, from probabilities computed by hand."""
    for label, count in (("again", 101), ("test", 360)):
        images, labels = examples[0][:count], examples[1][:count]
        probabilities, found = by_hand(fitted, images), fitted.evaluate(label)[label]
        guesses = probabilities.argmax(axis=1)
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (labels, guesses), 1)
        assert np.array_equal(found.arrays["confusion_matrix"], confusion)
        assert found.metrics["accuracy"] == np.mean(guesses == labels)
        top = np.argsort(-probabilities, axis=1)[:, :5]
        assert found.metrics["top5_accuracy"] == np.mean((top == labels[:, None]).any(axis=1))
        loss = -np.log(probabilities[np.arange(count), labels]).mean()
        assert found.metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_unknown_split(fitted):
    with pytest.raises(UsageError, match="unknown evaluation split 'tets'; did you mean 'test'"):
        fitted.evaluate("tets")


def test_pictures_show_mistakes_first(fitted):
    found = fitted.evaluate("test", show=20)["test"]
    wrong = [int(np.argmax(e["predictions"]["probabilities"]) != e["batch"]["label"]) for e in found.shown]
    mistakes = round(360 * (1 - found.metrics["accuracy"]))
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == min(20, mistakes)


def test_the_network_is_there_to_be_used(fitted, examples):
    images = examples[0][:3]
    outputs = fitted.model.apply(fitted.variables, fitted.network.preprocess(images), train=False)
    logits = np.asarray(outputs["logits"])
    expected = [facts["class"] for facts in fitted.predict(images)]
    assert [fitted.class_names[i] for i in logits.argmax(axis=1)] == expected
