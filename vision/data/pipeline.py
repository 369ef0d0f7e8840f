"""Batches of a data set for training, evaluation and prediction, prefetched by Grain's threads or worker processes."""

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vision.data import chain
from vision.data.catalog import open_source
from vision.data.loader import PADDING, Batch, Loader
from vision.data.source import ImageRecords, Source
from vision.errors import UsageError

_LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM)  # signals that worker processes ignore


def create(
    name: str,
    split: str,
    batch_size: int,
    transforms: str,
    *,
    source: dict[str, Any] | None = None,
    shuffle: bool | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
    max_bad_share: float = 0.01,
    workers: int = 0,
    threads: int | None = None,
    prefetch: int | None = None,
    seed: int = 0,
    train: bool = True,
    host_index: int = 0,
    host_count: int = 1,
    where: str = "data",
) -> "Pipeline":
    """Opens a data set and makes batches of it; a section of `config.data` holds these arguments.

    Args:
        name: the data set: "digits", "digit_scenes", "folder:PATH", "pairs:PATH", "coco_panoptic:PATH",
            "coco:PATH", "voc:PATH", "yolo:PATH", "fake:32x32x3:10", or a prepared TFDS name such as "cifar10".
        split: "train", "test", or a slice of one: "train[:90%]".
        batch_size: examples per step, over all hosts and devices.
        transforms: what is done to each example, as in "decode|random_resized_crop(224)|flip"; "weights": what the
            weights of config.init expect.
        source: options of the data set, which depend on its kind: for "digit_scenes" annotations="boxes".
        shuffle: a new random order in every epoch; by default when training.
        on_bad_image: "stop" at an image that cannot be decoded, or "skip" and count it.
        max_bad_share: the largest share of the data set that may be skipped, 0..1.
        workers: processes that load batches; 0 loads in threads of this one, which is enough for most transforms.
        threads: threads that load batches; by default one per CPU core, at most 16 (one in each worker process).
        prefetch: batches loaded ahead; by default two more than threads. 0 loads each when it is asked for.
        seed: of the order and of the random transforms.
        train: repeat without end, and shuffle; else one pass in order, padded at its end.
        host_index: which host this is.
        host_count: on how many hosts the batch is spread; each loads its own rows of it.
        where: the section's place, for messages.

    Raises:
        UsageError: no such data set, split or transform; a value out of range; a first example that cannot be read.
    """
    opened = open_source(name, split, where, source)
    if not len(opened):
        raise UsageError(f"{where}.split: {split!r} of {name!r} has no examples.")
    return Pipeline(
        opened,
        batch_size,
        transforms,
        shuffle=shuffle,
        on_bad_image=on_bad_image,
        max_bad_share=max_bad_share,
        workers=workers,
        threads=threads,
        prefetch=prefetch,
        seed=seed,
        train=train,
        host_index=host_index,
        host_count=host_count,
        where=where,
    )


