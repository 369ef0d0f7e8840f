"""`coco_panoptic:PATH` and `coco_stuff:PATH`: semantic label maps from COCO's panoptic and stuff (or instance) JSON."""

import dataclasses
import json
import os
from typing import Any

import numpy as np

from vision.data import cache, image_files, splits
from vision.data.images import BadImage, read
from vision.data.label_maps import IGNORE, MAX_CLASSES, decode_colours, of_size, pack
from vision.data.regions import region_mask
from vision.data.source import Source
from vision.errors import UsageError, unknown_name


@dataclasses.dataclass(frozen=True)
class PanopticRecords:
    """`vision.data.source.SegmentationRecords` of COCO's panoptic PNG files, in which a colour is a segment.

    Attributes:
        images: the images' paths.
        pngs: the paths of the PNG files.
        starts: (N + 1,) where the segments of each image begin in the next two.
        segments: (S,) ids of the segments, sorted within each image.
        classes: (S,) their classes.
    """

    images: tuple[str, ...]
    pngs: tuple[str, ...]
    starts: np.ndarray
    segments: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = read(self.images[index])
        return {"image": data, "segmentation": of_size(self._read(index), data, self.pngs[index])}

    def segmentation(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of a record; what belongs to no segment is ignored.

        Raises:
            BadImage: the PNG file is missing or truncated.
            UsageError: it has a segment that the JSON has not, or another size than the image.
        """
        return of_size(self._read(index), self.images[index], self.pngs[index])

    def _read(self, index: int) -> np.ndarray:
        path = self.pngs[index]
        try:
            ids = pack(decode_colours(path))
        except BadImage as error:
            raise BadImage(f"its label map {path}: {error}") from None
        here = slice(self.starts[index], self.starts[index + 1])
        known = np.concatenate([[0], self.segments[here]])  # black is no segment
        place = np.searchsorted(known, ids)
        place[place == len(known)] = 0
        unknown = known[place] != ids
        if unknown.any():
            y, x = np.unravel_index(int(unknown.argmax()), ids.shape)
            raise UsageError(
                f"its label map {path}: the pixel at x {x}, y {y} is of the segment {ids[y, x]}, which is not among "
                "the segments_info of the JSON file"
            )
        return np.concatenate([[IGNORE], self.classes[here]]).astype(np.uint8)[place]

    def fingerprint(self) -> str:
        return cache.files_fingerprint(
            self.pngs, repr((self.starts.tobytes(), self.segments.tobytes(), self.classes.tobytes()))
        )

    def describe(self, index: int) -> str:
        return self.images[index]

    def labels(self) -> None:
        """The classes are those of pixels."""


@dataclasses.dataclass(frozen=True)
class RegionRecords:
    """`vision.data.source.SegmentationRecords` of regions given by polygons or run lengths, later ones over earlier.

    Attributes:
        images: the images' paths.
        sizes: their (height, width).
        regions: of each image the (class, segmentation as in the JSON file) of each region.
        unlabelled: the class of what is in no region.
        classes: names of the classes.
        json: the path of the JSON file.
    """

    images: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    regions: tuple[tuple[tuple[int, Any], ...], ...]
    unlabelled: int
    classes: tuple[str, ...]
    json: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = read(self.images[index])
        return {"image": data, "segmentation": of_size(self._draw(index), data, f"in {self.json}")}

    def segmentation(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of a record.

        Raises:
            UsageError: a region is neither polygons nor run lengths of the image's size, or that is not the file's.
        """
        return of_size(self._draw(index), self.images[index], f"in {self.json}")

    def _draw(self, index: int) -> np.ndarray:
        result = np.full(self.sizes[index], self.unlabelled, np.uint8)
        for label, region in self.regions[index]:
            result[region_mask(region, self.sizes[index])] = label
        return result

    def fingerprint(self) -> str:
        return cache.files_fingerprint((self.json,), repr((self.images, self.unlabelled, self.classes)))

    def describe(self, index: int) -> str:
        return self.images[index]

    def labels(self) -> None:
        """The classes are those of pixels."""


def open_panoptic(
    path: str,
    split: str,
    where: str = "data",
    *,
    images: str = "{split}2017",
    json: str = "annotations/panoptic_{split}2017.json",
    pngs: str = "annotations/panoptic_{split}2017",
) -> Source:
    """Opens one split of a data set in COCO's panoptic format, as a class for each pixel.

    The classes are the categories in the order of the JSON file; pixels of no segment are ignored. A range of hashes of
    the files' names may follow the split: "val[:50%]".

    Args:
        path: the folder.
        split: what takes the place of "{split}" in the paths.
        where: the place of the section in the configuration, for messages.
        images: the folder of the images.
        json: the JSON file.
        pngs: the folder of the PNG files.

    Raises:
        UsageError: no such folder or split, or the JSON file is not of this format.
    """
    root = os.path.expanduser(path)
    name, low, high, content, file = read_json(root, split, json, where)
    image_files, png_files, starts, segments, classes = [], [], [0], [], []
    try:
        labels, names = _categories(content, where, file)
        by_id = images_by_id(content, file, where)
        for annotation in sorted(content["annotations"], key=lambda one: by_id[one["image_id"]]):
            image = by_id[annotation["image_id"]]
            if not low <= splits.percentile(image) < high:
                continue
            found = sorted((one["id"], labels[one["category_id"]]) for one in annotation["segments_info"])
            image_files.append(os.path.join(root, images.replace("{split}", name), image))
            png_files.append(os.path.join(root, pngs.replace("{split}", name), annotation["file_name"]))
            segments += [identity for identity, _ in found]
            classes += [label for _, label in found]
            starts.append(len(segments))
    except (KeyError, TypeError) as error:
        raise malformed(file, error, where) from None
    records = PanopticRecords(
        tuple(image_files),
        tuple(png_files),
        np.array(starts),
        np.array(segments, np.int32),
        np.array(classes, np.uint8),
    )
    return Source(f"coco_panoptic:{path}", split, records, names)


def open_stuff(
    path: str,
    split: str,
    where: str = "data",
    *,
    images: str = "{split}2017",
    json: str = "annotations/stuff_{split}2017.json",
    background: bool = False,
    classes: tuple[str, ...] = (),
) -> Source:
    """Opens one split of regions in COCO's JSON (stuff, or instances), as a class for each pixel.

    A range of hashes of the files' names may follow the split: "val[:50%]". The label maps of COCO-Stuff, in PNG files,
    are read by "pairs:PATH" with masks="stuffthingmaps/{split}2017/*.png".

    Args:
        path: the folder.
        split: what takes the place of "{split}" in the paths.
        where: the place of the section in the configuration, for messages.
        images: the folder of the images.
        json: the JSON file.
        background: pixels in no region are class 0, "background", instead of being ignored.
        classes: names of the categories that are classes; by default all. Regions of others count as no region.

    Raises:
        UsageError: no such folder or split, an unknown category, or the JSON file is not of this format.
    """
    root = os.path.expanduser(path)
    name, low, high, content, file = read_json(root, split, json, where)
    try:
        labels, names = _categories(content, where, file)
        for one in classes:
            if one not in names:
                raise unknown_name("category", one, names, f"{where}.source.classes")
        order = {one: place + background for place, one in enumerate(classes or names)}
        labels = {identity: order[names[place]] for identity, place in labels.items() if names[place] in order}
        known = {category["id"] for category in content["categories"]}
        regions = {image: [] for image in images_by_id(content, file, where)}
        for annotation in content["annotations"]:
            if annotation["category_id"] not in known:
                raise KeyError(annotation["category_id"])
            if annotation["category_id"] in labels:
                regions[annotation["image_id"]].append((labels[annotation["category_id"]], annotation["segmentation"]))
        chosen = sorted(
            (one for one in content["images"] if low <= splits.percentile(one["file_name"]) < high),
            key=lambda one: one["file_name"],
        )
        records = RegionRecords(
            tuple(os.path.join(root, images.replace("{split}", name), one["file_name"]) for one in chosen),
            tuple(_size(one, file, where) for one in chosen),
            tuple(tuple(regions[one["id"]]) for one in chosen),
            0 if background else IGNORE,
            classes or names,
            file,
        )
    except (KeyError, TypeError) as error:
        raise malformed(file, error, where) from None
    return Source(f"coco_stuff:{path}", split, records, (("background",) if background else ()) + (classes or names))


def read_json(path: str, split: str, pattern: str, where: str) -> tuple[str, float, float, dict, str]:
    """The file that belongs to a split.

    Args:
        path: the folder.
        split: with a range of hashes, or without.
        pattern: the file's path in the folder, with "{split}".
        where: the place of the section in the configuration, for messages.

    Returns:
        The split without its range, the range's ends in percent, the content of the JSON file, and its path.

    Raises:
        UsageError: there is no such file, or it is no JSON file.
    """
    name, low, high = splits.parse(split, where)
    file = os.path.join(os.path.expanduser(path), pattern.replace("{split}", name))
    try:
        with open(file, encoding="utf-8") as opened:
            content = json.load(opened)
    except OSError as error:
        raise UsageError(
            f"{where}.source.json: {file} cannot be read ({(error.strerror or str(error)).lower()})."
        ) from None
    except ValueError as error:
        raise UsageError(f"{where}.source.json: {file} is no JSON file ({error}).") from None
    return name, low, high, content, file


def images_by_id(content: dict, file: str, where: str) -> dict[Any, str]:
    """{id: file name} of the images in a JSON file.

    Raises:
        UsageError: two have one id.
        KeyError, TypeError: the file is not of this format.
    """
    names: dict[Any, str] = {}
    for image in content["images"]:
        if image["id"] in names:
            raise UsageError(
                f"{where}.source.json: {file} has two images of the id {image['id']!r}: {names[image['id']]} and "
                f"{image['file_name']}; which of them an annotation is of cannot be told."
            )
        names[image["id"]] = image["file_name"]
    return names


def _size(image: dict, file: str, where: str) -> tuple[int, int]:
    """(height, width) of an entry of a JSON file's images."""
    height, width = (image_files.stated_side(image[side]) for side in ("height", "width"))
    if not height or not width:
        given = f"height {image['height']!r}, width {image['width']!r}"
        raise UsageError(f"{where}.source.json: {file} has no size of {image['file_name']}: {given}.")
    return height, width


def _categories(content: dict, where: str, file: str) -> tuple[dict[int, int], tuple[str, ...]]:
    """{category id: class} and the classes' names."""
    names = tuple(category["name"] for category in content["categories"])
    if len(names) > MAX_CLASSES:
        raise UsageError(f"{where}.source.json: {file} has {len(names)} categories; at most {MAX_CLASSES} are read.")
    return {category["id"]: label for label, category in enumerate(content["categories"])}, names


def malformed(file: str, error: Exception, where: str) -> UsageError:
    """The error for a JSON file in which something is not where COCO's format has it."""
    missing = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return UsageError(f"{where}.source.json: {file} is not of COCO's format: it {missing}.")
