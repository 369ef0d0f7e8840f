"""Image files of a split: their paths in little memory, and their sizes, read once from their headers."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data import cache, images, scan
from vision.data.images import SUFFIXES, BadImage

_LONG = 20_000  # files; below, nobody wonders what takes so long


@dataclasses.dataclass(frozen=True)
class Paths:
    """A sequence of paths; pickled as one array.

    Attributes:
        start: what all paths begin with.
        rests: (N,) bytes, how each goes on.
    """

    start: str
    rests: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[str]) -> "Paths":
        start = os.path.commonprefix(list(paths))  # noqa: RUF071 - as long as can be, be it within a name
        return cls(start, np.array([os.fsencode(path[len(start) :]) for path in paths], np.bytes_))

    def __len__(self) -> int:
        return len(self.rests)

    def __getitem__(self, index: int) -> str:
        return self.start + os.fsdecode(self.rests[index])

    def describe(self, index: int) -> str:
        """Names an image for a message."""
        return self[index]

    def take(self, places: np.ndarray) -> "Paths":
        """Some of them."""
        return Paths(self.start, self.rests[places])


def stated_side(value: Any) -> int:
    """A height or width as an annotation has it, in pixels; 0 for what is no such number."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 0 < number < 2**31 else 0


def sizes(paths: Paths, stated: np.ndarray | None = None, look: bool = True) -> tuple[np.ndarray, dict[int, str]]:
    """Heights and widths, and what is wrong with the files that are not there, damaged or of another size.

    The header and the end of each file are read; that is kept in the user's cache folder until a file changes.

    Args:
        paths: the files.
        stated: (N, 2) heights and widths as the annotations have them, 0 where they do not tell.
        look: whether to read files whose size is stated.

    Returns:
        (N, 2) int32, and {place: what is wrong} of the files that are not to be used.
    """
    stated = np.zeros((len(paths), 2), np.int32) if stated is None else stated
    unknown = (stated <= 0).any(axis=1)
    chosen = np.arange(len(paths)) if look else np.flatnonzero(unknown)
    found, wrong = stated.astype(np.int32), {}
    if len(chosen):
        seen, wrong = _read(paths.take(chosen))
        wrong = {int(chosen[place]): why for place, why in wrong.items()}
        found[chosen] = seen
    for place in np.flatnonzero((found != stated).any(axis=1) & ~unknown).tolist():
        if place not in wrong:
            (height, width), (other_height, other_width) = found[place], stated[place]
            wrong[place] = (
                f"the image has {height}x{width} pixels (height x width, turned upright as its EXIF data say), while "
                f"its annotation says {other_height}x{other_width}"
            )
    return found, wrong


def _read(paths: Paths) -> tuple[np.ndarray, dict[int, str]]:
    """(N, 2) sizes, 0 of the files that are damaged, and {place: what is wrong} of these."""
    files = [paths[place] for place in range(len(paths))]
    key = cache.files_fingerprint(files, "sizes")
    found = cache.load("sizes", key)
    if found is None:
        if len(files) > _LONG:
            logging.info("Reading the sizes of %d images such as %s, once.", len(files), files[0])
        found = np.array([one or (0, 0) for one in scan.in_threads(lambda i: _size(files[i]), range(len(files)))])
        cache.save("sizes", key, found)
    wrong = {}
    for place in np.flatnonzero(found[:, 0] == 0).tolist():
        try:
            found[place] = images.whole_size(files[place])
        except BadImage as error:
            wrong[place] = str(error)
    return found, wrong


def _size(file: str) -> tuple[int, int] | None:
    try:
        return images.whole_size(file)
    except BadImage:
        return None


def below(folder: str) -> list[str]:
    """The image files in a folder and below that are not hidden, sorted."""
    found = []
    for directory, deeper, names in os.walk(folder, followlinks=True):
        deeper[:] = sorted(name for name in deeper if not name.startswith("."))
        images = (name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES)
        found.extend(os.path.join(directory, name) for name in images)
    return sorted(found)
