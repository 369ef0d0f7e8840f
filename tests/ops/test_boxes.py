"""Box arithmetic and losses against reference answers, NumPy written box by box, and on the edges."""

import math
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from vision.ops import boxes as ops
from vision.ops import detection_losses as losses

REFERENCE = dict(np.load(Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "ops.npz"))
SIMILARITIES = {"iou": ops.iou, "giou": ops.giou, "diou": ops.diou, "ciou": ops.ciou}
WEIGHTS = {"1_1_1_1": (1.0, 1.0, 1.0, 1.0), "10_10_5_5": (10.0, 10.0, 5.0, 5.0)}

# A box that is empty, one point, one outside any image, far away, one that ends before it starts, and two plain ones.
ODD = np.array(
    [[0, 0, 0, 0], [5, 5, 5, 5], [-50, -50, -10, -10], [1e4, 1e4, 2e4, 2e4], [9, 9, 3, 3], [0, 0, 4, 2], [1, 1, 3, 5]],
    np.float32,
)

pairwise = {name: jax.jit(lambda a, b, f=f: ops.pairwise(a, b, f)) for name, f in SIMILARITIES.items()}


def random_boxes(seed, number=7, whole=False):
    rng = np.random.default_rng(seed)
    start = rng.uniform(-10, 30, (number, 2))
    found = np.concatenate([start, start + rng.uniform(0.5, 25, (number, 2))], axis=1)
    return (np.round(found) if whole else found).astype(np.float32)


def similarity_of_two(a, b):
    """IoU, GIoU, DIoU and CIoU of two boxes, with areas, by the papers' formulas in float64."""
    a, b = a.astype(float), b.astype(float)
    (aw, ah), (bw, bh) = ([max(box[2] - box[0], 0), max(box[3] - box[1], 0)] for box in (a, b))
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = aw * ah + bw * bh - shared
    iou = shared / union if union > 0 else 0.0
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    enclosing = width * height
    giou = iou - (enclosing - union) / enclosing if enclosing > 0 else iou
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diou = iou - distance / (width**2 + height**2 + 1e-7)
    angles = [math.atan(w / h) if h > 0 else math.atan(1.0) for w, h in ((aw, ah), (bw, bh))]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return {"iou": iou, "giou": giou, "diou": diou, "ciou": diou - v * v / (1 - iou + v + 1e-7)}


# Overlaps.


@pytest.mark.parametrize(
    "name, key", [("iou", "box_iou"), ("giou", "generalized_box_iou"), ("ciou", "complete_box_iou")]
)
def test_reference_overlaps(name, key):
    found = pairwise[name](jnp.asarray(REFERENCE["boxes_a"]), jnp.asarray(REFERENCE["boxes_b"]))
    assert np.all(np.isfinite(found))
    known = np.isfinite(REFERENCE[key])  # the reference's CIoU of a box without area is not a number
    assert known.mean() > 0.9
    np.testing.assert_allclose(np.asarray(found)[known], REFERENCE[key][known], atol=1e-6)


def test_reference_area():
    np.testing.assert_array_equal(ops.area(jnp.asarray(REFERENCE["boxes_a"])), REFERENCE["box_area"])


@hypothesis.given(st.integers(0, 10**6), st.booleans())
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_overlaps_follow_the_formulas(seed, whole):
    first, second = random_boxes(seed, whole=whole), random_boxes(seed + 1, whole=whole)
    first[:2], second[:3] = ODD[:2], ODD[1:4]
    expected = [[similarity_of_two(a, b) for b in second] for a in first]
    for name, function in pairwise.items():
        found = function(jnp.asarray(first), jnp.asarray(second))
        np.testing.assert_allclose(found, [[cell[name] for cell in row] for row in expected], atol=2e-5)


