"""Milliseconds an image that trained networks take to predict, interleaved in one run: network, decoding, suppression.

    python -m benchmarks.prediction --workdir=runs/detect-ssd --workdir=runs/detect-yolo

On images of the evaluation data of each run, which are read beforehand and not counted.
"""

from absl import app, flags

import vision
from benchmarks.timing import medians
from vision import experiment, models
from vision.run import PICTURE, compile_prediction
from vision.train.progress import table

WORKDIR = flags.DEFINE_multi_string("workdir", [], "A run folder; may be given several times.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images at once.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed rounds.", lower_bound=1)


def predictor(run: vision.Run):
    """A function that predicts one batch."""
    predict = compile_prediction(run.network)
    label = next(iter(run.config.data.eval))
    run.config.data.eval[label].batch_size = BATCH_SIZE.value
    batch = experiment.open_pipeline(run.config, f"config.data.eval.{label}", in_order=True).batch(0)
    inputs = {name: batch[name] for name in PICTURE if name in batch}
    return lambda: predict(run.variables, inputs)


def main(arguments):
    del arguments
    runs = {workdir: vision.load(workdir) for workdir in WORKDIR.value}
    if not runs:
        raise app.UsageError("--workdir names a run folder; none was given.")
    times = medians([predictor(run) for run in runs.values()], REPEATS.value)
    rows = [
        (workdir, models.count_parameters(run.variables["params"]), spent / BATCH_SIZE.value)
        for (workdir, run), spent in zip(runs.items(), times, strict=True)
    ]
    print(table(rows, ("run", "parameters", "ms an image")))


if __name__ == "__main__":
    app.run(main)
