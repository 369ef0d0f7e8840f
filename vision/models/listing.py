"""The networks' names with their sizes."""

import fnmatch
import re
from collections.abc import Iterator

from vision.errors import UsageError, nearest

IMAGE_SIZES = (
    (224, 224),
    (231, 231),
    (227, 227),
    (299, 299),
    (448, 448),
    (32, 32),
)  # the first that a network can take


def list_models(pattern: str = "*", num_classes: int = 1000) -> dict[str, int]:
    """Names in `MODELS` -> number of trainable parameters, with 3 channels and the image size of most papers.

    Where the number depends on the image's size (position embeddings, dense layers on maps), it is that of the size at
    the end of the name, "vit_base_patch16_384", or else of 224x224. Classifiers that only training has are counted.

    Args:
        pattern: as in a shell: "resnet*", "vit_?16".
        num_classes: number of classes.

    Raises:
        UsageError: no name matches.
    """
    return dict(each_model(pattern, num_classes))


def each_model(pattern: str = "*", num_classes: int = 1000) -> Iterator[tuple[str, int]]:
    """The items of `list_models`, one at a time: a large network takes a second or two."""
    from vision.models import MODELS

    names = sorted(fnmatch.filter(MODELS, pattern))
    if not names:
        close = nearest(pattern.strip("*?"), MODELS)
        hint = f"; did you mean {close!r}?" if close else "."
        raise UsageError(f"no model is called {pattern!r}{hint} '*' lists all.")
    for name in names:
        yield name, _parameters(name, num_classes)


def _parameters(name: str, num_classes: int) -> int:
    from vision.models import count_parameters, create, variable_shapes

    model = create(name, num_classes)
    if hasattr(model, "scan"):
        model = model.clone(scan=True)  # as many numbers, and blocks that are alike are traced once
    named = re.search(r"_(\d{3})$", name)
    sizes = ((int(named[1]), int(named[1])),) if named else IMAGE_SIZES
    for size in sizes:
        try:
            return count_parameters(variable_shapes(model, (*size, 3))["params"])
        except UsageError:
            if size == sizes[-1]:
                raise
    raise AssertionError
