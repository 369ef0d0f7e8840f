"""The sections of a config: which function each one configures, what it may say, and its defaults.

A function's signature is its section's schema. `complete` checks a whole config and writes out every key.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ml_collections import ConfigDict

from vision import data, models, schema, tasks
from vision.config import freeze, thaw
from vision.data import catalog, preprocess
from vision.errors import UsageError, pick
from vision.train import optimizer as optimizers
from vision.train.settings import CheckpointSettings, EvaluateSettings, LogSettings, TrainSettings
from vision.weights import initial


def run(*, seed: int = 0, parallel: Literal["jit", "pmap"] = "jit") -> None:
    """The keys of the config itself; everything else is in its sections.

    Args:
        seed: of initialisation, shuffling, augmentation and dropout.
        parallel: "jit": one program over global arrays on a mesh; "pmap": replicated data parallelism.
    """


class Section(NamedTuple):
    """One section of a config.

    Attributes:
        path: "config.model".
        values: its keys, less `name` where it has one.
        function: what it configures.
        keys: the keys it may have, less `name` where that picks the function.
        names: what `name` may be, where it picks the function.
    """

    path: str
    values: ConfigDict
    function: Callable
    keys: dict[str, schema.Key]
    names: tuple[str, ...] = ()


PLAIN_SECTIONS = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "checkpoint": CheckpointSettings,
    "log": LogSettings,
}
# Arguments of a pipeline that are no config keys: the run knows them.
PIPELINE_FACTS = ("seed", "train", "host_index", "host_count", "where")
EVERY = ("log", "evaluate", "checkpoint")  # the sections with an interval
TOP_LEVEL = ("model", "init", "task", "data", "optimizer", *PLAIN_SECTIONS)


def sections(config: ConfigDict) -> Iterator[Section]:
    """Every section of a config with the function it configures; sections that may be left out are added, empty.

    Raises:
        UsageError: an unknown or missing section, or a name that is in no table.
    """

    def section(path: str, table: dict[str, Callable] | None, function=None, kind="", injected=()) -> Section:
        values = values_at(config, path)
        if table is not None:
            if "name" not in values:
                raise UsageError(f"{path}: missing 'name'. Valid: {', '.join(sorted(table))}.")
            function = pick(table, kind, values.name, f"{path}.name")
        return Section(path, values, function, schema.keys(function, injected), tuple(table or ()))

    top = schema.keys(run)
    schema.check_names(config, (*top, *TOP_LEVEL), "config")
    yield Section("config", config, run, top)
    model = section("config.model", models.MODELS, kind="model")
    model = model._replace(keys=models.keys(model.function))
    if "num_classes" in model.keys:  # a network's own default is the one of its paper; a run's is the data's
        meaning = "number of classes; None: as many as the training data have."
        model.keys["num_classes"] = schema.Key(int | None, None, meaning)
    yield model
    yield section("config.init", None, initial.load, injected=initial.INJECTED)
    yield section("config.task", tasks.TASKS, kind="task", injected=tasks.INJECTED)
    schema.check_names(values_at(config, "config.data"), ("preprocess", "train", "eval"), "config.data")
    table = preprocess.PREPROCESS | {AS_WEIGHTS: as_weights_expect}
    yield section("config.data.preprocess", table, kind="preprocessing", injected=("images",))
    for path in data_paths(config):
        pipeline = section(path, None, data.create, injected=PIPELINE_FACTS)
        yield pipeline
        if isinstance(pipeline.values.get("name"), str):  # else the check of the section above says what is wrong
            function = catalog.opener(pipeline.values.name, path)
            yield section(f"{path}.source", None, function, injected=catalog.FACTS)
    values = values_at(config, "config.optimizer")
    if "name" not in values:
        raise UsageError(f"config.optimizer: missing 'name'. Valid: {', '.join(sorted(optimizers.OPTIMIZERS))}.")
    keys = optimizers.keys_for(values.name, "config.optimizer.name")
    yield Section("config.optimizer", values, optimizers.create, keys, tuple(optimizers.OPTIMIZERS))
    for name, settings in PLAIN_SECTIONS.items():
        yield section(f"config.{name}", None, settings)


def data_paths(config: ConfigDict) -> list[str]:
    """Paths of the data sections: config.data.train first, then config.data.eval's labels."""
    labels = values_at(config, "config.data.eval", create=True)
    for label, value in labels.items():
        if label in ("train", "perf") or "/" in label:
            raise UsageError(f"config.data.eval.{label}: the label would be taken for other metrics; choose another.")
        if not isinstance(value, ConfigDict):
            raise UsageError(f"config.data.eval.{label}: expected a section like config.data.train, given {value!r}.")
    return ["config.data.train", *(f"config.data.eval.{label}" for label in labels)]


