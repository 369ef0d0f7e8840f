"""Position embeddings of another image size: the grid of patches resampled, the class token's position kept."""

import math

import numpy as np

from vision.errors import UsageError
from vision.models.vit import resample_positions


def fit(positions: np.ndarray, tokens: int, has_token: bool, image_size: tuple[int, int]) -> np.ndarray:
    """Positions for another grid of patches, see `resample_positions`.

    Their grid is taken as square, with a class token's position before it where their number is not a square. The
    position of a class token that we have not is left out; one that they have not is zero.

    Args:
        positions: (N, width), theirs, row-major.
        tokens: number of our positions.
        has_token: whether the first of ours is a class token's.
        image_size: (height, width) in pixels, whose proportions are those of our grid.

    Returns:
        (tokens, width).

    Raises:
        UsageError: the numbers of positions are not those of such grids.
    """
    height, width = image_size
    patches = tokens - has_token
    rows = max(round(math.sqrt(patches * height / width)), 1)
    new_grid = (rows, patches // rows)
    old_prefix = 0 if math.isqrt(len(positions)) ** 2 == len(positions) else 1
    side = math.isqrt(len(positions) - old_prefix)
    if math.prod(new_grid) != patches or side**2 != len(positions) - old_prefix:
        raise UsageError(
            f"weights: {len(positions)} positions cannot become {tokens} for an image of {height}x{width}; theirs are "
            "expected to be a square grid, with or without a class token, and ours a grid of the image's proportions."
        )
    grid = np.asarray(resample_positions(positions[old_prefix:], (side, side), new_grid, prefix_tokens=0))
    token = positions[:old_prefix] if old_prefix else np.zeros((1, positions.shape[-1]), positions.dtype)
    return np.concatenate([token, grid]) if has_token else grid
