"""Networks with the weights of other projects, ready to predict: the model, its preprocessing and its class names."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vision import models, tasks, weights
from vision.data import preprocess
from vision.errors import UsageError
from vision.experiment import Network
from vision.run import Run

# What a source's form of a network has that ours has not by itself: the 2015 ResNet as Keras keeps it.
FIELDS: dict[tuple[str, str], dict[str, Any]] = {
    ("keras", f"resnet{depth}_v1"): {"conv_bias": True, "norm_epsilon": 1e-3} for depth in (50, 101, 152)
}


def load(
    name: str,
    path: str | os.PathLike,
    *,
    source: str | None = None,
    class_names: tuple[str, ...] | None = None,
    **fields: Any,
) -> Run:
    """A classifier with weights from a file, as a `Run` that predicts.

    Args:
        name: a name in `vision.models.MODELS`: "resnet50_v1", "vit_small_patch16_224".
        path: of the weights; see `vision.weights.load` for the formats.
        source: whose names the tensors have; None finds out.
        class_names: of the logits; None: ImageNet's 1,000 classes.
        **fields: of the network, where it is not the table's own form.

    Raises:
        UsageError: an unknown name, or a file that cannot be read or holds the weights of another network.
    """
    names = class_names or weights.imagenet_classes()
    tensors = weights.read(path)
    source = source or weights.detect(models.create(name, len(names), **fields), tensors)
    model = models.create(name, len(names), **(FIELDS.get((source, name), {}) | fields))
    record = weights.preprocessing(source, name)
    try:
        variables = weights.from_state_dict(model, tensors, source, image_size=record.size)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    description = {
        "image_shape": [*record.size, 3],
        "num_classes": len(names),
        "class_names": list(names),
        "transforms": record.transforms(),
    }
    task = tasks.create("classification", num_classes=len(names))
    network = Network(model, task, preprocess.create(**record.section()), description)
    config = ConfigDict({"model": {"name": name}, "data": {"eval": {}}})
    return Run(Path(path), config, network, variables, 0)
