"""Draws scenes of handwritten digits: the same pixels on every machine, for all arithmetic is exact or IEEE's own.

What differs between machines and library versions is kept out: streams of normal numbers, sines, exponentials, matrix
products of floats, sums of floats, and the resampling of image libraries.
"""

from typing import NamedTuple

import numpy as np

SIDE = 96
MAX_OBJECTS = 8
MIN_VISIBLE = 0.65  # the share of a digit's pixels that later ones must leave in sight
MIN_HEIGHT, MAX_HEIGHT = 14, 44
_MARGIN, _SCALE = 2, 8  # a glyph has two empty pixels around its 8x8, and 8x8 samples for each
_LEVEL = 0.46  # where, between paper and ink, the edge of a digit is
_Y, _X = np.arange(SIDE)[:, None], np.arange(SIDE)
_LUMA = np.array([299.0, 587.0, 114.0])  # ITU-R BT.601, in thousandths: whole numbers, so that sums are exact


class Scene(NamedTuple):
    """One image and its ground truth.

    Attributes:
        image: (96, 96, 3) uint8.
        instances: (96, 96) uint8: k where the k-th object, counted from 1, is seen; 0 is background.
        classes: (N,) class of each object.
        visible: (N,) float32 share of each object's pixels that no later one covers.
        ids: (N,) place of each object among the digits to draw from.
    """

    image: np.ndarray
    instances: np.ndarray
    classes: np.ndarray
    visible: np.ndarray
    ids: np.ndarray


def glyphs(images: np.ndarray) -> np.ndarray:
    """(N, 8, 8) levels 0..16 -> (N, 96, 96) float64: ink 0..1 on a grid 8 times as fine, by cubic convolution."""
    size = (8 + 2 * _MARGIN) * _SCALE
    # Catmull-Rom weights at eighths, offset by half a sample, in units of 1/8192: whole numbers.
    sixteenths = 2 * np.arange(size) + 1 - _SCALE  # of a pixel, from the centre of the first
    distance = np.abs(sixteenths[:, None] - 16 * (np.arange(8) + _MARGIN)[None])
    near = 3 * distance**3 - 5 * 16 * distance**2 + 2 * 16**3
    far = -(distance**3) + 5 * 16 * distance**2 - 8 * 16**2 * distance + 4 * 16**3
    weights = np.where(distance <= 16, near, np.where(distance < 32, far, 0)).astype(np.float64)
    fine = weights @ np.asarray(images, np.float64) @ weights.T  # whole numbers below 2**53: exact in any order
    return fine / (16 * (2 * 16**3) ** 2)


def draw(seed: int, index: int, ink: np.ndarray, labels: np.ndarray, count: int | None = None) -> Scene:
    """One scene; the same for the same arguments.

    Args:
        seed: of the split.
        index: of the scene.
        ink: (N, 96, 96), as `glyphs` gives them, of the digits to draw from.
        labels: (N,) their classes.
        count: how many digits; by default 1 to 8.
    """
    # Philox is counter based, and the streams of RandomState are frozen; those of Generator are not.
    random = np.random.RandomState(np.random.Philox(key=[seed, index]))
    canvas = _background(random)
    instances = np.zeros((SIDE, SIDE), np.uint8)
    drawn, areas = [], []
    count = count or 1 + int(random.random_sample() * MAX_OBJECTS)
    largest = MAX_HEIGHT if count <= MAX_OBJECTS // 2 else MAX_HEIGHT - 10  # so that many find room
    for _ in range(count):
        chosen = int(random.random_sample() * len(labels))
        alpha = _digit(random, ink[chosen], largest)
        place = _place(random, alpha >= 0.5, instances, areas)
        if place is None:
            continue
        top, left = place
        window = (slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1]))
        canvas[window] += alpha[..., None] * (_colour(random, canvas[window]) - canvas[window])
        solid = alpha >= 0.5
        drawn.append(chosen)
        areas.append(int(np.count_nonzero(solid)))
        instances[window][solid] = len(drawn)
    grain = np.frombuffer(random.bytes(SIDE * SIDE * 3), np.uint8).reshape(SIDE, SIDE, 3)
    strength = (4 + 16 * random.random_sample()) / 255
    canvas += ((np.arange(256) - 127.5) * strength).take(grain)
    np.clip(canvas, 0, 255, out=canvas)
    image = np.rint(canvas, out=canvas).astype(np.uint8)
    seen = np.bincount(instances.ravel(), minlength=len(drawn) + 1)[1:]
    visible = (seen / np.array(areas)).astype(np.float32)
    return Scene(image, instances, labels[drawn], visible, np.array(drawn))


