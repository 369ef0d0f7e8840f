"""Which image and which label map belong together, and to which split: patterns, folders, an index, lists, hashes."""

import csv
import os
import re
from collections.abc import Mapping, Sequence

from vision.data import splits
from vision.data.images import SUFFIXES
from vision.errors import UsageError, nearest, unknown_name

_NAME_COLUMNS = ("name", "stem", "file", "image", "number", "id")


def find(
    root: str, split: str, image_pattern: str, mask_pattern: str, index: str, lists: str, where: str
) -> list[tuple[str, str]]:
    """The (image, label map) files of a split, in the order of an index or list, or else of their names.

    The arguments are those of `vision.data.pairs.open_pairs`.

    Raises:
        UsageError: no such split, no image, an image without a label map, or a list with a name that is no image.
    """
    name, low, high = splits.parse(split, where)
    if image_pattern.count("*") != mask_pattern.count("*") or "*" not in image_pattern:
        raise UsageError(
            f"{where}.source.masks: {mask_pattern!r} and images, {image_pattern!r}, need the same number of stars, at "
            "least one."
        )
    base, patterns = root, [image_pattern, mask_pattern]
    by_pattern = any("{split}" in pattern for pattern in patterns)
    folders = [folder for folder in splits.subfolders(root) if folder in splits.SPLIT_FOLDERS]
    by_folder = not by_pattern and "train" in folders
    if by_pattern:
        valid = _values_of_split(root, next(pattern for pattern in patterns if "{split}" in pattern))
        if name not in valid:
            raise unknown_name("split", name, valid, f"{where}.split")
        patterns = [pattern.replace("{split}", name) for pattern in patterns]
    elif by_folder:
        if name not in folders:
            raise unknown_name("split", name, folders, f"{where}.split")
        base = os.path.join(root, name)
    files = _files(base)
    found, maps = (_matches(files, pattern, base, where) for pattern in patterns)
    if not found:
        raise UsageError(f"{where}.source.images: no image in {base} has a path like {patterns[0]!r}.")
    chosen = sorted(found)
    if not (by_pattern or by_folder):
        chosen = _chosen(root, name, found, index, lists, where)
        if chosen is None:
            if name not in splits.HASH_SPLITS:
                raise unknown_name("split", name, splits.HASH_SPLITS, f"{where}.split")
            chosen, (low, high) = sorted(found), splits.within(name, low, high)
    chosen = [key for key in chosen if low <= splits.percentile(key) < high]
    missing = [key for key in chosen if key not in maps]
    if missing:
        raise UsageError(
            f"{where}.source.masks: {os.path.join(base, found[missing[0]])} has no label map "
            f"{os.path.join(base, _filled(patterns[1], missing[0]))} ({len(missing)} such of {len(chosen)} images)."
        )
    return [(os.path.join(base, found[key]), os.path.join(base, maps[key])) for key in chosen]


def _chosen(root: str, split: str, found: Mapping[str, str], index: str, lists: str, where: str) -> list[str] | None:
    """The keys of a split by an index or a list, or None where there is neither."""
    index = os.path.join(root, index) if index else ""
    rows = _rows(index, where) if index else None
    if rows is not None:
        return _listed(_row_names(rows, split, index, where), found, index, where)
    listed = os.path.join(root, lists.replace("{split}", split)) if "{split}" in lists else ""
    if listed and os.path.isdir(os.path.dirname(listed)):
        return _listed(_lines(listed, where), found, listed, where)
    return None


def _files(base: str) -> list[str]:
    """Paths of all files below a folder, relative to it with "/", that are not hidden; sorted."""
    result = []
    for directory, folders, names in os.walk(base, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(directory, base).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        result.extend(prefix + name for name in names if not name.startswith("."))
    return sorted(result)


def _expression(pattern: str, extra: Mapping[str, str] | None = None) -> re.Pattern:
    parts = {"*": "([^/]*)", **(extra or {})}
    text = "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*|\{split\})", pattern))
    if pattern.endswith("*"):  # any suffix of an image
        text += "(?i:" + "|".join(re.escape(suffix) for suffix in sorted(SUFFIXES)) + ")"
    return re.compile(text)


def _matches(files: Sequence[str], pattern: str, base: str, where: str) -> dict[str, str]:
    """{what the stars stand for, joined by "/": file} of the files like a pattern."""
    expression, result = _expression(pattern), {}
    for file in files:
        match = expression.fullmatch(file)
        if not match:
            continue
        key = "/".join(match.groups())
        if key in result:
            raise UsageError(f"{where}.source: both {result[key]} and {file} in {base} are {key!r} of {pattern!r}.")
        result[key] = file
    return result


def _values_of_split(root: str, pattern: str) -> list[str]:
    """What may stand for "{split}"."""
    expression = _expression(pattern, {"*": "[^/]*", "{split}": r"(\w+)"})
    # A second "{split}" in the pattern is another group; the first one tells.
    return sorted({match[1] for match in map(expression.fullmatch, _files(root)) if match})


def _filled(pattern: str, key: str) -> str:
    for part in key.split("/"):
        pattern = pattern.replace("*", part, 1)
    return pattern if os.path.splitext(pattern)[1] else f"{pattern}.png"


def _rows(path: str, where: str) -> list[dict[str, str]] | None:
    """The rows of an index with a column `split`, or None where there is no such file."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{where}.source.index: {path} cannot be read ({error}).") from None
    return rows if rows and "split" in rows[0] else None


def _row_names(rows: list[dict[str, str]], split: str, index: str, where: str) -> list[str]:
    valid = sorted({row["split"] for row in rows} | {"all"})
    if split not in valid:
        raise unknown_name("split", split, valid, f"{where}.split")
    column = next((column for column in _NAME_COLUMNS if column in rows[0]), None)
    if column is None:
        raise UsageError(
            f"{where}.source.index: {index} needs one of the columns {', '.join(_NAME_COLUMNS)}; it has "
            f"{', '.join(rows[0])}."
        )
    return [row[column] for row in rows if split in ("all", row["split"])]


def _lines(path: str, where: str) -> list[str]:
    """The first word of each line."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path)
        valid = [os.path.splitext(name)[0] for name in os.listdir(folder)]
        raise unknown_name("split", os.path.splitext(os.path.basename(path))[0], valid, f"{where}.split")
    with open(path, encoding="utf-8-sig") as file:
        return [line.split()[0] for line in file if line.strip()]


def _listed(names: Sequence[str], found: Mapping[str, str], file: str, where: str) -> list[str]:
    """The keys of the images that a file names: as such, with folder and suffix, or by number."""
    by_number = {int(key): key for key in found if key.isdecimal()}
    by_path = {path: key for key, path in found.items()}
    result = []
    for name in names:
        stem = os.path.splitext(name)[0]
        candidates = (by_path.get(name), name, stem, os.path.basename(stem))
        key = next((key for key in candidates if key in found), None)
        if key is None and name.isdecimal():
            key = by_number.get(int(name))
        if key is None:
            close = nearest(name, found)
            hint = f"; the nearest is {found[close]}" if close else ""
            raise UsageError(f"{where}.source: {file} names {name!r}, which is no image{hint}.")
        result.append(key)
    return result
