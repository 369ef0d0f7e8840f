"""R-CNN end to end: on coloured rectangles with plain pixels as features, and on real micrographs with a network's."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vision import models, rcnn
from vision.data import open_source
from vision.data.source import Source
from vision.errors import UsageError
from vision.ops import boxes as box_ops
from vision.tasks.average_precision import average_precision

CELLS = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
COLORS = {"red": (220, 40, 40), "green": (40, 200, 60)}
SIDE = 8
SETTINGS = rcnn.Settings(max_proposals=40, width=None, svm_c=0.1, ridge=1.0)


class Rectangles:
    """Two rectangles of two colours on noise, apart from each other."""

    def __init__(self, seed, count):
        self.seed, self.count = seed, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        image = rng.integers(90, 120, (60, 80, 3)).astype(np.uint8)
        boxes = []
        for left, color in zip((2, 42), rng.permutation(2), strict=True):
            width, height = rng.integers(14, 34, 2)
            x, y = left + rng.integers(0, 36 - width), rng.integers(0, 60 - height)
            image[y : y + height, x : x + width] = list(COLORS.values())[color]
            boxes.append((x, y, x + width, y + height, color))
        boxes = np.array(boxes, np.float32)
        truth = {"boxes": boxes[:, :4], "classes": boxes[:, 4].astype(np.int32), "valid": np.ones(2, bool)}
        return {"image": image, **truth}


def pixels(crops):
    """Features without a network: the regions themselves, small."""
    return crops.reshape(len(crops), -1).astype(np.float32) / 255


@pytest.fixture(scope="module")
def learnt():
    records = Rectangles(0, 12)
    examples = [rcnn.regions(records[i], pixels, (SIDE, SIDE, 3), SETTINGS, with_objects=True) for i in range(12)]
    return examples, rcnn.fit(examples, 3, SETTINGS)


def test_it_finds_rectangles(learnt):
    _, heads = learnt
    source = Source("rectangles", "test", Rectangles(1, 8), (*COLORS, "blue"))
    known = list(rcnn.detections(source, range(8), pixels, (SIDE, SIDE, 3), heads, SETTINGS))
    found = average_precision(known, source.class_names)
    assert found["AP50"] > 0.9
    assert not any((one["found_classes"] == 2)[one["found_valid"]].any() for one in known)  # never seen, never found


def test_true_boxes_are_the_positives_and_scores_separate(learnt):
    examples, heads = learnt
    for one in examples[:4]:
        assert len(one.objects) == 2 and one.features.shape == (len(one.boxes), SIDE * SIDE * 3)
        scores = heads.scores(one.features)
        assert (scores[[0, 1], one.objects] > scores[[0, 1], 1 - one.objects]).all()
        assert np.isneginf(scores[:, 2]).all()


def test_boxes_are_regressed_towards_the_objects(learnt):
    """A map from features to offsets is found again, but for what the penalty takes."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 20, (1, 2)), rng.uniform(40, 60, (1, 2))], axis=1).astype(np.float32)
    shift = rng.uniform(-2, 2, (200, 2)).astype(np.float32)
    moved = np.concatenate([boxes, boxes + np.tile(shift, 2)]).astype(np.float32)
    values = np.concatenate([np.zeros((1, 2)), shift]).astype(np.float32)
    one = rcnn.Regions((80, 80), moved, values, np.zeros(1, np.int32), np.zeros((0, 4), np.float32))
    heads = rcnn.fit([one], 1, SETTINGS)
    corrected = np.asarray(box_ops.decode(jax.numpy.asarray(heads.offsets(values)[:, 0]), jax.numpy.asarray(moved)))
    assert np.abs(corrected - boxes).max() < 0.1 * np.abs(moved - boxes).max()


def test_crowds_teach_nothing():
    record = Rectangles(0, 1)[0]
    settings = SETTINGS
    plain = rcnn.regions(record, pixels, (SIDE, SIDE, 3), settings, with_objects=True)
    crowd = rcnn.regions(record | {"crowd": np.array([1, 0], bool)}, pixels, (SIDE, SIDE, 3), settings, True)
    assert len(plain.objects) == 2 and len(crowd.objects) == 1 and len(crowd.crowds) == 1
    (is_object, overlap, _), *_ = rcnn._matched([crowd], int(crowd.objects[0]))
    assert is_object.sum() == 1 and np.isnan(overlap).any() and overlap[0] == 1
    with pytest.raises(UsageError, match="no objects to learn from"):
        rcnn.fit([plain._replace(objects=plain.objects[:0])], 2, settings)


@pytest.mark.slow
@pytest.mark.skipif(not CELLS.is_dir(), reason="the micrographs are not there: ../shared/data/bccd")
def test_it_runs_on_real_images():
    """Six images of blood cells and a network that has learnt nothing: more than chance, with boxes in the image."""
    from types import SimpleNamespace

    model = models.create("resnet", stage_sizes=(1,), width=8, small_images=True, num_classes=None)
    variables = models.initialize(model, jax.random.key(0), (16, 16, 3))
    network = SimpleNamespace(model=model, preprocess=lambda x: x.astype("float32") / 128 - 1)
    run = SimpleNamespace(network=network, variables=variables, image_shape=(16, 16, 3))
    settings = rcnn.Settings(max_proposals=100, width=160, svm_c=0.01)
    extract = rcnn.extractor(run, "features/1", batch_size=32)
    train, test = (open_source(f"voc:{CELLS}", split) for split in ("train", "test"))
    examples = [rcnn.regions(train.records[i], extract, run.image_shape, settings, True) for i in range(4)]
    assert examples[0].features.shape[1] == 16 * 16 * 8
    heads = rcnn.fit(examples, 3, settings)
    known = list(rcnn.detections(test, range(2), extract, run.image_shape, heads, settings))
    found = average_precision(known, test.class_names)
    assert found["AP50"] > 0.02
    boxes = known[0]["found_boxes"][known[0]["found_valid"]]
    assert len(boxes) and (boxes >= 0).all() and (boxes <= [640, 480, 640, 480]).all()
