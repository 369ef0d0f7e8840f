"""Frozen parameters in a step: they stay, their batch norms stand still, and no gradient is computed for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision import models, tasks
from vision.train import optimizer as optimizers
from vision.train import state, step
from vision.train.durations import Clock
from vision.train.parameters import parameter_paths

BATCH = 8
MODEL = models.create("resnet", 3, stage_sizes=(1, 1), width=4, small_images=True)
TASK = tasks.create("classification", num_classes=3)
RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.normal(size=(BATCH, 8, 8, 3)).astype(np.float32) + 1,
    "label": RNG.integers(0, 3, BATCH).astype(np.int32),
    "mask": np.ones(BATCH, np.float32),
}


@pytest.fixture(scope="module")
def variables():
    """Fresh ones, with running statistics unlike those of any batch."""
    made = models.initialize(MODEL, jax.random.key(0), (8, 8, 3))
    statistics = jax.tree.map(lambda x: x + 0.5, made["batch_stats"])
    return {**made, "batch_stats": statistics}


def steps(variables, rules, count=2, model=MODEL):
    optimizer = optimizers.create("momentum", 0.1, params=variables["params"], clock=Clock(BATCH, 80, 10), rules=rules)
    current = state.create(variables, optimizer.transform, jax.random.key(1), ema=False)
    train_step = jax.jit(step.make_train_step(model, TASK, lambda image: image, optimizer))
    for _ in range(count):
        current, metrics = train_step(current, DATA)
    return current, {name: float(total / count) for name, (total, count) in metrics.items()}


def changed(before, after):
    """Parts of the network of which something has changed: "stage_1/block_1", "head"."""
    one, other = parameter_paths(before), parameter_paths(after)
    return {"/".join(path.split("/")[:1]) for path in one if not np.array_equal(one[path], other[path])}


def test_only_what_is_not_frozen_changes(variables):
    after, _ = steps(variables, ((r"(stem|stage_1)/.*", {"freeze": True}),))
    assert changed(variables["params"], after.params) == {"stage_2", "head"}
    assert changed(variables["batch_stats"], after.model_state["batch_stats"]) == {"stage_2"}


def test_a_frozen_network_gives_the_features_of_evaluation_while_training(variables):
    """The loss of the step is that of the evaluated network, and the head's gradient that of logistic regression."""
    after, metrics = steps(variables, ((r"(?!head/).*", {"freeze": True}),), count=1)
    outputs = jax.jit(functools.partial(MODEL.apply, train=False))(variables, DATA["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], DATA["label"]).mean()
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    error = jax.nn.softmax(outputs["logits"]) - jax.nn.one_hot(DATA["label"], 3)
    gradient = jnp.einsum("bf,bc->fc", outputs["pooled"], error) / BATCH
    moved = variables["params"]["head"]["kernel"] - after.params["head"]["kernel"]
    np.testing.assert_allclose(moved, 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert metrics["grad_norm"] == pytest.approx(
        float(jnp.sqrt(jnp.sum(gradient**2) + jnp.sum(error.mean(axis=0) ** 2))), rel=1e-4
    )


def test_without_frozen_parameters_batch_norm_uses_the_batch(variables):
    after, metrics = steps(variables, (), count=1)
    apply = functools.partial(MODEL.apply, train=True, mutable=["batch_stats"])
    outputs, _ = jax.jit(apply)(variables, DATA["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], DATA["label"]).mean()
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert changed(variables["batch_stats"], after.model_state["batch_stats"]) == {"stem", "stage_1", "stage_2"}


def test_with_remat_too(variables):
    rules = ((r"(stem|stage_1)/.*", {"freeze": True}),)
    plain, _ = steps(variables, rules)
    again, _ = steps(variables, rules, model=MODEL.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain.params, again.params)
    assert changed(variables["batch_stats"], again.model_state["batch_stats"]) == {"stage_2"}


def test_no_gradient_enters_what_is_frozen(variables):
    """The compiled step of a new head alone does about a third of the arithmetic: forward, and no backward pass."""

    def flops(rules):
        optimizer = optimizers.create("sgd", 0.1, params=variables["params"], clock=Clock(BATCH, 80, 10), rules=rules)
        current = state.create(variables, optimizer.transform, jax.random.key(1), ema=False)
        train_step = jax.jit(step.make_train_step(MODEL, TASK, lambda image: image, optimizer))
        return train_step.lower(current, DATA).compile().cost_analysis()["flops"]

    assert flops(((r"(?!head/).*", {"freeze": True}),)) < 0.5 * flops(())


def test_layer_decay_scales_each_layer_and_multiplies_with_rules(variables):
    numbers = models.layer_numbers(MODEL, (8, 8, 3))
    gradients = jax.tree.map(jnp.ones_like, variables["params"])

    def updates(**options):
        made = optimizers.create("sgd", 1.0, params=gradients, clock=Clock(1, 1, 1), **options)
        found, _ = made.transform.update(gradients, made.transform.init(gradients), gradients, value=0.0)
        return {path: float(-leaf.ravel()[0]) for path, leaf in parameter_paths(found).items()}

    given = updates(layer_decay=0.5, layer_numbers=numbers, rules=((r"head/.*", {"lr": 10.0}),))
    assert given["head/kernel"] == 10.0
    assert given["stage_2/block_1/conv_1/kernel"] == 0.5
    assert given["stage_1/block_1/conv_1/kernel"] == 0.25
    assert given["stem/conv/kernel"] == given["stem/norm/scale"] == 0.125
