"""`voc:PATH`: objects with boxes from Pascal VOC's XML files."""

import contextlib
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vision.data import cache, image_files, objects, splits
from vision.data.image_files import Paths
from vision.data.images import SUFFIXES
from vision.data.objects import Annotations, Options, is_set
from vision.data.source import Source
from vision.errors import UsageError, unknown_name

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(
    path: str,
    split: str,
    where: str = "data",
    *,
    also: tuple[str, ...] = (),
    images: str = "JPEGImages",
    xml: str = "Annotations",
    lists: str = "ImageSets/Main/{split}.txt",
    classes: tuple[str, ...] = (),
    coordinates: Literal["inclusive", "exclusive"] = "inclusive",
    max_objects: int | None = None,
    empty: bool = True,
    on_bad_annotation: Literal["drop", "stop"] = "drop",
    check_images: bool = True,
) -> Source:
    """Opens one split of a data set in Pascal VOC's format.

    Its list names the images; each has an XML file of that name. Objects marked difficult are `crowd`: neither learnt
    nor counted as mistakes. A range of hashes of the names may follow the split: "train[:90%]".

    Args:
        path: the folder, such as VOCdevkit/VOC2007.
        split: what takes the place of "{split}" in `lists`.
        where: the place of the section in the configuration, for messages.
        also: further folders of the same form, whose images in their lists of that name are added.
        images: the folder of the images in each of these folders.
        xml: the folder of the XML files.
        lists: the text files with the name of an image, without its suffix, in each line.
        classes: names of the classes; by default all that are in the XML files of all splits, sorted, which is the
            official order of VOC's 20. Objects of others are bad annotations.
        coordinates: "inclusive", pixels are counted from 1 and xmax and ymax are the last within the box, as in VOC's
            own files; "exclusive", from 0, and xmax and ymax are where the box ends.
        max_objects: objects a record has room for; by default the largest number in the split.
        empty: keep images without objects.
        on_bad_annotation: "drop" leaves bad annotations and damaged images out and reports them, "stop" lists them.
        check_images: read the header and the end of each image, once, for those that are damaged or of another size.

    Raises:
        UsageError: no such folder or split, or bad annotations.
    """
    roots = [os.path.expanduser(root) for root in (path, *also)]
    for root, key in zip(roots, ("name", *("source.also" for _ in also)), strict=True):
        if not os.path.isdir(root):
            raise UsageError(f"{where}.{key}: there is no folder {root!r}.")
    name, low, high = splits.parse(split, where)
    classes = classes or _all_classes([os.path.join(root, xml) for root in roots], where)
    files, xml_files = [], []
    for root in roots:
        stems = [one for one in _listed(root, lists, name, where) if low <= splits.percentile(one) < high]
        files += _image_files(os.path.join(root, images), stems, where)
        xml_files += [os.path.join(root, xml, f"{stem}.xml") for stem in stems]
    paths, contents, unreadable = Paths.of(files), [], {}
    for place, file in enumerate(xml_files):
        try:
            contents.append(_read(file))
        except UsageError as error:
            unreadable[place] = f"its annotation {error}"
            contents.append(_Content())
    stated = np.array([content.size for content in contents], np.int32).reshape(-1, 2)
    found = _table(xml_files, contents, classes, coordinates == "inclusive")
    options = Options(on_bad_annotation, max_objects, empty, where)
    shapes, damaged = image_files.sizes(paths, stated, check_images)
    damaged |= unreadable
    return objects.open_objects(f"voc:{path}", split, paths, (shapes, damaged), found, tuple(classes), options)


class _Content(NamedTuple):
    """What is in an XML file.

    Attributes:
        size: (height, width) of the image; 0 where it does not tell.
        names: of the objects' classes.
        corners: the text of xmin, ymin, xmax and ymax of each object.
        difficult: whether each is marked so.
    """

    size: tuple[int, int] = (0, 0)
    names: tuple[str, ...] = ()
    corners: tuple[tuple[str, ...], ...] = ()
    difficult: tuple[bool, ...] = ()


