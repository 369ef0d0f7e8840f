"""Transforms for detection: boxes lie where the rectangles are that were drawn, and crops keep what was published."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import chain
from vision.data.annotations import MIN_VISIBLE
from vision.data.geometry import Affine
from vision.data.loader import Loader
from vision.data.pipeline import Pipeline
from vision.data.source import Source
from vision.data.transforms import TRANSFORMS, asks_for
from vision.errors import UsageError

SHAPE = (48, 64)
SIDES = st.tuples(st.integers(0, 50), st.integers(0, 36), st.integers(8, 30), st.integers(8, 30))
RECTANGLES = st.lists(SIDES.map(lambda s: (s[0], s[1], min(64, s[0] + s[2]), min(48, s[1] + s[3]))), max_size=3)


def drawn(boxes, rows=4, color=255):
    """Rectangles, one in each colour channel, with all that may be known about them."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    example = {
        "boxes": np.zeros((rows, 4), np.float32),
        "classes": np.zeros(rows, np.int32),
        "valid": np.zeros(rows, bool),
        "crowd": np.zeros(rows, bool),
        "area": np.zeros(rows, np.float32),
        "masks": np.zeros((rows, *SHAPE), np.uint8),
        "keypoints": np.zeros((rows, 1, 3), np.float32),
    }
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1, row] = color
        example["masks"][row, y0:y1, x0:x1] = 1
        example["boxes"][row] = x0, y0, x1, y1
        example["keypoints"][row] = (x0 + x1) / 2, (y0 + y1) / 2, 2
        example["classes"][row], example["valid"][row], example["crowd"][row] = row, True, row == 1
        example["area"][row] = (x1 - x0) * (y1 - y0)
    return {"image": image, "label": 7, **example}


def hull(filled):
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def applied(text, example, seed=0, another=None):
    return chain.apply(chain.parse(text), example, np.random.default_rng(seed), another)


CHAINS = [
    "resize((60, 40))",
    "resize_small(30)|random_crop((28, 36))",
    "resize_long(50)|letterbox((60, 44))",
    "resize_within((40, 56), 70)|pad_to(((70, 70), (80, 96)))",
    "random_resize_within((24, 40, 56), 72)|flip|central_crop(40, pad_smaller=True)",
    "random_resized_crop((40, 40), area=(0.4, 1.0))|flip(0.5, 'vertical')",
    "scale_jitter(0.6, 2.0)|pad_to(((50, 66),), shrink=True)",
    "expand(3.0, 1.0, fill=0)|scale(0.8, 2.0)",
    "random_iou_crop|resize((60, 60))|flip",
    "expand(4.0, fill=0)|random_iou_crop|rotate(10.0)|translate(0.1)",
]


def test_all_that_moves_an_image_is_drawn():
    moving = {name for name, function in TRANSFORMS.items() if "shape" in asks_for(function)}
    assert moving == {call.name for text in CHAINS for call in chain.parse(text)}


@pytest.mark.parametrize("text", CHAINS)
@settings(max_examples=15, deadline=None)
@given(boxes=RECTANGLES, seed=st.integers(0, 10**6))
def test_rectangles_are_under_their_boxes(text, boxes, seed):
    moved = applied(text, drawn(boxes), seed)
    for row in range(len(boxes)):
        bright = moved["image"][..., row] >= 128
        x0, y0, x1, y1 = box = moved["boxes"][row]
        assert moved["valid"][row] == box.any()
        if not box.any():
            assert not moved["keypoints"][row].any()
            continue
        assert bright.any()
        # Where a corner was cut off something turned, the hull of its mask is tight; a pixel is lost by interpolation.
        assert np.abs(box - hull(bright)).max() <= 1.6
        x, y, visible = moved["keypoints"][row, 0]
        assert not visible or (x0 <= x <= x1 and y0 <= y <= y1 and bright[int(y), int(x)])
    untouched = ("classes", "crowd", "area", "label")
    for name in untouched:
        np.testing.assert_array_equal(moved[name], drawn(boxes)[name])


