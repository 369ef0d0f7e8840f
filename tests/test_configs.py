"""Every shipped config trains a step on fake data of the right shapes, and one of each kind runs in full."""

import functools
import importlib
import io
import os
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import config as configs
from vision import experiment, models, schema, weights
from vision.data import catalog
from vision.train import state, step
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
    "coco:../coco": "fake_detection:480x640x3:80:8",
    "voc:VOCdevkit/VOC2007": "fake_detection:375x500x3:20:8",
    "voc:../shared/data/bccd": "fake_detection:480x640x3:3:8",
}
OF_OBJECTS = "fake_detection:96x96x3:10:8"  # of the scenes of digits


def with_fake_data(config):
    """The config on random images of its own data set's kind, in small batches, for one step."""
    for section in (config.data.train, *config.data.eval.values()):
        asked = dict(section.get("source") or {})
        with_objects = section.name == "digit_scenes" and asked.get("annotations") in ("boxes", "masks")
        section.name = OF_OBJECTS if with_objects else FAKES[section.name]
        section.split = "train"
        section.batch_size = 2
        section.source = {}
        if section.name.startswith("fake_detection"):
            section.source = {"annotations": asked.get("annotations", "boxes")}
            if asked.get("objects") == "one":
                section.source["max_objects"] = 1
    config.train = {"steps": 1}
    config.optimizer.warmup = 0
    weights = config.init.weights if config.get("init") else None
    if weights and weights.endswith(".safetensors"):
        config.init.weights = published_weights(Path(weights).stem)
    elif weights and weights.startswith("runs/"):
        config.init.weights = pretrained_run(weights)
    elif weights:  # of a format that nothing here writes
        config.init = {}
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


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_has_the_command(file):
    assert importlib.import_module(f"configs.{file}").__doc__.count("python -m launch") >= 1


@pytest.mark.parametrize("path", SHIPPED)
def test_the_options_of_the_data_are_those_of_their_kind(path):
    """Without the data, for which the other tests take random images with options of their own."""
    config = configs.load(path)
    for section in (config.data.train, *config.data.eval.values()):
        schema.check(catalog.opener(section.name), dict(section.get("source") or {}), section.name, catalog.FACTS)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SHIPPED if re.search("imagenet|voc|city|coco", path)])
def test_wired_at_full_size(path):
    """The whole experiment as shipped, with the data of the right shapes, without computing anything."""
    config = with_fake_data(configs.load(path))
    config.init = {}
    transforms = config.data.train.transforms
    wired = experiment.build(config)
    assert wired.config.data.train.transforms == transforms
    assert wired.clock.total_steps == 1


