"""Evaluates a run: python -m launch.evaluate --workdir=runs/a --checkpoint=best"""

from absl import flags

from launch import command

WORKDIR = flags.DEFINE_string("workdir", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step.")
SPLIT = flags.DEFINE_string("split", None, "Label of the evaluation split; all of them where not given.")


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Prints the metrics of every evaluation split, per class where there are classes."""
    from vision.errors import UsageError
    from vision.run import load
    from vision.train.progress import header, table
    from vision.train.writers import Console
    from vision.training import use_compilation_cache

    if arguments or overrides:
        given = [*arguments, *(f"--config.{key}" for key in overrides)]
        raise UsageError(f"unexpected {', '.join(given)}: a run is evaluated with the config it was trained with.")
    use_compilation_cache()
    run = load(command.required(WORKDIR, "runs/a"), CHECKPOINT.value)
    if not run.config.data.eval:
        raise UsageError(f"--workdir={run.workdir}: its config has no evaluation split (config.data.eval).")
    console = Console()
    title = f"{run.config.model.name} in {run.workdir}"
    console.print(header([("checkpoint", f"step {run.step} ({CHECKPOINT.value})")], title))
    for label, found in run.evaluate(SPLIT.value).items():
        console.print()
        console.print(table(list(found.metrics.items()), (label, "value")))
        per_class = {name: values for name, values in found.arrays.items() if values.shape == (len(run.class_names),)}
        if per_class:
            console.print()
            rows = [(name, *(float(v[i]) for v in per_class.values())) for i, name in enumerate(run.class_names)]
            console.print(table(rows, ("class", *per_class)))


if __name__ == "__main__":
    command.run(main)
