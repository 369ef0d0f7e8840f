"""The embedded data set: scikit-learn's 1,797 handwritten digits of 8x8 pixels, in TFDS, prepared on first use."""

import functools
import hashlib

import numpy as np

from vision.data import builders, tfds_source
from vision.data.builders import png
from vision.data.source import Source
from vision.errors import UsageError

TEST_EXAMPLES = 360


def open_digits(rest: str, split: str, where: str = "data") -> Source:
    """Opens one split, "train" or "test", or a slice of one.

    Args:
        rest: nothing.
        split: as TFDS writes it: "train[:90%]".
        where: the place of the section in the configuration, for messages.

    Raises:
        UsageError: no such split, or the data set cannot be written.
    """
    if rest:
        raise UsageError(f"{where}.name: 'digits' takes no argument, given {rest!r}.")
    return tfds_source.open_directory("digits", prepare(), split, where)


def prepare(data_dir: str | None = None) -> str:
    """The folder of the prepared data set, which is written first if it is not there; see `builders.prepare`."""
    return builders.prepare("digits/1.0.0", builder, data_dir)


def builder(data_dir: str | None = None):
    """The TFDS builder `digits`: features `image` (8, 8, 1) uint8 PNG, `label`, and `id`, its place in scikit-learn."""
    return _builder_class()(data_dir=data_dir)


@functools.cache
def _builder_class():
    import tensorflow_datasets as tfds

    class Digits(tfds.core.GeneratorBasedBuilder):
        """Handwritten digits of 8x8 pixels."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description="The test set of the UCI optical recognition of handwritten digits, as in scikit-learn.",
                homepage="https://archive.ics.uci.edu/dataset/80",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                        "label": tfds.features.ClassLabel(num_classes=10),
                        "id": tfds.features.Scalar(np.int64),
                    }
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            images, labels = load()
            test = test_indices(labels)
            train = np.setdiff1d(np.arange(len(labels)), test)
            return {name: self._examples(images, labels, chosen) for name, chosen in (("train", train), ("test", test))}

        def _generate_examples(self):
            raise NotImplementedError  # abstract in TFDS; `_split_generators` returns the examples themselves

        def _examples(self, images, labels, chosen):
            for index in chosen:
                yield int(index), {"image": png(images[index]), "label": int(labels[index]), "id": int(index)}

    return Digits


def load() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8, 1) uint8, whose 17 grey levels 0..16 are stretched over 0..255, and labels (1797,)."""
    images, labels = levels()
    return np.rint(images * 255 / 16).astype(np.uint8)[..., None], labels


def levels() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8) float64 with their grey levels 0..16, and labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def test_indices(labels: np.ndarray) -> np.ndarray:
    """(360,) sorted places of the test examples: a fixed random fifth of each class.

    Sorted by class, and within a class by a hash of the place, every fifth example is taken. A hash, because a seeded
    generator may give other numbers in another version of its library.
    """
    key = [hashlib.sha256(f"digits {index}".encode()).hexdigest() for index in range(len(labels))]
    order = np.lexsort((key, labels))
    chosen = (np.arange(TEST_EXAMPLES) + 0.5) * len(labels) / TEST_EXAMPLES
    return np.sort(order[chosen.astype(int)])
