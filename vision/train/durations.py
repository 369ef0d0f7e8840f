"""Durations in a config: 1000 or "1000 steps", "3 epochs", "50000 examples", "5%" of the run; all become steps."""

import math
import re
from fractions import Fraction
from typing import NamedTuple

from vision.errors import UsageError

Duration = int | str  # an int counts steps

_FORMS = '1000, "1000 steps", "3 epochs", "50000 examples" or "5%"'
_PATTERN = re.compile(r"(\d[\d_]*(?:\.\d*)?(?:e[+-]?\d{1,2})?)\s*(steps?|epochs?|examples?|%)?", re.IGNORECASE)


class Clock(NamedTuple):
    """What one step of a run is in examples, epochs and parts of the run.

    Attributes:
        batch_size: examples in one step, over all devices and micro-batches.
        num_examples: examples in one epoch.
        total_steps: steps of the run; None while that is not known, or for a run without an end.
    """

    batch_size: int
    num_examples: int
    total_steps: int | None = None

    def steps(self, duration: Duration, where: str = "duration") -> int:
        """`to_steps` for this run."""
        return to_steps(
            duration,
            batch_size=self.batch_size,
            num_examples=self.num_examples,
            total_steps=self.total_steps,
            where=where,
        )

    def epochs(self, step: int) -> float:
        """Epochs that have passed after `step` steps."""
        return step * self.batch_size / self.num_examples


def parse(duration: Duration, where: str = "duration") -> tuple[Fraction, str]:
    """(number, unit), the unit one of "step", "epoch", "example", "%"; nothing needs to be known about the run.

    Raises:
        UsageError: not a duration, or a negative one.
    """
    if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
        return Fraction(duration), "step"
    match = _PATTERN.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if match is None:
        raise UsageError(f"{where}: {duration!r} is not a duration; write for example {_FORMS}.")
    return Fraction(match[1]), (match[2] or "step").lower().removesuffix("s")


def to_steps(
    duration: Duration,
    *,
    batch_size: int,
    num_examples: int,
    total_steps: int | None = None,
    where: str = "duration",
) -> int:
    """A duration in steps, rounded to the nearest step (halves up), but at least 1 unless the duration is 0.

    An epoch is `num_examples / batch_size` steps, not rounded: "3 epochs" of 1,437 examples in batches of 64 is
    67.36, so 67 steps.

    Args:
        duration: the config's value.
        batch_size: examples in one step.
        num_examples: examples in one epoch.
        total_steps: steps of the run, for percentages.
        where: the key's place in the config, for messages.

    Raises:
        UsageError: not a duration, or a percentage where the length of the run is not known.
    """
    number, unit = parse(duration, where)
    if unit == "%" and total_steps is None:
        raise UsageError(f"{where}: {duration!r} is a share of a run whose length is not known; use another unit.")
    if unit in ("epoch", "example") and (batch_size < 1 or num_examples < 1):
        raise UsageError(
            f"{where}: {duration!r} needs a batch size and examples above 0: {batch_size}, {num_examples}."
        )
    if unit == "step":
        steps = number
    elif unit == "epoch":
        steps = number * num_examples / batch_size
    elif unit == "example":
        steps = number / batch_size
    else:
        steps = number * total_steps / 100
    return max(1, math.floor(steps + Fraction(1, 2))) if steps else 0
