"""`fit`: trains a config in a run folder, or goes on where an earlier process of the same run stopped."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vision import experiment, models, workdirs
from vision.config import freeze
from vision.errors import UsageError
from vision.experiment import Experiment
from vision.explain import plots
from vision.explain.results import Results, without_padding
from vision.run import Run, compile_evaluation
from vision.train import loop, meters, parallel, progress, signals, state, writers
from vision.train.checkpoints import Checkpoints, library_versions
from vision.train.evaluation import Evaluation, evaluate


def fit(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    console: writers.Console | None = None,
    profile: tuple[int, int] | None = None,
) -> Run:
    """Trains the config in a folder, or goes on where an earlier process of the same run stopped.

    Args:
        config: a config, not necessarily complete.
        workdir: the run folder; made where it does not exist.
        console: where to print; None for standard output and the folder's log.txt.
        profile: (first, last) step to write a profiler trace of, into the folder's `profile/`.

    Returns:
        The run with its last weights; `stopped_by` names the signal that ended it early, if one did.

    Raises:
        UsageError: whatever is wrong with the config, the data or the folder; a loss that is not finite.
    """
    use_compilation_cache()
    workdir = Path(workdir)
    wired = experiment.build(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdirs.claimed(workdir, wired.config))
        if console is None:
            console = stack.enter_context(_console(workdir))
        settings = wired.settings("checkpoint")
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / "checkpoints",
                keep=settings.keep,
                best=wired.best.metric if wired.best else None,
                best_mode=wired.best.mode if wired.best else "max",
            )
        )
        start, extras = starting_state(wired, checkpoints)
        step, total = int(start.step), wired.clock.total_steps
        console.print(progress.header(header_rows(wired, workdir), title=f"{wired.config.model.name} in {workdir}"))
        if step >= total and workdirs.has_summary(workdir, total):
            console.print(
                f"This run is finished: step {step} of {total}. Its results are in {workdir / 'summary.json'}; "
                f"a larger {workdirs.length_flag(wired.config)} extends it."
            )
            return _run(wired, workdir, start, None)
        if step:
            console.print(f"Going on from the checkpoint of step {step}.")
        workdirs.write_config(workdir, wired.config)
        workdirs.write_data(workdir, {path.removeprefix("config."): one.facts() for path, one in wired.reports.items()})
        outcome = _train(wired, workdir, console, checkpoints, start, extras.get("progress", {}), profile)
        if outcome.stopped_by:
            console.print(
                f"Stopped by {outcome.stopped_by} after step {outcome.step} of {total}; everything is saved. "
                "The same command goes on from here."
            )
        return _run(wired, workdir, outcome.state, outcome.stopped_by)


def starting_state(wired: Experiment, checkpoints: Checkpoints) -> tuple[state.TrainState, dict[str, Any]]:
    """The state of the last good checkpoint and what was stored beside it; a fresh state without a checkpoint."""
    rng = jax.random.fold_in(jax.random.key(wired.config.seed), 1)  # initialisation uses the seed's own key

    def fresh(variables):
        return state.create(variables, wired.optimizer.transform, rng, wired.step_options().ema is not None)

    if checkpoints.latest_step() is None:
        return parallel.replicate(fresh(wired.variables()), wired.mesh), {}
    sharding = jax.sharding.NamedSharding(wired.mesh, jax.sharding.PartitionSpec())
    shapes = jax.eval_shape(fresh, wired.shapes)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    restored, extras, step = checkpoints.restore(shapes, "last")
    _check_same_data(extras["data"], wired.network.description, step)
    return restored, extras


def _check_same_data(earlier: dict[str, Any], now: dict[str, Any], step: int) -> None:
    """Raises UsageError where the data are not those that the checkpoint was trained on."""
    earlier, now = (json.loads(json.dumps(facts)) for facts in (earlier, now))
    changed = [name for name in now if earlier.get(name) != now[name]]
    if changed:
        name = changed[0]
        raise UsageError(
            f"The data are not those of the checkpoint of step {step}: {', '.join(changed)} differ ({name}: "
            f"{str(earlier.get(name))[:200]} then, {str(now[name])[:200]} now). Choose another --workdir."
        )


def _train(
    wired: Experiment,
    workdir: Path,
    console: writers.Console,
    checkpoints: Checkpoints,
    start: state.TrainState,
    earlier: dict[str, Any],
    profile: tuple[int, int] | None,
) -> loop.Outcome:
    """Connects the loop with the run folder and the terminal, and runs it."""
    settings, first_step, total = wired.settings("log"), int(start.step), wired.clock.total_steps
    network, mesh = wired.network, wired.mesh
    is_main = jax.process_index() == 0
    # Where the row of the checkpoint's own step is still owed, another process may have begun to pay.
    logged_step = first_step - 1 if earlier.get("owed") else first_step
    writer = _silent_writer()
    if is_main:
        writer = writers.open_writers(
            workdir,
            logged_step or None,
            tensorboard=settings.tensorboard,
            wandb=settings.wandb,
            config=freeze(wired.config),
        )
    bar = progress.Progress(total, first_step, console, settings.seconds)
    meter = meters.Meter(peak=meters.peak_flops(jax.devices()[0].device_kind), devices=mesh.size)
    evaluation_step = compile_evaluation(network, mesh)
    trace = _tracer(workdir, profile, console)
    evaluations: dict[str, Evaluation] = {}
    # The same on every host, whether or not process 0 has removed the later rows yet.
    rows = [row for row in writers.read_metrics(workdir / "metrics.jsonl") if row["step"] <= logged_step]

    def told_to_stop() -> bool:
        # Several hosts can only agree to stop between steps.
        return jax.process_count() == 1 and bool(stop(first_step))

    def evaluate_all(current: state.TrainState) -> dict[str, float] | None:
        step = int(current.step)
        variables, show = state.evaluation_variables(current), settings.predictions if step == total else 0
        for label, pipeline in wired.eval_data.items():
            found = evaluate(evaluation_step, variables, pipeline, network.task, mesh, show, told_to_stop)
            if found is None:
                return None
            evaluations[label] = found
        metrics = {f"{label}/{name}": v for label, found in evaluations.items() for name, v in found.metrics.items()}
        headlines = network.task.headlines
        shown = {name: v for name, v in metrics.items() if not headlines or name.partition("/")[2] in headlines}
        console.print(f"step {step}/{total}  {progress.format_metrics(shown)}")
        return metrics

    def write(step: int, metrics: dict[str, float]) -> None:
        writer.write(step, metrics)
        rows.append({"step": step, **metrics})

    def improved(metrics: dict[str, float]) -> bool:
        if not metrics:
            return False
        top = workdirs.best_row(rows, wired.best)
        return top is not None and top["step"] == rows[-1]["step"]

    def save(step: int, current: state.TrainState, metrics: dict[str, float], loop_progress: dict[str, Any]) -> None:
        extras = {
            "config": freeze(wired.config),
            "data": network.description,
            "versions": library_versions(),
            "progress": loop_progress,
        }
        checkpoints.save(step, current, metrics=metrics, extras=extras)

    def show(step: int, metrics: dict[str, float] | None, report: dict[str, float] | None) -> None:
        trace(step)
        report = report or {}
        shown = {name: metrics[name] for name in metrics if name in ("loss", "accuracy")} if metrics else None
        bar.update(step, shown, rate=report.get("examples_per_second"), wait_share=report.get("data_wait"))

    with signals.stop_requests() as stop, contextlib.closing(wired.train_data.batches(first_step)) as host_batches:
        hooks = loop.Hooks(write, evaluate_all if wired.eval_data else None, improved, save, show, stop)
        batches = loop.prefetch_to_device(
            host_batches, lambda batch: parallel.put_batch(batch, mesh, wired.config.parallel)
        )
        trace(first_step)
        try:
            outcome = loop.fit(start, wired.train_step(), batches, wired.times(), hooks, meter, earlier)
        finally:
            bar.close()
            writer.close()
            trace(-1)
        if not outcome.stopped_by and not evaluations and wired.eval_data:
            # An earlier process ended between its last checkpoint and the summary.
            outcome = outcome._replace(stopped_by=None if evaluate_all(outcome.state) else stop(total))
    checkpoints.wait()
    if not outcome.stopped_by and is_main:
        finish(wired, workdir, console, outcome, rows, evaluations, meter)
    return outcome


def finish(
    wired: Experiment,
    workdir: Path,
    console: writers.Console,
    outcome: loop.Outcome,
    rows: list[dict[str, Any]],
    evaluations: dict[str, Evaluation],
    meter: meters.Meter,
) -> None:
    """Draws the plots, writes summary.json, and prints the closing table."""
    labels, last = wired.eval_data, rows[-1] if rows else {}
    final = workdirs.results(last, labels) | {name: last[name] for name in last if name == "train/loss"}
    top = workdirs.best_row(rows, wired.best)
    best = workdirs.results(top, labels)
    seconds = outcome.progress["seconds"]
    drawn = draw(wired, workdir / "plots", rows, evaluations)
    writers.write_json(
        workdir / "summary.json",
        {
            "step": outcome.step,
            "final": final,
            "best": {"step": top["step"], **best} if top else {},
            "parameters": models.count_parameters(wired.shapes["params"]),
            "wall_seconds": round(seconds, 2),
            "examples_per_second": round(meter.examples_in_total / max(meter.seconds_in_total, 1e-9), 1),
        },
    )
    console.print()
    console.print(progress.results_table(final, {name: (value, top["step"]) for name, value in best.items()}))
    console.print()
    bad = wired.train_data.bad_images
    places = [
        *([("skipped", f"{len(bad):,} images that cannot be decoded")] if bad else []),
        ("time", f"{progress.format_duration(seconds)} for {outcome.step} steps"),
        ("results", f"{workdir}/summary.json, metrics.jsonl, log.txt"),
        ("plots", f"{workdir}/plots/: {', '.join(drawn)}"),
        ("weights", f"{workdir}/checkpoints/"),
        *([("next", f"python -m launch.evaluate --workdir={workdir}")] if labels else []),
    ]
    console.print(progress.header(places, title="Done"))


def draw(wired: Experiment, folder: Path, rows: list[dict[str, Any]], evaluations: dict[str, Evaluation]) -> list[str]:
    """Draws the curves and the task's own plots of the first evaluation split; gives the names of the files."""
    folder.mkdir(exist_ok=True)
    task = wired.network.task
    curves = dict.fromkeys(["loss", task.best])
    drawn = [
        f"{name}.png"
        for name in curves
        if plots.plot_curves(folder / f"{name}.png", rows, name, higher_is_better=name not in task.lower_is_better)
    ]
    for label, found in list(evaluations.items())[:1]:
        results = as_results(found, label, tuple(wired.network.description["class_names"]), task.maps)
        for name in task.plots if found.shown else ():
            plots.PLOTS[name](folder / f"{name}.png", results)
            drawn.append(f"{name}.png")
    return drawn


