"""Config -> a wired Experiment. The one place where models, tasks, data and the trainer meet.

`vision.sections` says which function each config section configures, and checks the config against it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from ml_collections import ConfigDict

from vision import data, models, schema, sections, tasks
from vision.config import freeze
from vision.data import chain, preprocess
from vision.errors import UsageError, unknown_name
from vision.train import evaluation, parallel, step
from vision.train import optimizer as optimizers
from vision.train.durations import Clock
from vision.train.loop import Times
from vision.train.settings import TrainSettings
from vision.weights import initial


@dataclasses.dataclass(frozen=True)
class Network:
    """What a trained run needs to predict: no data set, no optimiser.

    Attributes:
        model: Linen module.
        task: `vision.tasks.Task`.
        preprocess: uint8 images -> what the network sees, on the device.
        description: JSON-ready facts of the data: image_shape, class_names, num_classes, preprocess, transforms.
    """

    model: Any
    task: tasks.Task
    preprocess: Callable[[jax.Array], jax.Array]
    description: dict[str, Any]


class Best(NamedTuple):
    """How checkpoints are compared: a metric ("test/accuracy"), and whether "max" or "min" is best."""

    metric: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config, wired.

    Attributes:
        config: complete and checked.
        network: model, task and preprocessing.
        mesh: the devices.
        train_data: batches to train on.
        eval_data: batches to evaluate on, by label.
        reports: what the check of each split found, by the split's path in the config.
        clock: steps, epochs and examples of this run.
        optimizer: transformation and schedule.
        shapes: shapes of the model's variables.
        best: how checkpoints are compared; None without evaluation.
    """

    config: ConfigDict
    network: Network
    mesh: jax.sharding.Mesh
    train_data: data.Pipeline
    eval_data: dict[str, data.Pipeline]
    reports: dict[str, Any]
    clock: Clock
    optimizer: optimizers.Optimizer
    shapes: Any
    best: Best | None

    def settings(self, name: str) -> Any:
        """The section of that name ("train", "evaluate", "checkpoint", "log") as its dataclass."""
        return sections.PLAIN_SECTIONS[name](**freeze(self.config[name]))

    def times(self) -> Times:
        """When the loop logs, evaluates and saves, in steps."""
        every = {name: self.clock.steps(self.config[name].every, f"config.{name}.every") for name in sections.EVERY}
        return Times(self.clock.total_steps, every["log"], every["evaluate"], every["checkpoint"])

    def variables(self) -> dict[str, Any]:
        """The variables to start from: those of `config.init`, or fresh ones that depend on the seed only."""
        shape, others = model_inputs(self.network, self.train_data.element_spec)
        key = jax.random.key(self.config.seed)
        if self.config.init.weights:
            return initial.load(self.network.model, shape, key, **freeze(self.config.init))
        return models.initialize(self.network.model, key, shape, **others)

    def step_options(self) -> step.StepOptions:
        """Accumulation, moving average and penalties."""
        return step.StepOptions(**{name: self.config.optimizer[name] for name in step.StepOptions._fields})

    def train_step(self) -> parallel.CompiledStep:
        """The training step, to be compiled when the first batch is there."""
        network, options, mode = self.network, self.step_options(), self.config.parallel

        def make(axis_name: str | None):
            model = parallel.with_axis(network.model, axis_name)
            return step.make_train_step(model, network.task, network.preprocess, self.optimizer, options, axis_name)

        return parallel.CompiledStep(parallel.compile_train_step(make, mode, self.mesh), options.accumulate)


