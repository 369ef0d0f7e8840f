"""What weights expect of images."""

import numpy as np
import pytest

from vision import weights
from vision.data import preprocess
from vision.errors import UsageError


def apply(record, image):
    """The image as a network with these weights sees it, by the section that a run's config gets."""
    return preprocess.create(**record.section())(image)


def test_torchvision():
    record = weights.preprocessing("torchvision", "resnet101")
    assert (record.size, record.resize, record.interpolation, record.channel_order) == (
        (224, 224),
        256,
        "bilinear",
        "RGB",
    )
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(apply(record, image), expected, rtol=1e-4, atol=1e-5)
    assert weights.preprocessing("torchvision", "inception_v3").size == (299, 299)
    # torchvision's `transform_input` turns ImageNet's normalisation into this one.
    googlenet = weights.preprocessing("torchvision", "googlenet")
    transformed = expected * (np.array([0.229, 0.224, 0.225]) / 0.5) + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    np.testing.assert_allclose(apply(googlenet, image), transformed, rtol=1e-4, atol=1e-5)


def test_caffe_is_blue_first_and_not_scaled():
    record = weights.preprocessing("keras", "resnet50")
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    expected = image[..., ::-1].astype(float) - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(apply(record, image), expected, atol=1e-3)


def test_timm_and_big_vision():
    assert weights.preprocessing("timm", "vit_base_patch16_384").size == (384, 384)
    record = weights.preprocessing("timm", "vit_base_patch16_224")
    assert (record.resize, record.interpolation, record.mean) == (248, "bicubic", (0.5, 0.5, 0.5))
    np.testing.assert_allclose(
        apply(weights.preprocessing("big_vision"), np.array([[[[0, 255, 51]]]])), [[[[-1, 1, -0.6]]]], atol=1e-6
    )


def test_every_source_has_a_record():
    for source in weights.RULES:
        assert weights.preprocessing(source, "anything").mean
    with pytest.raises(UsageError, match="unknown source of weights 'torch'"):
        weights.preprocessing("torch")


def test_imagenet_classes():
    names = weights.imagenet_classes()
    assert len(names) == 1000
    assert (names[0], names[3], names[281], names[698], names[999]) == (
        "tench",
        "tiger shark",
        "tabby",
        "palace",
        "toilet tissue",
    )