@pytest.mark.parametrize("text", ["", "decode", "noise(3)", *CHAINS])
def test_the_placement_leads_from_the_file_to_the_canvas(text):
    point = np.array([20.5, 30.5])
    example = drawn([(10, 24, 31, 37)])  # whose centre it is
    for seed in range(3):
        moved = applied(text, example, seed)
        assert moved["placement"].dtype == np.float32 and moved["placement"].shape == (6,)
        assert moved["file_size"].dtype == np.int32 and moved["file_size"].tolist() == list(SHAPE)
        placement = Affine(*moved["placement"].tolist())
        x, y, visible = moved["keypoints"][0, 0]
        if visible:
            np.testing.assert_allclose(placement.of(point), [x, y], atol=1e-4)
            np.testing.assert_allclose(placement.inverse().of(np.array([x, y])), point, atol=1e-3)
    assert "placement" not in applied(text, {"image": example["image"]}) if "iou" not in text else True


def overlap(box, window):
    low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
    common = np.prod(np.maximum(high - low, 0))
    return common / (np.prod(box[2:] - box[:2]) + np.prod(window[2:] - window[:2]) - common)


def window_of(moved):
    """The crop (x0, y0, x1, y1) in pixels of the image."""
    left, top = -moved["placement"][2], -moved["placement"][5]
    height, width = moved["image"].shape[:2]
    return np.array([left, top, left + width, top + height])


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5])
def test_a_crop_overlaps_an_object_as_asked_and_keeps_those_whose_centre_is_in_it(least):
    boxes = [(5, 6, 25, 30), (20, 10, 60, 44), (40, 2, 62, 14)]
    example, cropped, cut = drawn(boxes), 0, 0
    for seed in range(60):
        moved = applied(f"random_iou_crop(overlaps=({least},))", example, seed)
        window = window_of(moved)
        if moved["image"].shape == example["image"].shape:
            continue
        cropped += 1
        height, width = moved["image"].shape[:2]
        assert height >= round(0.3 * 48) and width >= round(0.3 * 64) and 0.5 <= width / height <= 2
        assert (window[:2] >= 0).all() and (window[2:] <= [64, 48]).all()
        assert max(overlap(np.array(box), window) for box in boxes) >= least
        for row, box in enumerate(boxes):
            centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
            inside = (centre >= window[:2]).all() and (centre < window[2:]).all()
            assert moved["valid"][row] == inside == moved["boxes"][row].any()
            if inside:
                expected = np.clip(np.array(box) - window[[0, 1, 0, 1]], 0, [width, height, width, height])
                np.testing.assert_allclose(moved["boxes"][row], expected)
            elif overlap(np.array(box), window) > 0.2:
                cut += 1
        assert moved["valid"].any()
    assert cropped >= 40 and cut


def test_a_crop_looks_at_the_boxes_as_they_are_by_then():
    """On an expanded canvas the object is small, and so is a crop of which it fills a third."""
    small = 0
    text = "expand(4.0, 1.0)|random_iou_crop(overlaps=(0.3,), side=(0.1, 1.0))"
    for seed in range(20):
        moved = applied(text, drawn([(8, 8, 56, 40)]), seed)
        canvas = applied("expand(4.0, 1.0)", drawn([(8, 8, 56, 40)]), seed)["image"].shape[:2]
        if moved["image"].shape[:2] != canvas:
            box, small = moved["boxes"][0], small + 1
            assert np.prod(box[2:] - box[:2]) >= 0.3 * np.prod(moved["image"].shape[:2]) and moved["valid"][0]
    assert small > 5


def test_an_image_without_objects_stays_whole_and_one_without_boxes_is_an_error():
    example = drawn([])
    np.testing.assert_array_equal(applied("random_iou_crop", example)["image"], example["image"])
    with pytest.raises(UsageError, match="needs the objects' `boxes`"):
        applied("random_iou_crop", {"image": example["image"]})


