"""`config.init`: the weights a run starts from, and what they expect of images: its preprocessing and class names."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax

from vision.errors import UsageError
from vision.weights import darknet, files
from vision.weights.preprocessing import imagenet_classes, preprocessing
from vision.weights.sources import OURS, detect

INJECTED = ("model", "image_shape", "key", "where")


class Record(NamedTuple):
    """What weights carry besides numbers.

    Attributes:
        preprocess: the section `config.data.preprocess` that they were trained with; empty where that is not known, as
            of a file of our own variables.
        train_transforms: chain of transforms to train with at their image size.
        transforms: chain of transforms to evaluate with at their image size.
        class_names: of their classifier's logits; () where it is not known.
    """

    preprocess: dict[str, Any]
    train_transforms: str
    transforms: str
    class_names: tuple[str, ...]


def load(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    key: jax.Array,
    *,
    weights: str | None = None,
    source: str | None = None,
    checkpoint: str | int = "best",
    prefix: str = "",
    head: Literal["keep", "new"] = "keep",
    allow_missing: tuple[str, ...] = (),
    allow_unused: tuple[str, ...] = (),
    where: str = "config.init",
) -> dict[str, Any]:
    """A network's variables with another's weights.

    Args:
        model: the network.
        image_shape: (height, width, channels) of the images it will see.
        key: of what is not in the weights.
        weights: a file of another project's weights, or one of our run folders; None starts from random values.
        source: whose names the tensors have: torchvision, timm, big_vision, keras, ...; None finds out.
        checkpoint: of a run folder: "best" (the last one where it has no best), "last" or a step.
        prefix: take only what lies under this path, without it: "encoder" of an autoencoder's weights.
        head: "keep" the classifier of the weights, or start with a "new" one, for other classes.
        allow_missing: regular expressions for variables of the network that may start from random values.
        allow_unused: regular expressions for names of the weights that may be left out.
        where: the section's place, for messages.

    Raises:
        UsageError: a file that is not there or cannot be read, or tensors without a place and variables without one.
    """
    options = dict(head=head, allow_missing=allow_missing, allow_unused=allow_unused, key=key)
    size = dict(image_size=tuple(image_shape[:2]), channels=image_shape[2])
    try:
        return files.load(model, weights, source, checkpoint=checkpoint, prefix=prefix, **size, **options)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def record(
    model: nn.Module, name: str, weights: str, source: str | None = None, checkpoint: str | int = "best"
) -> Record:
    """What the weights expect of images, and the names of their classes.

    Args:
        model: the network they are for.
        name: its name in `vision.models.MODELS`; other projects' records go by it.
        weights, source, checkpoint: as for `load`.

    Raises:
        UsageError: a file that is not there or cannot be read, or one that does not say what it expects.
    """
    try:
        return _record(model, name, weights, source, checkpoint)
    except UsageError as error:
        raise UsageError(f"config.init.weights: {error}") from error


def _record(model: nn.Module, name: str, weights: str, source: str | None, checkpoint: str | int) -> Record:
    if Path(weights).is_dir():
        _, extras = files.read_run(Path(weights), checkpoint)
        facts = extras["data"]
        return Record(
            dict(facts["preprocess"]),
            extras["config"]["data"]["train"]["transforms"],
            facts["transforms"],
            tuple(facts["class_names"]),
        )
    if darknet.is_darknet(Path(weights)):  # its networks see RGB from 0 to 1
        return Record({"name": "normalize"}, "", "", ())
    source = source or detect(model, files.read(weights))
    if source == OURS:  # a file of variables alone
        return Record({}, "", "", ())
    found = preprocessing(source, name)
    return Record(found.section(), found.transforms(train=True), found.transforms(), imagenet_classes())
