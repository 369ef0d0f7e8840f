"""The networks' names with their sizes."""

import fnmatch

from vision.errors import UsageError, nearest

IMAGE_SIZES = ((224, 224), (231, 231), (227, 227), (299, 299), (32, 32))  # the first that a network can take


def list_models(pattern: str = "*", num_classes: int = 1000) -> dict[str, int]:
    """Names in `MODELS` -> number of trainable parameters, with 3 channels and the image size of most papers.

    Where the number depends on the image's size (position embeddings, dense layers on maps), it is that of 224x224.

    Args:
        pattern: as in a shell: "resnet*", "vit_?16".
        num_classes: number of classes.

    Raises:
        UsageError: no name matches.
    """
    from vision.models import MODELS

    names = sorted(fnmatch.filter(MODELS, pattern))
    if not names:
        close = nearest(pattern.strip("*?"), MODELS)
        hint = f"; did you mean {close!r}?" if close else "."
        raise UsageError(f"no model is called {pattern!r}{hint} '*' lists all.")
    return {name: _parameters(name, num_classes) for name in names}


def _parameters(name: str, num_classes: int) -> int:
    from vision.models import count_parameters, create, variable_shapes

    for size in IMAGE_SIZES:
        try:
            return count_parameters(variable_shapes(create(name, num_classes), (*size, 3))["params"])
        except UsageError:
            if size == IMAGE_SIZES[-1]:
                raise
    raise AssertionError
