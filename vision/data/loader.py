"""(seed, step) -> batch, as a pure function: any step, in any order, in any process, on any host."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from vision.data import chain, images
from vision.data.geometry import Shape
from vision.data.groups import Bucket, Group, bucketed, grouped
from vision.data.images import BadImage
from vision.data.orders import bucket_of_step, shuffled
from vision.data.source import Records
from vision.errors import UsageError

Batch = dict[str, np.ndarray]
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]  # field -> shape and dtype of one example

PADDING = -1  # the `index` of a row that is no example

_DRAWS = 100  # of another example, where what was drawn cannot be read

_EXAMPLES = 0  # the second word of Philox's key: `vision.data.orders` has others for the orders of the same seed


@dataclasses.dataclass(frozen=True)
class Loader:
    """What a batch depends on.

    Attributes:
        records: the examples.
        transforms: what is done to each.
        batch_size: rows of the batch over all hosts.
        seed: of the order and of the random transforms.
        repeat: one epoch after the other without end; else one pass, padded at its end.
        shuffle: another order in every epoch; else the order of the records.
        on_bad_image: "stop" raises, "skip" leaves a row with `mask` 0: zeros, or in training the example of the nearest
            row, because batch normalisation and the like see the images of all rows.
        rows: this host's rows of the batch.
        spec: the fields of an example.
        spec_from: the place among the records of the example that has them.
        groups: of a single pass over images of different shapes: the examples of each step, which have one shape.
        buckets: of training on images of different shapes: the examples of each shape.
    """

    records: Records
    transforms: tuple[chain.Call, ...]
    batch_size: int
    seed: int
    repeat: bool
    shuffle: bool
    on_bad_image: Literal["stop", "skip"]
    rows: range
    spec: Spec
    spec_from: int = 0
    groups: tuple[Group, ...] = ()
    buckets: tuple[Bucket, ...] = ()

    def batch(self, step: int) -> Batch:
        """This host's rows of the batch of a step: the fields of the examples, `mask` and `index`.

        `mask` is float32, 1 for an example and 0 for padding or a skipped image; `index` is the int32 place of the
        example among the records, `PADDING` for padding.
        """
        epochs, indices = self.places(step)
        transforms, spec, spec_from = self.transforms, self.spec, self.spec_from
        if step < len(self.groups):
            spec, spec_from = self.groups[step].spec, self.groups[step].spec_from
        if self.buckets:
            bucket = self.buckets[self._bucket(step)[0]]
            transforms, spec, spec_from = bucket.transforms, bucket.spec, bucket.spec_from
        batch = {name: np.zeros((len(indices), *shape), dtype) for name, (shape, dtype) in spec.items()}
        batch["mask"] = np.zeros(len(indices), np.float32)
        batch["index"] = indices.astype(np.int32)
        for row, (epoch, index) in enumerate(zip(epochs.tolist(), indices.tolist(), strict=True)):
            if index == PADDING:
                continue
            try:
                example = self.example(index, epoch, transforms)
            except BadImage:
                if self.on_bad_image == "stop":
                    raise
                continue
            self._check_shapes(example, index, spec, spec_from)
            for name in spec:
                batch[name][row] = example[name]
            batch["mask"][row] = 1
        if self.repeat:
            self._fill_skipped(batch)
        return batch

    def _fill_skipped(self, batch: Batch) -> None:
        """Copies into each row without an example the fields of the nearest that has one, of two the one before."""
        good = np.flatnonzero(batch["mask"])
        if len(good) in (0, len(batch["mask"])):
            return
        for row in np.flatnonzero(batch["mask"] == 0):
            nearest = good[np.argmin(np.abs(good - row))]
            for name in self.spec:
                batch[name][row] = batch[name][nearest]

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) epoch and (rows,) place among the records, of this host's rows of the batch of a step."""
        if self.groups:
            indices = np.full(self.batch_size, PADDING)
            if step < len(self.groups):
                members = self.groups[step].indices
                indices[: len(members)] = members
            return np.zeros(len(self.rows), np.int64), indices[self.rows.start : self.rows.stop]
        if self.buckets:
            bucket, number = self._bucket(step)
            members = self.buckets[bucket].members
            return self._successive(number, len(members), bucket, members)
        epochs, indices = self._successive(step, len(self.records))
        if not self.repeat:
            indices = np.where(epochs == 0, indices, PADDING)
        return epochs, indices

    def _successive(
        self, number: int, count: int, bucket: int = 0, members: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`places` of the batch of this number, of `count` examples that come again and again, which are `members`."""
        epochs, positions = np.divmod(number * self.batch_size + np.asarray(self.rows, np.int64), count)
        if self.shuffle:
            orders = {epoch: shuffled(self.seed, epoch, count, bucket) for epoch in np.unique(epochs).tolist()}
            pairs = zip(epochs.tolist(), positions.tolist(), strict=True)
            positions = np.array([orders[epoch][position] for epoch, position in pairs], np.int64)
        return epochs, positions if members is None else members[positions]

    def _bucket(self, step: int) -> tuple[int, int]:
        """Which bucket the batch of a step is of, and its number among that bucket's batches."""
        counts = tuple(len(bucket.members) for bucket in self.buckets)
        return bucket_of_step(step, counts, self.batch_size, self.seed, self.shuffle)

    def example(self, index: int, epoch: int, transforms: Sequence[chain.Call] | None = None) -> Batch:
        """One example after its transforms; its randomness is its own, for each (seed, epoch, index).

        Args:
            index: its place among the records.
            epoch: from 0 on.
            transforms: those of its bucket, where it has one.
        """
        transforms = self.transforms if transforms is None else transforms
        with self._naming(index):
            rng = self._rng(index, epoch)
            return _arrays(chain.apply(transforms, self.records[index], rng, functools.partial(self._another, rng)))

    def _another(self, rng: np.random.Generator, transforms: Sequence[chain.Call]) -> chain.Example:
        """An example drawn at random after some transforms, for transforms that make one image of several."""
        for _ in range(_DRAWS):
            index = int(rng.integers(len(self.records)))
            try:
                with self._naming(index):
                    return chain.apply(transforms, self.records[index], rng, functools.partial(self._another, rng))
            except BadImage:
                if self.on_bad_image == "stop":
                    raise
        raise UsageError(f"None of {_DRAWS} images drawn at random can be read.")

    def shape(self, index: int) -> Shape:
        """Height and width of an example of a single pass, for which its image is not decoded if its header tells."""
        with self._naming(index):
            return chain.output_shape(self.transforms, self._size(index), self._rng(index, epoch=0))

    def _size(self, index: int) -> Shape:
        """Height and width of the image of a record."""
        of_record = getattr(self.records, "size", None)
        return of_record(index) if of_record else images.size(self.records[index]["image"])

    def _rng(self, index: int, epoch: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, _EXAMPLES], counter=[0, 0, epoch, index]))

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Says in errors which record they are about."""
        try:
            yield
        except UsageError as error:
            raise type(error)(f"{self.records.describe(index)}: {error}") from None
        except Exception as error:
            error.add_note(f"While reading {self.records.describe(index)}.")
            raise

    def order(self, epoch: int) -> np.ndarray:
        """(N,) places among the records in the order of an epoch."""
        count = len(self.records)
        return shuffled(self.seed, epoch, count) if self.shuffle else np.arange(count, dtype=np.int32)

    def with_spec(self, tries: int) -> "Loader":
        """This loader with the fields, shapes and dtypes of its first example that can be read.

        Args:
            tries: how many records may be looked at where bad images are skipped.
        """
        for index in range(len(self.records)):
            try:
                example = self.example(index, 0)
            except BadImage:
                if self.on_bad_image == "stop" or index + 1 >= tries:
                    raise
                continue
            spec = {name: (value.shape, value.dtype) for name, value in example.items()}
            return dataclasses.replace(self, spec=spec, spec_from=index)
        if not len(self.records):
            return self  # there will be no batch
        raise UsageError("None of the images can be read.")

    def with_groups(self, threads: int) -> "Loader":
        """This loader with batches of one shape each, for a single pass over images of several.

        Args:
            threads: that look up the shapes.
        """
        groups = grouped(
            self.shape,
            lambda index: self.example(index, 0),
            self.order(0),
            self.batch_size,
            self.on_bad_image == "skip",
            threads,
        )
        largest = max(groups, key=lambda group: math.prod(group.spec["image"][0]))
        return dataclasses.replace(self, spec=largest.spec, spec_from=largest.spec_from, groups=groups)

    def with_buckets(self, threads: int) -> "Loader":
        """This loader with batches of one shape each, for training on images of several.

        Args:
            threads: that look up the shapes.
        """
        position = next(i for i, call in enumerate(self.transforms) if call.name == "pad_to")
        fixed = chain.fixed(self.transforms[: position + 1])
        padded = functools.cache(lambda size: chain.output_shape(fixed, size, None))

        def shape(index: int) -> Shape:
            with self._naming(index):
                return padded(tuple(self._size(index)))

        found = bucketed(
            shape,
            self.transforms,
            lambda index, transforms: self.example(index, 0, transforms),
            len(self.records),
            self.on_bad_image == "skip",
            threads,
        )
        largest = max(found, key=lambda bucket: math.prod(bucket.spec["image"][0]))
        return dataclasses.replace(self, spec=largest.spec, spec_from=largest.spec_from, buckets=found)

    def _check_shapes(self, example: Batch, index: int, spec: Spec, spec_from: int) -> None:
        for name, (shape, _) in spec.items():
            if name not in example or example[name].shape != shape:
                given = "nothing" if name not in example else f"shape {example[name].shape}"
                hint = ' Add a transform that gives all one size, such as "resize(224)" or "pad_to".'
                hint = hint if name == "image" else ""
                raise UsageError(
                    f"{self.records.describe(index)}: {name!r} has {given}, while other examples have {shape}, "
                    f"such as {self.records.describe(spec_from)}; a batch needs one shape.{hint}"
                )


def _arrays(example: dict) -> Batch:
    """The fields that can be in a batch, in dtypes that JAX keeps; strings, such as file names, stay behind."""
    arrays = {}
    for name, value in example.items():
        array = images.decoded(value) if name == "image" else np.asarray(value)
        if array.dtype.kind in "biuf":
            arrays[name] = array.astype(_NARROWER.get(array.dtype, array.dtype), copy=False)
    return arrays


_NARROWER = {np.dtype(np.int64): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.float32)}
