"""A batch is a function of (config, step): whatever asks for it, in whatever order, on however many hosts."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from vision.data import create, from_images
from vision.data.fake import FakeRecords
from vision.data.images import BadImage
from vision.data.loader import PADDING
from vision.data.orders import shuffled
from vision.data.pipeline import Pipeline
from vision.data.source import Source
from vision.errors import UsageError

RANDOM = "decode|random_crop(8, padding=2)|flip|noise(5.0)"


def fake(examples=53, transforms=RANDOM, batch_size=8, **arguments):
    return create(f"fake:8x8x3:5:{examples}", "train", batch_size, transforms, **arguments)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def take(batches, count):
    result = [next(batches) for _ in range(count)]
    batches.close()
    return result


def test_any_step_in_any_order():
    straight = [fake(seed=4).batch(step) for step in range(20)]
    pipeline = fake(seed=4)
    for step in np.random.default_rng(0).permutation(20).tolist():
        assert_same(pipeline.batch(step), straight[step])


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4}, {"prefetch": 0}, {"threads": 3, "prefetch": 1}])
def test_prefetching_changes_nothing(options):
    expected = [fake(seed=4).batch(step) for step in range(5, 20)]
    for one, other in zip(take(fake(seed=4, **options).batches(5), 15), expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("host_count", [2, 4])
@pytest.mark.parametrize("train", [True, False])
def test_hosts_make_up_the_same_global_batch(host_count, train):
    hosts = [fake(train=train, host_index=host, host_count=host_count) for host in range(host_count)]
    for step in range(7):
        parts = [host.batch(step) for host in hosts]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_same(whole, fake(train=train).batch(step))


def test_every_example_comes_once_an_epoch_in_another_order():
    pipeline = fake(examples=53, batch_size=8)
    index = np.concatenate([pipeline.batch(step)["index"] for step in range(20)])
    epochs = [index[start : start + 53] for start in (0, 53, 106)]
    assert all(sorted(epoch) == list(range(53)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], np.arange(53))


def test_seeds_have_their_own_orders():
    orders = [tuple(shuffled(seed, epoch, 50)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25


def test_orders_are_uniform():
    counts = np.zeros((10, 10))
    for seed in range(2000):
        counts[np.arange(10), shuffled(seed, 1, 10)] += 1
    assert np.square(counts - 200).sum() / 200 < 81 + 5 * np.sqrt(2 * 81)  # chi squared with 81 degrees of freedom


def test_without_shuffling_training_goes_round_in_order():
    pipeline = fake(examples=10, batch_size=4, shuffle=False)
    index = np.concatenate([pipeline.batch(step)["index"] for step in range(6)])
    np.testing.assert_array_equal(index, np.arange(24) % 10)


def test_augmentation_differs_between_epochs_and_examples_and_seeds():
    pipeline = fake(examples=4, batch_size=4, shuffle=False)
    images = np.concatenate([pipeline.batch(step)["image"] for step in range(3)])
    assert len({image.tobytes() for image in images}) == 12
    assert not np.array_equal(images[:4], fake(examples=4, batch_size=4, shuffle=False, seed=1).batch(0)["image"])


@pytest.mark.parametrize(("examples", "batch_size"), [(53, 8), (16, 8), (3, 8), (1, 1)])
def test_evaluation_is_one_pass_in_order_with_padding(examples, batch_size):
    pipeline = fake(examples=examples, batch_size=batch_size, transforms="decode", train=False)
    batches = list(pipeline.batches())
    assert len(batches) == pipeline.num_batches == -(-examples // batch_size)
    mask = np.concatenate([batch["mask"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < examples)
    np.testing.assert_array_equal(index[:examples], np.arange(examples))
    assert (index[examples:] == PADDING).all() and not images[examples:].any()
    records = FakeRecords((8, 8, 3), 5, examples)
    np.testing.assert_array_equal(images[:examples], [records[i]["image"] for i in range(examples)])


def test_specification_matches_the_batches():
    pipeline = fake(batch_size=8, host_index=1, host_count=2)
    batch = pipeline.batch(0)
    assert pipeline.element_spec == {
        "image": jax.ShapeDtypeStruct((8, 8, 8, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((8,), np.int32),
        "mask": jax.ShapeDtypeStruct((8,), np.float32),
        "index": jax.ShapeDtypeStruct((8,), np.int32),
    }
    for name, spec in pipeline.element_spec.items():
        assert batch[name].dtype == spec.dtype and batch[name].shape == (4, *spec.shape[1:])
    assert (pipeline.num_examples, pipeline.num_batches) == (53, 7)


class Boxes(FakeRecords):
    """Records as a detection source gives them: padded boxes, their classes, and which are valid."""

    def __getitem__(self, index):
        boxes = np.zeros((6, 4), np.float32)
        boxes[: index % 6] = [0, 0, index + 1, 2]
        fields = {"boxes": boxes, "classes": np.arange(6), "valid": np.arange(6) < index % 6, "file": f"{index}.jpg"}
        return {**super().__getitem__(index), **fields}


def test_further_fields_are_batched_too():
    pipeline = Pipeline(Source("boxes", "train", Boxes((8, 8, 3), 3, 20)), 5, "decode", train=False)
    batch = pipeline.batch(1)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((5, 8, 8, 3), "uint8"),
        "label": ((5,), "int32"),
        "boxes": ((5, 6, 4), "float32"),
        "classes": ((5, 6), "int32"),
        "valid": ((5, 6), "bool"),
        "placement": ((5, 6), "float32"),
        "file_size": ((5, 2), "int32"),
        "mask": ((5,), "float32"),
        "index": ((5,), "int32"),
    }
    np.testing.assert_array_equal(batch["boxes"][3, :2], [[0, 0, 9, 2]] * 2)
    np.testing.assert_array_equal(batch["valid"].sum(1), [5, 0, 1, 2, 3])


def png(seed, height=8, width=8) -> bytes:
    buffer = io.BytesIO()
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Thirty images, of which numbers 7 and 19 are damaged."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for number in range(30):
        content = png(number) if number not in (7, 19) else png(number)[:-20]
        (tmp_path / "abc"[number // 10] / f"{number:02}.png").write_bytes(content)
    return tmp_path


def test_a_bad_image_stops_the_run_by_name(photos):
    pipeline = create(f"folder:{photos}", "all", 10, "decode", train=False)
    pipeline.batch(2)
    with pytest.raises(BadImage, match=r"a/07.png: the PNG file is truncated"):
        pipeline.batch(0)
    for threads in (1, 3):
        prefetched = create(f"folder:{photos}", "all", 10, "decode", train=False, threads=threads)
        with pytest.raises(UsageError, match=r"^\S*a/07.png: the PNG file is truncated$") as caught:
            list(prefetched.batches())
        assert not getattr(caught.value, "__notes__", [])


def test_bad_images_are_skipped_counted_and_logged_once(photos, caplog):
    pipeline = create(f"folder:{photos}", "all", 10, "decode", train=False, on_bad_image="skip", max_bad_share=0.07)
    for _ in range(2):
        batches = list(pipeline.batches())
        np.testing.assert_array_equal([batch["mask"].sum() for batch in batches], [9, 9, 10])
        assert batches[0]["mask"][7] == 0 and not batches[0]["image"][7].any() and batches[0]["index"][7] == 7
    assert list(pipeline.bad_images) == [7, 19]
    assert "19.png: the PNG file is truncated" in pipeline.bad_images[19]
    assert sum("07.png" in message for message in caplog.messages) == 1


def test_skipping_leaves_the_other_examples_as_they_are(photos):
    options = {"train": True, "on_bad_image": "skip", "max_bad_share": 0.1, "seed": 2}
    batch = create(f"folder:{photos}", "all", 30, "decode|noise(4.0)", **options).batch(0)
    for number in (7, 19):
        folder = photos / "abc"[number // 10]
        (folder / f"{number:02}.png").write_bytes(png(number))
    whole = create(f"folder:{photos}", "all", 30, "decode|noise(4.0)", **options).batch(0)
    good = ~np.isin(whole["index"], (7, 19))
    np.testing.assert_array_equal(batch["mask"], good)
    np.testing.assert_array_equal(batch["image"][good], whole["image"][good])
    np.testing.assert_array_equal(batch["index"], whole["index"])


def test_skipped_rows_of_training_hold_the_nearest_good_example(photos):
    """Black images would enter the statistics of batch normalisation."""
    options = {"shuffle": False, "on_bad_image": "skip", "max_bad_share": 1.0}
    (photos / "a" / "06.png").write_bytes(b"")
    batch = create(f"folder:{photos}", "all", 10, "decode", **options).batch(0)
    np.testing.assert_array_equal(batch["image"][[6, 7]], batch["image"][[5, 8]])
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 1, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(batch["index"], np.arange(10))
    for file in photos.glob("b/*.png"):
        file.write_bytes(b"")
    batch = create(f"folder:{photos}", "all", 10, "decode", **options).batch(1)
    assert not batch["image"].any() and not batch["mask"].any()


def test_too_many_bad_images_are_an_error(photos):
    pipeline = create(f"folder:{photos}", "all", 10, "decode", train=False, on_bad_image="skip", max_bad_share=0.05)
    pipeline.batch(0)
    with pytest.raises(UsageError, match=r"2 of 30 images cannot be decoded, more than the 1 allowed; .*19.png"):
        pipeline.batch(1)


def test_the_specification_skips_a_bad_first_image(photos):
    (photos / "a" / "00.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"00.png: the file is empty"):
        create(f"folder:{photos}", "all", 10, "decode")
    pipeline = create(f"folder:{photos}", "all", 10, "decode", on_bad_image="skip", max_bad_share=0.1)
    assert pipeline.element_spec["image"].shape == (10, 8, 8, 3)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_images_of_several_sizes_need_a_transform(photos, batch_size):
    (photos / "a" / "01.png").write_bytes(png(1, 9, 8))
    pipeline = create(f"folder:{photos}", "all", batch_size, "decode", train=False)
    with pytest.raises(UsageError, match=r'01.png: \'image\' has shape \(9, 8, 3\), while .* "resize\(224\)"'):
        for step in range(2):
            pipeline.batch(step)
    create(f"folder:{photos}", "all", 5, "decode|resize(4)", train=False).batch(0)


def test_a_transform_that_cannot_be_applied_names_the_record(photos):
    with pytest.raises(UsageError, match=r"00.png: central_crop: the image, 8x8, is smaller than the crop, 9x9"):
        create(f"folder:{photos}", "all", 5, "decode|central_crop(9)")
    with pytest.raises(UsageError, match=r'still encoded; put "decode" first'):
        create(f"folder:{photos}", "all", 5, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "data.batch_size: expected at least 1"),
        ({"batch_size": 9, "host_count": 2}, "9 examples cannot be spread over 2 hosts"),
        ({"workers": -1}, "data.workers: expected at least 0"),
        ({"threads": 0}, "data.threads: expected at least 1"),
        ({"max_bad_share": 1.5}, "data.max_bad_share: expected a share"),
        ({"seed": -1}, "^config.seed: expected a number from 0"),
        ({"seed": 2**63}, r"^config.seed: .* to 2\*\*63 - 1"),
        ({"transforms": "decode|flop"}, "data.transforms: unknown transform 'flop'"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(UsageError, match=message):
        fake(**arguments)


def test_there_is_no_negative_step():
    with pytest.raises(UsageError, match="no step -1"):
        fake().batch(-1)


def test_prediction_takes_paths_bytes_and_arrays(photos):
    array = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    images = [str(photos / "a" / "00.png"), png(1), array]
    (batch,) = from_images(images, "decode", 4).batches()
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 0])
    np.testing.assert_array_equal(batch["image"][2], np.repeat(array[..., None], 3, -1))
    np.testing.assert_array_equal(batch["image"][1], np.asarray(Image.open(io.BytesIO(png(1)))))
    assert "label" not in batch


def test_prediction_of_nothing_and_of_several_sizes():
    pipeline = from_images([], "decode", 4)
    assert list(pipeline.batches()) == [] and pipeline.num_batches == 0
    with pytest.raises(UsageError, match=r"^batch_size: expected at least 1, given 0"):
        from_images([png(0)], "decode", 0)
    sizes = r"image 2: 'image' has shape \(9, 8, 3\), while other examples have \(8, 8, 3\), such as image 0"
    with pytest.raises(UsageError, match=sizes):
        list(from_images([png(0), png(1), png(2, height=9)], "decode", 4).batches())


def test_prediction_names_bad_images(photos):
    images = [str(photos / "a" / f"{number:02}.png") for number in range(10)]
    with pytest.raises(BadImage, match=r"07.png"):
        list(from_images(images, "decode", 4).batches())
    pipeline = from_images(images, "decode", 4, on_bad_image="skip")
    assert sum(batch["mask"].sum() for batch in pipeline.batches()) == 9
    assert list(pipeline.bad_images) == [7]
    with pytest.raises(UsageError, match="image 0: the file is empty"):
        from_images([b""], "decode", 4)
