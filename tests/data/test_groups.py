"""Images of different sizes, padded to a few: every example once, in batches of one shape each."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.data import create, from_images
from vision.data.groups import batches_of_one_shape
from vision.data.images import BadImage, opencv
from vision.data.loader import PADDING
from vision.data.pipeline import Pipeline
from vision.data.source import Source
from vision.errors import UsageError

SIZES = ((16, 16), (16, 32), (32, 24))
PAD = f"decode|pad_to({SIZES})"


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Images of many sizes with a segmentation map."""

    count: int = 53

    def __len__(self):
        return self.count

    def size(self, index):
        rng = np.random.default_rng(index)
        return int(rng.integers(4, 17)), int(rng.integers(4, 33))

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        rng.integers(4, 17), rng.integers(4, 33)
        image = rng.integers(1, 256, (*self.size(index), 3), np.uint8)
        return {"image": image, "segmentation": image[..., 0] // 64, "label": index % 3}

    def describe(self, index):
        return f"photo {index}"

    def labels(self):
        return np.arange(self.count) % 3


def opened(records=None, transforms=PAD, batch_size=8, train=False, **options):
    return Pipeline(Source("mixed", "test", records or Mixed()), batch_size, transforms, train=train, **options)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def bucket(size):
    return min((s for s in SIZES if s[0] >= size[0] and s[1] >= size[1]), key=math.prod)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_example_once_in_batches_of_one_shape(shapes, batch_size, random):
    order = list(range(len(shapes)))
    random.shuffle(order)
    batches = batches_of_one_shape(shapes, batch_size, order)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(shapes)))
    assert all(len({shapes[i] for i in batch}) == 1 and 1 <= len(batch) <= batch_size for batch in batches)
    smaller = [shapes[batch[0]] for batch in batches if len(batch) < batch_size]
    assert len(smaller) == len(set(smaller))
    # Results in the order asked for hold back less than a batch of each shape.
    rank = {index: position for position, index in enumerate(order)}
    turn, waiting = 0, set()
    for batch in batches:
        waiting |= {rank[i] for i in batch.tolist()}
        while turn in waiting:
            waiting.remove(turn)
            turn += 1
        assert len(waiting) < 4 * batch_size


@pytest.mark.parametrize("batch_size", [1, 4, 8, 100])
def test_evaluation_equals_the_examples_one_by_one(batch_size):
    records, pipeline = Mixed(), opened(batch_size=batch_size)
    batches = list(pipeline.batches())
    assert len(batches) == pipeline.num_batches
    assert {batch["image"].shape for batch in batches} <= {(batch_size, *size, 3) for size in SIZES}
    assert len({batch["image"].shape[1:3] for batch in batches}) > 1
    seen = []
    for step, batch in enumerate(batches):
        assert_same(pipeline.batch(step), batch)
        for row in np.flatnonzero(batch["mask"]):
            index = int(batch["index"][row])
            seen.append(index)
            record, size = records[index], records.size(index)
            padded = [(0, total - side) for side, total in zip(size, bucket(size), strict=True)]
            np.testing.assert_array_equal(batch["image"][row], np.pad(record["image"], [*padded, (0, 0)]))
            expected = np.pad(record["segmentation"], padded, constant_values=255)
            np.testing.assert_array_equal(batch["segmentation"][row], expected)
            assert batch["size"][row].tolist() == list(size) and batch["label"][row] == index % 3
        empty = batch["mask"] == 0
        assert (batch["index"][empty] == PADDING).all() and not batch["image"][empty].any()
    assert sorted(seen) == list(range(53))
    assert pipeline.batch(len(batches))["mask"].sum() == 0


def test_the_specification_is_that_of_the_largest_shape():
    pipeline = opened()
    spec = pipeline.element_spec
    largest = max((bucket(Mixed().size(i)) for i in range(53)), key=math.prod)
    assert spec["image"].shape == (8, *largest, 3) and spec["segmentation"].shape == (8, *largest)
    assert spec["size"].shape == (8, 2) and spec["size"].dtype == np.int32


@pytest.mark.parametrize("host_count", [2, 4])
def test_hosts_make_up_the_same_global_batches(host_count):
    hosts = [opened(host_index=host, host_count=host_count) for host in range(host_count)]
    whole = opened()
    assert {host.num_batches for host in hosts} == {whole.num_batches}
    for step in range(whole.num_batches + 1):
        parts = [host.batch(step) for host in hosts]
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, whole.batch(step))