def as_results(found: Evaluation, label: str, class_names: tuple[str, ...], maps: tuple[str, ...] = ()) -> Results:
    """An evaluation as the plots want it, images and the predictions named in `maps` without their padding."""
    predictions, batches = [], []
    for example in found.shown:
        size = example["batch"].get("size")
        predictions.append(without_padding(example["predictions"], maps, size))
        batches.append(without_padding(example["batch"], ("image", "segmentation"), size))
    return Results(
        images=[batch["image"] for batch in batches],
        predictions=_together(predictions),
        batch=_together(batches),
        class_names=class_names,
        arrays=found.arrays,
        metrics=found.metrics,
        split=label,
        count=found.count,
    )


def _together(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """One dict per example -> name -> (N, ...), or a list of N arrays where their shapes differ."""
    if not examples:
        return {}

    def stacked(*values):
        return np.stack(values) if len({np.shape(value) for value in values}) == 1 else list(values)

    return {name: jax.tree.map(stacked, *(example[name] for example in examples)) for name in examples[0]}


def header_rows(wired: Experiment, workdir: Path) -> list[tuple[str, str]]:
    """What the terminal shows before the first step."""
    config, clock = wired.config, wired.clock
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in wired.train_data.image_shapes)
    kinds = jax.devices()[0].device_kind
    hosts = f", {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return [
        ("model", f"{config.model.name}, {models.count_parameters(wired.shapes['params']):,} parameters"),
        *([("weights", _weights_text(config.init))] if config.init.weights else []),
        ("task", config.task.name),
        *((path.removeprefix("config."), str(report)) for path, report in wired.reports.items()),
        ("images", f"{shapes}, {config.data.preprocess.name}"),
        ("optimizer", wired.optimizer.description),
        ("length", f"{clock.total_steps:,} steps of {clock.batch_size} = {clock.epochs(clock.total_steps):.1f} epochs"),
        ("devices", f"{wired.mesh.size} x {kinds}, {config.parallel}{hosts}"),
        ("folder", str(workdir)),
    ]