def test_expansion_reaches_every_ratio_and_is_filled():
    ratios = []
    for seed in range(200):
        moved = applied("expand(fill=(1, 2, 3))", drawn([(0, 0, 64, 48)], color=200), seed)
        height, width = moved["image"].shape[:2]
        ratios.append(height / 48)
        assert abs(height / 48 - width / 64) <= 0.02
        x0, y0, x1, y1 = moved["boxes"][0].astype(int)
        assert (x1 - x0, y1 - y0) == (64, 48) and (moved["image"][y0:y1, x0:x1] == [200, 0, 0]).all()
        moved["image"][y0:y1, x0:x1] = [1, 2, 3]
        assert (moved["image"] == [1, 2, 3]).all()
    larger = np.array([ratio for ratio in ratios if ratio > 1])
    assert 70 < len(larger) < 130 and larger.min() < 1.2 and larger.max() > 3.7 and abs(larger.mean() - 2.5) < 0.3


def near(one, other):
    return np.abs(one - other).max() <= 1


def coloured(seed, rows=4):
    """An example whose rectangles have a colour that no other example's have."""
    rng = np.random.default_rng(seed)
    x0, y0 = rng.integers(0, 40, 2)[:, None] * [1, 0.6]
    boxes = [(3, 4, 25, 44), (int(x0[0]) % 20 + 30, int(y0[1]) % 15, 60, 40)]
    return drawn(boxes, rows, color=60 + 20 * seed)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([48, (60, 90), (90, 50)]))
def test_a_mosaic_has_the_objects_of_four_images_where_they_are(seed, size):
    others = itertools.count(1)
    moved = applied(
        f"mosaic({size}, method='nearest', fill=0)", coloured(0, 8), seed, lambda calls: coloured(next(others), 8)
    )
    canvas = (size, size) if isinstance(size, int) else size
    assert moved["image"].shape == (*canvas, 3) and moved["masks"].shape == (8, *canvas) and next(others) == 4
    found = 0
    for part, row in np.ndindex(4, 2):
        seen = moved["image"][..., row] == 60 + 20 * part
        at = [i for i in np.flatnonzero(moved["valid"]) if seen.any() and near(moved["boxes"][i], hull(seen))]
        if len(at) == 0:
            # Cut to less than a tenth, or nothing of it is left: of the rectangle, scaled, in pixels.
            box = coloured(part)["boxes"][row]
            scale = min(canvas[0] / 48, canvas[1] / 64)
            assert seen.sum() <= (MIN_VISIBLE + 0.05) * np.prod(box[2:] - box[:2]) * scale**2 + max(canvas)
            continue
        found += 1
        (i,) = at
        assert moved["classes"][i] == row and moved["crowd"][i] == (row == 1)
        assert moved["area"][i] == coloured(part)["area"][row]
        masked = moved["masks"][i].astype(bool)
        assert near(hull(masked), hull(seen)) and masked.sum() == np.prod(hull(masked)[2:] - hull(masked)[:2])
        x, y, visible = moved["keypoints"][i, 0]
        assert not visible or seen[int(y), int(x)]
    assert found == moved["valid"].sum() >= 1
    assert moved["label"] == 7 and not moved["boxes"][~moved["valid"]].any()


