"""Two-stage detectors: published sizes, proposals and detections against loops, samples, and any backbone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import roi_heads, rpn

TINY = dict(
    backbone={"name": "vgg11", "stage_sizes": (1, 1, 1, 1), "width": 2},  # without norms, so images are on their own
    strides=(4, 8),
    channels=8,
    anchor_sizes=((8,), (16,), (32,)),
    rpn_samples=16,
    before_nms=(30, 20),
    proposals=(16, 8),
    canonical_size=64.0,
    roi_size=3,
    roi_samples=8,
    roi_positives=0.5,
    box_hidden=(8,),
    max_detections=5,
    score_threshold=0.0,
)
HEADS = dict(masks=True, mask_size=4, mask_convolutions=(4,), keypoints=2, keypoint_size=4, keypoint_convolutions=(4,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, classes, parameters",
    [
        ("keypointrcnn_resnet50_fpn", 1, 59_190_378),
        ("maskrcnn_resnet50_fpn_v2", 90, 46_359_409),
        ("fasterrcnn_vgg16", 20, 137_078_239),  # and, in the tests of weights, maskrcnn_resnet50_fpn
    ],
)
def test_published_parameters(name, classes, parameters):
    shapes = models.variable_shapes(models.create(name, classes), (64, 64, 3))
    assert models.count_parameters(shapes["params"]) == parameters


def test_published_parameters_without_the_norms():
    """torchvision's frozen batch norms have buffers where ours have parameters for an optimiser to leave alone."""
    shapes = models.variable_shapes(models.create("maskrcnn_resnet50_fpn", 90), (64, 64, 3))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    norms = models.count_parameters([leaf for path, leaf in leaves if "norm" in jax.tree_util.keystr(path)])
    assert models.count_parameters(shapes) == 44_454_513
    assert models.count_parameters(shapes) - norms == 44_401_393


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both)


