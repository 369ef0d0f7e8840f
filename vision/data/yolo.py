"""`yolo:PATH`: objects with boxes, or polygons, from text files in YOLO's format."""

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from vision.data import image_files, objects, splits
from vision.data.image_files import Paths
from vision.data.objects import Annotations, Options
from vision.data.source import Source
from vision.errors import UsageError, unknown_name

_SPLIT_KEYS = ("train", "val", "test")


def open_yolo(
    path: str,
    split: str,
    where: str = "data",
    *,
    annotations: Literal["boxes", "masks"] = "boxes",
    images: str | None = None,
    labels: str | None = None,
    yaml: str = "data.yaml",
    classes: tuple[str, ...] = (),
    max_objects: int | None = None,
    empty: bool = True,
    on_bad_annotation: Literal["drop", "stop"] = "drop",
) -> Source:
    """Opens one split of a data set in YOLO's format.

    Each image has a text file with a line for each object: its class, then the centre, width and height of its box, or
    the corners x, y, x, y, ... of its polygon, as shares of the image's width and height. An image without a text file
    has no objects. A range of hashes of the images' names may follow the split: "train[:90%]".

    Args:
        path: the folder.
        split: as in the file `yaml` ("train", "val", "test"), or what takes the place of "{split}" in the paths.
        where: the place of the section in the configuration, for messages.
        annotations: "boxes", around polygons as well; or "masks", for which all objects need polygons.
        images: the folder of the images, or a text file that lists them; by default what the file `yaml` says, or
            "images/{split}", or "{split}/images".
        labels: the folder of the text files; by default the images' with its last "images" turned into "labels".
        yaml: the file with the names of the classes and the folders of the splits.
        classes: names of the classes; by default those in the file `yaml`, or the lines of classes.txt.
        max_objects: objects a record has room for; by default the largest number in the split.
        empty: keep images without objects.
        on_bad_annotation: "drop" leaves bad annotations and damaged images out and reports them, "stop" lists them.

    Raises:
        UsageError: no such folder or split, no names of the classes, no text file at all, or bad annotations.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise UsageError(f"{where}.name: there is no folder {path!r}.")
    name, low, high = splits.parse(split, where)
    content = _read_yaml(os.path.join(root, yaml), where)
    class_names = classes or _names(content, root, yaml, where)
    folder, files = _files(root, name, images, content, where)
    files = [file for file in files if low <= splits.percentile(os.path.relpath(file, root)) < high]
    base = None if labels is None else os.path.join(root, labels.replace("{split}", name))
    texts = [_text_file(file, folder, base) for file in files]
    paths = Paths.of(files)
    shapes, damaged = image_files.sizes(paths)
    lines = _lines(texts)
    if files and not any(os.path.isfile(text) for text in texts):
        raise UsageError(f"{where}.source.labels: no image has a text file, such as {texts[0]} for {files[0]}.")
    found = _table(lines, texts, shapes, len(class_names), annotations == "masks")
    options = Options(on_bad_annotation, max_objects, empty, where)
    return objects.open_objects(f"yolo:{path}", split, paths, (shapes, damaged), found, class_names, options)


def _read_yaml(file: str, where: str) -> dict[str, Any]:
    if not os.path.isfile(file):
        return {}
    import yaml

    try:
        with open(file, encoding="utf-8-sig") as opened:
            content = yaml.safe_load(opened)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{where}.source.yaml: {file} cannot be read ({str(error).splitlines()[0]}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{where}.source.yaml: {file} has no keys such as names and train.")
    return content


def _names(content: dict[str, Any], root: str, yaml: str, where: str) -> tuple[str, ...]:
    """The classes' names: a list, or {0: name, 1: name, ...}; or the lines of classes.txt."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UsageError(f"{where}.source.yaml: the names in {yaml} are not numbered 0 to {len(names) - 1}.")
        names = [names[place] for place in range(len(names))]
    if names is None and os.path.isfile(os.path.join(root, "classes.txt")):
        with open(os.path.join(root, "classes.txt"), encoding="utf-8-sig") as opened:
            names = [line.strip() for line in opened if line.strip()]
    if not isinstance(names, list) or not names:
        raise UsageError(
            f"{where}.source.classes: missing; name the classes here, in the key names of {os.path.join(root, yaml)}, "
            "or in the lines of classes.txt."
        )
    return tuple(str(name) for name in names)


