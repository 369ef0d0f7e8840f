"""The embedded data set: scikit-learn's 1,797 handwritten digits of 8x8 pixels, in TFDS, prepared on first use."""

import contextlib
import functools
import hashlib
import io
import os

import numpy as np

from vision.errors import UsageError

TEST_EXAMPLES = 360


def prepare(data_dir: str | None = None) -> str:
    """The folder of the prepared data set, which is written first if it is not there. Needs no network.

    Several processes may start at once: TFDS writes into a folder of its own and renames it when it is complete, so
    that the data set is there as a whole or not at all, and the one who comes second uses what the first has made.

    Args:
        data_dir: the TFDS data folder; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UsageError: the folder cannot be written.
    """
    data_dir = os.path.expanduser(data_dir or default_data_dir())
    folder = os.path.join(data_dir, "digits", "1.0.0")
    if os.path.isdir(folder):
        return folder
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(None):  # TFDS announces a download of unknown size
            builder(data_dir).download_and_prepare(download_config=config, file_format="array_record")
    except OSError as error:
        if not os.path.isdir(folder):
            raise UsageError(
                f"Cannot prepare the digits data set in {data_dir} ({error.strerror or error}); "
                "set TFDS_DATA_DIR to a folder that can be written."
            ) from error
    return folder


def default_data_dir() -> str:
    """The TFDS data folder."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


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
                yield int(index), {"image": _png(images[index]), "label": int(labels[index]), "id": int(index)}

    return Digits


def load() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8, 1) uint8, whose 17 grey levels 0..16 are stretched over 0..255, and labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.rint(data.images * 255 / 16).astype(np.uint8)[..., None], data.target


def test_indices(labels: np.ndarray) -> np.ndarray:
    """(360,) sorted places of the test examples: a fixed random fifth of each class.

    Sorted by class, and within a class by a hash of the place, every fifth example is taken. A hash, because a seeded
    generator may give other numbers in another version of its library.
    """
    key = [hashlib.sha256(f"digits {index}".encode()).hexdigest() for index in range(len(labels))]
    order = np.lexsort((key, labels))
    chosen = (np.arange(TEST_EXAMPLES) + 0.5) * len(labels) / TEST_EXAMPLES
    return np.sort(order[chosen.astype(int)])


def _png(image: np.ndarray):
    from vision.data.images import opencv

    _, encoded = opencv().imencode(".png", image)
    return io.BytesIO(encoded.tobytes())  # TFDS takes encoded images as files
