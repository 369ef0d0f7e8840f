"""Config files, JSON and overrides."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from vision import config as configs
from vision.errors import UsageError


def write(path, text):
    path.write_text(text)
    return str(path)


def test_file_with_argument(tmp_path):
    path = write(
        tmp_path / "c.py",
        "from ml_collections import ConfigDict\n\n"
        "def get_config(n='1'):\n  return ConfigDict({'a': {'b': [int(n), 2]}})\n",
    )
    assert configs.load(path).a.b == (1, 2)
    assert configs.load(f"{path}:7").a.b == (7, 2)


def test_json_round_trip(tmp_path):
    config = configs.thaw({"model": {"name": "mlp", "hidden": [1, 2]}, "rules": (("x", {"lr": 0.1}),), "none": None})
    path = write(tmp_path / "config.json", configs.to_json(config))
    again = configs.load(path)
    assert configs.freeze(again) == configs.freeze(config)
    assert not configs.differences(config, again)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), t, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), trees, max_size=4))
def test_json_round_trip_of_any_config(tree):
    config = configs.thaw(tree)
    assert configs.freeze(configs.thaw(json.loads(configs.to_json(config)))) == configs.freeze(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("7", 7), ("5%", "5%"), ("cosine", "cosine"), ("(1, 2)", (1, 2)), ("none", None), ("True", True),
     ("false", False), ("train[:10%]", "train[:10%]"), ("__import__('os')", "__import__('os')")],
)  # fmt: skip
def test_values(text, value):
    assert configs.parse_value(text) == value


def test_overrides():
    others, overrides = configs.split_overrides(
        ["prog", "--config.a.b=1", "--config=x.py", "--config.c", "two", "--workdir=w", "--config.d.e={'k': 1}"]
    )
    assert others == ["prog", "--config=x.py", "--workdir=w"]
    config = ConfigDict({"a": {"b": "was a string"}})
    configs.override(config, overrides)
    assert configs.freeze(config) == {"a": {"b": 1}, "c": "two", "d": {"e": {"k": 1}}}


def test_a_length_given_by_flag_replaces_the_others():
    config = ConfigDict({"train": {"epochs": 3}})
    configs.override(config, {"train.steps": "10"})
    assert configs.freeze(config.train) == {"epochs": None, "steps": 10, "examples": None}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: str(p / "no.py"), "no such file"),
        (lambda p: write(p / "c.py", "def get_config():\n  return 1 / 0\n"), r"c\.py, line 2: ZeroDivisionError"),
        (lambda p: write(p / "c.py", "def get_config(:\n"), r"c\.py, line 1: SyntaxError"),
        (lambda p: write(p / "c.py", "def get_config():\n  return 3\n"), "expected an ml_collections.ConfigDict"),
        (lambda p: write(p / "c.json", "{"), "not valid JSON"),
        (lambda p: write(p / "c.py", "x = 1\n"), "get_config"),
    ],
)
def test_bad_files(tmp_path, make, message):
    with pytest.raises(UsageError, match=message):
        configs.load(make(tmp_path))


def test_bad_overrides():
    with pytest.raises(UsageError, match="expected a value"):
        configs.split_overrides(["prog", "--config.a"])
    with pytest.raises(UsageError, match=r"config\.seed is 3, not a section"):
        configs.override(ConfigDict({"seed": 3}), {"seed.x": "1"})


def test_names():
    assert configs.config_name("configs/digits.py:resnet") == "digits-resnet"
    assert configs.config_name("configs/quickstart.py") == "quickstart"
    assert configs.config_name("runs/a/config.json") == "a"


def test_differences():
    one, two = ConfigDict({"a": {"b": 1, "c": 2}}), ConfigDict({"a": {"b": 1, "c": 3}, "d": 4})
    assert configs.differences(one, two) == {"a.c": (2, 3), "d": (None, 4)}


def test_a_key_below_a_name_makes_it_a_section():
    config = ConfigDict({"optimizer": {"schedule": "cosine"}})
    configs.override(config, {"optimizer.schedule.final": "0.1"})
    assert configs.freeze(config.optimizer.schedule) == {"name": "cosine", "final": 0.1}


def test_config_files_may_have_dataclasses(tmp_path):
    path = write(
        tmp_path / "c.py",
        "from __future__ import annotations\nimport dataclasses\nfrom ml_collections import ConfigDict\n\n"
        "@dataclasses.dataclass\nclass Size:\n  width: int = 3\n\n"
        "def get_config():\n  return ConfigDict({'width': Size().width})\n",
    )
    assert configs.load(path).width == 3
