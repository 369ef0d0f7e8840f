"""One step against its definition: accumulation, moving averages, penalties, preprocessing, dropout keys."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision import models, tasks
from vision.train import optimizer as optimizers
from vision.train import state, step
from vision.train.durations import Clock

CLASSES, BATCH = 10, 64
TASK = tasks.create("classification", num_classes=CLASSES)
RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.integers(0, 256, (BATCH, 8, 8, 1)).astype(np.uint8),
    "label": RNG.integers(0, CLASSES, BATCH).astype(np.int32),
    "mask": np.ones(BATCH, np.float32),
}


def scaled(image):
    return image.astype(jnp.float32) / 255


@functools.cache
def initial(model):
    return jax.jit(lambda key: model.init(key, scaled(DATA["image"][:1]), train=False))(jax.random.key(0))


def run(model, steps=1, batch=DATA, optimizer=None):
    """(state before, state after, last metrics) of some steps."""
    section = dict(name="sgd", learning_rate=0.1) | (optimizer or {})
    options = step.StepOptions(**{k: v for k, v in section.items() if k in step.StepOptions._fields})
    variables = initial(model)
    made = optimizers.create(**section, params=variables["params"], clock=Clock(BATCH, 640, 100))
    first = current = state.create(variables, made.transform, jax.random.key(1), options.ema is not None)
    train_step, metrics = jax.jit(step.make_train_step(model, TASK, scaled, made, options)), {}
    for _ in range(steps):
        current, metrics = train_step(current, batch)
    return first, current, {name: float(total / count) for name, (total, count) in metrics.items()}


def close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), one, other)


MLP = models.create("mlp", num_classes=CLASSES, hidden=(32,))


@pytest.mark.parametrize(
    "extra",
    [
        {"clip_norm": 0.1},
        {"l2": 0.1, "l1": 0.01},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"name": "adamw", "weight_decay": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_accumulating_4_x_16_equals_one_batch_of_64(extra):
    _, once, metrics = run(MLP, 3, optimizer=extra)
    _, accumulated, accumulated_metrics = run(MLP, 3, optimizer=extra | {"accumulate": 4})
    close(accumulated.params, once.params, 1e-5)
    assert accumulated_metrics == pytest.approx(metrics, rel=1e-4)


def test_sgd_step_is_the_gradient_of_the_mean_loss_over_real_examples():
    batch = DATA | {"mask": (np.arange(BATCH) < 40).astype(np.float32)}
    first, after, metrics = run(MLP, batch=batch)

    def loss(params):
        logits = MLP.apply({"params": params}, scaled(DATA["image"][:40]), train=False)["logits"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, DATA["label"][:40]).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(first.params)
    close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, first.params, gradient), 1e-6)
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(0.1)
    assert int(after.step) == 1


def test_penalties_act_on_kernels_only():
    first, plain, plain_metrics = run(MLP)
    _, penalised, metrics = run(MLP, optimizer={"l1": 0.02, "l2": 0.3})
    expected_loss = plain_metrics["loss"]
    for name, layer in first.params.items():
        w = layer["kernel"]
        expected_loss += 0.02 * float(jnp.abs(w).sum()) + 0.15 * float(jnp.square(w).sum())
        close(
            penalised.params[name]["kernel"], plain.params[name]["kernel"] - 0.1 * (0.02 * jnp.sign(w) + 0.3 * w), 1e-6
        )
        close(penalised.params[name]["bias"], plain.params[name]["bias"], 1e-7)
    assert metrics["loss"] == pytest.approx(expected_loss, rel=1e-5)


def test_moving_average_of_parameters_and_batch_statistics():
    model = models.create("mlp", num_classes=CLASSES, hidden=(8,), batch_norm=True)
    runs = [run(model, steps)[1] for steps in range(5)]
    trajectory = [jax.device_get({"params": now.params, "model_state": now.model_state}) for now in runs]
    _, last, _ = run(model, 4, optimizer={"ema": 0.3})
    expected = trajectory[0]
    for index, new in enumerate(trajectory[1:]):
        decay = min(0.3, (1 + index) / (10 + index))
        expected = jax.tree.map(lambda old, x, d=decay: d * old + (1 - d) * x, expected, new)
    close(last.ema, expected, 1e-5)
    close(state.evaluation_variables(last)["batch_stats"], expected["model_state"]["batch_stats"], 1e-5)
    close(last.params, trajectory[-1]["params"], 1e-6)  # averaging does not change training


def test_batch_statistics_move_in_training_and_stay_in_evaluation():
    model = models.create("mlp", num_classes=CLASSES, hidden=(8,), batch_norm=True)
    first, after, _ = run(model)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first.model_state, after.model_state)
    assert all(jax.tree.leaves(moved))
    evaluate = jax.jit(step.make_evaluation_step(model, TASK, scaled))
    sums, collected, predictions, interest = evaluate(state.evaluation_variables(after), DATA)
    assert int(sums["examples"]) == BATCH and collected == {}
    np.testing.assert_allclose(predictions["probabilities"].sum(axis=-1), 1, rtol=1e-5)
    assert interest.shape == (BATCH,)


class Noise(nn.Module):
    """Gives what the dropout key gives, so that a test can see the key."""

    @nn.compact
    def __call__(self, image, train):
        self.param("kernel", nn.initializers.zeros, (1, 1))
        noise = jax.random.normal(self.make_rng("dropout"), (len(image), CLASSES)) if train else 0.0
        return {"logits": jnp.zeros((len(image), CLASSES)) + noise}


def test_every_step_and_micro_batch_has_its_own_randomness():
    losses = [run(Noise(), steps)[2]["loss"] for steps in (1, 2, 3)]
    assert len(set(losses)) == 3
    assert run(Noise(), 2)[2]["loss"] == losses[1]
    one_key_for_all = run(Noise(), 1, {k: v[:16] for k, v in DATA.items()})[2]["loss"]
    assert run(Noise(), 1, optimizer={"accumulate": 4})[2]["loss"] != pytest.approx(one_key_for_all)
