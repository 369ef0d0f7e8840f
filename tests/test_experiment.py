"""Configs are compared with signatures before any work starts, and wired into an experiment."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vision import config as configs
from vision import experiment, sections
from vision.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # config files import their neighbours

SMALL = {
    "model": {"name": "mlp", "hidden": (8,), "batch_norm": True},
    "task": {"name": "classification"},
    "data": {
        "preprocess": {"name": "normalize"},
        "train": {"name": "fake:4x4x1:3:30", "split": "train", "batch_size": 4, "transforms": ""},
        "eval": {"test": {"name": "fake:4x4x1:3:30", "split": "test", "batch_size": 7, "transforms": ""}},
    },
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup": "10%"},
    "train": {"epochs": 4},
}


def small(**overrides):
    made = configs.thaw(SMALL)
    configs.override(made, {name.replace("__", "."): str(value) for name, value in overrides.items()})
    return made


SHIPPED = {
    f"{file}.py:{name}" if name else f"{file}.py": configs.load(
        f"{ROOT}/configs/{file}.py" + (f":{name}" if name else "")
    )
    for file, names in {
        "quickstart": [""],
        "digits": ["linear", "mlp", "lenet", "resnet", "vit", "autoencoder"],
        "cifar10": ["resnet", "vit"],
        "imagenet": ["resnet50", "vit_s16"],
    }.items()
    for name in names
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_complete_config_stays_as_it_is_also_through_json(name, tmp_path):
    complete = sections.complete(SHIPPED[name])
    given = dict(configs.flatten(SHIPPED[name]))
    assert given.items() <= dict(configs.flatten(complete)).items()  # nothing that was given has changed
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(complete))
    assert configs.freeze(sections.complete(complete)) == configs.freeze(complete)
    assert configs.freeze(sections.complete(configs.load(str(file)))) == configs.freeze(complete)


def test_completing_leaves_the_given_config_alone():
    config = small()
    before = configs.freeze(config)
    sections.complete(config)
    assert configs.freeze(config) == before


def keys_of(name):
    """(section's path, key) of every key of a config."""
    for section in list(sections.sections(sections.complete(SHIPPED[name]))):
        yield from ((section.path, key) for key in section.keys)


EVERY_KEY = sorted({pair for name in ("digits.py:mlp", "digits.py:vit", "digits.py:resnet") for pair in keys_of(name)})


@pytest.mark.parametrize(("path", "key"), EVERY_KEY)
def test_a_typo_in_any_key_is_named_and_the_key_offered(path, key):
    owner = next(
        name for name in ("digits.py:mlp", "digits.py:vit", "digits.py:resnet") if (path, key) in keys_of(name)
    )
    config, typo = configs.thaw(configs.freeze(SHIPPED[owner])), f"{key}{key[-1]}"
    configs.override(config, {f"{path}.{typo}".removeprefix("config."): "1"})
    with pytest.raises(UsageError, match=rf"^{path}\.{typo}: unknown key; did you mean '{key}'\?"):
        sections.complete(config)


@pytest.mark.parametrize(("path", "key"), EVERY_KEY)
def test_a_value_of_the_wrong_type_is_named_at_any_key(path, key):
    owner = next(
        name for name in ("digits.py:mlp", "digits.py:vit", "digits.py:resnet") if (path, key) in keys_of(name)
    )
    config = configs.thaw(configs.freeze(SHIPPED[owner]))
    configs.override(config, {f"{path}.{key}".removeprefix("config."): "b'bytes'"})
    with pytest.raises(UsageError, match=rf"^{path}\.{key}\b.*b'bytes'"):
        sections.complete(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle.name", "mlp", r"^config.modle: unknown key; did you mean 'model'\?"),
        ("data.tain.name", "x", r"^config.data.tain: unknown key; did you mean 'train'\?"),
        ("data.evaluation.test", "x", r"^config.data.evaluation: unknown key; did you mean 'eval'\?"),
        ("model", "mlp", "^config.model: expected a section with keys, given 'mlp'"),
        ("data.eval.test", "7", r"^config.data.eval.test: expected a section like config.data.train, given 7"),
        ("model.name", "mpl", "^config.model.name: unknown model 'mpl'; did you mean 'mlp'"),
        ("model.name", "3", "^config.model.name: unknown model 3"),
        (
            "task.name",
            "clasification",
            "^config.task.name: unknown task 'clasification'; did you mean 'classification'",
        ),
        ("optimizer.name", "adamv", "^config.optimizer.name: unknown optimizer 'adamv'; did you mean 'adam"),
        ("optimizer.schedule", "cosin", "^config.optimizer.schedule: unknown schedule 'cosin'; did you mean 'cosine'"),
        ("data.preprocess.name", "normalise", "^config.data.preprocess.name: unknown preprocessing .* 'normalize'"),
        ("model", "{'hidden': (3,)}", "^config.model: missing 'name'"),
        ("optimizer", "{'learning_rate': 0.1}", "^config.optimizer: missing 'name'"),
        (
            "data.train",
            "{'name': 'digits', 'split': 'train'}",
            "^config.data.train: missing 'batch_size', 'transforms'",
        ),
        ("data.train", "{'split': 'train', 'batch_size': 1, 'transforms': ''}", "^config.data.train: missing 'name'"),
        ("data.eval.val.split", "test", "^config.data.eval.val: missing 'name', 'batch_size', 'transforms'"),
        ("data.train.name", "5", "^config.data.train.name: expected str, given 5"),
        ("optimizer", "{'name': 'sgd'}", "^config.optimizer: missing 'learning_rate'"),
        ("keys", "3", "^config.keys: unknown key"),  # a method of ConfigDict
        ("model.dropout", "True", r"^config.model.dropout: expected float, given True \(bool\)"),
    ],
)
def test_wrong_sections_and_names(key, value, message):
    config = configs.load(f"{ROOT}/configs/digits.py:mlp")
    configs.override(config, {key: value})
    with pytest.raises(UsageError, match=message):
        sections.complete(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(data__train__transforms="filp"), "config.data.train.transforms: unknown transform 'filp'; .*'flip'"),
        (dict(data__eval__test__transforms="filp"), "config.data.eval.test.transforms: unknown transform 'filp'"),
        (dict(data__train__batch_size=0), "config.data.train.batch_size: expected at least 1, given 0"),
        (dict(data__eval__test__batch_size=-3), "config.data.eval.test.batch_size: expected at least 1, given -3"),
        (dict(optimizer__accumulate=3), "config.data.train.batch_size: 4 cannot be divided .* nearest are 3 or 6"),
        (
            dict(checkpoint__best="test/acuracy"),
            "config.checkpoint.best: .*'test/acuracy'; did you mean 'test/accuracy'",
        ),
        (dict(checkpoint__best="accuracy"), "config.checkpoint.best: unknown metric 'accuracy'"),
        (dict(model__num_classes=7), "config.data.train.name: .*has 3 classes, while the model has 7"),
        (dict(data__eval__test__name="fake:4x4x1:5:30"), "config.data.eval.test.name: .*5 classes"),
        (dict(data__eval__test__name="fake:5x5x1:3:30"), "config.data.eval.test.transforms: 'mlp' .* 5 x 5 x 1"),
        (dict(task__name="reconstruction"), "config.task.name: 'reconstruction' needs 'reconstruction', .*'mlp'"),
        (dict(train__steps=0), "config.train: .* steps; a run has 1"),
        (dict(train__steps="soon"), "config.train: 'soon' is not a duration"),
        (dict(log__every="often"), "config.log.every: 'often' is not a duration"),
        (dict(evaluate__every=-1), "config.evaluate.every: -1 is not a duration"),
        (dict(optimizer__warmup="a while"), "config.optimizer.warmup: 'a while' is not a duration"),
        (dict(optimizer__rules="(('hed/.*', {'lr': 2.0}),)"), r"config.optimizer.rules\[0\]: 'hed/.\*' matches no"),
        (dict(seed=-1), "seed: expected a number from 0"),
    ],
)
def test_what_only_the_wiring_finds(overrides, message):
    with pytest.raises(UsageError, match=message):
        experiment.build(small(**overrides))


