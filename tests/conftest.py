"""What all tests share: one CPU device, data prepared in a temporary folder, compiled programs kept between tests."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

# Before JAX, TFDS or absl are imported, here and in the processes that tests start. Workers of pytest-xdist inherit it.
_IS_FIRST = "VISION_TESTS_FOLDER" not in os.environ
_FOLDER = Path(os.environ.setdefault("VISION_TESTS_FOLDER", tempfile.mkdtemp(prefix="vision-tests-")))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TFDS_DATA_DIR"] = str(_FOLDER / "tensorflow_datasets")
os.environ["XDG_CACHE_HOME"] = str(_FOLDER / "cache")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_FOLDER / "cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Tests compile much and compute little. Later versions know no such emitters, and stop at the name.
_QUICKLY = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib") < "0.11":
    _QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICKLY))

import shutil

import hypothesis
import jaxtyping

# How long an example may take says more about the machine, and what else it does, than about the code.
hypothesis.settings.register_profile("vision", deadline=None)
hypothesis.settings.load_profile("vision")

# Shapes in the signatures of `vision.ops` are checked on every call.
jaxtyping.install_import_hook("vision.ops", "beartype.beartype")


def pytest_unconfigure(config):
    """Removes what the tests have written."""
    del config
    if _IS_FIRST:
        shutil.rmtree(_FOLDER, ignore_errors=True)
