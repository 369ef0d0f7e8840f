from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import UsageError
from vision.train.durations import Clock, parse, to_steps

CLOCK = Clock(batch_size=64, num_examples=1437, total_steps=1000)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("17 steps", 17),
        ("1 step", 1),
        ("1_000 steps", 1000),
        ("1e3 steps", 1000),
        ("3 epochs", 67),  # 67.36
        ("1 epoch", 22),  # 22.45
        ("0.5 epochs", 11),  # 11.23
        ("640 examples", 10),
        ("96 examples", 2),  # exactly one and a half: up
        ("1 example", 1),  # 0.016, but something that happens happens at least once
        ("5%", 50),
        ("0.1 %", 1),
        ("0 epochs", 0),
        ("100%", 1000),
    ],
)
def test_a_duration_in_steps(duration, steps):
    assert CLOCK.steps(duration) == steps


@pytest.mark.parametrize(
    "bad", [True, -1, 1.5, None, "", "epochs", "-3 epochs", "3 eopchs", "3 epochs 2", "nan steps", "5 %%"]
)
def test_what_is_no_duration_is_named(bad):
    with pytest.raises(UsageError, match=r"config\.log\.every.*is not a duration"):
        CLOCK.steps(bad, "config.log.every")


def test_a_share_of_a_run_without_length():
    with pytest.raises(UsageError, match=r"config\.train\.steps: '5%'.*not known"):
        to_steps("5%", batch_size=1, num_examples=1, where="config.train.steps")


def test_examples_of_an_empty_split():
    with pytest.raises(UsageError, match="above 0"):
        to_steps("1 epochs", batch_size=1, num_examples=0)


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10**7))
def test_epochs_are_examples(epochs, batch_size, num_examples):
    clock = Clock(batch_size, num_examples)
    steps = clock.steps(f"{epochs} epochs")
    assert steps == clock.steps(f"{epochs * num_examples} examples")
    assert steps == 1 or abs(Fraction(steps * batch_size) - epochs * num_examples) <= Fraction(batch_size, 2)
    assert clock.epochs(steps) == pytest.approx(steps * batch_size / num_examples)


def test_a_float_survives_its_text():
    assert parse(f"{0.1} epochs") == (Fraction(1, 10), "epoch")
    assert parse(f"{1e-05} epochs") == (Fraction(1, 100000), "epoch")
