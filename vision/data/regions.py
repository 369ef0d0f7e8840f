"""Regions of COCO's JSON files, polygons or run lengths: as masks, and many of them in flat arrays."""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UsageError


class Regions(NamedTuple):
    """The regions of many objects; their masks are drawn when they are asked for.

    Attributes:
        corners: (P, 2) float32 corners of all polygons, in pixels.
        polygons: (Q + 1,) where the corners of each polygon begin.
        objects: (M + 1,) where the polygons of each object begin.
        runs: (R,) int32 run lengths, down the columns, beginning with zeros.
        run_starts: (M + 1,) where the run lengths of each object begin; an object has these or polygons.
    """

    corners: np.ndarray
    polygons: np.ndarray
    objects: np.ndarray
    runs: np.ndarray
    run_starts: np.ndarray

    def mask(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool of an object in an image of that size."""
        runs = self.runs[self.run_starts[row] : self.run_starts[row + 1]]
        if len(runs):
            return region_mask({"size": size, "counts": runs}, size)
        mask = np.zeros(size, bool)
        for polygon in range(self.objects[row], self.objects[row + 1]):
            corners = self.corners[self.polygons[polygon] : self.polygons[polygon + 1]]
            # Drawn on the part of the image around it: most objects are small.
            x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, size[::-1]).astype(int)
            x1, y1 = np.clip(np.ceil(corners.max(axis=0)), 0, size[::-1]).astype(int)
            if x0 < x1 and y0 < y1:
                mask[y0:y1, x0:x1] |= _polygon_mask(corners.astype(np.float64) - (x0, y0), (y1 - y0, x1 - x0))
        return mask

    def take(self, rows: np.ndarray) -> "Regions":
        """Those of some objects.

        Args:
            rows: (m,) their rows.
        """
        objects, places = taken(self.objects, rows)
        polygons, corners = taken(self.polygons, places)
        run_starts, runs = taken(self.run_starts, rows)
        return Regions(self.corners[corners], polygons, objects, self.runs[runs], run_starts)


def taken(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of parts of varying length that lie one after the other, some: where they begin then, and where they come from.

    Args:
        starts: (n + 1,) where the parts begin.
        rows: (m,) those to be taken.
    """
    lengths = starts[rows + 1] - starts[rows]
    result = np.concatenate([[0], np.cumsum(lengths)])
    return result, np.repeat(starts[rows] - result[:-1], lengths) + np.arange(result[-1])


def collect(regions: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> tuple[Regions, dict[int, str]]:
    """Regions as in a JSON file, in flat arrays, and {row: what is wrong} of those that cannot be drawn.

    Args:
        regions: polygons or run lengths of each object, as `region_mask` takes them.
        sizes: (height, width) of the image of each.
    """
    corners, runs = array("f"), array("i")
    polygons, objects, run_starts, wrong = [0], [0], [0], {}
    for row, (region, size) in enumerate(zip(regions, sizes, strict=True)):
        try:
            if isinstance(region, dict):
                counts = _checked_runs(region, size)
                if not counts[1::2].any():
                    raise UsageError("its run lengths hold no pixel")
                runs.extend(counts.tolist())
            else:
                for polygon in _checked_polygons(region):
                    corners.extend(polygon)
                    polygons.append(len(corners) // 2)
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            wrong[row] = str(error) if isinstance(error, UsageError) else "its segmentation is malformed"
            del corners[2 * polygons[-1] :]
        objects.append(len(polygons) - 1)
        run_starts.append(len(runs))
    points = np.frombuffer(corners, np.float32).reshape(-1, 2)
    found = Regions(points, np.array(polygons), np.array(objects), np.frombuffer(runs, np.int32), np.array(run_starts))
    for row in _outside(found, np.array(sizes).reshape(-1, 2)).tolist():
        height, width = sizes[row]
        wrong.setdefault(row, f"its polygons lie outside the image of {width}x{height} (width x height)")
    for point in np.flatnonzero(~np.isfinite(points).all(axis=1)):
        polygon = np.searchsorted(found.polygons, point, "right") - 1
        wrong[int(np.searchsorted(found.objects, polygon, "right") - 1)] = "a corner of its polygons is no number"
    return found, wrong


def _outside(found: Regions, sizes: np.ndarray) -> np.ndarray:
    """The rows of the objects that have polygons, but none that reaches into its image of `sizes` (M, 2)."""
    if not len(found.corners):
        return np.zeros(0, np.int64)
    counts = np.diff(found.objects)
    owners = np.repeat(np.arange(len(counts)), counts)
    low, high = (of.reduceat(found.corners, found.polygons[:-1]) for of in (np.minimum, np.maximum))
    inside = ((high > 0) & (low < sizes[owners, ::-1])).all(axis=1)
    return np.flatnonzero((counts > 0) & (np.bincount(owners, inside, len(counts)) == 0))


def _checked_polygons(region: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The polygons that have an inside."""
    for polygon in region:
        if len(polygon) % 2:
            raise UsageError(f"a polygon of {len(polygon)} numbers, which are no pairs of x and y")
    kept = [polygon for polygon in region if len(polygon) >= 6]
    if not kept:
        raise UsageError("it has no polygon of three corners")
    return kept


def region_mask(region: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a region: polygons [[x0, y0, x1, y1, ...], ...], or run lengths {"size", "counts"}.

    Polygons are drawn with the pixels whose centres they hold; run lengths go down the columns, beginning with zeros.

    Raises:
        UsageError: it is neither, or of another size.
    """
    height, width = size
    if isinstance(region, dict):
        counts = _checked_runs(region, size)
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    mask = np.zeros(size, bool)
    for polygon in region:
        mask |= _polygon_mask(np.asarray(polygon, np.float64).reshape(-1, 2), size)
    return mask


def _checked_runs(region: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    counts = region["counts"]
    counts = run_lengths(counts) if isinstance(counts, str) else np.asarray(counts)
    height, width = size
    if tuple(region["size"]) != (height, width) or counts.sum() != height * width or (counts < 0).any():
        raise UsageError(
            f"run lengths of {int(counts.sum())} pixels and size {region['size']} for an image of {height}x{width}"
        )
    return counts


def _polygon_mask(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels whose centres are inside, by the even-odd rule."""
    height, width = size
    (x0, y0), (x1, y1) = (points.T[:, :, None] for points in (corners, np.roll(corners, -1, axis=0)))
    centres = np.arange(height) + 0.5
    edges, rows = np.nonzero((y0 <= centres) != (y1 <= centres))
    x0, y0, x1, y1 = (value[edges, 0] for value in (x0, y0, x1, y1))
    crossings = x0 + (centres[rows] - y0) * (x1 - x0) / (y1 - y0)
    first = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)  # the pixel whose centre comes next
    turns = np.bincount(rows * (width + 1) + first, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.cumsum(turns, axis=1)[:, :width] % 2 == 1


def run_lengths(text: str) -> np.ndarray:
    """The numbers in COCO's compressed run lengths.

    Each character holds five bits, the lowest first, and in the sixth whether another one follows; negative numbers are
    in two's complement. From the fourth number on, it is the difference to the last but one.
    """
    counts, place = [], 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more, shift, place = bool(bits & 32), shift + 5, place + 1
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return np.array(counts, np.int64)
