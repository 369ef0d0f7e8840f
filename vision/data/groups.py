"""Images of different shapes: examples grouped by shape, so that each batch has one, in evaluation and in training.

The shapes are computed once, when the split is opened, from the sizes of the images and what the transforms make of
them, so that the batch of a step is known without loading those before it.
"""

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.data.chain import Call
from vision.data.geometry import Shape
from vision.data.images import BadImage
from vision.errors import UsageError


class Group(NamedTuple):
    """The examples of one batch.

    Attributes:
        indices: (n,) their places among the records; at most the batch size.
        spec: the fields, shapes and dtypes of each.
        spec_from: the place of the example that has them.
    """

    indices: np.ndarray
    spec: dict[str, tuple[tuple[int, ...], np.dtype]]
    spec_from: int


class Bucket(NamedTuple):
    """The examples of one shape.

    Attributes:
        members: (n,) their places among the records, ascending.
        transforms: what gives them that shape.
        spec: the fields, shapes and dtypes of each.
        spec_from: the place of the example that has them.
    """

    members: np.ndarray
    transforms: tuple[Call, ...]
    spec: dict[str, tuple[tuple[int, ...], np.dtype]]
    spec_from: int


def batches_of_one_shape(shapes: Sequence[Any], batch_size: int, order: Iterable[int]) -> list[np.ndarray]:
    """Every example once, in batches of equal shape, only the last of each shape of which may be smaller.

    Batches come in the order of their first examples. So at any time there is but one batch of each shape whose
    examples are not all among the first of the order: who wants results in that order need not hold back more.

    Args:
        shapes: of each example.
        batch_size: most examples of a batch.
        order: the places of the examples, in the order in which they come within each shape.
    """
    members: dict[Any, list[int]] = {}
    rank = {}
    for position, index in enumerate(order):
        members.setdefault(shapes[index], []).append(index)
        rank[index] = position
    batches = [
        np.array(same[start : start + batch_size], np.int32)
        for same in members.values()
        for start in range(0, len(same), batch_size)
    ]
    return sorted(batches, key=lambda batch: rank[int(batch[0])])


def grouped(
    shape: Callable[[int], Shape],
    example: Callable[[int], dict[str, np.ndarray]],
    order: np.ndarray,
    batch_size: int,
    skip_bad: bool,
    threads: int,
) -> tuple[Group, ...]:
    """The batches of one pass.

    Args:
        shape: index -> (height, width) of the example.
        example: index -> the example.
        order: (N,) all indices.
        batch_size: most examples of a batch.
        skip_bad: whether images that cannot be read are left to be counted when they are loaded, in a batch of others.
        threads: that look up shapes.

    Raises:
        UsageError: an image that cannot be read, or whose shape is not the one foretold; what `shape` raises.
    """

    indices = sorted(order.tolist())
    shapes = _shapes(shape, indices, skip_bad, threads)
    specs: dict[Shape, tuple[dict, int]] = {}
    for found in dict.fromkeys(shapes):
        spec = found and _first_spec(example, [i for i in indices if shapes[i] == found], skip_bad)
        if spec:
            specs[found] = spec
            _check_foretold(spec, found)
    shapes = _known(shapes, specs)
    batches = batches_of_one_shape(shapes, batch_size, order.tolist())
    return tuple(Group(batch, *specs[shapes[int(batch[0])]]) for batch in batches)


def bucketed(
    shape: Callable[[int], Shape],
    transforms: Sequence[Call],
    example: Callable[[int, Sequence[Call]], dict[str, np.ndarray]],
    count: int,
    skip_bad: bool,
    threads: int,
) -> tuple[Bucket, ...]:
    """The examples of each shape, for training without end; in the order of their first ones.

    Args:
        shape: index -> that of the sizes of `pad_to` to which the example belongs.
        transforms: of the split; `pad_to` gets that one size, and shrinks what chance has made too large for it.
        example: (index, transforms) -> the example.
        count: of examples.
        skip_bad: whether images that cannot be read are left to be counted when they are loaded, in a batch of others.
        threads: that look up shapes.

    Raises:
        UsageError: an image that cannot be read; what `shape` raises.
    """
    shapes = _shapes(shape, range(count), skip_bad, threads)
    specs: dict[Shape, tuple[dict, int]] = {}
    chains = {}
    for found in dict.fromkeys(shapes):
        if found is None:
            continue
        chains[found] = tuple(_padded_to(call, found) if call.name == "pad_to" else call for call in transforms)
        members = [i for i in range(count) if shapes[i] == found]
        spec = _first_spec(lambda index, found=found: example(index, chains[found]), members, skip_bad)
        if spec:
            specs[found] = spec
    shapes = _known(shapes, specs)
    return tuple(
        Bucket(np.array([i for i in range(count) if shapes[i] == found], np.int32), chains[found], *specs[found])
        for found in specs
    )


def _padded_to(call: Call, shape: Shape) -> Call:
    return Call(call.name, call.arguments | {"sizes": (shape,), "shrink": True})


def _shapes(shape: Callable[[int], Shape], indices: Sequence[int], skip_bad: bool, threads: int) -> list[Shape | None]:
    """The shape of each; None where its image cannot be read, and may be skipped."""

    def try_shape(index: int) -> Shape | None:
        try:
            return shape(index)
        except BadImage:
            if not skip_bad:
                raise
            return None

    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        return list(executor.map(try_shape, indices))


def _known(shapes: Sequence[Shape | None], specs: dict[Shape, Any]) -> list[Shape]:
    """The shapes; one that has no specification is the first that has: what cannot be read fits anywhere."""
    if not specs:
        raise UsageError("None of the images can be read.")
    return [found if found in specs else next(iter(specs)) for found in shapes]


def _first_spec(example: Callable, indices: Sequence[int], skip_bad: bool) -> tuple[dict, int] | None:
    """The fields of the first example that can be read, and its place; None where none can."""
    for index in indices:
        try:
            fields = example(index)
        except BadImage:
            if not skip_bad:
                raise
            continue
        return {name: (value.shape, value.dtype) for name, value in fields.items()}, index
    return None


def _check_foretold(spec: tuple[dict, int], shape: Shape) -> None:
    fields, index = spec
    if fields["image"][0][:2] != shape:
        given, told = ("x".join(map(str, size)) for size in (fields["image"][0][:2], shape))
        raise UsageError(
            f"Example {index} has an image of {given} after its transforms, where {told} was foretold: the `size` "
            "of its record is wrong, or a transform of whole examples changes the size of the image."
        )
