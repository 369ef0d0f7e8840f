"""Suppression of boxes and RoIAlign against their straightforward versions, interleaved in one run.

    python -m benchmarks.boxes [--parts=nms,roi_align] [--repeats=5]

Times are medians in milliseconds, compiled. The straightforward suppression goes through the sorted boxes one by one
and takes out what each overlaps; the straightforward RoIAlign gathers the four pixels around every sample and
interpolates. RoIAlign as two interpolation matrices and two products is there as well, on the smaller map.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import lax

from benchmarks.timing import medians
from vision.ops import boxes as box_ops
from vision.ops import nms, roi

PARTS = flags.DEFINE_list("parts", ["nms", "roi_align"], "What to measure: nms, roi_align.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each; the median counts.", lower_bound=1)

THRESHOLD = 0.7
SUPPRESSIONS = ((1000, 100), (1000, 1000), (10_000, 1000), (10_000, 10_000))  # boxes, size of the result
REGIONS, BINS = 512, 7
MAPS = (((38, 50, 256), 16), ((128, 128, 256), 4))  # (height, width, channels), stride
MATRICES_UP_TO = 2000  # pixels of a map


def random_boxes(number: int, height: int, width: int, smallest: int, largest: int) -> jax.Array:
    """Boxes all over an image, sides evenly distributed."""
    random = np.random.default_rng(0)
    start = random.uniform(0, (width - smallest, height - smallest), (number, 2))
    found = np.concatenate([start, start + random.uniform(smallest, largest, (number, 2))], axis=1)
    return jnp.asarray(np.minimum(found, [width, height, width, height]), jnp.float32)


def one_by_one(boxes: jax.Array, scores: jax.Array, threshold: float, num: int) -> tuple[jax.Array, jax.Array]:
    """Suppression as a loop over the sorted boxes."""
    order = jnp.argsort(-scores, stable=True)
    boxes = boxes[order]
    place = jnp.arange(len(boxes))

    def decide(index, stays):
        overlaps = (box_ops.iou(boxes[index], boxes) > threshold) & (place > index)
        return jnp.where(stays[index], stays & ~overlaps, stays)

    stays = lax.fori_loop(0, len(boxes), decide, jnp.ones(len(boxes), bool))
    kept = jnp.argsort(~stays, stable=True)[:num]
    return jnp.where(stays[kept], order[kept], 0), stays[kept]


def by_samples(features: jax.Array, boxes: jax.Array, scale: float, ratio: int = 2) -> jax.Array:
    """RoIAlign as the mean of samples, each interpolated on its own."""

    def sample(y, x):
        height, width, _ = features.shape
        inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
        top, left = y.astype(jnp.int32), x.astype(jnp.int32)
        bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
        y, x = y - top, x - left
        upper = (1 - x) * features[top, left] + x * features[top, right]
        lower = (1 - x) * features[bottom, left] + x * features[bottom, right]
        return jnp.where(inside, (1 - y) * upper + y * lower, 0)

    def align(box):
        y, x = sample_places(box[None], scale, ratio)
        grid = jax.vmap(jax.vmap(sample, (None, 0)), (0, None))(y[0], x[0])
        return grid.reshape(BINS, ratio, BINS, ratio, -1).mean(axis=(1, 3))

    return jax.vmap(align)(boxes)


def by_matrices(features: jax.Array, boxes: jax.Array, scale: float, ratio: int = 2) -> jax.Array:
    """RoIAlign as one interpolation matrix over rows and one over columns, for each box."""

    def matrix(places, size):
        inside = (places >= -1) & (places <= size)
        distance = jnp.abs(jnp.clip(places, 0, size - 1)[..., None] - jnp.arange(size))
        weights = jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
        return weights.reshape(len(boxes), BINS, ratio, size).mean(axis=2)

    y, x = sample_places(boxes, scale, ratio)
    rows = jnp.einsum("nih,hwc->niwc", matrix(y, features.shape[0]), features)
    return jnp.einsum("njw,niwc->nijc", matrix(x, features.shape[1]), rows)


def sample_places(boxes: jax.Array, scale: float, ratio: int) -> tuple[jax.Array, jax.Array]:
    """(boxes, samples) rows and columns of the map at which each box is sampled."""
    boxes = boxes * scale
    size = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    share = (jnp.arange(BINS * ratio) + 0.5) / (BINS * ratio)
    x, y = (boxes[:, axis, None] + share * size[:, axis, None] for axis in (0, 1))
    return y, x


def print_suppressions(repeats: int) -> None:
    """One line per number of boxes."""
    print(f"\nnon-maximum suppression at {THRESHOLD}, milliseconds\n")
    print(f"{'boxes':>7} {'result':>7} {'stay':>7} | {'loop':>8} {'ours':>8} {'ratio':>7}")
    for number, num in SUPPRESSIONS:
        boxes = random_boxes(number, 800, 1333, 16, 300)
        scores = jnp.asarray(np.random.default_rng(1).random(number), jnp.float32)
        functions = [
            functools.partial(jax.jit(functools.partial(function, threshold=THRESHOLD, num=num)), boxes, scores)
            for function in (one_by_one, nms.nms)
        ]
        expected, found = (function() for function in functions)
        if not all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)):
            raise AssertionError(f"the two versions differ for {number} boxes")
        loop, ours = medians(functions, repeats)
        stay = int(np.sum(found[1]))
        print(f"{number:>7} {num:>7} {stay:>7} | {loop:8.1f} {ours:8.1f} {loop / ours:6.1f}x", flush=True)


def print_alignments(repeats: int) -> None:
    """One line per map, for the forward pass and for it with the gradient."""
    print(f"\nRoIAlign of {REGIONS} boxes into {BINS}x{BINS} bins of 2x2 samples, milliseconds\n")
    print(f"{'map':>13} {'':>9} | {'samples':>8} {'matrices':>8} {'ours':>8} {'samples / ours':>15}")
    for shape, stride in MAPS:
        features = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
        boxes = random_boxes(REGIONS, shape[0] * stride, shape[1] * stride, 8 * stride // 2, 14 * stride)
        versions = [
            by_samples,
            by_matrices,
            lambda features, boxes, scale: roi.roi_align(features, boxes, BINS, scale),
        ]
        if shape[0] * shape[1] > MATRICES_UP_TO:
            versions.pop(1)
        for name in ("forward", "gradient"):
            compiled = []
            for version in versions:
                function = functools.partial(version, scale=1 / stride)
                if name == "gradient":
                    function = jax.grad(lambda features, boxes, f=function: jnp.sum(f(features, boxes) ** 2))
                compiled.append(functools.partial(jax.jit(function), features, boxes))
            samples, *matrices, ours = medians(compiled, repeats)
            middle = f"{matrices[0]:8.1f}" if matrices else " " * 8
            print(
                f"{'x'.join(map(str, shape)):>13} {name:>9} | {samples:8.1f} {middle} {ours:8.1f} "
                f"{samples / ours:14.1f}x",
                flush=True,
            )


def main(arguments: list[str]) -> None:
    del arguments
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, medians of {REPEATS.value} runs")
    if "nms" in PARTS.value:
        print_suppressions(REPEATS.value)
    if "roi_align" in PARTS.value:
        print_alignments(REPEATS.value)


if __name__ == "__main__":
    app.run(main)
