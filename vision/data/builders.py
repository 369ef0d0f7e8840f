"""What the TFDS builders of this repository share: where data sets lie, and preparing one once, as a whole."""

import contextlib
import io
import os
from collections.abc import Callable

import numpy as np

from vision.errors import UsageError


def default_data_dir() -> str:
    """The TFDS data folder."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def prepare(folder: str, make_builder: Callable[[str], object], data_dir: str | None = None) -> str:
    """The folder of a prepared data set, which is written first if it is not there. Needs no network.

    Several processes may start at once: TFDS writes into a folder of its own and renames it when it is complete, so
    that the data set is there as a whole or not at all, and the one who comes second uses what the first has made.

    Args:
        folder: of the data set within the data folder: "name/version" or "name/config/version".
        make_builder: data folder -> TFDS builder.
        data_dir: the TFDS data folder; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UsageError: the folder cannot be written.
    """
    data_dir = os.path.expanduser(data_dir or default_data_dir())
    path = os.path.join(data_dir, *folder.split("/"))
    if os.path.isdir(path):
        return path
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(None):  # TFDS announces a download of unknown size
            make_builder(data_dir).download_and_prepare(download_config=config, file_format="array_record")
    except OSError as error:
        if not os.path.isdir(path):
            raise UsageError(
                f"Cannot prepare the {folder.partition('/')[0]} data set in {data_dir} ({error.strerror or error}); "
                "set TFDS_DATA_DIR to a folder that can be written."
            ) from error
    return path


def png(image: np.ndarray) -> io.BytesIO:
    """A (H, W, 1) or RGB (H, W, 3) image as PNG; TFDS takes encoded images as files."""
    from vision.data.images import opencv

    cv2 = opencv()
    _, encoded = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    return io.BytesIO(encoded.tobytes())
