import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UsageError
from vision.train import schedules
from vision.train.durations import Clock

TOTAL, WARMUP, LR = 1000, 100, 0.3
CLOCK = Clock(batch_size=10, num_examples=500, total_steps=TOTAL)
STEPS = np.arange(TOTAL + 50)
AFTER = np.clip((STEPS - WARMUP) / (TOTAL - WARMUP), 0, 1)


def rates(schedule, warmup=WARMUP, clock=CLOCK):
    rate = schedules.create(schedule, learning_rate=LR, warmup=warmup, clock=clock)
    return np.asarray(jax.vmap(rate)(jnp.asarray(STEPS)))


def one_cycle(step, top=300, initial=0.04, final=4e-6):
    if step < top:
        return initial + (1 - initial) * (1 - np.cos(np.pi * max(step - WARMUP, 0) / (top - WARMUP))) / 2
    return final + (1 - final) * (1 + np.cos(np.pi * min((step - top) / (TOTAL - top), 1))) / 2


CLOSED_FORMS = {
    "constant": ("constant", np.ones(len(STEPS))),
    "linear": ({"name": "linear", "final": 0.1}, 1 - 0.9 * AFTER),
    "cosine": ("cosine", (1 + np.cos(np.pi * AFTER)) / 2),
    "cosine to a floor": ({"name": "cosine", "final": 0.2}, 0.2 + 0.8 * (1 + np.cos(np.pi * AFTER)) / 2),
    "polynomial": ({"name": "polynomial", "power": 0.9}, (1 - AFTER) ** 0.9),
    "piecewise": (
        {"name": "piecewise", "boundaries": (200, "10 epochs", "80%")},
        np.select([STEPS < 200, STEPS < 500, STEPS < 800], [1, 0.1, 0.01], 0.001),
    ),
    "piecewise factors": (
        {"name": "piecewise", "boundaries": ("20%", "50%"), "factor": (0.5, 0.2)},
        np.select([STEPS < 200, STEPS < 500], [1, 0.5], 0.1),
    ),
    "rsqrt": ("rsqrt", np.sqrt(WARMUP / np.maximum(STEPS, WARMUP))),
    "rsqrt timescale": (
        {"name": "rsqrt", "timescale": "400 steps"},
        np.sqrt(400 / (400 + np.maximum(STEPS - WARMUP, 0))),
    ),
    "one_cycle": ("one_cycle", np.array([one_cycle(step) for step in STEPS])),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms_after_the_warm_up(name):
    schedule, shape = CLOSED_FORMS[name]
    expected = LR * shape * np.minimum(1, STEPS / WARMUP)
    np.testing.assert_allclose(rates(schedule), expected, rtol=1e-5, atol=1e-7)


def test_every_schedule_has_a_closed_form_or_a_test_of_its_own():
    assert set(schedules.SCHEDULES) == {name.split()[0] for name in CLOSED_FORMS} | {"reduce_on_plateau"}


def test_the_reciprocal_square_root_of_the_transformer_paper():
    # Vaswani et al. 2017, eq. 3, scaled to a height of 1: min(step^-0.5, step * warmup^-1.5) * warmup^0.5.
    steps = np.maximum(STEPS, 1)
    expected = np.minimum(steps**-0.5, steps * WARMUP**-1.5) * WARMUP**0.5
    np.testing.assert_allclose(rates("rsqrt")[1:], LR * expected[1:], rtol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "polynomial"])
def test_without_warm_up_the_first_step_has_the_full_learning_rate(name):
    assert rates(name, warmup=0)[0] == pytest.approx(LR)


def test_the_ends_are_exact():
    assert rates("cosine")[0] == 0
    assert rates("cosine")[TOTAL] == 0
    assert rates("linear")[WARMUP] == np.float32(LR)


def test_rates_are_float32_scalars_inside_jit():
    rate = schedules.create("one_cycle", learning_rate=LR, warmup=0, clock=CLOCK)
    value = jax.jit(rate)(jnp.int32(5))
    assert value.shape == ()
    assert value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("schedule", "warmup", "message"),
    [
        ("cosin", 0, r"config\.optimizer\.schedule: unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"final": 0.0}, 0, r"schedule: missing 'name'"),
        ({"name": "cosine", "finall": 0.0}, 0, r"schedule\.finall: unknown key; did you mean 'final'"),
        ({"name": "cosine", "final": "x"}, 0, r"schedule\.final: expected float"),
        ({"name": "piecewise"}, 0, r"missing 'boundaries'"),
        ({"name": "piecewise", "boundaries": (200, 100)}, 0, r"must rise"),
        ({"name": "piecewise", "boundaries": (100, 200), "factor": (0.1,)}, 0, r"as many factors"),
        ({"name": "piecewise", "boundaries": ("x epochs",)}, 0, r"'x epochs' is not a duration"),
        ("rsqrt", 0, r"needs a timescale"),
        ("one_cycle", 400, r"peak='30%' is step 300"),
        ("cosine", "2000 steps", r"config\.optimizer\.warmup: '2000 steps' is 2000 steps, the whole run has 1000"),
        ({"name": "reduce_on_plateau", "factor": 2.0}, 0, r"factor=2\.0"),
    ],
)
def test_what_is_wrong_is_named(schedule, warmup, message):
    with pytest.raises(UsageError, match=message):
        schedules.create(schedule, learning_rate=LR, warmup=warmup, clock=CLOCK)


def test_a_run_without_an_end():
    endless = Clock(10, 500, None)
    assert rates("rsqrt", clock=endless)[WARMUP] == pytest.approx(LR)
    with pytest.raises(UsageError, match="length of the run"):
        schedules.create("cosine", learning_rate=LR, warmup=0, clock=endless)
