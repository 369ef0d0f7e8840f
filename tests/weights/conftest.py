"""The published networks as `tests/fixtures/reference` knows them: names and shapes, deterministic values, answers."""

import functools
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "reference"


def _fill_module():
    spec = importlib.util.spec_from_file_location("reference_fill", FOLDER / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reference:
    """What is known of each network, by its full name: "torchvision/resnet50"."""

    def __init__(self):
        self._fill = _fill_module()
        with gzip.open(FOLDER / "state_dicts.json.gz", "rt") as file:
            self._networks = json.load(file)

    def names(self):
        """The classifiers whose logits are known, in the order of the file."""
        known = {path.stem for path in (FOLDER / "expected").glob("*.npz")}
        return [name for name in self._networks if name.replace("/", "_", 1) in known and name not in DENSE]

    def shapes(self, name):
        """Names and shapes of the state dict."""
        return {key: tuple(shape) for key, shape in self._networks[name]["state_dict"].items()}

    def parameters(self, name):
        """Number of trainable scalars."""
        return self._networks[name]["params"]

    def state_dict(self, name):
        """The state dict, filled."""
        return _filled(self, name)

    def image(self, name):
        """The images (2, H, W, 3) that the logits are for."""
        side = 299 if "inception" in name else 224
        return self._fill.image(2, side, side)

    def logits(self, name):
        """The published implementation's logits (2, 1000)."""
        with np.load(FOLDER / "expected" / f"{name.replace('/', '_', 1)}.npz") as file:
            return file["logits"]


@functools.lru_cache(maxsize=1)  # a VGG is half a gigabyte
def _filled(reference, name):
    return {key: reference._fill.fill(key, shape) for key, shape in reference.shapes(name).items()}


DENSE = tuple(
    f"torchvision/{name}"
    for name in ("fcn_resnet50", "ssd300_vgg16", "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
)
_REFERENCE = Reference()


@pytest.fixture(scope="session")
def reference():
    return _REFERENCE


def pytest_generate_tests(metafunc):
    """A test that asks for `published` runs for every classifier of the reference."""
    if "published" in metafunc.fixturenames:
        metafunc.parametrize("published", _REFERENCE.names())