def build(config: ConfigDict) -> Experiment:
    """Wires a config: opens and checks the data, makes the model, the task and the optimiser. Nothing is computed yet.

    Raises:
        UsageError: whatever is wrong with the config or the data, before any work starts.
    """
    config = sections.complete(config)
    mesh = parallel.make_mesh()
    for path in sections.data_paths(config):
        accumulate = config.optimizer.accumulate if path == "config.data.train" else 1
        parallel.check_batch_size(sections.values_at(config, path).batch_size, mesh, path, accumulate)

    pipelines = {path: open_pipeline(config, path) for path in sections.data_paths(config)}
    train_data = pipelines["config.data.train"]
    num_classes = _num_classes(config, train_data) if _uses_classes(config) else None
    reports = {path: data.check(pipeline.source, num_classes, path) for path, pipeline in pipelines.items()}
    if num_classes is not None:
        _same_classes(pipelines)
    clock = Clock(batch_size=train_data.batch_size, num_examples=train_data.num_examples)
    length = TrainSettings(**freeze(config.train)).duration()
    clock = clock._replace(total_steps=clock.steps(length, "config.train"))
    if not 0 < clock.total_steps < 2**31:
        raise UsageError(f"config.train: {length!r} is {clock.total_steps} steps; a run has 1 to 2**31 - 1.")

    network = wire(config, describe(config, pipelines, num_classes))
    image_shape, others = model_inputs(network, train_data.element_spec)
    shapes = models.variable_shapes(network.model, image_shape, **others)
    layers = None
    if config.optimizer.layer_decay is not None:
        layers = models.layer_numbers(network.model, image_shape, **others)
    optimizer = optimizers.create(
        **freeze(config.optimizer), params=shapes["params"], clock=clock, layer_numbers=layers
    )
    eval_data = {path.removeprefix("config.data.eval."): pipelines[path] for path in sections.data_paths(config)[1:]}
    wired = Experiment(
        config=config,
        network=network,
        mesh=mesh,
        train_data=train_data,
        eval_data=eval_data,
        reports=reports,
        clock=clock,
        optimizer=optimizer,
        shapes=shapes,
        best=_best(config, network, shapes, eval_data),
    )
    wired.times()  # raises where an interval is no duration
    return wired


def open_pipeline(config: ConfigDict, path: str, in_order: bool = False) -> data.Pipeline:
    """The batches of a data section.

    Args:
        config: complete.
        path: "config.data.train" or "config.data.eval.LABEL".
        in_order: one pass in the order of the data set and without chance, of the training split too.
    """
    values = freeze(sections.values_at(config, path))
    if in_order:
        values |= {"shuffle": False, "transforms": chain.deterministic_text(values["transforms"])}
    return data.create(
        **values,
        seed=config.seed,
        train=path == "config.data.train" and not in_order,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        where=path,
    )


def describe(config: ConfigDict, pipelines: dict[str, data.Pipeline], num_classes: int | None) -> dict[str, Any]:
    """JSON-ready facts of the data that prediction needs later, when the data are no longer there."""
    train = pipelines["config.data.train"]
    # Predictions see images as the first evaluation split does; without one, as training does.
    shown_path = list(pipelines)[min(1, len(pipelines) - 1)]
    shown = pipelines[shown_path]
    class_names = _class_names(config, train, num_classes)
    return {
        "image_shape": list(shown.element_spec["image"].shape[1:]),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "preprocess": preprocess.resolve(
            freeze(config.data.preprocess), train.source, config.data.train.transforms, "config.data.preprocess"
        ),
        "transforms": chain.deterministic_text(sections.values_at(config, shown_path).transforms),
        "examples": {path.removeprefix("config.data."): len(p.source) for path, p in pipelines.items()},
    }


