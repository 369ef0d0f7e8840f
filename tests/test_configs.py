"""Every shipped config runs: wired in full, and one step on fake data of the right shapes, evaluated and saved."""

import functools
import importlib
import io
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


FAKES = {  # data set -> random images of its kind
    "digits": "fake:8x8x1:10:8",
    "cifar10": "fake:32x32x3:10:8",
    "imagenet2012": "fake:300x260x3:1000:8",
    "folder:photos": "fake:300x260x3:5:8",
    "digit_scenes": "fake_segmentation:96x96x3:11:8",
    "pairs:../shared/data/nuclei": "fake_segmentation:256x320x3:2:8",
    "pairs:VOCdevkit/VOC2012": "fake_segmentation:375x500x3:21:8",
    "cityscapes/semantic_segmentation": "fake_segmentation:1024x2048x3:19:8",
}


def with_fake_data(config):
    """The config on random images of its own data set's kind, in small batches, for one step."""
    for section in (config.data.train, *config.data.eval.values()):
        section.name = FAKES[section.name]
        section.split = "train"
        section.batch_size = 2
        section.source = {}
    config.train = {"steps": 1}
    config.optimizer.warmup = 0
    weights = config.init.weights if config.get("init") else None
    if weights and weights.endswith(".safetensors"):
        config.init.weights = published_weights(Path(weights).stem)
    elif weights:
        config.init.weights = pretrained_run(weights)
    return config


@functools.cache
def pretrained_run(workdir):
    """A run folder like the one that the config wants, after one step: of the config whose default folder it is."""
    file, _, argument = Path(workdir).name.partition("-")
    folder = Path(tempfile.mkdtemp(dir=os.environ["VISION_TESTS_FOLDER"])) / "run"
    config = with_fake_data(configs.load(f"configs/{file}.py:{argument}"))
    return str(fit(config, folder, console=Console(folder.with_suffix(".txt"), stream=io.StringIO())).workdir)


@functools.cache
def published_weights(name):
    """A file like the published ones of that network, with other numbers."""
    model = models.create(name, 1000, **({"width": 4, "hidden": (16, 16)} if name == "vgg16" else {}))
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


# The full networks need minutes for a step on a CPU, and bfloat16 is emulated there: what is made smaller.
FEWER_CHANNELS = {"fcn32s": {"width": 4, "hidden": 16}, "unet": {"width": 2}}
FEWER_CHANNELS |= dict.fromkeys(("fcn16s", "fcn8s"), FEWER_CHANNELS["fcn32s"])


def one_step(config, folder):
    run = fit(config, folder, console=Console(folder / "log.txt", stream=io.StringIO()))
    assert run.step == 1
    assert (folder / "summary.json").exists()


LARGE = [path for path in SHIPPED if any(name in path for name in ("imagenet", "transfer", "voc", "cityscapes"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in LARGE])
def test_one_step(path, tmp_path):
    one_step(with_fake_data(configs.load(path)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", LARGE)
def test_one_step_of_large_images(path, tmp_path):
    config = with_fake_data(configs.load(path))
    config.model.update(FEWER_CHANNELS.get(config.model.name, {}), dtype="float32")
    one_step(config, tmp_path)
