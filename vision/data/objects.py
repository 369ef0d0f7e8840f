"""Records of images with objects, and the check of their annotations: what every source of objects has in common."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from vision.data.instances import padded
from vision.data.regions import Regions, collect
from vision.data.source import Findings, Source
from vision.errors import UsageError

_LISTED = 100  # bad annotations that the message of a stop lists
_ROUNDING = 1.0  # pixels; a box that ends so little outside its image is rounded, not wrong


class Images(Protocol):
    """Encoded images or paths, by place."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes | str: ...

    def describe(self, index: int) -> str: ...

    def take(self, places: np.ndarray) -> "Images": ...


@dataclasses.dataclass(frozen=True)
class ObjectRecords:
    """`vision.data.source.Records` of images with objects, all of them in flat arrays.

    A record has `image`, `boxes` (N, 4), `classes`, `valid` (N,) and, where they are known, `crowd`, `area` (N,),
    `keypoints` (N, K, 3) and `masks` (N, H, W).

    Attributes:
        images: the images.
        sizes: (n, 2) int32 height and width of each.
        starts: (n + 1,) where the objects of each image begin.
        boxes: (M, 4) float32 of all objects.
        classes: (M,) int32.
        max_objects: how many objects a record has room for, N.
        crowd: (M,) bool.
        area: (M,) float32.
        keypoints: (M, K, 3) float32.
        regions: from which masks are drawn when a record is read.
    """

    images: Images
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    max_objects: int
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        here = slice(self.starts[index], self.starts[index + 1])
        record = {"image": self.images[index], "valid": np.arange(self.max_objects) < here.stop - here.start}
        for name in ("boxes", "classes", "crowd", "area", "keypoints"):
            values = getattr(self, name)
            if values is not None:
                record[name] = padded(values[here], self.max_objects)
        if self.regions is not None:
            size = self.size(index)
            record["masks"] = np.zeros((self.max_objects, *size), np.uint8)
            for place, row in enumerate(range(here.start, here.stop)):
                record["masks"][place] = self.regions.mask(row, size)
        return record

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a record's image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def describe(self, index: int) -> str:
        return self.images.describe(index)

    def labels(self) -> np.ndarray:
        """(M,) classes of all objects."""
        return self.classes

    def counts(self) -> np.ndarray:
        """(n,) objects in each record."""
        return np.diff(self.starts)


class Options(NamedTuple):
    """What every source of objects can be told.

    Attributes:
        on_bad_annotation: "drop" leaves bad annotations and damaged images out and reports them, "stop" lists them.
        max_objects: objects a record has room for; None for the largest number in the split.
        empty: whether images without objects are kept.
        where: the place of the section in the configuration, for messages.
    """

    on_bad_annotation: Literal["drop", "stop"] = "drop"
    max_objects: int | None = None
    empty: bool = True
    where: str = "data"


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The objects of a split as its files have them, a row for each, in the order of their images.

    Attributes:
        images: (M,) place of the image that each is in, ascending.
        boxes: (M, 4) x0, y0, x1, y1 in pixels, x1 and y1 exclusive; may be anything, NaN for what is no number.
        classes: (M,) their classes; those below 0 are unknown.
        name: row -> what a message calls an object: "data/a.xml: object 3 (dog)".
        inclusive: whether the boxes count pixels from 1, and x1 and y1 are the last within; they are converted.
        reasons: {row: what is wrong} as far as that was seen already.
        crowd: (M,) bool, or None.
        area: (M,), or None.
        keypoints: (M, K, 3), or None.
        regions: (M,) as in COCO's JSON files, or None.
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    name: Callable[[int], str]
    inclusive: bool = False
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    regions: list[Any] | None = None


def is_set(flag: Any) -> bool:
    """Whether a flag in an annotation file is on: 1, true, "1" and the like; 0, "0", "False" and nothing are not."""
    return str(flag).strip().lower() not in ("", "0", "0.0", "false", "no", "none")


