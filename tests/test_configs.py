"""Every shipped config runs: wired in full, and one step on fake data of the right shapes, evaluated and saved."""

import functools
import importlib
import os
import tempfile
from pathlib import Path

import jax
import pytest

from vision import config as configs
from vision import experiment, models, weights
from vision.train.writers import Console
from vision.training import fit

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def arguments(file):
    """The arguments that a config file accepts, by its own table; none for a file without arguments."""
    module = importlib.import_module(f"configs.{file}")
    table = getattr(module, "NETWORKS", None) or getattr(module, "RECIPES", None)
    return [f"{file}.py:{name}" for name in table] if table else [f"{file}.py"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))


def shipped():
    import sys

    sys.path.insert(0, str(ROOT))
    try:
        return [f"configs/{argument}" for file in FILES for argument in arguments(file)]
    finally:
        sys.path.remove(str(ROOT))


SHIPPED = shipped()


def with_fake_data(config):
    """The config on random images of its own data set's kind, in small batches, for one step."""
    images = {
        "digits": "fake:8x8x1:10:8",
        "cifar10": "fake:32x32x3:10:8",
        "imagenet2012": "fake:300x260x3:1000:8",
        "folder:photos": "fake:300x260x3:5:8",
    }
    for section in (config.data.train, *config.data.eval.values()):
        section.name = images[section.name]
        section.split = "train"
        section.batch_size = 2
    config.train = {"steps": 1}
    config.optimizer.warmup = 0
    if config.get("init") and config.init.weights.endswith(".safetensors"):
        config.init.weights = published_weights(config.model.name)
    return config


@functools.cache
def published_weights(name):
    """A file like the published ones of that network, with other numbers."""
    model = models.create(name, 1000)
    path = Path(tempfile.mkdtemp(dir=os.environ["VISION_TESTS_FOLDER"])) / f"{name}.safetensors"
    weights.save(path, model, models.initialize(model, jax.random.key(0), (224, 224, 3)))
    return str(path)


@pytest.mark.parametrize("path", SHIPPED)
def test_wired(path):
    """The whole experiment as shipped, with the data of the right shapes, without computing anything."""
    config = configs.load(path)
    transforms = config.data.train.transforms
    wired = experiment.build(with_fake_data(config))
    assert wired.config.data.train.transforms == transforms or transforms == "weights"
    assert wired.clock.total_steps >= 1
    assert (
        __doc__
        and importlib.import_module(f"configs.{Path(path.split(':')[0]).stem}").__doc__.count("python -m launch") >= 1
    )


SMALL = [path for path in SHIPPED if "imagenet" not in path and "transfer" not in path]


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL)
def test_one_step(path, tmp_path):
    config = with_fake_data(configs.load(path))
    run = fit(config, tmp_path, console=Console(tmp_path / "log.txt", stream=open("/dev/null", "w")))  # noqa: SIM115
    assert run.step == 1
    assert (tmp_path / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in SMALL])
def test_one_step_of_large_images(path, tmp_path):
    """Float32: bfloat16 is emulated on CPU, and takes minutes."""
    config = with_fake_data(configs.load(path))
    configs.override(config, {"model.dtype": "float32"})
    run = fit(config, tmp_path, console=Console(tmp_path / "log.txt", stream=open("/dev/null", "w")))  # noqa: SIM115
    assert run.step == 1
