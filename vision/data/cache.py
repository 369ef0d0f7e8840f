"""What was counted over a whole data set, kept in the user's cache folder for the next run."""

import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np


def load(kind: str, key: str) -> np.ndarray | None:
    """The array kept under a key, or None.

    Args:
        kind: the name of a folder: "labels".
        key: everything the array depends on.
    """
    try:
        return np.load(_file(kind, key))
    except (OSError, ValueError):  # not there, or damaged
        return None


def save(kind: str, key: str, array: np.ndarray) -> None:
    """Keeps an array as a whole or not at all; a cache that cannot be written is no error."""
    path = _file(kind, key)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(temporary, array)
        os.replace(temporary, path)
    except OSError as error:
        logging.info("The %s are not kept for the next run: %s", kind, error)


def files_fingerprint(files: Sequence[str], also: str) -> str:
    """A text that is another one when one of the files has changed."""
    digest = hashlib.sha256(also.encode())
    for file in files:
        try:
            status = os.stat(file)
            digest.update(f"{os.path.abspath(file)} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "replace"))
        except OSError:
            digest.update(f"{file} is not there\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _file(kind: str, key: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return folder / "vision" / kind / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npy"
