"""Trains a config: python -m launch.train --config=configs/digits.py:resnet --config.optimizer.learning_rate=3e-4"""

from pathlib import Path

from absl import flags

from launch import command
from vision.errors import UsageError

CONFIG = flags.DEFINE_string("config", None, "Config file, with an argument after a colon, or a run's config.json.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run folder; runs/<config name> where not given.")
HELP_CONFIG = flags.DEFINE_string("help_config", None, "Print every key of this config with its value and meaning.")
SHOW_BATCH = flags.DEFINE_integer(
    "show_batch", None, "Write the pictures of this step's batch and exit.", lower_bound=1
)
PROFILE = flags.DEFINE_string("profile", None, "START:STOP: write a profiler trace of these steps.")


def main(arguments: list[str], overrides: dict[str, str]) -> int:
    """Trains, or shows what would be trained on."""
    from vision import config as configs

    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}; flags begin with --, as in --config=FILE.")
    if HELP_CONFIG.value:
        from vision import reference

        config = configs.load(HELP_CONFIG.value)
        configs.override(config, overrides)
        print(reference.explain(config))
        return 0
    path = command.required(CONFIG, "configs/quickstart.py")
    config = configs.load(path)
    configs.override(config, overrides)
    workdir = Path(WORKDIR.value or Path("runs") / configs.config_name(path))
    if SHOW_BATCH.value is not None:
        return show_batch(config, workdir, SHOW_BATCH.value)

    from vision.training import fit

    run = fit(config, workdir, profile=_steps(PROFILE.value))
    # A preempted job ends in order (0); whoever pressed Ctrl-C wants a script around this to stop as well.
    return 130 if run.stopped_by == "SIGINT" else 0


def show_batch(config, workdir: Path, step: int) -> int:
    """Writes the images that step `step` trains on, as the pipeline gives them."""
    from vision import experiment, sections
    from vision.explain import pictures

    pipeline = experiment.open_pipeline(sections.complete(config), "config.data.train")
    path = workdir / "plots" / f"batch_{step}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be written: {error.strerror or error}.") from error
    pictures.show_batch(path, pipeline.batch(step - 1), step, pipeline.source.class_names)  # step 1 sees batch 0
    print(f"Wrote the batch of step {step} to {path}")
    return 0


def _steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and 0 < int(start) <= int(stop)):
        raise UsageError(f"--profile={text}: expected START:STOP in steps, such as --profile=100:110.")
    return int(start), int(stop)


if __name__ == "__main__":
    command.run(main)
