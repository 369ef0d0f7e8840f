"""What is known about a split before the first step, and whether training on it makes sense."""

import dataclasses
from typing import Any

import numpy as np

from vision.data import scan
from vision.data.label_maps import IGNORE
from vision.data.source import NOTHING, Findings, Source
from vision.errors import UsageError

_LISTED = 4  # classes of pixels or objects; of more, only the range is told
_NAMED = 3  # annotations and images that are left out; of more, only the number is told


@dataclasses.dataclass(frozen=True)
class Report:
    """The facts of a split; printed as one line.

    Attributes:
        name: of the data set.
        split: of the data set.
        num_examples: in the split.
        class_names: the name of each class; () without classes.
        class_counts: examples of each class, or objects; () without labels.
        pixel_counts: pixels of each class; () without label maps.
        ignored_pixels: pixels that are to be ignored.
        unreadable: what is wrong with the label maps that cannot be read.
        empty: images without objects; None where they are not counted.
        findings: the annotations and images of objects that are left out, and the boxes that are clipped.
    """

    name: str
    split: str
    num_examples: int
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    pixel_counts: tuple[int, ...] = ()
    ignored_pixels: int = 0
    unreadable: tuple[str, ...] = ()
    empty: int | None = None
    findings: Findings = NOTHING

    def __str__(self) -> str:
        parts = [f"{self.name} {self.split}: {self.num_examples:,} examples"]
        if self.class_counts:
            parts.append(self._classes())
        if self.empty:
            parts.append(f"{_counted(self.empty, 'image')} without objects")
        if self.pixel_counts:
            parts += self._pixels()
        counts = self.class_counts or self.pixel_counts
        empty = [str(name) for name, count in zip(self._names(len(counts)), counts, strict=False) if not count]
        if empty:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            parts.append(f"none of {shown}")
        if self.unreadable:
            count = len(self.unreadable)
            which = "label map cannot be read, that" if count == 1 else "label maps cannot be read, such as that"
            parts.append(f"{count} {which} of {self.unreadable[0]}")
        return ", ".join(parts + self._left_out())

    def facts(self) -> dict[str, Any]:
        """All that was found, by name and for a file: the count of each class, every annotation that is left out."""
        counts = self.class_counts or self.pixel_counts
        counted = "pixels" if self.pixel_counts else "examples" if self.empty is None else "objects"
        return {
            "name": self.name,
            "split": self.split,
            "examples": self.num_examples,
            **({"examples_without_objects": self.empty} if self.empty is not None else {}),
            f"{counted}_of_classes": dict(zip(map(str, self._names(len(counts))), counts, strict=False)),
            **({"ignored_pixels": self.ignored_pixels} if self.pixel_counts else {}),
            "unreadable_label_maps": self.unreadable,
            "annotations_left_out": self.findings.bad_annotations,
            "images_left_out": self.findings.bad_images,
            "boxes_clipped": self.findings.clipped,
        }

    def _left_out(self) -> list[str]:
        """What the source has left out or clipped, the first few by name."""
        parts = []
        for what, found in (("annotation", self.findings.bad_annotations), ("image", self.findings.bad_images)):
            if found:
                more = "; ..." if len(found) > _NAMED else ""
                parts.append(f"{_counted(len(found), what)} left out ({'; '.join(found[:_NAMED])}{more})")
        if self.findings.clipped:
            parts.append(f"{_counted(self.findings.clipped, 'box', 'boxes')} clipped to the image")
        return parts

    def _classes(self) -> str:
        """The number of classes, and of the examples or objects of each."""
        number = _counted(len(self.class_counts), "class", "classes")
        if self.empty is not None and len(self.class_counts) <= _LISTED:
            each = zip(self._names(len(self.class_counts)), self.class_counts, strict=True)
            return f"{number} of objects: {', '.join(f'{name} {count:,}' for name, count in each)}"
        low, high = min(self.class_counts), max(self.class_counts)
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return f"{number} of {count}{'' if self.empty is None else ' objects each'}"

    def _names(self, count: int) -> tuple[str, ...]:
        return self.class_names or tuple(str(label) for label in range(count))

    def _pixels(self) -> list[str]:
        """The share of each class if they are few; else that of the largest, and the range of the others."""
        total = max(1, sum(self.pixel_counts))
        shares = [
            (count / total, name)
            for count, name in zip(self.pixel_counts, self._names(len(self.pixel_counts)), strict=False)
        ]
        seen = sorted((share for share in shares if share[0]), reverse=True)
        first = f"{_counted(len(shares), 'class', 'classes')} of pixels"
        if len(seen) <= _LISTED:
            parts = [f"{name} {_percent(share)}" for share, name in shares if share]
        else:
            (most, name), (high, _), (low, _) = seen[0], seen[1], seen[-1]
            parts = [f"{name} {_percent(most)}", f"others {_percent(low)} to {_percent(high)}"]
        if self.ignored_pixels:
            parts.append(f"{_percent(self.ignored_pixels / (total + self.ignored_pixels))} ignored")
        return [": ".join([first, *parts[:1]]), *parts[1:]]


