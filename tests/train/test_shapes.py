"""Training on images of several shapes compiles one program for each shape and no other, and learns from all."""

import contextlib

import jax
import numpy as np
import pytest

from vision import config as configs
from vision import experiment
from vision.data.images import opencv
from vision.train import loop, parallel, state
from vision.train.meters import Meter

STEPS = 50
CONFIG = {
    "model": {"name": "lenet"},
    "task": {"name": "classification"},
    "data": {
        "preprocess": {"name": "normalize"},
        "train": {
            "split": "train",
            "batch_size": 4,
            "transforms": "decode(channels=1)|random_resize_within((9, 12), 16)|flip|pad_to(((12, 16), (16, 12)))",
        },
        "eval": {},
    },
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
    "train": {"steps": STEPS},
}


@pytest.fixture
def wired(tmp_path):
    """Ten wide and five tall images of two classes."""
    for number in range(15):
        folder = tmp_path / "photos" / "train" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (12 + number % 2, 20) if number % 3 else (20, 13)
        image = np.random.default_rng(number).integers(0, 256, (*shape, 3), np.uint8)
        opencv().imwrite(str(folder / f"{number}.png"), image)
    made = configs.thaw(CONFIG)
    made.data.train.name = f"folder:{tmp_path / 'photos'}"
    return experiment.build(made)


@contextlib.contextmanager
def compilations():
    """The list of the programs that are compiled within it, by the seconds they took."""
    seen = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_one_program_for_each_shape(wired):
    start = state.create(wired.variables(), wired.optimizer.transform, jax.random.key(0), ema=False)
    start, step, rows = parallel.replicate(start, wired.mesh), wired.train_step(), {}
    shapes = []

    def put(batch):
        shapes.append(batch["image"].shape)
        return parallel.put_batch(batch, wired.mesh)

    hooks = loop.Hooks(rows.__setitem__, None, lambda m: False, lambda *a: None, lambda *a: None, lambda s: None)
    batches = loop.prefetch_to_device(wired.train_data.batches(), put)
    with compilations() as seen:
        outcome = loop.fit(start, step, batches, loop.Times(STEPS, 1, 0, 0), hooks, Meter())
    assert outcome.step == STEPS
    assert set(shapes) == {(4, 12, 16, 1), (4, 16, 12, 1)} == {(4, *shape) for shape in wired.train_data.image_shapes}
    tall = shapes[:STEPS].count((4, 16, 12, 1))
    assert abs(tall - STEPS / 3) <= 2
    assert len(seen) == 2
    # The log says what compiling took, when it did, and the work of a step is that of its shape.
    compiled = [at for at, row in rows.items() if "perf/compile_seconds" in row]
    assert compiled == [1, 1 + shapes.index(shapes[0][:1] + shapes[0][2:0:-1] + (1,))]
