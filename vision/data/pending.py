"""An example with the geometry and the colour that its image is still to be given, one matrix each."""

from typing import Any

import numpy as np

from vision.data import colour, geometry, images
from vision.data.annotations import move_example, visible_boxes, without_objects
from vision.data.geometry import LUMA, Geometry, Shape
from vision.errors import UsageError


class Pending:
    """What `chain.apply` collects. Geometry comes first and colour after it, so that it paints the fewer pixels.

    What the transforms mean one by one is what is computed, but for two things. Nothing is rounded or clipped between
    them; and where a rotation, a shift or a zoom makes room, what an earlier crop has cut away shows again, instead of
    the fill.
    """

    def __init__(self, example: dict[str, Any]):
        self._example = example
        self._geometry: Geometry | None = None
        self._colour = colour.IDENTITY

    @property
    def shape(self) -> Shape:
        """Height and width of the image as it will be."""
        return self._image.shape[:2] if self._geometry is None else self._geometry.shape

    def grey(self) -> float:
        """Mean grey level, as it will be, of that part of the image which is in view."""
        image = self._image
        if self._geometry is not None:
            top, left, bottom, right = geometry.visible_part(self._geometry, image.shape[:2])
            image = image[top:bottom, left:right]
        mean = images.opencv().mean(image)[: image.shape[2]] if image.size else 0.0
        return float(LUMA @ colour.of_colour(self._colour, np.asarray(mean)))

    def boxes(self) -> np.ndarray:
        """(n, 4) float64: the boxes of the objects, as they will be; upright hulls where something turns them."""
        boxes, stays = self._visible_boxes()
        return boxes[stays]

    def _visible_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 4) boxes as they will be, and (N,) whether each will be an object still."""
        if "boxes" not in self._example:
            raise UsageError("A transform needs the objects' `boxes`, which these data do not have.")
        return visible_boxes(self._example["boxes"], self._geometry or geometry.identity(self.shape))

    def move(self, moved: Geometry) -> None:
        """Adds a geometry. A fill is not to be painted by the colours before it: those go into the image first."""
        if moved.by_centre:
            self._leave_out_by_centre(moved)
        if moved.fill is not None and self._colour is not colour.IDENTITY:
            self._paint_image()
        if self._geometry is None:
            self._geometry = moved
        elif geometry.joins(self._image.shape[:2], self._geometry, moved):
            self._geometry = geometry.then(self._geometry, moved)
        else:
            self._example = self.settle()
            self._geometry, self._colour = moved, colour.IDENTITY

    def paint(self, matrix: np.ndarray) -> None:
        """Adds a colour matrix."""
        self._colour = colour.then(self._colour, matrix)

    def settle(self) -> dict[str, Any]:
        """The example with everything applied."""
        example = self._example
        if self._geometry is not None:
            example = move_example(example, self._geometry)
        if self._colour is not colour.IDENTITY:
            example = {**example, "image": colour.apply(images.decoded(example["image"]), self._colour)}
        return example

    @property
    def _image(self) -> np.ndarray:
        return images.decoded(self._example["image"])

    def _leave_out_by_centre(self, moved: Geometry) -> None:
        """Takes out, of the image that there is so far, the objects whose centre `moved` cuts away."""
        boxes, stays = self._visible_boxes()
        centres = moved.matrix.of((boxes[:, :2] + boxes[:, 2:]) / 2)
        inside = ((centres >= 0) & (centres < np.array(moved.shape[::-1]))).all(axis=1)
        self._example = without_objects(self._example, ~(stays & inside))

    def _paint_image(self) -> None:
        self._example = {**self._example, "image": colour.apply(self._image, self._colour)}
        if self._geometry is not None and self._geometry.fill is not None:
            fill = colour.of_colour(self._colour, np.asarray(self._geometry.fill, np.float64))
            self._geometry = self._geometry._replace(fill=tuple(fill.tolist()))
        self._colour = colour.IDENTITY
