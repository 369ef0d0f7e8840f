"""Names, ids and colours of the classes of pixels in well-known data sets, and in a `classes.csv`."""

import csv
import dataclasses
import os
from typing import Literal

from vision.data.label_maps import IGNORE, MAX_CLASSES, Colour, ColourTable, IdTable
from vision.errors import UsageError

Ignore = tuple[int | Colour, ...] | Literal["others"]


@dataclasses.dataclass(frozen=True)
class Table:
    """The classes of pixels.

    Attributes:
        names: of the classes.
        ids: the id of each class in label maps; () for 0, 1, ...
        colours: the (red, green, blue) of each class in label maps of colours; () where there are none.
        ignore: ids, or colours, that are to be ignored, or "others": all that are no class. None for (255,), or ().
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignore: Ignore | None = None

    def ids_table(self) -> IdTable:
        """For label maps of ids; without any class, the ids stand for themselves."""
        count = len(self.names) or MAX_CLASSES
        return IdTable(self.ids or tuple(range(count)), (IGNORE,) if self.ignore is None else self.ignore)

    def colour_table(self) -> ColourTable:
        """For label maps of colours."""
        return ColourTable(self.colours, self.ignore or (), self.names)


# fmt: off
# "The PASCAL Visual Object Classes Challenge": in the order of the ids; 255 is void.
VOC = Table((
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
))
# "The Cityscapes Dataset for Semantic Urban Scene Understanding": the 19 classes of the benchmark, in its order.
CITYSCAPES = Table(
    ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
     "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    ignore="others",
)
# fmt: on


def resolve(known: Table, names: tuple, ids: tuple, ignore: Ignore | None, where: str) -> Table:
    """A table with what the configuration gives in place of what is known.

    Raises:
        UsageError: ids that do not go with the names, or are no ids.
    """
    if names or ids:  # a table of its own: what is known of the other does not go with it
        table = Table(names or (known.names if len(ids) == len(known.names) else ()), ids, (), ignore)
    else:
        table = dataclasses.replace(known, ignore=known.ignore if ignore is None else ignore)
    return checked(table, where)


def checked(table: Table, where: str) -> Table:
    """The table, after a look at it.

    Raises:
        UsageError: too many classes, as many ids or colours as there are no classes, one twice, or out of range.
    """
    if len(table.names) > MAX_CLASSES:
        raise UsageError(f"{where}.classes: {len(table.names)} classes; a label map holds at most {MAX_CLASSES}.")
    for key, values in (("ids", table.ids), ("colors", table.colours)):
        if values and table.names and len(values) != len(table.names):
            raise UsageError(f"{where}.{key}: {len(values)} {key} for {len(table.names)} classes.")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise UsageError(f"{where}.{key}: {twice[0]} is there twice.")
    ignore = () if table.ignore in (None, "others") else table.ignore
    for key, values in (("ids", table.ids), ("colors", table.colours), ("ignore", ignore)):
        for value in values:
            parts, high = (value, 255) if isinstance(value, tuple) else ((value,), 2**16 - 1)
            if not all(0 <= part <= high for part in parts):
                raise UsageError(f"{where}.{key}: expected numbers from 0 to {high}, given {value}.")
    both = set(ignore) & ({*table.colours} | {*(table.ids or range(len(table.names)))})
    if both:
        raise UsageError(f"{where}.ignore: {min(both)} is a class as well.")
    return table


def read_csv(path: str, where: str, by_colour: bool) -> Table:
    """The table in a file with the columns `name` and, where they are wanted, `id` and `r`, `g`, `b`.

    What is named "ignore" or "void" is to be ignored.

    Args:
        path: the file.
        where: the place of the section in the configuration, for messages.
        by_colour: whether label maps have colours, so that what is to be ignored is told by its colour, or else ids.

    Raises:
        UsageError: the file is not of this form.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [{(key or "").strip().lower(): value for key, value in row.items()} for row in csv.DictReader(file)]
        columns = set(rows[0]) if rows else set()
        names = [row["name"].strip() for row in rows]
        colours = [tuple(int(row[c]) for c in "rgb") for row in rows] if {"r", "g", "b"} <= columns else []
        ids = [int(row["id"]) for row in rows] if "id" in columns else []
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{where}.classes: {path} is not a table with the columns name and, where wanted, id and r, g, b ({error})."
        ) from None
    kept = [place for place, name in enumerate(names) if name.lower() not in ("ignore", "void")]
    told_by = colours if by_colour else ids or range(len(names))
    ignored = tuple(value for place, value in enumerate(told_by) if place not in kept)
    return Table(
        tuple(names[place] for place in kept),
        tuple(ids[place] for place in kept) if ids else (),
        tuple(colours[place] for place in kept) if colours else (),
        ignored or None,
    )


def in_folder(folder: str, where: str, by_colour: bool) -> Table | None:
    """The table in a folder's `classes.csv`, or None."""
    path = os.path.join(folder, "classes.csv")
    return read_csv(path, where, by_colour) if os.path.isfile(path) else None