def _background(random: np.random.RandomState) -> np.ndarray:
    """(96, 96, 3) float64: a colour, cloudy at three scales, and half of the time striped."""
    base = 45 + 165 * random.random_sample() + 50 * (random.random_sample(3) - 0.5)
    coarse, middle, fine = (
        amplitude * random.random_sample() * _cloud(random, cells) for cells, amplitude in ((3, 60), (8, 34), (24, 20))
    )
    period, right, down = (int(low + span * random.random_sample()) for low, span in ((6, 20), (-3, 7), (1, 3)))
    strength = max(0.0, 40 * (random.random_sample() - 0.5))
    fine += middle
    if strength:
        fine += strength * (np.abs((right * _X + down * _Y) % (2 * period) - period) / period - 0.5)
    one, other = 0.5 + random.random_sample((2, 3))
    canvas = np.empty((SIDE, SIDE, 3))
    for channel in range(3):
        canvas[..., channel] = base[channel] + one[channel] * coarse + other[channel] * fine
    return canvas


def _cloud(random: np.random.RandomState, cells: int) -> np.ndarray:
    """(96, 96) values -0.5..0.5, random on a grid and linear between its points."""
    grid = random.random_sample((cells + 1, cells + 1)) - 0.5
    place = np.arange(SIDE) * cells / SIDE
    low = place.astype(int)
    share = place - low
    rows = grid[low] * (1 - share)[:, None] + grid[low + 1] * share[:, None]
    return rows.take(low, 1) * (1 - share) + rows.take(low + 1, 1) * share


def _digit(random: np.random.RandomState, ink: np.ndarray, largest: int) -> np.ndarray:
    """(h, w) opacity 0..1 of a digit of random height, width, slant and stroke, cut to its box."""
    draw = random.random_sample(5)
    height = MIN_HEIGHT + (largest - MIN_HEIGHT) * draw[0] * np.sqrt(draw[0])
    width = height * (0.8 + 0.35 * draw[1])
    slant, turn = 0.5 * (draw[2] - 0.5), 0.3 * (draw[3] - 0.5)
    up, across = int(0.65 * height), int(0.8 * height)
    y, x = np.arange(-up, up + 1.0)[:, None], np.arange(-across, across + 1.0)
    centre = (ink.shape[0] - 1) / 2
    rows = centre + (y + turn * x) * (8 * _SCALE / height)
    columns = centre + (x + (slant - turn) * y) * (8 * _SCALE / width)
    value = _sample(ink, rows, columns)
    # The edge is about one pixel wide at every size: the ink of a large digit rises more slowly.
    level = _LEVEL + 0.1 * (draw[4] - 0.5)
    alpha = np.clip(0.5 + (value - level) * (height / 6), 0, 1)
    some_rows, some_columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return alpha[some_rows[0] : some_rows[-1] + 1, some_columns[0] : some_columns[-1] + 1]


def _sample(ink: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear; the border of a glyph, which is empty, goes on outside."""
    rows, columns = (np.clip(place, 0, ink.shape[0] - 1.001) for place in (rows, columns))
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    place, flat = top * ink.shape[1] + left, ink.ravel()
    upper = flat.take(place) * (1 - right) + flat.take(place + 1) * right
    place += ink.shape[1]
    lower = flat.take(place) * (1 - right) + flat.take(place + 1) * right
    return upper * (1 - down) + lower * down


def _place(
    random: np.random.RandomState, solid: np.ndarray, instances: np.ndarray, areas: list[int]
) -> tuple[int, int] | None:
    """The first of up to 20 random places (top, left) that leaves enough of each earlier digit; None if there is none.

    Some of the time, at first, the place is beside or upon an earlier digit.
    """
    height, width = solid.shape
    beside = bool(areas) and random.random_sample() < 0.15
    for attempt in range(20):
        down, right = random.random_sample(2)
        if beside and attempt < 10:
            other = 1 + int(random.random_sample() * len(areas))
            seen = instances == other
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            top = int(rows[0] + (rows[-1] - rows[0] + 1 + height) * down) - height
            left = int(columns[0] + (columns[-1] - columns[0] + 1 + width) * right) - width
        else:
            top, left = int(down * (SIDE - height + 1)), int(right * (SIDE - width + 1))
        if not (0 <= top <= SIDE - height and 0 <= left <= SIDE - width):
            continue
        after = instances.copy()
        after[top : top + height, left : left + width][solid] = 0
        left_over = np.bincount(after.ravel(), minlength=len(areas) + 1)[1:]
        if (left_over >= MIN_VISIBLE * np.array(areas)).all():
            return top, left
    return None


def _colour(random: np.random.RandomState, under: np.ndarray) -> np.ndarray:
    """(3,) a colour whose brightness is well off that of most pixels around; the best of 16 if none is far enough."""
    wanted = 1000 * (45 + 50 * random.random_sample())
    colours = np.rint(255 * random.random_sample((16, 3)))
    contrast = np.abs((colours @ _LUMA)[:, None] - (np.rint(under) @ _LUMA).ravel())
    share = np.count_nonzero(contrast >= wanted, axis=1) / contrast.shape[1]
    return colours[np.argmax(np.minimum(share, 0.93))]