def _parse(file: str) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        UsageError: it cannot be read, or is no XML file.
    """
    try:
        return ElementTree.parse(file).getroot()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ElementTree.ParseError as error:
        raise UsageError(f"{file} is no XML file ({error})") from None


def _read(file: str) -> _Content:
    root = _parse(file)
    found = root.findall("object")
    height, width = (image_files.stated_side(_text(root, f"size/{side}")) for side in ("height", "width"))
    return _Content(
        (height, width),
        tuple(_text(one, "name") for one in found),
        tuple(tuple(_text(one, f"bndbox/{corner}") for corner in _CORNERS) for one in found),
        tuple(is_set(_text(one, "difficult")) for one in found),
    )


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _table(files: Sequence[str], contents: Sequence[_Content], classes: Sequence[str], inclusive: bool) -> Annotations:
    counts = np.array([len(content.names) for content in contents], np.int64)
    images = np.repeat(np.arange(len(contents)), counts)
    first = np.concatenate([[0], np.cumsum(counts)])
    names = [name for content in contents for name in content.names]
    texts = [corners for content in contents for corners in content.corners]
    boxes = np.array([[_number(text) for text in corners] for corners in texts], np.float64).reshape(-1, 4)
    reasons = {}
    for row, corners in enumerate(texts):
        if not np.isfinite(boxes[row]).all():
            told = ", ".join(f"{side} {text or 'missing'}" for side, text in zip(_CORNERS, corners, strict=True))
            reasons[row] = f"the box is not of numbers: {told}"
        elif names[row] not in classes:
            reasons[row] = f"its class is unknown: {names[row]!r}"
    labels = {name: label for label, name in enumerate(classes)}
    return Annotations(
        images=images,
        boxes=boxes,
        classes=np.array([labels.get(name, -1) for name in names], np.int64),
        name=lambda row: f"{files[images[row]]}: object {row - first[images[row]] + 1} ({names[row]})",
        reasons=reasons,
        inclusive=inclusive,
        crowd=np.array([one for content in contents for one in content.difficult], bool),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _listed(root: str, lists: str, split: str, where: str) -> list[str]:
    """The first word of each line of the list of a split."""
    file = os.path.join(root, lists.replace("{split}", split))
    if not os.path.isfile(file):
        folder = os.path.dirname(file)
        if "{split}" in lists and os.path.isdir(folder):
            before, after = os.path.basename(lists).split("{split}", 1)
            names = [name for name in os.listdir(folder) if name.startswith(before) and name.endswith(after)]
            valid = [name[len(before) : len(name) - len(after)] for name in names]
            raise unknown_name("split", split, valid, f"{where}.split")
        raise UsageError(f"{where}.source.lists: there is no file {file!r}.")
    with open(file, encoding="utf-8-sig") as opened:
        return [line.split()[0] for line in opened if line.strip()]


def _image_files(folder: str, stems: Sequence[str], where: str) -> list[str]:
    """The image of each name, whatever its suffix; that of VOC where there is none, to be reported as not there."""
    there: dict[str, str] = {}
    try:
        for file in sorted(os.listdir(folder), reverse=True):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in SUFFIXES:
                there[stem] = file
    except OSError as error:
        raise UsageError(
            f"{where}.source.images: {folder} cannot be read ({(error.strerror or str(error)).lower()})."
        ) from None
    return [os.path.join(folder, there.get(stem, f"{stem}.jpg")) for stem in stems]


def _all_classes(folders: Sequence[str], where: str) -> tuple[str, ...]:
    """The names of all objects in the XML files of some folders; kept in the user's cache folder."""
    files = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise UsageError(f"{where}.source.xml: there is no folder {folder!r}.")
        files += [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".xml")]
    key = cache.files_fingerprint(files, "names")
    names = cache.load("classes", key)
    if names is None:
        found = set()
        for file in files:
            with contextlib.suppress(UsageError):  # said where the file is read for its split
                found |= {_text(one, "name") for one in _parse(file).findall("object")}
        names = np.array(sorted(found - {""}), np.str_)
        cache.save("classes", key, names)
    return tuple(names.tolist())
