"""Config files and the flags that override them: files in, plain nested data out.

A config is an `ml_collections.ConfigDict` that a file's `get_config` returns, or the `config.json` of a run folder.
What its keys mean is not known here: `vision.experiment` compares sections with signatures.
"""

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vision.errors import UsageError

PREFIX = "--config."
# Lengths of a run: setting one by flag replaces the other two.
LENGTHS = ("steps", "epochs", "examples")


def load(path: str) -> ConfigDict:
    """The config in a file: `configs/digits.py`, `configs/digits.py:resnet` (an argument for it) or a `config.json`.

    Raises:
        UsageError: no such file, or a config file that fails; the message has its line.
    """
    file, _, argument = str(path).partition(":")
    if not Path(file).is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py")) if Path("configs").is_dir() else []
        listing = f" In ./configs: {', '.join(known)}." if known else ""
        raise UsageError(f"--config={path}: no such file: {file}.{listing}")
    if not file.endswith((".py", ".json")):
        raise UsageError(f"--config={path}: expected a config file, *.py, or a run folder's config.json.")
    if file.endswith(".json"):
        try:
            return thaw(json.loads(Path(file).read_text()))
        except json.JSONDecodeError as error:
            raise UsageError(f"--config={path}: not valid JSON: {error}.") from error
    return _run_config_file(file, argument)


def _run_config_file(file: str, argument: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"_config_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    # Config files may import their neighbours as `configs.name`, from wherever the command is run.
    parent = str(Path(file).resolve().parent.parent)
    if parent not in sys.path:
        sys.path.append(parent)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UsageError:
        raise
    except Exception as error:
        line = getattr(error, "lineno", None) or _last_line(error, file)
        raise UsageError(f"{file}, line {line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Mapping | ConfigDict):
        raise UsageError(f"{file}: get_config() gave a {type(config).__name__}; expected an ml_collections.ConfigDict.")
    return thaw(freeze(config))


def _last_line(error: Exception, file: str) -> int | str:
    lines = []
    traceback = error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == file:
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return lines[-1] if lines else "?"


def config_name(path: str) -> str:
    """A short name for a config, for the default run folder: "configs/digits.py:resnet" -> "digits-resnet"."""
    file, _, argument = str(path).partition(":")
    stem = Path(file).resolve().parent.name if file.endswith("config.json") else Path(file).stem
    safe = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in argument)
    return f"{stem}-{safe}" if safe else stem


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--config.key=value` and `--config.key value` from other arguments: (others, {"key": "value"})."""
    others, overrides = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(PREFIX):
            others.append(argument)
            continue
        key, separator, value = argument.removeprefix(PREFIX).partition("=")
        if not separator:
            value = next(arguments, None)
            if value is None or value.startswith("--"):
                raise UsageError(f"{argument}: expected a value, as in {argument}=VALUE.")
        overrides[key] = value
    return others, overrides


def override(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Sets keys by their dotted path, in place; values are Python literals, or strings where they are none.

    A key need not be in the config file: whether it exists at all is checked afterwards, with the whole config.
    """
    for path, text in overrides.items():
        *parents, key = path.split(".")
        section = config
        for depth, name in enumerate(parents):
            if isinstance(section.get(name), str):  # "cosine" is short for {"name": "cosine"}
                with section.ignore_type():
                    section[name] = ConfigDict({"name": section[name]}, type_safe=False)
            if section.get(name) is None:
                section[name] = ConfigDict(type_safe=False)
            section = section[name]
            if not isinstance(section, ConfigDict):
                place = ".".join(["config", *parents[: depth + 1]])
                raise UsageError(f"--config.{path}: {place} is {section!r}, not a section with keys.")
        if parents == ["train"] and key in LENGTHS:
            for other in LENGTHS:
                section[other] = None
        section[key] = None  # or ConfigDict makes the value one of the old value's type: 1.0 of True
        section[key] = thaw(parse_value(text))


def parse_value(text: str) -> Any:
    """A flag's text as a Python literal ("3e-4", "(1, 2)", "None", "true"), or as it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def freeze(value: Any) -> Any:
    """Plain nested dicts and tuples of a config, JSON-ready."""
    if isinstance(value, ConfigDict | Mapping):
        return {str(key): freeze(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """The ConfigDict of plain nested data; lists become tuples, so that JSON gives back what was written."""
    if isinstance(value, Mapping | ConfigDict):
        config = ConfigDict(type_safe=False)  # types are the signatures' to check
        for key, item in value.items():
            config[key] = thaw(item)
        return config
    return freeze(value) if isinstance(value, list | tuple) else value


def to_json(config: ConfigDict) -> str:
    """The config as JSON text."""
    return json.dumps(freeze(config), indent=2) + "\n"


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every key that is no section."""
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, ConfigDict | Mapping) and value:
            yield from flatten(value, path)
        else:
            yield path, freeze(value)


def differences(one: ConfigDict, other: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{dotted path: (value in one, value in other)} of the keys that differ; a missing key reads as None."""
    a, b = dict(flatten(one)), dict(flatten(other))
    return {path: (a.get(path), b.get(path)) for path in {**a, **b} if a.get(path) != b.get(path)}