def _files(root: str, split: str, given: str | None, content: dict[str, Any], where: str) -> tuple[str, list[str]]:
    """The folder of a split's images, "" for a list, and the images."""
    if given is not None:
        wanted = [given.replace("{split}", split)]
    elif content.get(split):
        wanted = content[split] if isinstance(content[split], list) else [content[split]]
    else:
        wanted = [f"images/{split}" if os.path.isdir(os.path.join(root, "images", split)) else f"{split}/images"]
    bases = [root, os.path.join(root, str(content.get("path") or ""))]
    files, folder = [], ""
    for entry in map(str, wanted):
        # Such files are often written for another place in the tree: "../train/images" beside train/.
        tries = [os.path.normpath(os.path.join(base, one)) for one in (entry, entry.lstrip("./")) for base in bases]
        place = next((one for one in tries if os.path.exists(one)), None)
        if place is None:
            folders = [key for key in _SPLIT_KEYS if content.get(key)] or sorted(
                {*splits.subfolders(root), *_subfolders(os.path.join(root, "images"))} - {"images", "labels"}
            )
            if given is None and split not in folders:
                raise unknown_name("split", split, folders, f"{where}.split")
            raise UsageError(f"{where}.source.images: there is no {os.path.join(root, entry)}.")
        if os.path.isdir(place):
            folder = place
            files += image_files.below(place)
        else:
            files += _listed(place, root)
    return folder if len(wanted) == 1 else "", files


def _subfolders(folder: str) -> list[str]:
    return splits.subfolders(folder) if os.path.isdir(folder) else []


def _listed(file: str, root: str) -> list[str]:
    """The images that a text file names, a path in the folder in each line."""
    with open(file, encoding="utf-8-sig") as opened:
        lines = [line.strip() for line in opened if line.strip()]
    return [os.path.normpath(os.path.join(root, line)) for line in lines]


def _text_file(image: str, folder: str, labels: str | None) -> str:
    """Where the text file of an image is expected."""
    if labels is not None:
        stem = os.path.relpath(image, folder) if folder else os.path.basename(image)
        return os.path.join(labels, f"{os.path.splitext(stem)[0]}.txt")
    parts = os.path.splitext(image)[0].split(os.sep)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return os.sep.join(parts) + ".txt"


class _Line(NamedTuple):
    """A line of a text file.

    Attributes:
        image: place of the image.
        number: of the line, from 1.
        words: in it.
    """

    image: int
    number: int
    words: list[str]


def _lines(texts: Sequence[str]) -> list[_Line]:
    found = []
    for image, file in enumerate(texts):
        try:
            with open(file, encoding="utf-8-sig", errors="replace") as opened:
                content = opened.read()
        except FileNotFoundError:
            continue
        numbered = enumerate(content.splitlines(), start=1)
        found += [_Line(image, number, line.split()) for number, line in numbered if line.strip()]
    return found


def _table(lines: Sequence[_Line], texts: Sequence[str], shapes: np.ndarray, classes: int, masks: bool) -> Annotations:
    boxes = np.full((len(lines), 4), np.nan)
    labels = np.full(len(lines), -1, np.int64)
    reasons: dict[int, str] = {}
    regions: list[Any] = [None] * len(lines)
    for row, line in enumerate(lines):
        try:
            label, *values = map(float, line.words)
        except ValueError:
            reasons[row] = f"the line is not of numbers: {' '.join(line.words)[:60]!r}"
            continue
        size = shapes[line.image][::-1].astype(np.float64)
        is_polygon = len(values) >= 6 and len(values) % 2 == 0
        if label.is_integer() and 0 <= label < classes:
            labels[row] = int(label)
        else:
            reasons[row] = f"its class is unknown: {line.words[0]}; classes are 0 to {classes - 1}"
        if is_polygon:
            corners = np.reshape(values, (-1, 2)) * size
            boxes[row] = *corners.min(axis=0), *corners.max(axis=0)
            regions[row] = [corners.ravel().tolist()]
        elif len(values) == 4:
            centre, extent = np.reshape(values, (2, 2)) * size
            boxes[row] = *(centre - extent / 2), *(centre + extent / 2)
            if masks:
                reasons[row] = "it has a box and no polygon, from which its mask would be drawn"
        else:
            reasons[row] = f"the line has {len(line.words)} numbers; expected 5, or a class and three corners or more"
    return Annotations(
        images=np.array([line.image for line in lines], np.int64),
        boxes=boxes,
        classes=labels,
        name=lambda row: f"{texts[lines[row].image]}: line {lines[row].number}",
        reasons=reasons,
        regions=regions if masks else None,
    )
