"""Images as grids of equal patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def space_to_depth(
    image: Shaped[Array, "batch h w channels"], patch: int
) -> Shaped[Array, "batch rows columns values"]:
    """Moves the pixels of each patch into the channels of one place.

    Args:
        image: (B, H, W, C).
        patch: side of the patches in pixels; divides H and W.

    Returns:
        (B, H / patch, W / patch, patch * patch * C): row by row of a patch, the channels of a pixel side by side.
    """
    batch, height, width, channels = image.shape
    grid = image.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return grid.reshape(batch, height // patch, width // patch, -1)


def depth_to_space(
    values: Shaped[Array, "batch rows columns values"], patch: int
) -> Shaped[Array, "batch h w channels"]:
    """The inverse of `space_to_depth` (the sub-pixel convolution's second half, Shi et al. 2016, arXiv:1609.05158).

    Args:
        values: (B, rows, columns, patch * patch * C).
        patch: side of the patches in pixels.

    Returns:
        (B, rows * patch, columns * patch, C).
    """
    batch, rows, columns, _ = values.shape
    grid = values.reshape(batch, rows, columns, patch, patch, -1).swapaxes(2, 3)
    return grid.reshape(batch, rows * patch, columns * patch, -1)


def spread(values: Shaped[Array, "batch rows columns"], height: int, width: int) -> Shaped[Array, "batch h w 1"]:
    """Gives each pixel the value of its patch.

    Args:
        values: (B, rows, columns), one value for each patch.
        height: of the image in pixels, a multiple of rows.
        width: of the image in pixels, a multiple of columns.

    Returns:
        (B, height, width, 1).
    """
    _, rows, columns = values.shape
    return jnp.repeat(jnp.repeat(values, height // rows, axis=1), width // columns, axis=2)[..., None]


def moments(
    image: Float[Array, "batch h w channels"], rows: int, columns: int, epsilon: float = 1e-6
) -> tuple[Float[Array, "batch h w 1"], Float[Array, "batch h w 1"]]:
    """Mean and standard deviation of all values of each patch (He et al. 2022, arXiv:2111.06377, section 3).

    Args:
        image: (B, H, W, C).
        rows: number of patches in a column of the grid; divides H.
        columns: number of patches in a row of the grid; divides W.
        epsilon: added to the variance, which is 0 in a patch of one colour.

    Returns:
        Two arrays (B, H, W, 1), each pixel with the value of its patch.
    """
    batch, height, width, _ = image.shape
    patches = image.reshape(batch, rows, height // rows, columns, width // columns, -1)
    mean, variance = patches.mean(axis=(2, 4, 5)), patches.var(axis=(2, 4, 5))
    return spread(mean, height, width), spread(jnp.sqrt(variance + epsilon), height, width)