def test_setting_two_lengths_is_an_error():
    config = small()
    config.train.steps = 3
    with pytest.raises(UsageError, match=r"config.train: set exactly one of steps, epochs, examples; steps and epochs"):
        experiment.build(config)


def test_durations_are_steps_of_this_run():
    wired = experiment.build(small(log__every="1 epochs", evaluate__every="50%", checkpoint__every="40 examples"))
    assert wired.clock.total_steps == 30  # 4 epochs of 30 examples in batches of 4
    assert wired.times() == (30, 8, 15, 10)  # 30 / 4 = 7.5 rounds up


def test_the_facts_of_the_data_reach_the_network_and_the_description():
    wired = experiment.build(small())
    assert wired.network.model.num_classes == 3
    assert wired.network.description["class_names"] == ["0", "1", "2"]
    assert wired.network.description["image_shape"] == [4, 4, 1]
    assert wired.network.description["examples"] == {"train": 30, "eval.test": 30}
    assert wired.reports["config.data.train"].class_counts == (10, 10, 10)
    assert list(wired.eval_data) == ["test"]


@pytest.mark.parametrize(
    ("overrides", "best"),
    [
        ({}, ("test/accuracy", "max")),
        (dict(checkpoint__best="test/loss"), ("test/loss", "min")),
        (dict(checkpoint__best="test/macro_f1"), ("test/macro_f1", "max")),
        (dict(model="{'name': 'autoencoder', 'hidden': (4,)}", task__name="reconstruction"), ("test/mse", "min")),
    ],
)
def test_how_checkpoints_are_compared(overrides, best):
    assert experiment.build(small(**overrides)).best == best


