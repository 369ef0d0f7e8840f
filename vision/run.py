"""A trained run: `load` opens its folder, and a `Run` predicts and evaluates, without an optimiser."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.errors import ScopeParamShapeError
from ml_collections import ConfigDict

from vision import data, experiment
from vision.config import thaw
from vision.data import chain
from vision.data.annotations import PROPOSALS
from vision.data.images import opencv
from vision.errors import UsageError, unknown_name
from vision.experiment import Network
from vision.explain.results import without_padding
from vision.tasks.objects import boxes_in_file, points_in_file
from vision.train import evaluation, parallel, step
from vision.train.checkpoints import Checkpoints

# Transforms after which every part of the image is still there, in its place but for the scale and a border that
# `size` tells of.
_KEEP_THE_WHOLE = frozenset(
    {
        "decode",
        "keep",
        "channel",
        "autocontrast",
        "gamma",
        "resize",
        "resize_small",
        "resize_long",
        "resize_within",
        "letterbox",
        "pad_to",
        "selective_search",
    }
)

# Fields of a batch that prediction reads: those of a picture without a truth.
PICTURE = ("image", "size", *PROPOSALS)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with everything needed to use it.

    Attributes:
        workdir: the run folder.
        config: its complete config.
        network: model, task, preprocessing and the description of the data.
        variables: {"params": ..., "batch_stats": ...}: the moving average where the run kept one.
        step: the checkpoint's step.
        stopped_by: the signal that stopped training before its end, or None.
    """

    workdir: Path
    config: ConfigDict
    network: Network
    variables: dict[str, Any]
    step: int
    stopped_by: str | None = None

    @property
    def model(self) -> Any:
        """The Linen module: `run.model.apply(run.variables, run.network.preprocess(images), train=False)`."""
        return self.network.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(self.network.description["class_names"])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of the images the network was evaluated with."""
        return tuple(self.network.description["image_shape"])

    def predict(self, images: Any, batch_size: int = 32, on_bad_image: str = "stop") -> list[dict[str, Any]]:
        """Predictions for images, with the preprocessing stored in the run; see `predictions` for raw arrays.

        Args:
            images: file names, encoded bytes, or uint8 arrays (H, W), (H, W, C), also stacked.
            batch_size: images at a time.
            on_bad_image: "stop", or "skip" to leave unreadable ones out.

        Returns:
            One dict an image, JSON-ready: {"class", "probability", "top5"} for a classifier; boxes and points are in
            pixels of the images as given.
        """
        describe = self.network.task.describe
        return [
            describe(self.in_file(example)["predictions"], self.class_names)
            for example in self.predictions(images, batch_size, on_bad_image)
        ]

    def predictions(self, images: Any, batch_size: int = 32, on_bad_image: str = "stop") -> Iterator[dict[str, Any]]:
        """For each image {"index", "image" (uint8, as the network saw it), "predictions": {name: array}}, in order.

        Where the transforms pad images, the padding is cut off again, of the image and of the predictions that go with
        its pixels. Boxes and points are in pixels of this image, and "placement" (6,) is the matrix to it from the one
        that was given; see `in_file`.
        """
        mesh = parallel.make_mesh(jax.local_devices()[:1])
        predict = compile_prediction(self.network)
        variables = parallel.replicate(self.variables, mesh)
        if isinstance(images, str | bytes | os.PathLike):
            raise UsageError("predict takes several images: a list of file names, encoded bytes or arrays.")
        pipeline = data.from_images(
            list(images), self.network.description["transforms"], batch_size=batch_size, on_bad_image=on_bad_image
        )
        waiting, turn = {}, 0  # images of different shapes come out of order
        for batch in pipeline.batches():
            try:
                outputs = jax.device_get(predict(variables, {name: batch[name] for name in PICTURE if name in batch}))
            except ScopeParamShapeError as error:
                given, trained = (" x ".join(map(str, s)) for s in (batch["image"].shape[1:], self.image_shape))
                raise UsageError(
                    f"After the run's transforms ({self.network.description['transforms']}) the images are {given}; "
                    f"the network was trained on {trained}. Resize them first."
                ) from error
            for row in np.flatnonzero(batch["index"] >= 0).tolist():
                index = int(batch["index"][row])
                waiting[index] = None
                if batch["mask"][row]:
                    size = batch["size"][row] if "size" in batch else None
                    image = without_padding({"image": batch["image"][row]}, ("image",), size)
                    arrays = jax.tree.map(lambda x, row=row: x[row], outputs)
                    arrays = without_padding(arrays, self.network.task.maps, size)
                    place = {"placement": batch["placement"][row]} if "placement" in batch else {}
                    waiting[index] = {"index": index, **image, **place, "predictions": arrays}
            while turn in waiting:
                found = waiting.pop(turn)
                turn += 1
                if found:
                    yield found

    def sees_whole_images(self) -> bool:
        """Whether the run's transforms keep all of an image, so that what is found at its pixels fits the file's."""
        calls = chain.parse(self.network.description["transforms"])
        return all(call.name in _KEEP_THE_WHOLE for call in calls)

    def at_size(self, example: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """A prediction brought back to the size of the image it is of, as if the network had seen it so.

        Args:
            example: of `predictions`; where the task has maps, of a run that `sees_whole_images`.
            image: (H, W, C) uint8, the file's own.

        Returns:
            The example with this image, and the predictions that go with pixels resized to it: class ids, and all that
            are integers, by their nearest pixel, others linearly. Boxes and points are in its pixels.
        """
        maps = {name: _resized(example["predictions"][name], image.shape[:2]) for name in self.network.task.maps}
        moved = self.in_file(example)["predictions"]
        return {**example, "image": image, "predictions": {**moved, **maps}}

    def in_file(self, example: dict[str, Any]) -> dict[str, Any]:
        """A prediction with its boxes and points in pixels of the image that was given, float64.

        Args:
            example: of `predictions`.
        """
        task, placement = self.network.task, example.get("placement")
        predictions = dict(example["predictions"])
        for names, move in ((task.boxes, boxes_in_file), (task.points, points_in_file)):
            predictions |= {name: move(predictions[name], placement) for name in names if name in predictions}
        return {**example, "predictions": predictions}

    def evaluate(self, label: str | None = None, show: int = 0) -> dict[str, evaluation.Evaluation]:
        """One pass over each evaluation split of the config, or over the one of that label: {label: Evaluation}.

        Raises:
            UsageError: no split of that label.
        """
        labels = list(self.config.data.eval)
        if label is not None and label not in labels:
            raise unknown_name("evaluation split", label, labels)
        mesh = parallel.make_mesh()
        variables = parallel.replicate(self.variables, mesh)
        compiled = compile_evaluation(self.network, mesh)
        results = {}
        for name in labels if label is None else [label]:
            path = f"config.data.eval.{name}"
            pipeline = experiment.open_pipeline(self.config, path)
            parallel.check_batch_size(pipeline.batch_size, mesh, path)
            results[name] = evaluation.evaluate(compiled, variables, pipeline, self.network.task, mesh, show)
        return results


def _resized(values: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """(h, w, ...) -> (H, W, ...)."""
    if values.shape[:2] == tuple(sides):
        return values
    cv2 = opencv()
    nearest = np.issubdtype(values.dtype, np.integer)
    return cv2.resize(
        values, tuple(sides)[::-1], interpolation=cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_LINEAR
    )


def load(workdir: str | os.PathLike, checkpoint: str | int = "best") -> Run:
    """Opens a run folder: the network, its weights, preprocessing and class names, without its data or optimiser.

    Args:
        workdir: the run folder.
        checkpoint: "best" (the last one where the run has no best), "last" or a step.

    Raises:
        UsageError: no such folder, or no checkpoint (of that step) in it.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UsageError(
            f"--workdir={workdir}: no such folder. Train first: python -m launch.train --config=... --workdir={workdir}"
        )
    if isinstance(checkpoint, str) and checkpoint.isdigit():
        checkpoint = int(checkpoint)
    if isinstance(checkpoint, str) and checkpoint not in ("best", "last"):
        raise UsageError(f"--checkpoint={checkpoint}: expected best, last or a step, such as 1000.")
    with Checkpoints(workdir / "checkpoints", read_only=True) as saved:
        no_best = checkpoint == "best" and saved.best_step() is None
        weights, extras, at = saved.restore_weights("last" if no_best else checkpoint)
    config = thaw(extras["config"])
    network = experiment.wire(config, extras["data"])
    source = weights["ema"] if weights.get("ema") is not None else weights
    return Run(workdir, config, network, {"params": source["params"], **source["model_state"]}, at)


def compile_evaluation(network: Network, mesh: jax.sharding.Mesh):
    """The jitted evaluation step of a network."""
    return parallel.compile_evaluation_step(
        step.make_evaluation_step(network.model, network.task, network.preprocess), mesh
    )


def compile_prediction(network: Network):
    """A jitted function `(variables, {"image": uint8 (B, H, W, C), "size" if padded}) -> {name: (B, ...)}`."""

    def predict(variables, batch):
        outputs, _ = step.apply_model(network.model, network.task, network.preprocess, variables, batch, None)
        return network.task.predict(outputs, batch)

    return jax.jit(predict)
