"""`jit` over a mesh against `pmap`: milliseconds a training step on 1 and 8 devices, interleaved in one run.

    python -m benchmarks.parallel                      # 8 simulated devices where there are no real ones

On simulated devices all of them share the CPU: compare the two ways with each other, not 1 device with 8.
"""

import os

# Before JAX is imported; without effect on GPUs and TPUs.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import statistics
import time

import jax
import numpy as np
from absl import app, flags

from vision import models, tasks
from vision.data import preprocess
from vision.train import optimizer as optimizers
from vision.train import parallel, state, step
from vision.train.durations import Clock
from vision.train.progress import table
from vision.train.writers import Console

REPEATS = flags.DEFINE_integer("repeats", 10, "Timed rounds.")
STEPS = flags.DEFINE_integer("steps", 10, "Steps a round.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step, over all devices.")

NETWORKS = {
    "mlp": (dict(name="mlp", hidden=(128,)), (8, 8, 1)),
    "lenet": (dict(name="lenet"), (32, 32, 1)),
    "resnet": (dict(name="resnet", stage_sizes=(1, 1, 1), width=16, small_images=True), (16, 16, 1)),
    "vit": (dict(name="vit", patch_size=4, width=64, depth=4, heads=4), (16, 16, 1)),
}


def stepper(section, shape, mode, mesh):
    """A function that makes some steps, waits for the last, and gives seconds a step."""
    model = models.create(**section, num_classes=10)
    task = tasks.create("classification", num_classes=10)
    normalize = preprocess.create("normalize")
    variables = models.initialize(model, jax.random.key(0), shape)
    made = optimizers.create("adamw", 1e-3, params=variables["params"], clock=Clock(BATCH_SIZE.value, 1000, 1000))
    current = parallel.replicate(state.create(variables, made.transform, jax.random.key(1), False), mesh)
    batch = {
        "image": np.zeros((BATCH_SIZE.value, *shape), np.uint8),
        "label": np.zeros(BATCH_SIZE.value, np.int32),
        "mask": np.ones(BATCH_SIZE.value, np.float32),
    }
    batch = parallel.put_batch(batch, mesh, mode)

    def make(axis_name):
        network = parallel.with_axis(model, axis_name)
        return step.make_train_step(network, task, normalize, made, axis_name=axis_name)

    compiled = parallel.CompiledStep(parallel.compile_train_step(make, mode, mesh))
    compiled.compile(current, batch)

    def go(steps: int) -> float:
        nonlocal current
        start = time.perf_counter()
        for _ in range(steps):
            current, metrics = compiled(current, batch)
        jax.block_until_ready((current, metrics))
        return (time.perf_counter() - start) / steps

    return go


def main(argv):
    """Prints one row for each network and number of devices."""
    del argv
    devices = jax.devices()
    rows = []
    for name, (section, shape) in NETWORKS.items():
        for count in sorted({1, len(devices)}):
            mesh = parallel.make_mesh(devices[:count])
            ways = {mode: stepper(section, shape, mode, mesh) for mode in ("jit", "pmap")}
            for way in ways.values():
                way(2)
            times = {mode: [] for mode in ways}
            for _ in range(REPEATS.value):
                for mode, way in ways.items():
                    times[mode].append(1e3 * way(STEPS.value))
            jit, pmap = (statistics.median(times[mode]) for mode in ("jit", "pmap"))
            ratio = statistics.median(p / j for p, j in zip(times["pmap"], times["jit"], strict=True))
            rows.append((f"{name}, {count} x {devices[0].device_kind}", jit, pmap, ratio))
    Console().print(table(rows, ("network and devices", "jit ms", "pmap ms", "pmap / jit")))


if __name__ == "__main__":
    app.run(main)