def _class_names(config: ConfigDict, train: data.Pipeline, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes: those of the weights, where their classifier is kept, or of the data, or numbers."""
    names = train.source.class_names or tuple(str(i) for i in range(num_classes or 0))
    if not config.init.weights or config.init.head != "keep" or config.init.prefix or not num_classes:
        return names
    known = sections.weights_record(config).class_names
    if len(known) != num_classes or known == names:
        return names
    if Path(config.init.weights).is_dir():
        raise UsageError(
            f"config.init.head: the weights' classes are {', '.join(known[:5])}, ..., the data's "
            f"{', '.join(names[:5])}, ...: a kept classifier would call them by wrong names; take head='new'."
        )
    return known


def _uses_classes(config: ConfigDict) -> bool:
    """Whether the model or the task asks for the number of classes."""
    functions = (models.MODELS[config.model.name], tasks.TASKS[config.task.name])
    return any("num_classes" in schema.keys(function) for function in functions)


def _num_classes(config: ConfigDict, train_data: data.Pipeline) -> int | None:
    """The model's classes where the config says; else the data's."""
    if config.model.get("num_classes"):
        return config.model.num_classes
    source = train_data.source
    if source.class_names:
        return len(source.class_names)
    return int(source.labels.max()) + 1 if source.labels is not None and len(source.labels) else None


def _same_classes(pipelines: dict[str, data.Pipeline]) -> None:
    """Class ids are places in a list of names: the same list in every split."""
    (_, train), *others = pipelines.items()
    for path, pipeline in others:
        if pipeline.source.class_names != train.source.class_names:
            one, two = set(train.source.class_names), set(pipeline.source.class_names)
            what = f"only in training: {sorted(one - two)[:5]}, only here: {sorted(two - one)[:5]}"
            raise UsageError(f"{path}.name: its classes are not those of config.data.train ({what}).")


def _best(config: ConfigDict, network: Network, shapes: Any, eval_data: dict[str, data.Pipeline]) -> Best | None:
    """How checkpoints are compared. Raises UsageError where the config names a metric that is not there."""
    if not eval_data:
        if config.checkpoint.best:
            raise UsageError(f"config.checkpoint.best: {config.checkpoint.best!r}, but config.data.eval has no split.")
        return None
    valid = [
        f"{label}/{name}"
        for label, pipeline in eval_data.items()
        for name in _metric_names(config, network, shapes, pipeline, f"config.data.eval.{label}")
    ]
    chosen = config.checkpoint.best or f"{next(iter(eval_data))}/{network.task.best}"
    if chosen not in valid:
        raise unknown_name("metric", chosen, valid, "config.checkpoint.best")
    return Best(chosen, "min" if chosen.partition("/")[2] in network.task.lower_is_better else "max")


def _metric_names(
    config: ConfigDict, network: Network, shapes: Any, pipeline: data.Pipeline, path: str
) -> tuple[str, ...]:
    """Names of a split's metrics. Raises UsageError where its images or the model's outputs do not fit."""
    evaluation_step = step.make_evaluation_step(network.model, network.task, network.preprocess)
    try:
        return evaluation.metric_names(evaluation_step, shapes, pipeline.element_spec, network.task)
    except ScopeParamShapeError as error:
        size = " x ".join(str(length) for length in pipeline.element_spec["image"].shape[1:])
        raise UsageError(
            f"{path}.transforms: {config.model.name!r} does not take images of {size} after training on others; "
            "give them the size of the training images."
        ) from error
    except KeyError as error:
        raise UsageError(
            f"config.task.name: {config.task.name!r} needs {error}, which neither the model {config.model.name!r} "
            f"nor the data of {path} give (what data sets with several kinds of annotations give is chosen by "
            f"{path}.source.annotations)."
        ) from error


def model_inputs(network: Network, spec: dict[str, jax.ShapeDtypeStruct]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """What the model is called with, for a batch of these shapes: one image's shape, and zeros for the other inputs."""
    batch = {name: jnp.zeros((1, *value.shape[1:]), value.dtype) for name, value in spec.items()}
    inputs = dict(network.task.inputs(batch, False))
    image = inputs.pop("image")
    return image.shape[1:], inputs


def wire(config: ConfigDict, description: dict[str, Any]) -> Network:
    """The model, task and preprocessing of a complete config, for data of this description."""
    num_classes = description["num_classes"]
    model = models.create(**(freeze(config.model) | {"num_classes": num_classes}))
    class_names = tuple(description["class_names"])
    task = tasks.create(num_classes=num_classes, class_names=class_names, **freeze(config.task))
    return Network(model, task, preprocess.create(**description["preprocess"]), description)
