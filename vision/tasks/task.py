"""The contract between a task and the trainer: plain functions of a model's outputs and a batch.

The trainer calls, in this order, inside the compiled step:

    inputs  = task.inputs(batch, train)                 -> keyword arguments of the model
    outputs = model.apply(variables, **inputs, train=train)   -> dict of named arrays
    terms   = task.loss(outputs, batch)                 -> {name: Mean(total, count)}, to be added up

and for evaluation, `task.metrics` (sums, on the device) and `task.collect` (per-example arrays for the host). There
`task.forward` stands between inputs and outputs: it may call the model several times, on windows or mirror images.
A two-stage detector fits: `inputs` hands it the padded ground truth while training, `collect` returns detections and
ground truth, and `summarize_collected` calls the COCO evaluator on the host. What `predict` gives is computed once: in
evaluation, `metrics`, `collect` and `interest` find it among the outputs, as "predictions". `loss` and `monitor` see
the outputs of the training forward pass only, all others those of evaluation. The model is initialised by its
evaluation forward pass, so every parameter has a place there; while training it may draw from the random streams
"dropout" and "sample".
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = Mapping[str, jax.Array]  # keys and shapes: image (B,H,W,C), mask (B,), label (B,), boxes (B,N,4), ...
Outputs = Mapping[str, Any]  # a model's named outputs


class Mean(NamedTuple):
    """A mean that is not divided yet, so that it adds up over micro-batches, devices and hosts."""

    total: jax.Array  # ()
    count: jax.Array  # ()


Apply = Callable[[Mapping[str, Any]], Outputs]  # the model's forward pass for evaluation: inputs -> outputs


def image_only(batch: Batch, train: bool) -> dict[str, Any]:
    """The inputs of a model that sees nothing but the image."""
    del train
    return {"image": batch["image"]}


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run learns.

    Attributes:
        loss: (outputs, batch) -> {name: Mean}. The training loss is the sum of the terms' means. Terms leave out
            examples whose `batch["mask"]` is 0.
        metrics: (outputs, batch) -> pytree of arrays that add up over batches; zero for a batch that is all masked.
        summarize: sums of `metrics`, as NumPy -> {name: float, or array for plots}. Called once, on the host.
        predict: (outputs, batch) -> {name: (B, ...)}, what a user of the model wants: probabilities, boxes, masks. Of
            the batch it may read no more than a picture without a truth has: `image`, and `size` where it is padded.
        inputs: (batch, train) -> keyword arguments of the model; `image` is preprocessed by the step on its way.
        forward: (apply, inputs) -> outputs, for evaluation and prediction: `apply(inputs)` is the model's own.
        collect: (outputs, batch) -> {name: (B, ...)}, per example, to gather on the host for metrics that are no sums.
        condense: what `collect` gives of one example, as NumPy -> what is kept of it until the end of the pass, so that
            masks, for instance, do not fill the memory.
        summarize_collected: what is kept of each real example, in data-set order -> {name: float or array}. Must accept
            an empty list, and a list of one example of nothing but zeros, with which the trainer asks for the names.
        monitor: (outputs, batch) -> {name: Mean}, logged while training beside the loss; cheap.
        interest: (outputs, batch) -> (B,): what to look at first. Pictures show the examples with the highest values.
        describe: one example's predictions as NumPy, class names -> JSON-ready facts for people.
        plots: names of functions in `vision.explain.plots.PLOTS` that draw this task's results.
        prediction_plot: the one of them that draws predictions for images without a ground truth.
        prediction_files: names of functions in `vision.explain.plots.FILES` that write the predictions of one image.
        coco_results: one image's predictions in pixels of its file, the file's (height, width), the image's number ->
            entries of a file of results in COCO's format; None for a task that finds no objects.
        maps: the predictions that are (B, H, W, ...), pixel by pixel of the image; where the image was padded, they are
            cut to its size, and they can be brought back to that of the image's file.
        boxes: the predictions that are (B, ..., 4), boxes in pixels of the image; they can be brought back likewise.
        points: the predictions that are (B, ..., 2 or more), x and y in pixels of the image first; likewise.
        best: the metric a run is judged by unless its config says otherwise.
        headlines: the metrics that the terminal shows while training, as far as there are such; () for all.
        lower_is_better: the metrics that improve downwards.
    """

    loss: Callable[[Outputs, Batch], dict[str, Mean]]
    metrics: Callable[[Outputs, Batch], Any]
    summarize: Callable[[Any], dict[str, float | np.ndarray]]
    predict: Callable[[Outputs, Batch], dict[str, jax.Array]]
    inputs: Callable[[Batch, bool], dict[str, Any]] = image_only
    forward: Callable[[Apply, Mapping[str, Any]], Outputs] = lambda apply, inputs: apply(inputs)
    collect: Callable[[Outputs, Batch], dict[str, jax.Array]] | None = None
    condense: Callable[[dict[str, np.ndarray]], Any] = lambda example: example
    summarize_collected: Callable[[list[Any]], dict[str, float | np.ndarray]] | None = None
    monitor: Callable[[Outputs, Batch], dict[str, Mean]] = lambda outputs, batch: {}
    interest: Callable[[Outputs, Batch], jax.Array] = lambda outputs, batch: batch["mask"]
    describe: Callable[[dict[str, np.ndarray], tuple[str, ...]], dict[str, Any]] = lambda predictions, class_names: {}
    plots: tuple[str, ...] = ()
    prediction_plot: str | None = None
    prediction_files: tuple[str, ...] = ()
    coco_results: Callable[[dict[str, np.ndarray], tuple[int, int], int], list[dict[str, Any]]] | None = None
    maps: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    best: str = "loss"
    headlines: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ("loss",)
