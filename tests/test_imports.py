"""Imports are light: what is heavy, or not installed everywhere, is imported by the functions that need it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"tensorflow", "torch", "matplotlib", "sklearn", "pycocotools", "faster_coco_eval", "wandb"}
HEAVY |= {"tensorflow_datasets", "grain", "orbax", "cv2", "tensorboardX"}  # they cost 0.6 to 1.4 s each

SCRIPT = """
import importlib, json, pkgutil, sys

def top_level():
    return sorted({name.partition(".")[0] for name in sys.modules})

import vision
alone = top_level()
modules = [found.name for found in pkgutil.walk_packages(vision.__path__, "vision.")]
for module in modules:
    importlib.import_module(module)
print(json.dumps([alone, modules, top_level()]))
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vision_and_all_of_its_modules():
    alone, modules, everything = run(SCRIPT)
    assert not (HEAVY | {"jax", "numpy", "flax", "optax"}) & set(alone)
    assert {"vision.training", "vision.run", "vision.models.resnet", "vision.explain.plots"} <= set(modules)
    assert "jax" in everything  # the check sees what is imported
    assert not HEAVY & set(everything)


def test_commands_parse_their_flags_before_jax_is_imported():
    script = "import json, sys, launch.{}; print(json.dumps(sorted(sys.modules)))"
    for command in ("train", "evaluate", "predict"):
        assert not (HEAVY | {"jax", "numpy"}) & set(run(script.format(command))), command


def test_public_names_are_found():
    names = run("import json, vision; print(json.dumps([n for n in dir(vision) if getattr(vision, n) is None]))")
    assert names == []
