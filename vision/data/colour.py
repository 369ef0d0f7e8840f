"""Photometric transforms as one affine matrix of the colour: (3, 4), from (red, green, blue, 1), applied once.

Nothing is rounded or clipped to 0..255 between the transforms, only at the end. A grey image counts as one whose red,
green and blue are equal, and what it becomes is the luma of the result.
"""

import numpy as np

from vision.data import images
from vision.data.geometry import LUMA

IDENTITY = np.eye(3, 4)


def blend(factor: float, towards: float = 0.0) -> np.ndarray:
    """factor * colour + (1 - factor) * towards, where `towards` is a grey level."""
    return np.column_stack([factor * np.eye(3), np.full(3, (1 - factor) * towards)])


def saturate(factor: float) -> np.ndarray:
    """factor * colour + (1 - factor) * the pixel's own luma."""
    return np.column_stack([factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1)), np.zeros(3)])


def turn_hue(radians: float) -> np.ndarray:
    """Turns the colour about the grey axis, in the plane of equal luma (I and Q of NTSC's YIQ)."""
    cosine, sine = np.cos(radians), np.sin(radians)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.column_stack([np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ, np.zeros(3)])


def then(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One matrix after the other, as one."""
    return np.column_stack([second[:, :3] @ first[:, :3], second[:, :3] @ first[:, 3] + second[:, 3]])


def of_colour(matrix: np.ndarray, colour: np.ndarray | float) -> np.ndarray:
    """(3,) what a colour (3,), or a grey level, becomes."""
    return matrix[:, :3] @ np.broadcast_to(colour, 3) + matrix[:, 3]


def apply(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The image (H, W, 1 or 3) uint8 in its new colours, rounded and clipped."""
    if np.array_equal(matrix, IDENTITY):
        return image
    cv2 = images.opencv()
    grey = np.stack([of_colour(matrix, 0.0), of_colour(matrix, 1.0)]) @ LUMA if image.shape[2] == 1 else None
    if grey is not None:
        offset, factor = grey[0], grey[1] - grey[0]
    elif np.array_equal(matrix, blend(matrix[0, 0]) + matrix[0, 3] * _OFFSET):
        offset, factor = matrix[0, 3], matrix[0, 0]
    else:
        return cv2.transform(image, matrix)
    table = np.clip(np.rint(factor * np.arange(256) + offset), 0, 255).astype(np.uint8)
    changed = cv2.LUT(image, table)
    return changed if changed.ndim == 3 else changed[..., None]


_OFFSET = np.array([[0.0, 0.0, 0.0, 1.0]])
# Rows: luma, and the two axes of chroma in which red, green and blue stand as in NTSC television.
_TO_YIQ = np.stack([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