# One of each kind through the whole of `fit`: initialisation, training, evaluation, checkpoint, pictures.
IN_FULL = [
    *(f"configs/digits.py:{name}" for name in ("resnet", "autoencoder")),
    *(f"configs/autoencode.py:{name}" for name in ("denoising", "mae")),
    "configs/pretrain.py:finetune",
    "configs/segment.py:fcn8s",
    "configs/nuclei.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("path", IN_FULL)
def test_a_run_of_one_step(path, tmp_path):
    config = with_fake_data(configs.load(path))
    run = fit(config, tmp_path, console=Console(tmp_path / "log.txt", stream=io.StringIO()))
    assert run.step == 1
    assert (tmp_path / "summary.json").exists()


# The full networks need minutes for a step on a CPU, and bfloat16 is emulated there: what is made smaller.
FEWER_CHANNELS = {"fcn32s": {"width": 4, "hidden": 16}, "unet": {"width": 2}}
FEWER_CHANNELS |= dict.fromkeys(("fcn16s", "fcn8s"), FEWER_CHANNELS["fcn32s"])
LARGE = ("imagenet", "transfer", "voc", "cityscapes")
# Detectors at their full size want minutes, too: small trunks, few proposals, small images.
_SMALL = {"name": "resnet18", "width": 4}
_TWO_STAGE = {"channels": 8, "box_hidden": (8,), "before_nms": (50, 20), "proposals": (20, 8), "roi_samples": 16}
FEWER_OF_DETECTORS = {
    "fasterrcnn_resnet50_fpn": {"backbone": _SMALL, **_TWO_STAGE},
    "maskrcnn_resnet50_fpn": {"backbone": _SMALL, **_TWO_STAGE, "mask_convolutions": (8,)},
    "keypointrcnn_resnet50_fpn": {"backbone": _SMALL, **_TWO_STAGE, "keypoint_convolutions": (8,)},
    "fasterrcnn_vgg16": {
        "backbone": {"name": "vgg16", "width": 4},
        **{key: _TWO_STAGE[key] for key in ("box_hidden", "before_nms", "proposals", "roi_samples")},
    },
    "retinanet_resnet50_fpn": {"backbone": _SMALL, "channels": 8},
    "ssd300_vgg16": {"backbone": {"name": "vgg16_dilated", "width": 4, "hidden": 8}, "extra": (8, 8, 8, 8)},
    "yolov1": {"backbone": {"name": "extraction", "width": 0.125}, "convolutions": (8, 8, 8, 8), "hidden": (16,)},
    "yolov3": {"backbone": {"name": "darknet53", "width": 4}, "width": 4},
}
# Compiling takes a time that goes with the number of layers: the deep networks repeat fewer of the same.
FEWER_LAYERS = {
    "densenet": {"block_sizes": (2, 2, 2)},
    "resnetv2_50x1_bit": {"stage_sizes": (1, 1, 1, 1)},
    **{name: {"stage_sizes": (1, 1, 1)} for name in ("resnet56", "resnet110", "wide_resnet28_10")},
    **{name: {"repeats": 1} for name in ("googlenet", "inception_v3", "inception_v4", "inception_resnet_v2")},
    **{name: {"depth": 2} for name in ("vit", "vit_tiny_r_s16_p8_224")},
}


# The step runs once.
QUICKLY = {"xla_backend_optimization_level": 0}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in IN_FULL])
def test_one_step(path):
    config = with_fake_data(configs.load(path))
    if any(name in path for name in LARGE):
        config.model.update(FEWER_CHANNELS.get(config.model.name, {}), dtype="float32")
    elif not config.get("init"):
        config.model.update(FEWER_LAYERS.get(config.model.name, {}))
    if any(name in path for name in ("configs/coco_", "configs/voc_")) and config.model.name in FEWER_OF_DETECTORS:
        config.model.update(FEWER_OF_DETECTORS[config.model.name], dtype="float32")
        config.init = {}
        for section in (config.data.train, *config.data.eval.values()):
            section.transforms = section.transforms.replace("resize_within(800, 1333)", "resize_within(160, 256)")
            section.transforms = section.transforms.replace("resize_within(600, 1000)", "resize_within(160, 256)")
            section.transforms = re.sub(r"\(640,.*?\), 1333", "(128, 160), 256", section.transforms)
            section.transforms = re.sub(r"pad_to\(.*\)", "pad_to(((256, 256),))", section.transforms)
    wired = experiment.build(config)
    variables = wired.variables() if wired.config.init.weights else random_variables(wired.shapes)
    before = state.create(variables, wired.optimizer.transform, jax.random.key(0), wired.step_options().ema is not None)
    network = wired.network
    train_step = step.make_train_step(
        network.model, network.task, network.preprocess, wired.optimizer, wired.step_options()
    )
    lowered = jax.jit(train_step).lower(before, wired.train_data.batch(0))
    after, metrics = lowered.compile(compiler_options=QUICKLY)(before, wired.train_data.batch(0))
    assert int(after.step) == 1
    assert all(np.isfinite(float(total)) for total, _ in metrics.values())
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params, after.params)))


def random_variables(shapes):
    """Variables without compiling an initialiser: small random kernels, norms that change nothing."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("scale", "var"):
            return jnp.ones(shape.shape, shape.dtype)
        if len(shape.shape) < 2:
            return jnp.zeros(shape.shape, shape.dtype)
        return jnp.asarray(0.05 * rng.standard_normal(shape.shape), shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
