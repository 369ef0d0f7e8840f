"""What all commands share: flags, `--config.key=value` overrides, and errors as one sentence on standard error."""

import errno
import sys
import threading
from collections.abc import Callable
from logging import ERROR, WARNING, LogRecord
from pathlib import Path

from absl import app, flags, logging

import vision
from vision.config import split_overrides
from vision.errors import UsageError, nearest

DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

Main = Callable[[list[str], dict[str, str]], int | None]


def run(main: Main) -> None:
    """Runs `main(arguments that are no flags, overrides of config keys)`; its result is the exit code.

    Errors a user can mend end the process with code 1 and their message on standard error.
    """
    overrides: dict[str, str] = {}

    def parse(argv: list[str]) -> list[str]:
        try:
            others, found = split_overrides(argv)
            overrides.update(found)
            return flags.FLAGS(others)
        except flags.UnrecognizedFlagError as error:
            _fail(_unknown_flag(error))
        except (UsageError, flags.Error) as error:
            _fail(str(error))

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.get_absl_handler().addFilter(_is_for_the_user)
        if not DEBUG.value:
            _silence_other_threads()
        try:
            code = main(argv[1:], overrides)
        except Exception as error:
            if DEBUG.value:
                raise
            message = _sentence(error)
            if message is None:
                raise
            _fail(message)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            sys.exit(130)
        sys.exit(code or 0)

    app.run(guarded, flags_parser=parse)


def required(flag: flags.FlagHolder, example: str) -> str:
    """The flag's value. Raises UsageError where it is not given."""
    if not flag.value:
        raise UsageError(f"--{flag.name} is missing, as in --{flag.name}={example}.")
    return flag.value


def open_run(workdir: str | None, checkpoint: str, config: str | None, overrides: dict[str, str]):
    """The run of a folder, or a config's network with the weights of its `config.init`.

    Args:
        workdir: value of --workdir.
        checkpoint: value of --checkpoint.
        config: value of --config.
        overrides: of keys of that config.

    Raises:
        UsageError: both are given or none, or the config has no weights.
    """
    from vision import config as configs
    from vision.experiment import build
    from vision.run import Run, load

    if workdir and config:
        raise UsageError("--workdir and --config: a run has its own config; give one of the two.")
    if config:
        loaded = configs.load(config)
        configs.override(loaded, overrides)
        wired = build(loaded)
        if not wired.config.init.weights:
            raise UsageError(f"--config={config}: config.init.weights is not set; whose features are wanted?")
        return Run(Path("."), wired.config, wired.network, wired.variables(), 0)
    if overrides:
        raise UsageError(f"unexpected --config.{next(iter(overrides))}: a run has the config it was trained with.")
    if not workdir:
        raise UsageError("--workdir is missing, as in --workdir=runs/a.")
    return load(workdir, checkpoint)


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    """What absl says, and where a key of the config was meant, as --confg.seed=1, how that is written."""
    head, _, key = error.flagname.partition(".")
    if key and nearest(head, ["config"]):
        return f"unknown flag --{error.flagname}; did you mean --config.{key}?"
    return str(error)


def _is_for_the_user(record: LogRecord) -> bool:
    """Whether a log message is for the user: those of libraries are not, but for errors with --debug."""
    ours = Path(vision.__file__).parent in Path(record.pathname).parents
    return record.levelno >= (WARNING if ours else ERROR) and (ours or DEBUG.value)


def _silence_other_threads() -> None:
    """Keeps tracebacks of libraries' background threads and exit handlers off the terminal.

    A full disk makes a dozen of them. What matters is raised in the main thread, where the result is waited for.
    """
    show = sys.excepthook
    sys.excepthook = lambda *error: show(*error) if threading.current_thread() is threading.main_thread() else None
    threading.excepthook = sys.unraisablehook = lambda _: None


def _sentence(error: Exception) -> str | None:
    """What to tell the user of an error that is not a bug; None for one that may be."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" writing {error.filename}" if error.filename else ""
        return f"The disk is full{place}. Free some space; the same command goes on from the last checkpoint."
    if "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"Out of device memory: {str(error).splitlines()[0]} "
            "Lower config.data.train.batch_size, or raise config.optimizer.accumulate."
        )
    return None


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