def test_without_evaluation_there_is_no_best():
    config = small()
    del config.data["eval"]
    assert experiment.build(config).best is None
    config.checkpoint = configs.thaw({"best": "test/loss"})
    with pytest.raises(UsageError, match=r"config.checkpoint.best: 'test/loss', but config.data.eval has no split"):
        experiment.build(config)


def test_variables_are_a_function_of_the_seed_only():
    def variables(**overrides):
        return jax.tree.leaves(experiment.build(small(**overrides)).variables())

    same, other = variables(data__train__batch_size=10, train__steps=3), variables(seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(variables(), same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(variables(), other, strict=True))
    shapes = jax.tree.leaves(experiment.build(small()).shapes)
    assert [(a.shape, a.dtype) for a in shapes] == [(b.shape, b.dtype) for b in same]


def test_settings_are_those_of_the_config():
    wired = experiment.build(small(checkpoint__keep=5, optimizer__ema=0.9, optimizer__accumulate=2))
    assert wired.settings("checkpoint").keep == 5
    assert wired.settings("log").tensorboard is True
    assert (wired.step_options().ema, wired.step_options().accumulate) == (0.9, 2)


@pytest.mark.parametrize("label", ["train", "perf", "a/b"])
def test_labels_that_would_be_taken_for_other_metrics(label):
    made = small()
    made.data.eval = {label: made.data.eval.test}
    with pytest.raises(UsageError, match=rf"config\.data\.eval\.{label}: the label would be taken for other metrics"):
        sections.complete(made)


def test_classes_matter_only_where_they_are_asked_for():
    made = configs.load(str(Path(__file__).parent.parent / "configs" / "digits.py") + ":autoencoder")
    made.data.eval.test.name = "fake:8x8x1:3:40"  # other classes than the training data
    assert experiment.build(made).network.description["num_classes"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            dict(optimizer__b1=7.0, optimizer__name="adam"),
            r"config\.optimizer\.b1: 7\.0 must be 0 or above and below 1",
        ),
        (
            dict(optimizer__mu_dtype="banana", optimizer__name="adam"),
            r"config\.optimizer\.mu_dtype: expected 'float32'",
        ),
        (dict(checkpoint__keep=0), r"config\.checkpoint\.keep: expected 1 or more"),
        (dict(log__predictions=-1), r"config\.log\.predictions: expected 0 or more"),
        (dict(log__every=0), r"config\.log\.every: expected 1 step or more"),
        (dict(model__dropout=1.5), r"config\.model\.dropout: expected a chance"),
        (dict(model__hidden=(0,)), r"config\.model\.hidden: sizes are 1 or more"),
        (dict(model__activation="rellu"), r"config\.model\.activation: unknown activation 'rellu'; did you mean"),
        (dict(task__top_k=0), r"config\.task\.top_k: expected 1 or more"),
        (dict(train__steps=10**12), r"config\.train: .* a run has 1 to 2\*\*31 - 1"),
        (dict(data__train__name="fake:8x8x1:1:20", data__eval__test__name="fake:8x8x1:1:20"), "at least two classes"),
    ],
)
def test_values_out_of_range(overrides, message):
    with pytest.raises(UsageError, match=message):
        experiment.build(small(**overrides))
