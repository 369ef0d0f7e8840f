"""What is known about a split before the first step, and whether training on it makes sense."""

import dataclasses

import numpy as np

from vision.data.source import Source
from vision.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Report:
    """The facts of a split; printed as one line.

    Attributes:
        name: of the data set.
        split: of the data set.
        num_examples: in the split.
        class_names: the name of each class; () without classes.
        class_counts: examples of each class; () without labels.
    """

    name: str
    split: str
    num_examples: int
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.name} {self.split}: {self.num_examples:,} examples"]
        if self.class_counts:
            low, high = min(self.class_counts), max(self.class_counts)
            each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            parts.append(f"{len(self.class_counts)} classes of {each}")
            empty = [str(name) for name, count in zip(self.class_names, self.class_counts, strict=False) if not count]
            if empty:
                shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
                parts.append(f"none of {shown}")
        return ", ".join(parts)


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
        raise UsageError(f"{where}.name: {source.name!r} has {known} classes, while the model has {num_classes}.")
    labels = source.labels
    if labels is None:
        if num_classes is not None:
            raise UsageError(
                f"{where}.name: {source.name!r} has no labels, which a model with {num_classes} classes needs."
            )
        return Report(source.name, source.split, len(source))
    count = known or num_classes or int(labels.max()) + 1
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        first = int(wrong[0])
        holder = source.describe(first) if len(labels) == len(source) else f"an object of {source.name!r}"
        raise UsageError(
            f"{where}.name: {holder} has the label {labels[first]}, but labels are 0 to {count - 1} "
            f"({wrong.size} such in the split)."
        )
    counts = np.bincount(labels, minlength=count)
    return Report(source.name, source.split, len(source), source.class_names, tuple(counts.tolist()))