def _counted(count: int, one: str, many: str = "") -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {many or one + 's'}"


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.995 else f"{share * 100:.4g} %"


def check(source: Source, num_classes: int | None = None, where: str = "data") -> Report:
    """Counts the examples and classes of a split, without decoding an image.

    Args:
        source: the split.
        num_classes: of the model; None when it has no classes.
        where: the section's place in the configuration, for messages.

    Raises:
        UsageError: the split is empty, has a label out of range, or other classes than the model.
    """
    if not len(source):
        raise UsageError(f"{where}.split: {source.split!r} of {source.name!r} has no examples.")
    known = len(source.class_names)
    if num_classes is not None and known and known != num_classes:
        raise UsageError(
            f"{where}.name: {source.name!r} has {known} classes, while the model has {num_classes}, as many as "
            "config.model.num_classes or the training data say."
        )
    if source.has_segmentation:
        return _check_pixels(source, num_classes, where)
    labels = source.labels
    if labels is None:
        if num_classes is not None:
            raise UsageError(
                f"{where}.name: {source.name!r} has no labels, which a model with {num_classes} classes needs."
            )
        return Report(source.name, source.split, len(source))
    count = known or num_classes or int(labels.max(initial=0)) + 1
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        first = int(wrong[0])
        holder = source.describe(first) if len(labels) == len(source) else f"an object of {source.name!r}"
        raise UsageError(
            f"{where}.name: {holder} has the label {labels[first]}, but labels are 0 to {count - 1} "
            f"({wrong.size} such in the split)."
        )
    objects = source.object_counts
    return Report(
        source.name,
        source.split,
        len(source),
        source.class_names,
        tuple(np.bincount(labels, minlength=count).tolist()),
        empty=None if objects is None else int((objects == 0).sum()),
        findings=source.findings,
    )


def _check_pixels(source: Source, num_classes: int | None, where: str) -> Report:
    """Counts the pixels of each class, without decoding an image.

    Raises:
        UsageError: an id that is no class; says in which record and where in its label map.
    """
    try:
        found = scan.count_pixels(source)
    except UsageError as error:
        raise UsageError(f"{where}.name: {error}.") from None
    if len(found.unreadable) == len(source):
        raise UsageError(f"{where}.name: no label map can be read; {next(iter(found.unreadable.values()))}.")
    highest = int(np.flatnonzero(found.counts[:IGNORE]).max(initial=0))
    count = len(source.class_names) or num_classes or highest + 1
    wrong = np.flatnonzero(found.counts[count:IGNORE]) + count
    if wrong.size:
        first = int(found.first[wrong].min())
        segmentation = source.records.segmentation(first)
        y, x = np.argwhere((segmentation >= count) & (segmentation != IGNORE))[0]
        raise UsageError(
            f"{where}.name: {source.describe(first)}: the pixel at x {x}, y {y} of its label map has the class "
            f"{segmentation[y, x]}, but classes are 0 to {count - 1}, or {IGNORE} to be ignored."
        )
    return Report(
        source.name,
        source.split,
        len(source),
        source.class_names,
        pixel_counts=tuple(found.counts[:count].tolist()),
        ignored_pixels=int(found.counts[IGNORE]),
        unreadable=tuple(found.unreadable.values()),
    )