def test_overlaps_are_symmetric_aligned_forms_agree_and_boxes_match_themselves():
    boxes = jnp.asarray(random_boxes(3))
    for name, function in SIMILARITIES.items():
        matrix = pairwise[name](boxes, boxes[::-1])
        np.testing.assert_allclose(matrix, pairwise[name](boxes[::-1], boxes).T, atol=1e-6)
        np.testing.assert_allclose(function(boxes, boxes[::-1]), np.diagonal(matrix), atol=1e-6)
        np.testing.assert_allclose(function(boxes, boxes), 1, atol=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_overlaps_and_their_gradients_are_finite(name):
    total = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(pairwise[name](a, b))))
    value, gradient = total(jnp.asarray(ODD), jnp.asarray(ODD))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_no_boxes():
    none, some = jnp.zeros((0, 4)), jnp.asarray(ODD)
    assert pairwise["iou"](none, some).shape == (0, 7) and pairwise["giou"](some, none).shape == (7, 0)
    assert ops.area(none).shape == (0,) and ops.encode(none, none).shape == (0, 4)
    assert ops.decode(none, none).shape == (0, 4) and ops.clip(none, (3, 4)).shape == (0, 4)


def test_how_much_of_a_box_a_region_covers():
    boxes = jnp.array([[0, 0, 4, 4], [10, 10, 12, 14], [5, 5, 5, 5.0]])
    regions = jnp.array([[2, 0, 50, 50], [0, 0, 3, 2], [0, 0, 0, 0.0]])
    covered = jax.jit(ops.covered)
    np.testing.assert_allclose(covered(boxes, regions), [[0.5, 6 / 16, 0], [1, 0, 0], [0, 0, 0]])
    for seed in range(3):  # with two sides exchanged, the areas are those that overlap: IoU follows
        a, b = (random_boxes(seed + number) for number in (0, 10))
        one, other = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
        both = covered(a, b) * one[:, None]
        np.testing.assert_allclose(both, (covered(b, a) * other[:, None]).T, atol=1e-3)
        union = one[:, None] + other - both
        np.testing.assert_allclose(both / union, pairwise["iou"](a, b), atol=1e-5)


# Conversions.


def test_conversions():
    boxes = jnp.asarray([[1.0, 2.0, 4.0, 8.0]])
    np.testing.assert_array_equal(ops.to_xywh(boxes), [[1, 2, 3, 6]])
    np.testing.assert_array_equal(ops.to_cxcywh(boxes), [[2.5, 5, 3, 6]])
    boxes = jnp.asarray(random_boxes(0))
    np.testing.assert_allclose(ops.from_xywh(ops.to_xywh(boxes)), boxes, atol=1e-5)
    np.testing.assert_allclose(ops.from_cxcywh(ops.to_cxcywh(boxes)), boxes, atol=1e-5)


