"""What transforms are given, and the range of their arguments."""

from collections.abc import Callable
from typing import Any, Literal

from vision import schema
from vision.data.geometry import Shape
from vision.errors import UsageError

Example = dict[str, Any]
Size = int | tuple[int, int]
Colour = int | tuple[int, int, int]
Method = Literal["auto", "linear", "area", "cubic", "nearest"]

# What a transform may ask for by the name of a parameter, other than its own arguments.
INJECTED = ("example", "shape", "grey", "boxes", "others", "rng")


def check(transform: Callable, **arguments: bool) -> None:
    """Raises UsageError for the first argument that is out of range.

    Args:
        transform: whose arguments they are.
        **arguments: whether each is in its range.
    """
    for name, valid in arguments.items():
        if not valid:
            meaning = schema.keys(transform, INJECTED)[name].meaning
            raise UsageError(f"{transform.__name__}: {name} is out of range; it is {meaning}")


def is_colour(fill: Colour) -> bool:
    """Whether a fill is in its range."""
    return all(0 <= value <= 255 for value in ((fill,) if isinstance(fill, int) else fill))


def height_width(size: Size, transform: Callable) -> Shape:
    """A size as height and width; one number is a square's."""
    height, width = (size, size) if isinstance(size, int) else size
    check(transform, size=height >= 1 and width >= 1)
    return height, width


def scaled(shape: Shape, factor: float) -> Shape:
    """The nearest whole numbers of pixels, but at least one."""
    height, width = (max(1, round(side * factor)) for side in shape)
    return height, width
