"""One device, `jit` over eight and `pmap` over eight train the same network; accumulation and penalties are exact.

Eight simulated CPU devices need a process of their own: this file is also the script that runs in it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEVICES, STEPS, BATCH = 8, 5, 32
MODELS = {
    "resnet": dict(name="resnet", stage_sizes=(1, 1), width=8, small_images=True, num_classes=10),
    "vit": dict(name="vit", patch_size=4, width=32, depth=2, heads=2, num_classes=10),
}


def make_batch(step):
    import numpy as np

    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (BATCH, 8, 8, 3)).astype(np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
        "mask": (rng.random(BATCH) > 0.2).astype(np.float32),  # devices have different numbers of real examples
    }


def train(model_section, mode="jit", devices=None, steps=STEPS, optimizer=None, masks=True):
    """The state after some steps, and the last step's metrics, on the given number of devices."""
    import jax
    import numpy as np

    from vision import models, tasks
    from vision.data import preprocess
    from vision.train import optimizer as optimizers
    from vision.train import parallel, state, step
    from vision.train.durations import Clock

    mesh = parallel.make_mesh(jax.devices()[:devices])
    model = models.create(**model_section)
    task = tasks.create("classification", num_classes=10)
    normalize = preprocess.create("normalize", low=-1.0)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False)
    section = dict(name="momentum", learning_rate=0.05, momentum=0.9) | (optimizer or {})
    options = step.StepOptions(**{k: v for k, v in section.items() if k in step.StepOptions._fields})
    made = optimizers.create(**section, params=variables["params"], clock=Clock(BATCH, 1000, 100))
    current = parallel.replicate(state.create(variables, made.transform, jax.random.key(1), bool(options.ema)), mesh)

    def make(axis_name):
        return step.make_train_step(parallel.with_axis(model, axis_name), task, normalize, made, options, axis_name)

    compiled = parallel.CompiledStep(parallel.compile_train_step(make, mode, mesh), options.accumulate)
    for index in range(steps):
        batch = make_batch(index)
        if not masks:
            batch["mask"][:] = 1
        batch = parallel.put_batch(batch, mesh, mode)
        if compiled.is_new(batch):
            compiled.compile(current, batch)
        current, metrics = compiled(current, batch)
    assert len(compiled._compiled) == 1
    return jax.device_get(current.replace(rng=None)), jax.device_get(metrics)


def difference(one, other):
    """Largest difference of any array, relative to that array's largest value.

    Values below 1e-3 count as 1e-3: the biases of attention's keys have no gradient but rounding, and stay near 1e-9.
    """
    import jax
    import numpy as np

    def relative(a, b):
        return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(b), initial=0), 1e-3))

    return max(jax.tree.leaves(jax.tree.map(relative, one, other)), default=0.0)


def main():
    """Prints {model: {mode: largest relative difference from one device}}."""
    found = {}
    for name, section in MODELS.items():
        alone, alone_metrics = train(section, "jit", 1, optimizer={"ema": 0.9, "l2": 1e-3})
        for mode in ("jit", "pmap"):
            many, metrics = train(section, mode, DEVICES, optimizer={"ema": 0.9, "l2": 1e-3})
            found[f"{name} {mode}"] = {
                "params": difference(many.params, alone.params),
                "model_state": difference(many.model_state, alone.model_state),
                "ema": difference(many.ema, alone.ema),
                "metrics": difference(metrics, alone_metrics),
            }
    print(json.dumps(found))


@pytest.mark.slow
def test_one_device_equals_eight_by_jit_and_by_pmap():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"resnet jit", "resnet pmap", "vit jit", "vit pmap"}
    for run, differences in found.items():
        for what, value in differences.items():
            assert value <= 1e-5, f"{run}: {what} differs by {value}"


if __name__ == "__main__":
    main()