def _weights_text(init: ConfigDict) -> str:
    """ "runs/a (best), encoder; new head": where the first weights come from."""
    which = f" ({init.checkpoint})" if Path(init.weights).is_dir() else ""
    part = f", its {init.prefix}" if init.prefix else ""
    return f"{init.weights}{which}{part}" + ("; new head" if init.head == "new" else "")


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick; JAX's own variable wins."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "vision" / "jax"))


def _run(wired: Experiment, workdir: Path, last: state.TrainState, stopped_by: str | None) -> Run:
    variables = state.evaluation_variables(last)
    return Run(workdir, wired.config, wired.network, variables, int(last.step), stopped_by)


@contextlib.contextmanager
def _console(workdir: Path) -> Iterator[writers.Console]:
    """Standard output and log.txt, which also gets the error that ends the run; silent but for process 0."""
    if jax.process_index() > 0:
        with open(os.devnull, "w") as nowhere:
            yield writers.Console(stream=nowhere)
        return
    console = writers.Console(workdir / "log.txt")
    try:
        yield console
    except UsageError as error:
        console.record(f"error: {error}")
        raise
    finally:
        console.close()


def _silent_writer() -> writers.Writer:
    return writers.Writer(lambda step, metrics: None, lambda: None)


def _tracer(workdir: Path, profile: tuple[int, int] | None, console: writers.Console) -> Callable[[int], None]:
    """A function to call after every step that starts and stops the profiler; -1 stops it at the end."""
    running = False
    traced = False

    def finish_dispatched_steps() -> None:
        for device in jax.local_devices():  # a device computes in order: this waits for all that was sent to it
            jax.block_until_ready(jax.device_put(0.0, device) + 1)

    def trace(step: int) -> None:
        nonlocal running, traced
        if profile and not running and profile[0] - 1 <= step < profile[1]:
            finish_dispatched_steps()
            jax.profiler.start_trace(str(workdir / "profile"))
            running = traced = True
        elif running and (step >= profile[1] or step == -1):
            finish_dispatched_steps()
            jax.profiler.stop_trace()
            running = False
        elif profile and not traced and step == -1:
            console.print(f"No step of --profile={profile[0]}:{profile[1]} was trained; nothing was traced.")

    return trace