def from_images(
    images: Sequence[str | bytes | np.ndarray],
    transforms: str,
    batch_size: int,
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> "Pipeline":
    """One pass over images that the caller has, as for evaluation, the last batch padded.

    Args:
        images: paths, encoded images, or uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        transforms: as in `create`.
        batch_size: images per batch.
        on_bad_image: "stop" names the first that cannot be decoded; "skip" lists them in `Pipeline.bad_images`.

    Raises:
        UsageError: a batch size below 1, an unknown transform, or a first image that cannot be read.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size: expected at least 1, given {batch_size}.")
    source = Source("images", "", ImageRecords(images))
    return Pipeline(source, batch_size, transforms, train=False, on_bad_image=on_bad_image, max_bad_share=1.0)


class Pipeline:
    """Batches by step. See `create` for the arguments.

    Attributes:
        source: the data set.
        batch_size: rows of a batch over all hosts; this host has `batch_size / host_count` of them.
        bad_images: {place among the records: message} of the images skipped so far by this host.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        transforms: str = "",
        *,
        shuffle: bool | None = None,
        on_bad_image: Literal["stop", "skip"] = "stop",
        max_bad_share: float = 0.01,
        workers: int = 0,
        threads: int | None = None,
        prefetch: int | None = None,
        seed: int = 0,
        train: bool = True,
        host_index: int = 0,
        host_count: int = 1,
        where: str = "data",
    ):
        at_least = {
            "batch_size": (batch_size, 1),
            "workers": (workers, 0),
            "threads": (threads, 1),
            "prefetch": (prefetch, 0),
        }
        for key, (value, least) in at_least.items():
            if value is not None and value < least:
                raise UsageError(f"{where}.{key}: expected at least {least}, given {value}.")
        if batch_size % host_count:
            raise UsageError(
                f"{where}.batch_size: {batch_size} examples cannot be spread over {host_count} hosts evenly."
            )
        if not 0 <= max_bad_share <= 1:
            raise UsageError(f"{where}.max_bad_share: expected a share from 0 to 1, given {max_bad_share}.")
        if not 0 <= seed < 2**63:
            raise UsageError(f"config.seed: expected a number from 0 to 2**63 - 1, given {seed}.")
        if train and not len(source):
            raise UsageError(f"{where}.split: {source.split!r} of {source.name!r} has no examples.")
        self.source = source
        self.batch_size = batch_size
        self.bad_images: dict[int, str] = {}
        self._train = train
        self._where = where
        self._max_bad = math.floor(max_bad_share * len(source) + 1e-9)
        self._workers = workers
        self._threads = threads or (1 if workers else min(16, _cpu_cores()))
        self._prefetch = self._threads + 2 if prefetch is None else prefetch
        host_rows = batch_size // host_count
        loader = Loader(
            records=source.records,
            transforms=chain.parse(transforms, f"{where}.transforms"),
            batch_size=batch_size,
            seed=seed,
            repeat=train,
            shuffle=train if shuffle is None else shuffle,
            on_bad_image=on_bad_image,
            rows=range(host_index * host_rows, (host_index + 1) * host_rows),
            spec={},
        )
        several = [call for call in loader.transforms if call.name == "pad_to" and len(call.arguments["sizes"]) > 1]
        if several and train and len([call for call in loader.transforms if call.name == "pad_to"]) > 1:
            raise UsageError(f"{where}.transforms: training takes but one pad_to, where it has several sizes.")
        if several and len(source):
            lookups = threads or min(16, _cpu_cores())
            self._loader = loader.with_buckets(lookups) if train else loader.with_groups(lookups)
        else:
            self._loader = loader.with_spec(tries=self._max_bad + 1)

    @property
    def num_examples(self) -> int:
        """Examples in one pass."""
        return len(self.source)

    @property
    def num_batches(self) -> int:
        """Batches of one pass, the last of which (of each shape) may be padded, or in training belong to two epochs."""
        if self._loader.groups:
            return len(self._loader.groups)
        return math.ceil(len(self.source) / self.batch_size)

    @property
    def element_spec(self) -> dict:
        """{name: jax.ShapeDtypeStruct} of a batch over all hosts; where there are several shapes, of the largest."""
        import jax

        fields = {**self._loader.spec, "mask": ((), np.dtype(np.float32)), "index": ((), np.dtype(np.int32))}
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in fields.items()}

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of the images, of all shapes that batches have."""
        specs = [part.spec for part in self._loader.buckets or self._loader.groups] or [self._loader.spec]
        return tuple(dict.fromkeys(spec["image"][0] for spec in specs))

    def batch(self, step: int) -> Batch:
        """This host's rows of the batch of any step; the same whenever and wherever it is asked for.

        Besides the fields of the examples (`image` (B, H, W, C) uint8, `label` (B,) int32, ...) it has `mask` (B,)
        float32, 1 for an example and 0 for padding or a skipped image, and `index` (B,) int32, the place of the
        example in `source`, -1 for padding. Past the end of a single pass, all rows are padding.

        Raises:
            UsageError: an image cannot be decoded, or too many cannot; or examples have different shapes.
        """
        if step < 0:
            raise UsageError(f"There is no step {step}; the first is 0.")
        return self._count_bad(self._loader.batch(step))

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """`batch(start)`, `batch(start + 1)`, ..., loaded ahead: without end in training, else one pass."""
        iterator = iter(self._grain_dataset(start))
        guard = _signals_kept_from_children() if self._workers else contextlib.nullcontext()
        try:
            while True:
                try:
                    with guard:  # the first batch starts the workers
                        batch = next(iterator)
                    guard = contextlib.nullcontext()
                except StopIteration:
                    return
                except UsageError as error:
                    raise type(error)(str(error)) from None  # without Grain's notes and frames
                if self._workers:  # it lies in memory shared with the worker, which is to be freed soon
                    batch = {name: np.array(value) for name, value in batch.items()}
                yield self._count_bad(batch)
        finally:
            iterator.close()

    def _grain_dataset(self, start: int):
        import grain

        stop = sys.maxsize if self._train else max(start, self.num_batches)
        # A step is an element: what order Grain's threads and processes load them in cannot change what is in them.
        dataset = grain.MapDataset.range(start, stop).map(self._loader.batch)
        ahead = grain.ReadOptions(
            num_threads=self._threads if self._prefetch else 0, prefetch_buffer_size=self._prefetch
        )
        dataset = dataset.to_iter_dataset(ahead)
        if not self._workers:
            return dataset
        from absl import flags

        if not flags.FLAGS.is_parsed():  # in a notebook or a test; Grain reads flags of its own
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=max(1, self._prefetch))
        return dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)

    def _count_bad(self, batch: Batch) -> Batch:
        """Notes the images that were skipped, here rather than where they are loaded, which may be another process."""
        bad = (batch["mask"] == 0) & (batch["index"] != PADDING)
        for index in batch["index"][bad].tolist():
            if index in self.bad_images:
                continue
            self.bad_images[index] = self._why_bad(index)
            logging.warning("Skipped %s (%d so far)", self.bad_images[index], len(self.bad_images))
            if len(self.bad_images) > self._max_bad:
                raise UsageError(
                    f"{self._where}.max_bad_share: {len(self.bad_images)} of {self.num_examples} images "
                    f"cannot be decoded, more than the {self._max_bad} allowed; the last is {self.bad_images[index]}."
                )
        return batch

    def _why_bad(self, index: int) -> str:
        try:
            self._loader.example(index, epoch=0)
        except UsageError as error:
            return str(error)
        return self.source.describe(index)  # it was unreadable a moment ago


def _cpu_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Within it, processes are started that Ctrl-C and SIGTERM do not end before they come to ignore them.

    A process inherits the mask of blocked signals of the thread that starts it, and a thread that of its own starter.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, worker_count: int) -> None:
    """Makes this worker process end when its parent does, even when that is killed, and not before.

    Ctrl-C and a scheduler's SIGTERM reach the whole group of processes; they are the parent's to handle, which may
    need further batches.

    Linux can signal the death of a parent (PR_SET_PDEATHSIG), but means that of the thread that started the worker, and
    Grain starts workers from threads of its own. The pipe that Python keeps between the two closes with the process.
    """
    import multiprocessing
    import threading

    del worker, worker_count
    for number in _LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