def values_at(config: ConfigDict, path: str, create: bool = True) -> ConfigDict:
    """The section at a path; added where it is missing, for a section may have defaults only."""
    values = config
    for name in path.split(".")[1:]:
        if values.get(name) is None and create:
            values[name] = ConfigDict(type_safe=False)
        values = values.get(name)
        if not isinstance(values, ConfigDict):
            raise UsageError(f"{path}: expected a section with keys, given {values!r}.")
    return values


def complete(config: ConfigDict, needs_weights: bool = True) -> ConfigDict:
    """A copy of the config with every key it may have, checked: defaults filled in from the signatures.

    Args:
        config: as a config file gave it, overrides applied.
        needs_weights: whether a missing file of weights is an error where the config leaves the preprocessing or the
            transforms to them; otherwise these stay "weights".

    Raises:
        UsageError: an unknown section, key or name, a missing key, a value of the wrong type; says where.
    """
    config = thaw(freeze(config))
    _fill_in_from_weights(config, needs_weights)
    for section in list(sections(config)):
        own = {"name"} if "name" in section.values and "name" not in section.keys else set()
        skipped = own | (set(TOP_LEVEL) if section.path == "config" else set())
        given = {key: freeze(value) for key, value in section.values.items() if key not in skipped}
        named = {"name": schema.Key(str, "", "")} if own else {}  # so that it is offered for a typo
        schema.check_keys(named | section.keys, given, section.path)
        for key, description in section.keys.items():
            if key not in section.values:
                section.values[key] = thaw(description.default)
    optimizers.check(freeze(config.optimizer))
    for name, settings in PLAIN_SECTIONS.items():
        settings(**freeze(config[name]))  # checks ranges
    return config


AS_WEIGHTS = "weights"  # where a config names a preprocessing or transforms: those of `config.init.weights`


def as_weights_expect() -> None:
    """The preprocessing that `config.init.weights` were trained with; it takes the place of this one."""


def _fill_in_from_weights(config: ConfigDict, needs_weights: bool) -> None:
    """Writes out, in place, what a config leaves to its weights: the preprocessing and the transforms."""
    preprocessing = values_at(config, "config.data.preprocess")
    chains = {path: values_at(config, path) for path in data_paths(config)}
    wanted = [path for path, values in chains.items() if values.get("transforms") == AS_WEIGHTS]
    if preprocessing.get("name") != AS_WEIGHTS and not wanted:
        return
    weights = values_at(config, "config.init").get("weights")
    if not weights:
        place = f"{wanted[0]}.transforms" if wanted else "config.data.preprocess.name"
        raise UsageError(f"{place}: 'weights' means those of config.init.weights, which is not set.")
    if not needs_weights and not Path(str(weights)).exists():
        return
    record = weights_record(config)
    if not record.preprocess:
        raise UsageError(
            f"config.init.weights: {config.init.weights} is a file of our own, which does not say what it expects of "
            "images; set config.data.preprocess and the transforms, or give the run folder."
        )
    if preprocessing.get("name") == AS_WEIGHTS:
        config.data.preprocess = thaw(record.preprocess | {k: v for k, v in preprocessing.items() if k != "name"})
    for path in wanted:
        chains[path].transforms = record.train_transforms if path == "config.data.train" else record.transforms


def weights_record(config: ConfigDict) -> initial.Record:
    """What the weights of `config.init` expect of images, and the names of their classes."""
    init, name = freeze(config.init), values_at(config, "config.model").get("name")
    function = pick(models.MODELS, "model", name, "config.model.name")
    # Only the names of the network's parameters count here, which do not depend on the number of classes.
    classes = {"num_classes": config.model.get("num_classes") or 1000} if "num_classes" in schema.keys(function) else {}
    model = models.create(**(freeze(config.model) | classes))
    return initial.record(model, name, init["weights"], init.get("source"), init.get("checkpoint") or "best")
