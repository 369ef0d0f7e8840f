"""Other projects' weights predict as their own networks would."""

import cv2
import jax
import numpy as np
import pytest

from vision import models, pretrained, weights
from vision.errors import UsageError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A ResNet-18 with random weights under torchvision's names, and the same variables in our form."""
    model = models.create("resnet18", 1000)
    random = np.random.default_rng(0)

    def value(path, leaf):  # as a new network's are, but for the compiling
        if leaf.ndim > 1:
            return random.standard_normal(leaf.shape, np.float32) * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    variables = jax.tree.map_with_path(value, models.variable_shapes(model, (64, 64, 3)))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    weights.save(path, model, variables, format="torchvision")
    return path, model, variables


@pytest.mark.slow
def test_predictions_equal_the_published_preprocessing_by_hand(file, tmp_path):
    path, model, variables = file
    photo = np.random.default_rng(0).integers(0, 256, (256, 320, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    (found,) = pretrained.load("resnet18", path).predict([str(tmp_path / "photo.png")])
    crop = photo[16:240, 48:272]  # its shorter side is 256 already
    normalised = (crop / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits = model.apply(variables, normalised[None].astype(np.float32), train=False)["logits"][0]
    probabilities = np.asarray(jax.nn.softmax(logits))
    assert found["class"] == weights.imagenet_classes()[int(probabilities.argmax())]
    assert found["probability"] == pytest.approx(float(probabilities.max()), rel=1e-4)
    assert len(found["top5"]) == 5


def test_weights_of_another_network_are_named(file):
    with pytest.raises(UsageError, match=r"resnet18\.safetensors: "):
        pretrained.load("resnet34", file[0])
    with pytest.raises(UsageError, match="no such file of weights"):
        pretrained.load("resnet18", file[0].parent / "none.pth")