@pytest.mark.parametrize("options", [{"threads": 3}, pytest.param({"workers": 2}, marks=pytest.mark.slow)])
def test_threads_and_workers_change_nothing(options):
    expected = list(opened(prefetch=0).batches())
    for one, other in zip(opened(**options).batches(), expected, strict=True):
        assert_same(one, other)


def test_shuffling_and_starting_later():
    pipeline = opened(shuffle=True, seed=3)
    index = np.concatenate([batch["index"] for batch in pipeline.batches()])
    assert sorted(index[index != PADDING]) == list(range(53)) and index[:8].tolist() != sorted(index[:8])
    assert_same(next(pipeline.batches(2)), pipeline.batch(2))


def test_random_transforms_have_the_shapes_foretold():
    chain = "decode|brightness(0.3)|contrast(0.2)|scale_jitter(0.5, 1.0)|flip|rotate(9.0)|pad_to(((16, 16), (16, 32)))"
    pipeline = opened(transforms=chain)
    assert sum(batch["mask"].sum() for batch in pipeline.batches()) == 53


@pytest.fixture
def files(tmp_path):
    """Files of four sizes: JPEG and PNG, of which number 2 is damaged behind its header and 5 is no image at all."""
    paths = []
    for number, size in enumerate([(9, 12), (16, 30), (30, 20), (12, 9), (8, 8), (8, 8), (12, 32)]):
        path = tmp_path / f"{number}{'.jpg' if number % 2 else '.png'}"
        opencv().imwrite(str(path), np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8))
        paths.append(path)
    paths[2].write_bytes(paths[2].read_bytes()[:-30])
    paths[5].write_bytes(b"no image")
    return [str(path) for path in paths]


def test_prediction_from_files_whose_headers_tell_their_size(files):
    good = [files[i] for i in (0, 1, 3, 4, 6)]
    pipeline = from_images(good, PAD, 2)
    found = {
        int(i): tuple(size)
        for batch in pipeline.batches()
        for i, size in zip(batch["index"], batch["size"], strict=True)
    }
    found.pop(PADDING, None)
    assert found == {0: (9, 12), 1: (16, 30), 2: (12, 9), 3: (8, 8), 4: (12, 32)}


def test_bad_images_stop_by_name_or_are_skipped_and_counted(files):
    with pytest.raises(BadImage, match=r"5.jpg: not an image"):
        from_images(files, PAD, 2)
    with pytest.raises(BadImage, match=r"2.png: the PNG file is truncated"):
        from_images(files[:4], PAD, 2)
    pipeline = from_images(files, PAD, 2, on_bad_image="skip")
    batches = list(pipeline.batches())
    assert sorted(int(i) for batch in batches for i in batch["index"][batch["mask"] > 0]) == [0, 1, 3, 4, 6]
    assert sorted(i for batch in batches for i in batch["index"].tolist() if i != PADDING) == list(range(7))
    assert sorted(pipeline.bad_images) == [2, 5]
    with pytest.raises(UsageError, match="None of the images can be read"):
        from_images([files[2], files[5]], PAD, 2, on_bad_image="skip")


def test_an_image_that_fits_nowhere_is_named():
    message = (
        r"^image 1: pad_to: the image, 40x8 \(height x width\), fits into none of the sizes, of which the largest is"
    )
    images = [np.zeros((8, 8, 3), np.uint8), np.zeros((40, 8, 3), np.uint8)]
    with pytest.raises(UsageError, match=message + " 32x24"):
        from_images(images, PAD, 2)
    assert from_images([], PAD, 2).num_batches == 0


def test_training_goes_through_every_example_in_batches_of_one_shape():
    records, pipeline = Mixed(), opened(train=True, seed=5)
    steps = 8 * math.ceil(53 / 8)
    batches = [pipeline.batch(step) for step in range(steps)]
    shapes = {bucket(records.size(i)) for i in range(53)}
    assert {batch["image"].shape for batch in batches} == {(8, *shape, 3) for shape in shapes} and len(shapes) > 1
    met = np.bincount(np.concatenate([batch["index"] for batch in batches]), minlength=53)
    assert met.min() >= 6 and met.max() <= 10  # in about eight epochs
    for batch in batches[:9]:
        assert batch["mask"].all()
        for image, index, size in zip(batch["image"], batch["index"].tolist(), batch["size"], strict=True):
            record = records[index]["image"]
            padded = [(0, total - side) for side, total in zip(record.shape[:2], image.shape[:2], strict=True)]
            np.testing.assert_array_equal(image, np.pad(record, [*padded, (0, 0)]))
            assert tuple(size) == record.shape[:2]
    orders = [tuple(batch["index"]) for batch in batches]
    assert len(set(orders)) == len(orders)
    assert tuple(opened(train=True, seed=6).batch(0)["index"]) not in orders


