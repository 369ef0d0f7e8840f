"""Preprocessing on the device, and its constants measured from the training split."""

import json
import pickle

import jax
import numpy as np
import pytest

from vision.data import open_source, preprocess
from vision.data.digits import load
from vision.data.source import ImageRecords, Source
from vision.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "normalize"}, IMAGES / 255),
        ({"name": "normalize", "low": -1.0, "high": 1.0}, IMAGES / 127.5 - 1),
        ({"name": "center", "mean": MEAN}, IMAGES / 255 - MEAN),
        ({"name": "standardize", "mean": MEAN, "std": STD}, (IMAGES / 255 - MEAN) / STD),
        ({"name": "standardize", "mean": [0.5], "std": [0.25]}, IMAGES / 63.75 - 2),
    ],
)
def test_definitions(section, expected):
    function = jax.jit(pickle.loads(pickle.dumps(preprocess.create(**section))))
    result = function(IMAGES)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_measured_constants_are_those_of_the_training_split():
    source = open_source("digits", "train")
    section = preprocess.resolve({"name": "standardize"}, source, "decode(channels=1)|random_crop(8, padding=2)")
    stored = json.loads(json.dumps(section))
    images = np.stack([source.records[i]["label"] * 0 + _pixels(source, i) for i in range(len(source))]) / 255
    np.testing.assert_allclose(stored["mean"], [images.mean()], atol=1e-6)
    np.testing.assert_allclose(stored["std"], [images.std()], atol=1e-6)
    everything = np.asarray(preprocess.create(**stored)(load()[0]))
    assert abs(everything.mean()) < 0.02 and abs(everything.std() - 1) < 0.02


def _pixels(source, index):
    from vision.data.images import decode

    return decode(source.records[index]["image"], channels=1)


def test_images_of_any_size_count_alike_and_a_constant_channel_is_kept():
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    large[..., 0] = 255
    measured = preprocess.measure(Source("two", "train", ImageRecords([small, large, b"damaged"])), "decode")
    assert measured == {"mean": (0.5, 0.0, 0.0), "std": (0.5, 1.0, 1.0)}


def test_constants_that_are_given_need_no_measuring():
    section = {"name": "standardize", "mean": MEAN, "std": list(STD)}
    source = Source("none", "train", ImageRecords([]))
    resolved = {"name": "standardize", "mean": MEAN, "std": STD, "channel_order": "RGB"}
    assert preprocess.resolve(section, source, "") == resolved
    assert preprocess.resolve({"name": "normalize"}, source, "") == {"name": "normalize", "low": 0.0, "high": 1.0}


def test_each_image_by_itself():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    image[1] //= 8  # a dim one, which then looks like the others
    found = preprocess.create("standardize_each")(image)
    for one, given in zip(image, found, strict=True):
        np.testing.assert_allclose(given, (one - one.mean()) / one.std(), rtol=1e-4, atol=1e-5)
    assert not np.any(preprocess.create("standardize_each")(np.full((1, 3, 3, 1), 7, np.uint8)))


def test_blue_first():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    blue_first = preprocess.create("standardize", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channel_order="BGR")
    expected = (image[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    np.testing.assert_allclose(blue_first(image), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "standardise"},
            "config.preprocess.name: unknown preprocessing 'standardise'; did you mean 'standardize'",
        ),
        ({"name": "center", "std": (1.0,)}, "config.preprocess.std: unknown key"),
        ({"name": "center", "mean": "test"}, "config.preprocess.mean: expected"),
        ({"name": "center", "mean": 0.5}, "config.preprocess.mean: expected"),
        (
            {"name": "standardize", "mean": MEAN, "std": (0.2, 0.0, 0.2)},
            "config.preprocess.std: expected numbers above 0",
        ),
        ({"name": "standardize", "mean": MEAN, "std": [-0.2]}, "config.preprocess.std: expected numbers above 0"),
    ],
)
def test_mistakes(section, message):
    with pytest.raises(UsageError, match=message):
        preprocess.resolve(section, open_source("fake:4x4x3:2", "train"), "decode", "config.preprocess")
    with pytest.raises(UsageError, match=message):
        preprocess.create(**section, where="config.preprocess")


def test_constants_that_are_still_to_be_measured_or_do_not_fit():
    with pytest.raises(UsageError, match=r"^config.data.preprocess.mean: 'train' is to be measured first"):
        preprocess.create("center")
    with pytest.raises(UsageError, match=r"^config.data.preprocess.mean: 3 values .* for images of 1 channels"):
        preprocess.create("center", mean=MEAN)(IMAGES[..., :1])


def test_padding_is_not_measured():
    source = open_source("fake:12x20x3:2:9", "train")
    plain = preprocess.measure(source, "decode")
    assert preprocess.measure(source, "decode|pad_to(((12, 20),))") == plain
    assert preprocess.measure(source, "decode|scale_jitter|random_crop(9)|pad_to(((9, 9),))") == plain
    assert preprocess.measure(source, "decode|letterbox((30, 20))|flip") == plain
