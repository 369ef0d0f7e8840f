"""`pairs:PATH`: a folder of images and label maps, which hold ids, colours or instances."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from vision.data import cache, class_tables, instances, label_maps, pair_files, scan
from vision.data.class_tables import Table
from vision.data.images import BadImage, read, size
from vision.data.source import Source
from vision.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Reader:
    """Path of a label map -> (H, W) uint8 class ids.

    Attributes:
        mask: what is in a label map, as in `open_pairs`.
        table: the classes.
    """

    mask: str
    table: Table

    def __call__(self, path: str) -> np.ndarray:
        if self.mask == "instances":
            return (label_maps.decode_ids(path) > 0).astype(np.uint8)
        if self.mask == "colors":
            return self.table.colour_table().read(path)
        return self.table.ids_table().read(path, palette=self.mask == "palette")


@dataclasses.dataclass(frozen=True)
class PairRecords:
    """`vision.data.source.SegmentationRecords` of image files and label maps.

    Attributes:
        images: the images' paths.
        masks: the label maps' paths.
        reader: of the label maps.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    reader: Reader

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = read(self.images[index])
        return {"image": data, "segmentation": _read_map(self.reader, self.masks[index], data)}

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a record's image."""
        return size(self.images[index])

    def segmentation(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of a record."""
        return _read_map(self.reader, self.masks[index], self.images[index])

    def describe(self, index: int) -> str:
        return self.images[index]

    def labels(self) -> None:
        """The classes are those of pixels."""

    def fingerprint(self) -> str:
        return cache.files_fingerprint((*self.images, *self.masks), repr(self.reader))


@dataclasses.dataclass(frozen=True)
class InstanceRecords:
    """`vision.data.source.Records` of image files and maps of instance ids: objects of one class.

    Attributes:
        images: the images' paths.
        maps: the paths of the maps.
        max_objects: how many objects a record has room for.
        masks: whether the records have masks.
    """

    images: tuple[str, ...]
    maps: tuple[str, ...]
    max_objects: int
    masks: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = read(self.images[index])
        ids = _read_map(label_maps.decode_ids, self.maps[index], data)
        found, boxes = instances.boxes(ids)
        record = {
            "image": data,
            "boxes": instances.padded(boxes, self.max_objects),
            "classes": np.zeros(self.max_objects, np.int32),
            "valid": np.arange(self.max_objects) < len(found),
        }
        if self.masks:
            record["masks"] = instances.masks(ids, found, self.max_objects)
        return record

    def describe(self, index: int) -> str:
        return self.images[index]

    def labels(self) -> np.ndarray:
        """(M,) class 0 for each object in all maps."""
        return np.zeros(self.counts().sum(), np.int32)

    def counts(self) -> np.ndarray:
        """(N,) objects in each record."""
        key = cache.files_fingerprint(self.maps, "instances")
        counts = cache.load("objects", key)
        if counts is None:
            counts = np.array(list(scan.in_threads(self._count, range(len(self)))), np.int64)
            cache.save("objects", key, counts)
        return counts

    def _count(self, index: int) -> int:
        try:
            ids = label_maps.decode_ids(self.maps[index])
        except BadImage:
            return 0  # training stops at it or skips it, as the configuration says
        return np.count_nonzero(np.unique(ids))


def open_pairs(
    path: str,
    split: str,
    where: str = "data",
    *,
    images: str = "images/*",
    masks: str = "masks/*",
    mask: Literal["ids", "palette", "colors", "instances"] = "ids",
    classes: tuple[str, ...] = (),
    ids: tuple[int, ...] = (),
    colors: tuple[tuple[int, int, int], ...] = (),
    ignore: tuple[int | tuple[int, int, int], ...] | Literal["others"] | None = None,
    annotations: Literal["segmentation", "boxes", "masks"] = "segmentation",
    max_objects: int = 100,
    index: str = "index.csv",
    lists: str = "splits/{split}.txt",
) -> Source:
    """Opens one split of a folder of images and label maps.

    An image and a map belong together when the stars of the two patterns stand for the same names. A split is the
    first of these that there is: what takes the place of "{split}" in the patterns; a subfolder `train`, `val` ... of
    PATH, in which the patterns begin; the rows of `index` with the split's name in the column `split`; the names in the
    file `lists`; or about 80 % ("train") and 20 % ("val", "test") of the pairs by a hash of their names, or "all". A
    range of hashes may follow any of them: "train[:90%]", "train[90%:]".

    Args:
        path: the folder.
        split: as above.
        where: the place of the section in the configuration, for messages.
        images: pattern of the images' paths in the folder; "*" stands for any name without "/", "{split}" for the
            split. A pattern that ends with "*" takes every suffix of an image.
        masks: pattern of the label maps' paths, with as many stars.
        mask: what is in a label map: "ids", a class id of 8 or 16 bits in each pixel or the indices of a palette;
            "palette", these only; "colors", a colour for each class; "instances", a number for each object, 0 for none.
        classes: names of the classes; by default those in the folder's classes.csv, a table with the columns name and,
            where wanted, id and r, g, b. With "instances" the background and the one class of all objects.
        ids: the id of each class in the label maps; by default 0, 1, ...
        colors: the (red, green, blue) of each class in the label maps.
        ignore: ids or colours that become 255, or "others" for all that are no class; by default the id 255.
        annotations: "segmentation", a class for each pixel; with "instances" also "boxes", the objects with a box
            around each, or "masks", those with their pixels as well.
        max_objects: objects a record has room for, where annotations are "boxes" or "masks".
        index: a CSV file with the columns split and name, or number.
        lists: text files with a name in each line, as Pascal VOC's ImageSets/Segmentation/{split}.txt.

    Raises:
        UsageError: no such folder or split, an image without a label map, or a table of classes that does not fit.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise UsageError(f"{where}.name: there is no folder {path!r}.")
    if max_objects < 1:
        raise UsageError(f"{where}.source.max_objects: expected at least 1, given {max_objects}.")
    found = pair_files.find(root, split, images, masks, index, lists, where)
    table = _table(root, mask, Table(classes, ids, colors, ignore), f"{where}.source")
    image_files, mask_files = tuple(pair[0] for pair in found), tuple(pair[1] for pair in found)
    name = f"pairs:{path}"
    if annotations != "segmentation":
        if mask != "instances":
            raise UsageError(f"{where}.source.annotations: {annotations!r} needs mask='instances', given {mask!r}.")
        records = InstanceRecords(image_files, mask_files, max_objects, annotations == "masks")
        return Source(name, split, records, table.names[1:])
    return Source(name, split, PairRecords(image_files, mask_files, Reader(mask, table)), table.names)


def _read_map(reader: Callable[[str], np.ndarray], path: str, image: bytes | str) -> np.ndarray:
    """A map, of the size of the image (its bytes, or its path)."""
    try:
        label_map = reader(path)
    except UsageError as error:
        raise type(error)(f"its label map {path}: {error}") from None
    return label_maps.of_size(label_map, image, path)


def _table(root: str, mask: str, given: Table, where: str) -> Table:
    """The classes of the configuration, or of the folder's classes.csv."""
    known = None if given.names else class_tables.in_folder(root, where, mask == "colors")
    if known is not None:
        given = Table(
            known.names,
            given.ids or known.ids,
            given.colours or known.colours,
            known.ignore if given.ignore is None else given.ignore,
        )
    if mask == "instances" and not given.names:
        given = dataclasses.replace(given, names=("background", "object"))
    if not given.names:
        raise UsageError(f"{where}.classes: missing; name the classes here, or in a classes.csv in the folder {root}.")
    if mask == "instances" and len(given.names) != 2:
        raise UsageError(f"{where}.classes: 'instances' has a background and one class, given {given.names}.")
    if mask == "colors" and not given.colours:
        raise UsageError(f"{where}.colors: missing; give the (red, green, blue) of each class.")
    if given.ignore not in (None, "others"):
        kind, wrong = (int, "ids") if mask == "colors" else (tuple, "colours")
        if any(isinstance(value, kind) for value in given.ignore):
            raise UsageError(f"{where}.ignore: {wrong} {given.ignore}, where the label maps are {mask!r}.")
    # The ids of a table of colours are those of its classes, which are their places.
    return class_tables.checked(dataclasses.replace(given, ids=()) if mask == "colors" else given, where)