def greedy(boxes, scores, groups, threshold, num):
    """Indices of the boxes that stay, best first."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        rivals = [other for other in kept if groups[other] == groups[index]]
        if all(iou(boxes[index], boxes[other]) <= threshold for other in rivals):
            kept.append(index)
    return kept[:num]


def boxes_at_random(rng, count, side):
    corner = rng.uniform(-0.1 * side, 0.8 * side, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (count, 2)) * side], axis=1).astype(np.float32)


def test_proposals_equal_a_loop():
    rng = np.random.default_rng(0)
    sizes, before = (60, 20, 4), 15
    anchors, logits = boxes_at_random(rng, sum(sizes), 50), rng.standard_normal(sum(sizes)).astype(np.float32)
    offsets = 0.2 * rng.standard_normal((sum(sizes), 4)).astype(np.float32)
    how = dict(level_sizes=sizes, before_nms=before, num=20, threshold=0.4, min_size=6.0)

    def propose(offsets):
        found = rpn.propose(jnp.asarray(logits), offsets, jnp.asarray(anchors), jnp.array([50, 40]), **how)
        return jnp.sum(found.boxes), found

    (_, found), gradient = jax.jit(jax.value_and_grad(propose, has_aux=True))(offsets)
    assert not gradient.any()  # none flows through proposals

    width, height = (anchors[:, 2:] - anchors[:, :2]).T
    center = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[:, :2] * np.stack([width, height], axis=1)
    half = np.exp(offsets[:, 2:]) * np.stack([width, height], axis=1) / 2
    boxes = np.concatenate([center - half, center + half], axis=1).clip(0, [40, 50, 40, 50])
    level = np.repeat([0, 1, 2], sizes)
    best = np.concatenate([np.flatnonzero(level == n)[np.argsort(-logits[level == n])[:before]] for n in range(3)])
    best = best[(boxes[best, 2:] - boxes[best, :2]).min(axis=1) >= 6]
    kept = best[greedy(boxes[best], logits[best], level[best], 0.4, 20)]
    assert 5 < len(kept) < len(best)
    np.testing.assert_array_equal(found.valid, np.arange(20) < len(kept))
    np.testing.assert_allclose(found.boxes[: len(kept)], boxes[kept], atol=1e-4)
    np.testing.assert_allclose(found.scores[: len(kept)], 1 / (1 + np.exp(-logits[kept])), atol=1e-6)
    assert not found.boxes[len(kept) :].any()


def test_detections_equal_a_loop():
    rng = np.random.default_rng(1)
    proposals, classes, weights = boxes_at_random(rng, 12, 40), 3, (10.0, 10.0, 5.0, 5.0)
    logits = 2 * rng.standard_normal((12, 1 + classes)).astype(np.float32)
    offsets = rng.standard_normal((12, 1 + classes, 4)).astype(np.float32)
    valid = np.arange(12) < 10
    how = dict(weights=weights, score_threshold=0.1, threshold=0.3, num=14)
    detect = jax.jit(functools.partial(roi_heads.detect, **how))
    found = detect(logits, offsets, proposals, valid, jnp.array([40, 45]))

    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    boxes, scores, labels = [], [], []
    for box, row, moves in zip(proposals[valid], probability, offsets, strict=False):
        for label in range(classes):
            if row[label + 1] > 0.1:
                size, move = box[2:] - box[:2], moves[label + 1] / weights
                center, half = (box[:2] + box[2:]) / 2 + move[:2] * size, size * np.exp(move[2:]) / 2
                boxes.append(np.concatenate([center - half, center + half]).clip(0, [45, 40, 45, 40]))
                scores.append(row[label + 1])
                labels.append(label)
    kept = greedy(np.array(boxes), np.array(scores), labels, 0.3, 14)
    assert 3 < len(kept) < len(boxes)
    np.testing.assert_array_equal(found["valid"], np.arange(14) < len(kept))
    np.testing.assert_allclose(found["boxes"][: len(kept)], np.array(boxes)[kept], atol=1e-4)
    np.testing.assert_allclose(found["scores"][: len(kept)], np.array(scores)[kept], atol=1e-6)
    np.testing.assert_array_equal(found["classes"][: len(kept)], np.array(labels)[kept])
    assert not found["boxes"][len(kept) :].any() and not found["scores"][len(kept) :].any()


def test_crowds_are_no_background():
    """Regions that lie in an ignored one are not drawn, whatever their IoU with it."""
    boxes = jnp.array([[0, 0, 4, 4], [30, 30, 34, 34], [28, 30, 36, 34], [0, 30, 4, 34.0]])
    truth = {
        "boxes": jnp.array([[0, 0, 4, 5.0], [0, 0, 0, 0]]),
        "valid": jnp.array([True, False]),
        "ignored": jnp.array([[30, 0, 60, 60.0], [0, 0, 0, 0]]),
    }
    draw = jax.jit(functools.partial(rpn.sample, num=4, positive_fraction=0.5, matching=(0.5, 0.5)))
    drawn = draw(jax.random.key(0), boxes, jnp.array([True, True, True, True]), truth)
    assert drawn.filled.sum() == 2 and set(np.asarray(drawn.index[:2])) == {0, 3}
    np.testing.assert_array_equal(drawn.positive, [True, False, False, False])
    truth["ignored"] = jnp.zeros((2, 4))
    assert draw(jax.random.key(0), boxes, jnp.array([True, True, False, True]), truth).filled.sum() == 3


@functools.cache
def evaluated():
    """(outputs, sizes) of a small network with all heads on two images, the second one padded."""
    model = models.create("faster_rcnn", 3, **TINY, **HEADS)
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (48, 64, 3))

    def value(shape):
        return random.standard_normal(shape, np.float32) / np.float32(max(np.prod(shape[:-1]), 4) ** 0.5)

    variables = jax.tree.map(lambda leaf: value(leaf.shape), shapes)
    image = jax.random.normal(jax.random.key(1), (2, 48, 64, 3))
    sizes = np.array([[48, 64], [20, 30]], np.int32)
    return jax.device_get(jax.jit(model.apply)(variables, image, size=sizes)), sizes


def test_detections_keep_the_contract():
    outputs, sizes = evaluated()
    found = outputs["detections"]
    assert {name: value.shape for name, value in found.items()} == {
        "boxes": (2, 5, 4),
        "scores": (2, 5),
        "classes": (2, 5),
        "valid": (2, 5),
        "masks": (2, 5, 8, 8),
        "keypoints": (2, 5, 2, 3),
    }
    assert found["valid"].any(axis=1).all() and found["classes"].dtype == np.int32
    assert found["classes"].min() >= 0 and found["classes"].max() <= 2
    assert (np.diff(found["scores"], axis=1) <= 0).all()
    assert found["masks"].min() >= 0 and found["masks"].max() <= 1
    for boxes, points, valid, (height, width) in zip(
        found["boxes"], found["keypoints"], found["valid"], sizes, strict=True
    ):
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
        assert (boxes[valid, 2:] > boxes[valid, :2]).all() and not boxes[~valid].any() and not points[~valid].any()
        places = (points[..., :2] - boxes[:, None, :2])[valid] / (boxes[:, 2:] - boxes[:, :2])[valid][:, None]
        assert (places > -1e-3).all() and (places < 1 + 1e-3).all()


def test_proposals_end_where_the_image_ends():
    outputs, sizes = evaluated()
    for boxes, (height, width) in zip(outputs["proposals"]["boxes"], sizes, strict=True):
        assert (boxes[:, 2:] <= [width, height]).all()


@pytest.mark.parametrize(
    "fields",
    [
        {
            "backbone": "vit_ti16",
            "pyramid": "simple",
            "strides": (8, 16, 32),
            "anchor_sizes": ((8,), (16,), (32,), (64,)),
        },
        {
            "backbone": TINY["backbone"],
            "pyramid": "none",
            "strides": (8,),
            "anchor_sizes": ((8, 16),),
            "pooling": "pool",
            "rpn_softmax": True,
        },
    ],
)
def test_any_backbone(fields):
    model = models.create("faster_rcnn", 3, **(TINY | fields))
    outputs = jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))[0]
    assert outputs["detections"]["boxes"].shape == (1, 5, 4)


def test_without_classes_it_gives_its_maps():
    model = models.create("faster_rcnn", None, **TINY)
    outputs = jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))[0]
    assert {stride: x.shape for stride, x in outputs.pop("features").items()} == {
        4: (1, 16, 16, 8),
        8: (1, 8, 8, 8),
        16: (1, 4, 4, 8),
    }
    assert not outputs


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"anchor_sizes": ((8,), (16,))}, "sizes for 2 maps; there are 3, of strides 4, 8, 16"),
        ({"anchor_sizes": ((8,), (16, 20), (32,))}, "as many sizes for each map"),
        ({"rpn_positives": 1.5}, "rpn_positives is a share, 0 to 1; given 1.5"),
        ({"roi_matching": (0.3, 0.5)}, "0 < below <= at least <= 1"),
        ({"pooling": "pool"}, "reads one map; given strides"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    model = models.create("faster_rcnn", 3, **(TINY | fields))
    with pytest.raises(UsageError, match=message):
        models.variable_shapes(model, (64, 64, 3))


def test_training_needs_the_truth():
    model = models.create("mask_rcnn", 3, **TINY)
    truth = {"boxes": jnp.zeros((1, 2, 4)), "classes": jnp.zeros((1, 2), jnp.int32), "valid": jnp.zeros((1, 2), bool)}
    for given, message in ((None, "true boxes, classes, valid, masks"), (truth, "needs the true masks; ")):
        with pytest.raises(UsageError, match=message):
            model.apply({}, jnp.zeros((1, 64, 64, 3)), train=True, truth=given)
    truth |= {"masks": jnp.zeros((1, 2, 8, 8)), "keypoints": jnp.zeros((1, 2, 17, 3))}
    with pytest.raises(UsageError, match=r"has 2 key points, the objects of the data have 17; set .*keypoints=17"):
        model.clone(keypoints=2).apply({}, jnp.zeros((1, 64, 64, 3)), train=True, truth=truth)