def test_clip_and_validity():
    clipped = ops.clip(jnp.asarray(ODD), (3, 8))
    np.testing.assert_array_equal(clipped[2:], [[0] * 4, [8, 3, 8, 3], [8, 3, 3, 3], [0, 0, 4, 2], [1, 1, 3, 3]])
    np.testing.assert_array_equal(ops.clip(jnp.asarray(ODD), jnp.array([3, 8])), clipped)
    np.testing.assert_array_equal(ops.is_valid(jnp.asarray(ODD)), [0, 0, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(ops.is_valid(clipped), [0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(ops.is_valid(jnp.asarray(ODD), min_size=3.0), [0, 0, 1, 1, 0, 0, 0])
    assert not ops.is_valid(jnp.array([0, 0, jnp.nan, 1])) and not ops.is_valid(jnp.array([0, 0, jnp.inf, 1]))


# Offsets.


@pytest.mark.parametrize("name", WEIGHTS)
def test_reference_offsets(name):
    boxes, proposals = (jnp.asarray(REFERENCE[f"coder_{key}"]) for key in ("reference", "proposals"))
    offsets = ops.encode(boxes, proposals, WEIGHTS[name])
    np.testing.assert_allclose(offsets, REFERENCE[f"encode_{name}"], atol=1e-4)
    np.testing.assert_allclose(ops.decode(offsets, proposals, WEIGHTS[name]), boxes, atol=1e-3)
    # The reference's decoded boxes are those of 1.7 times the offsets.
    decoded = ops.decode(1.7 * offsets, proposals, WEIGHTS[name])
    np.testing.assert_allclose(decoded, REFERENCE[f"decode_{name}"], rtol=1e-5, atol=1e-4)


def test_growth_is_limited():
    anchor = jnp.array([0.0, 0.0, 16.0, 32.0])
    huge = ops.decode(jnp.array([0.0, 0.0, 100.0, 100.0]), anchor)
    np.testing.assert_allclose(huge[2:] - huge[:2], [1000, 2000], rtol=1e-5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_offsets_and_their_gradients_are_finite(name):
    """For empty boxes and empty anchors; offsets of boxes for themselves are 0."""
    boxes, anchors = (jnp.asarray(array.reshape(-1, 4)) for array in np.broadcast_arrays(ODD[:, None], ODD[None]))

    def total(boxes, anchors):
        offsets = ops.encode(boxes, anchors, WEIGHTS[name])
        return jnp.sum(offsets) + jnp.sum(ops.decode(offsets, anchors, WEIGHTS[name]))

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(boxes, anchors)
    assert np.isfinite(value) and all(np.all(np.isfinite(gradient)) for gradient in gradients)
    np.testing.assert_array_equal(ops.encode(jnp.asarray(ODD), jnp.asarray(ODD)), 0)


# Losses.


def test_reference_losses():
    a, b = (jnp.asarray(REFERENCE[f"huber_{name}"]) for name in "ab")
    np.testing.assert_allclose(losses.smooth_l1(a, b, 1 / 9), REFERENCE["smooth_l1_beta_1_9"], atol=1e-6)
    np.testing.assert_array_equal(losses.smooth_l1(a, b, 0), jnp.abs(a - b))
    logits, targets = (jnp.asarray(REFERENCE[f"focal_{name}"]) for name in ("logits", "targets"))
    found = losses.sigmoid_focal_loss(logits, targets, 0.25, 2.0)
    np.testing.assert_allclose(found, REFERENCE["sigmoid_focal_loss_0.25_2"], rtol=1e-5, atol=1e-7)


def test_focal_loss_without_focus_is_the_cross_entropy():
    logits, targets = jnp.linspace(-30, 30, 7), jnp.array([0.0, 1, 0, 1, 0, 1, 0])
    expected = np.log1p(np.exp(np.where(targets, -logits, logits).astype(float)))
    np.testing.assert_allclose(losses.sigmoid_focal_loss(logits, targets, -1, 0.0), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_losses_have_finite_gradients(gamma):
    logits, targets = jnp.array([-200.0, 0, 200, -200, 0, 200]), jnp.array([0.0, 0, 0, 1, 1, 1])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(losses.sigmoid_focal_loss(x, targets, gamma=gamma))))(logits)
    assert np.all(np.isfinite(gradient))
    for beta in (0.0, 0.5):
        slope = jax.jit(jax.grad(lambda x, b=beta: jnp.sum(losses.smooth_l1(x, targets, b))))
        assert np.all(np.isfinite(slope(logits)))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_iou_losses_draw_a_box_to_its_target(name):
    target = jnp.array([10.0, 10, 20, 30])

    def step(i, box):  # the gradient does not vanish at the target, so that steps of one size would circle around it
        return box - 20 * 0.99**i * jax.grad(lambda b: losses.iou_loss(b, target, SIMILARITIES[name]))(box)

    start = jnp.array([12.0, 8, 24, 26]) if name == "iou" else jnp.array([25.0, 30, 32, 45])
    box = jax.jit(lambda box: jax.lax.fori_loop(0, 600, step, box))(start)
    assert losses.iou_loss(start, target, SIMILARITIES[name]) > 0.3
    assert losses.iou_loss(box, target, SIMILARITIES[name]) < 0.01
    assert losses.iou_loss(target, target, SIMILARITIES[name]) == pytest.approx(0, abs=1e-6)