def open_objects(
    name: str,
    split: str,
    images: Images,
    sizes: tuple[np.ndarray, dict[int, str]],
    found: Annotations,
    class_names: tuple[str, ...],
    options: Options,
    keypoint_names: tuple[str, ...] = (),
    strays: tuple[str, ...] = (),
) -> Source:
    """Checks the annotations of a split and makes records of those that are good.

    An annotation is bad if its box is not of four finite numbers, is of no width or height, or lies outside its image;
    if its class is unknown; or if it has a segmentation or keypoints that cannot be read, or a segmentation without a
    pixel. One that begins and ends at the same pixel is a click and no object, so it has no size where corners are
    inclusive, too. A box that is partly outside its image ends where the image ends; those that stand out by more than
    a pixel are counted.

    Args:
        name: of the data set.
        split: of the data set.
        images: all images of the split.
        sizes: (n, 2) heights and widths, and {place: what is wrong} of images that are not to be used.
        found: the annotations.
        class_names: of the data set.
        options: of the source.
        keypoint_names: of the data set.
        strays: of each annotation that is of no image its file, the object and the reason.

    Raises:
        UsageError: two classes have one name; an image has more objects than `max_objects`; no image can be used; or,
            with "stop", what is bad.
    """
    where = options.where
    if options.max_objects is not None and options.max_objects < 1:
        raise UsageError(f"{where}.source.max_objects: expected at least 1, given {options.max_objects}.")
    twice = [one for place, one in enumerate(class_names) if one in class_names[:place]]
    if twice:
        raise UsageError(f"{where}.source.classes: {twice[0]!r} is there twice.")
    shapes, damaged = sizes
    bad_images = tuple(f"{images.describe(place)}: {why}" for place, why in sorted(damaged.items()))
    if damaged and len(damaged) == len(images):
        raise UsageError(f"{where}.name: none of the {len(images)} images can be used; {bad_images[0]}.")
    in_damaged = np.isin(found.images, list(damaged))
    reasons, regions = _reasons(found, shapes, in_damaged)
    bad = strays + tuple(f"{found.name(row)}: {why}" for row, why in reasons.items())
    if options.on_bad_annotation == "stop" and (bad or bad_images):
        raise UsageError(_stopped(f"{name} {split}", bad_images, bad, where))

    good = ~in_damaged
    good[list(reasons)] = False
    rows = np.flatnonzero(good)
    counts = np.bincount(found.images[rows], minlength=len(images))
    kept = np.ones(len(images), bool)
    kept[list(damaged)] = False
    kept &= (counts > 0) | options.empty
    places = np.flatnonzero(kept)
    boxes, clipped = _clipped(_converted(found)[rows], shapes[found.images[rows]])
    records = ObjectRecords(
        images=images.take(places),
        sizes=shapes[places].astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(counts[places])]),
        boxes=boxes,
        classes=np.asarray(found.classes)[rows].astype(np.int32),
        max_objects=_room(images, counts, options),
        crowd=_of(found.crowd, rows, bool),
        area=_of(found.area, rows, np.float32),
        keypoints=_of(found.keypoints, rows, np.float32),
        regions=regions if regions is None or good.all() else regions.take(rows),
    )
    return Source(name, split, records, class_names, keypoint_names, Findings(bad, bad_images, clipped))


def _numbers(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) float32, in which they are compared as they are kept: what is beyond becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(boxes).astype(np.float32).reshape(-1, 4)


def _converted(found: Annotations) -> np.ndarray:
    """(M, 4) float32 with x1 and y1 exclusive."""
    return _numbers(found.boxes) - np.array([1, 1, 0, 0] if found.inclusive else [0] * 4, np.float32)


def _of(values: np.ndarray | None, rows: np.ndarray, dtype: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype)[rows]


def _reasons(found: Annotations, sizes: np.ndarray, left_out: np.ndarray) -> tuple[dict[int, str], Regions | None]:
    """{row: what is wrong} in order of the rows, without those whose image is left out; and the regions."""
    boxes = _numbers(found.boxes)
    height, width = sizes[found.images].T if len(boxes) else np.zeros((2, 0))
    finite = np.isfinite(boxes).all(axis=1)
    extent = np.where(finite[:, None], boxes[:, 2:], np.nan) - boxes[:, :2]
    x0, y0, x1, y1 = _converted(found).T
    # The first of these that holds of a box is said of it; comparisons with NaN are false.
    mistakes = {
        "the box is not of numbers: {box}": ~finite,
        "the box has a negative size: {box}": (extent < 0).any(axis=1),
        "the box has no size: {box}": (extent == 0).any(axis=1),
        "the box lies outside the image of {size}: {box}": (x0 >= width) | (y0 >= height) | (x1 <= 0) | (y1 <= 0),
        "its class is unknown": np.asarray(found.classes) < 0,
    }
    reasons = {}
    for why, holds in reversed(mistakes.items()):
        for row in np.flatnonzero(holds & ~left_out).tolist():
            box = "x0 {:g}, y0 {:g}, x1 {:g}, y1 {:g}".format(*boxes[row])
            reasons[row] = why.format(box=box, size=f"{width[row]}x{height[row]} (width x height)")
    if found.keypoints is not None and len(boxes):
        for row in np.flatnonzero(~np.isfinite(found.keypoints).all(axis=(1, 2)) & ~left_out).tolist():
            reasons.setdefault(row, "a keypoint is not of numbers")
    regions = None
    if found.regions is not None:
        regions, wrong = collect(found.regions, [tuple(size) for size in sizes[found.images].tolist()])
        for row in wrong:
            if not left_out[row]:
                reasons.setdefault(row, wrong[row])
    reasons |= {row: why for row, why in found.reasons.items() if not left_out[row]}
    return dict(sorted(reasons.items())), regions


def _clipped(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """(m, 4) float32 boxes that end where their images end, and how many stood out by more than `_ROUNDING`."""
    result = np.clip(boxes, np.float32(0), sizes[:, [1, 0, 1, 0]].astype(np.float32))
    return result, int((np.abs(result - boxes) > _ROUNDING).any(axis=1).sum())


def _room(images: Images, counts: np.ndarray, options: Options) -> int:
    """How many objects a record has room for."""
    most = int(counts.max(initial=0))
    if options.max_objects is None:
        return max(most, 1)
    if most > options.max_objects:
        example = images.describe(int(counts.argmax()))
        raise UsageError(
            f"{options.where}.source.max_objects: {example} has {most} objects, more than {options.max_objects} "
            f"({int((counts > options.max_objects).sum())} such images in the split); give {most}, or nothing for the "
            "largest number in the split."
        )
    return options.max_objects


def _stopped(what: str, bad_images: tuple[str, ...], bad: tuple[str, ...], where: str) -> str:
    lines = [*bad_images, *bad]
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    title = (
        f"{where}.source.on_bad_annotation: in {what}, images that cannot be used: {len(bad_images)}, bad annotations: "
        f"{len(bad)}. Mend them, or leave them out with on_bad_annotation='drop':"
    )
    return "\n  ".join([title, *lines[:_LISTED], *more])