def test_of_too_many_objects_in_a_mosaic_the_smallest_are_left_out():
    others = itertools.count(1)
    text = "mosaic(60, centre=(0.5, 0.5), method='nearest')"
    everything = applied(text, coloured(0, 8), 3, lambda calls: coloured(next(others), 8))
    others = itertools.count(1)
    moved = applied(text, coloured(0, 3), 3, lambda calls: coloured(next(others), 3))
    assert moved["valid"].all() and len(moved["boxes"]) == 3 and everything["valid"].sum() > 3
    areas = [np.sort(np.prod(one["boxes"][:, 2:] - one["boxes"][:, :2], axis=1)) for one in (moved, everything)]
    np.testing.assert_array_equal(areas[0], areas[1][-3:])
    others = itertools.count(1)
    roomy = applied(f"{text[:-1]}, max_objects=8)", coloured(0, 3), 3, lambda calls: coloured(next(others), 3))
    for name, value in everything.items():
        np.testing.assert_array_equal(roomy[name], value, err_msg=name)


def test_without_a_mosaic_the_image_is_in_the_middle():
    moved = applied("mosaic((100, 80), probability=0.0, max_objects=9, fill=(9, 8, 7))", drawn([(0, 0, 64, 48)]))
    assert moved["boxes"].shape == (9, 4) and moved["valid"].sum() == 1 and moved["masks"].shape == (9, 100, 80)
    np.testing.assert_array_equal(moved["boxes"][0], [0, 20, 80, 80])
    assert (moved["image"][20:80] == [255, 0, 0]).all() and (moved["image"][80:] == [9, 8, 7]).all()
    with pytest.raises(UsageError, match="mosaic makes one image of several, and here is but one"):
        applied("mosaic(9)", drawn([]))


class Scenes:
    """Records of which the third is no image."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return drawn([(3, 4, 25, 44)], color=100 + index) | {"label": index}

    def describe(self, index):
        return f"scene {index}"

    def labels(self):
        return np.zeros(6, int)


class OneBad(Scenes):
    def __getitem__(self, index):
        return super().__getitem__(index) | ({"image": b"no image"} if index == 2 else {})


def loaded(records, **options):
    text = "decode|flip|mosaic(40, method='nearest')|hue(0)"
    return Pipeline(Source("scenes", "train", records), 4, text, train=True, **options)


def test_a_mosaic_depends_on_the_step_alone_and_takes_its_images_from_the_whole_set():
    pipeline = loaded(Scenes())
    assert isinstance(pipeline._loader, Loader)
    hosts = [loaded(Scenes(), host_index=host, host_count=2) for host in range(2)]
    met = set()
    for step in (5, 0, 2):
        batch = pipeline.batch(step)
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([host.batch(step)[name] for host in hosts]))
        met |= set(np.unique(batch["image"][..., 0]).tolist())
    assert {100, 101, 102, 103, 104, 105} <= met
    assert len({pipeline.batch(step)["boxes"].tobytes() for step in range(5)}) == 5


def test_images_of_a_mosaic_that_cannot_be_read():
    with pytest.raises(UsageError, match=r"^scene \d: scene 2: not an image"):
        for step in range(9):
            loaded(OneBad()).batch(step)
    pipeline = loaded(OneBad(), on_bad_image="skip", max_bad_share=0.2)
    batches = [pipeline.batch(step) for step in range(9)]
    assert set(pipeline.bad_images) == {2} and all((b["mask"] == (b["index"] != 2)).all() for b in batches)


@pytest.mark.parametrize(
    ("shape", "size", "most", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((400, 1000), 800, 1333, (533, 1333)),
        ((427, 640), (640, 800), 1333, (800, 1199)),
        ((3, 1000), 800, 100, (1, 100)),
    ],
)
def test_the_shorter_side_unless_the_longer_is_too_long(shape, size, most, expected):
    assert chain.output_shape((chain.Call("resize_within", {"size": size, "max_size": most}),), shape, None) == expected


def test_every_size_is_drawn():
    call = chain.Call("random_resize_within", {"size": (20, 24, 40), "max_size": 48})
    rng = np.random.default_rng(0)
    shapes = [chain.output_shape((call,), (30, 40), rng) for _ in range(200)]
    assert {shape: shapes.count(shape) > 40 for shape in set(shapes)} == {
        (20, 27): True,
        (24, 32): True,
        (36, 48): True,
    }
