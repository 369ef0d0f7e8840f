"""Classification's numbers against NumPy and scikit-learn, batch by batch and all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as reference

from vision import tasks
from vision.errors import UsageError

CLASSES = 6


def data(seed, examples):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, examples).astype(np.int32)


def add_up(task, logits, label, batch_size):
    """Sums over padded batches, as an evaluation does."""
    metrics, total = jax.jit(task.metrics), None
    for start in range(0, len(label), batch_size):
        real = min(batch_size, len(label) - start)
        rows = np.arange(start, start + batch_size) % len(
            label
        )  # padding rows repeat examples: the mask must drop them
        batch = {"label": jnp.asarray(label[rows]), "mask": jnp.asarray(np.arange(batch_size) < real, jnp.float32)}
        sums = metrics({"logits": jnp.asarray(logits[rows])}, batch)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return jax.device_get(total)


@functools.cache
def top3_task():
    """One for all examples, so that its metrics are compiled once for each batch size."""
    return tasks.create("classification", num_classes=CLASSES, top_k=3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([4, 16]))
def test_metrics_equal_scikit_learn_for_any_batch_size(seed, examples, batch_size):
    logits, label = data(seed, examples)
    task = top3_task()
    found = task.summarize(add_up(task, logits, label, batch_size))
    predicted = logits.argmax(axis=1)
    everything = list(range(CLASSES))
    np.testing.assert_array_equal(
        found["confusion_matrix"], reference.confusion_matrix(label, predicted, labels=everything)
    )
    assert found["accuracy"] == reference.accuracy_score(label, predicted)
    np.testing.assert_allclose(
        found["top3_accuracy"], np.mean([label[i] in np.argsort(-logits[i])[:3] for i in range(examples)])
    )
    np.testing.assert_allclose(
        found["loss"], reference.log_loss(label, softmax(logits, axis=1), labels=everything), rtol=1e-5
    )
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        label, predicted, labels=everything, zero_division=np.nan
    )
    np.testing.assert_allclose(found["precision"], precision)
    np.testing.assert_allclose(found["recall"], recall)
    np.testing.assert_allclose(found["f1"], f1)


def test_loss_with_smoothing_and_mask():
    logits, label = data(0, 8)
    mask = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    task = tasks.create("classification", num_classes=CLASSES, label_smoothing=0.1)
    term = task.loss({"logits": logits}, {"label": label, "mask": mask})["cross_entropy"]
    target = 0.9 * np.eye(CLASSES)[label] + 0.1 / CLASSES
    expected = -(target * np.log(np.asarray(jax.nn.softmax(logits)))).sum(axis=1)[:5].sum()
    np.testing.assert_allclose(term.total, expected, rtol=1e-5)
    assert term.count == 5


def test_nan_logits_are_never_right():
    task = tasks.create("classification", num_classes=CLASSES, top_k=2)
    batch = {"label": jnp.ones(3, jnp.int32), "mask": jnp.ones(3)}
    sums = task.metrics({"logits": jnp.full((3, CLASSES), jnp.nan)}, batch)
    assert task.summarize(jax.device_get(sums))["top2_accuracy"] == 0


def test_mistakes_are_of_most_interest():
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.05, 0.95]]))
    interest = tasks.create("classification", num_classes=2).interest(
        {"logits": logits}, {"label": jnp.array([0, 0, 0, 0]), "mask": jnp.ones(4)}
    )
    assert list(np.argsort(-interest)) == [3, 2, 1, 0]  # confident mistake, mistake, unsure, sure


def test_description():
    task = tasks.create("classification", num_classes=3, top_k=5)
    facts = task.describe({"probabilities": np.array([0.2, 0.5, 0.3])}, ("a", "b", "c"))
    assert facts["class"] == "b" and facts["probability"] == 0.5
    assert [entry["class"] for entry in facts["top5"]] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "clasification"}, r"config\.task\.name: unknown task 'clasification'; did you mean 'classification'"),
        (
            {"name": "classification", "smoothing": 0.1},
            r"config\.task\.smoothing: unknown key; did you mean 'label_smoothing'",
        ),
        ({"name": "reconstruction", "error": "cubed"}, r"config\.task\.error: expected 'squared' or"),
    ],
)
def test_errors(section, message):
    with pytest.raises(UsageError, match=message):
        tasks.create(**section, num_classes=CLASSES)


def test_auxiliary_heads_add_their_weighted_share():
    logits, label = data(1, 4)
    other, _ = data(2, 4)
    task = tasks.create("classification", num_classes=CLASSES, auxiliary_weight=0.4)
    terms = task.loss({"logits": logits, "aux_logits": (other, logits)}, {"label": label, "mask": np.ones(4)})
    plain = {key: float(term.total / term.count) for key, term in terms.items()}
    expected = reference.log_loss(label, jax.nn.softmax(other), labels=list(range(CLASSES)))
    assert plain["auxiliary_1"] == pytest.approx(0.4 * expected, rel=1e-5)
    assert plain["auxiliary_2"] == pytest.approx(0.4 * plain["cross_entropy"], rel=1e-5)