RANDOM = f"decode|scale_jitter(0.5, 3.0)|flip|hue(20)|pad_to({SIZES}, fill=9)"


def test_training_on_several_shapes_is_a_function_of_the_step():
    whole = opened(transforms=RANDOM, train=True)
    expected = {step: whole.batch(step) for step in (40, 3, 0, 17)}
    again = pickle.loads(pickle.dumps(opened(transforms=RANDOM, train=True)._loader))  # as worker processes have it
    hosts = [opened(transforms=RANDOM, train=True, host_index=host, host_count=4) for host in range(4)]
    for step in (0, 3, 17, 40):
        assert_same(again.batch(step), expected[step])
        parts = [host.batch(step) for host in hosts]
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, expected[step])
    for step, batch in zip(range(3, 9), opened(transforms=RANDOM, train=True, threads=3).batches(3), strict=False):
        assert_same(batch, whole.batch(step))


def test_what_chance_has_made_too_large_for_its_shape_is_shrunk():
    pipeline, records = opened(transforms=RANDOM, train=True), Mixed()
    shrunk = 0
    for step in range(12):
        batch = pipeline.batch(step)
        shape = batch["image"].shape[1:3]
        for index, size in zip(batch["index"].tolist(), batch["size"], strict=True):
            original = np.array(records.size(index))
            assert bucket(original) == shape and (size <= shape).all()
            ratio = size / original
            assert abs(ratio[0] - ratio[1]) <= 1 / original.min() + 1 / original.max()  # but for whole pixels
            shrunk += bool((size == shape).any() and ratio.max() < 2.9)
    assert shrunk > 10


def test_training_on_one_of_several_shapes_and_on_images_that_cannot_be_read(files):
    same = opened(transforms="decode|resize((8, 8))|pad_to(((8, 8), (99, 99)))", train=True)
    assert {same.batch(step)["image"].shape for step in range(5)} == {(8, 8, 8, 3)}
    source = Source("files", "train", from_images(files, PAD, 2, on_bad_image="skip").source.records)
    pipeline = Pipeline(source, 3, PAD, train=True, on_bad_image="skip", max_bad_share=0.5)
    batches = [pipeline.batch(step) for step in range(12)]
    assert sorted(pipeline.bad_images) == [2, 5] and {batch["image"].shape[0] for batch in batches} == {3}
    with pytest.raises(BadImage, match=r"5.jpg: not an image"):
        Pipeline(source, 3, PAD, train=True)
    with pytest.raises(UsageError, match=r"^data.transforms: training takes but one pad_to"):
        opened(transforms=f"{PAD}|pad_to(((99, 99),))", train=True)
    with pytest.raises(UsageError, match=r"^photo 0: pad_to: the image, .*, fits into none of the sizes"):
        opened(transforms="decode|resize((200, 9))|pad_to(((99, 99), (100, 99)))", train=True)


class Lying(Mixed):
    def size(self, index):
        return (8, 8) if index == 4 else super().size(index)

    def __getitem__(self, index):
        return (
            Mixed.__getitem__(Mixed(), index) if index != 4 else {"image": np.ones((16, 30, 3), np.uint8), "label": 0}
        )


def test_a_size_that_is_not_true_is_an_error():
    with pytest.raises(UsageError, match=r"photo 4: 'image' has shape \(16, 32, 3\), while"):
        list(opened(Lying()).batches())
    with pytest.raises(UsageError, match=r"Example 0 has an image of 16x32 after its transforms, where 16x16"):

        class First(Mixed):
            def size(self, index):
                return (8, 8)

            def __getitem__(self, index):
                return {"image": np.ones((16, 30, 3), np.uint8)}

        opened(First())


def test_sizes_of_a_data_set_without_them_are_those_of_its_images():
    pipeline = create("fake:12x20x3:4:9", "test", 4, f"pad_to({SIZES})", train=False)
    assert pipeline.num_batches == 3 and pipeline.element_spec["image"].shape == (4, 16, 32, 3)
