"""The config sections that belong to the loop itself: how long to train, when to evaluate, save and log."""

import dataclasses

from vision.errors import UsageError
from vision.train.durations import Duration, parse


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """`config.train`: the length of the run; exactly one of the three.

    Attributes:
        steps: updates to make, or any duration ("3 epochs").
        epochs: passes over the training split; may be a fraction.
        examples: training examples to see.
    """

    steps: Duration | None = None
    epochs: float | None = None
    examples: int | None = None

    def duration(self) -> Duration:
        """The length as one duration. Raises UsageError unless exactly one key is set."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            what = " and ".join(given) or "none"
            raise UsageError(f"config.train: set exactly one of steps, epochs, examples; {what} given.")
        name, value = next(iter(given.items()))
        return value if name == "steps" else f"{value} {name}"


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """`config.evaluate`.

    Attributes:
        every: how often to evaluate on every split of config.data.eval; also done at the end. 0: only at the end.
    """

    every: Duration = "1 epochs"


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """`config.checkpoint`.

    Attributes:
        every: how often to save; also at the end, when stopped, and when the best metric improves. 0: only then.
        keep: how many of the newest checkpoints stay.
        best: metric that decides which checkpoint is the best, such as "test/accuracy"; None: the task's own metric on
            the first evaluation split (in the order of the alphabet, as configs keep their keys).
    """

    every: Duration = "1 epochs"
    keep: int = 2
    best: str | None = None

    def __post_init__(self):
        if self.keep < 1:
            raise UsageError(f"config.checkpoint.keep: expected 1 or more, given {self.keep}.")


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """`config.log`.

    Attributes:
        every: how often to write training metrics (means since the last time).
        seconds: where the output is no terminal, print a progress line at most this often.
        tensorboard: write TensorBoard events.
        wandb: log to Weights & Biases as well (needs `pip install wandb`).
        predictions: test images kept for the pictures in plots/.
    """

    every: Duration = "20 steps"
    seconds: float = 10.0
    tensorboard: bool = True
    wandb: bool = False
    predictions: int = 36

    def __post_init__(self):
        for name in ("seconds", "predictions"):
            if getattr(self, name) < 0:
                raise UsageError(f"config.log.{name}: expected 0 or more, given {getattr(self, name)}.")
        if parse(self.every, "config.log.every")[0] == 0:
            raise UsageError("config.log.every: expected 1 step or more.")
