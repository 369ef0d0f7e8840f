"""One JAX/Flax trainer for every classic and current computer-vision network and task.

run = vision.fit(config, "runs/a")        trains, or goes on training
run = vision.load("runs/a")               opens a trained run
run.predict(images), run.evaluate(), run.variables, run.model
model = vision.models.create("resnet50", num_classes=1000)
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Resolved on first use, so that `import vision` costs next to nothing.
_NAMES = {
    "fit": ("vision.training", "fit"),
    "load": ("vision.run", "load"),
    "Run": ("vision.run", "Run"),
    "load_config": ("vision.config", "load"),
}
_MODULES = ("config", "data", "experiment", "explain", "models", "ops", "tasks", "train", "weights")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _MODULES:
        return importlib.import_module(f"vision.{name}")
    raise AttributeError(f"module 'vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES, *_MODULES])
