"""Maps of instance ids into boxes and masks of a fixed number, as the networks take them."""

import numpy as np

from vision.errors import UsageError


def boxes(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids in a map and their boxes, in order of the ids; 0 is background.

    Args:
        ids: (H, W) integers.

    Returns:
        (n,) ids and (n, 4) float32 (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, tight around what is seen.
    """
    y, x = np.nonzero(ids)
    values = ids[y, x]
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    if not len(found):
        return found, np.zeros((0, 4), np.float32)
    low = [np.minimum.reduceat(side[order], starts) for side in (x, y)]
    high = [np.maximum.reduceat(side[order], starts) + 1 for side in (x, y)]
    return found, np.stack([*low, *high], axis=1).astype(np.float32)


def padded(values: np.ndarray, count: int) -> np.ndarray:
    """The first axis filled up to a length with zeros.

    Raises:
        UsageError: there are more.
    """
    if len(values) > count:
        raise UsageError(f"{len(values)} objects, more than max_objects={count}")
    result = np.zeros((count, *values.shape[1:]), values.dtype)
    result[: len(values)] = values
    return result


def masks(ids: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """(count, H, W) uint8: 1 where the id of the n-th found object is; zeros for the others."""
    result = np.zeros((count, *ids.shape), np.uint8)
    np.equal(ids[None], np.asarray(found, ids.dtype)[:, None, None], out=result[: len(found)], casting="unsafe")
    return result
