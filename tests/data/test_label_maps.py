"""Label maps in files of every kind, written by another library."""

import io

import numpy as np
import pytest
from PIL import Image

from vision.data import label_maps
from vision.data.images import BadImage
from vision.data.label_maps import ColourTable, IdTable
from vision.errors import UsageError


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def palette_png(ids, bits, **options):
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 * 2**bits, np.uint8).tobytes())
    return encoded(image, bits=bits, **options)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_a_palette_gives_its_indices(bits, options):
    ids = np.random.default_rng(bits).integers(0, 2**bits, (7, 13))
    data = palette_png(ids, bits, **options)
    assert (data[24], data[25]) == (bits, 3)  # it is what it is called
    np.testing.assert_array_equal(label_maps.decode_ids(data), ids)
    np.testing.assert_array_equal(label_maps.decode_ids(data, palette=True), ids)


def test_grey_values_of_1_8_and_16_bits():
    ids = np.random.default_rng(0).integers(0, 256, (5, 6))
    np.testing.assert_array_equal(label_maps.decode_ids(encoded(Image.fromarray(ids.astype(np.uint8)))), ids)
    wide = label_maps.decode_ids(encoded(Image.fromarray((ids * 200).astype(np.uint16))))
    assert wide.dtype == np.uint16
    np.testing.assert_array_equal(wide, ids * 200)
    one = label_maps.decode_ids(encoded(Image.fromarray(ids > 128)))
    np.testing.assert_array_equal(one, ids > 128)
    grey_as_rgb = encoded(Image.fromarray(np.stack([ids] * 3, -1).astype(np.uint8)))
    np.testing.assert_array_equal(label_maps.decode_ids(grey_as_rgb), ids)
    with pytest.raises(BadImage, match="the file has no palette"):
        label_maps.decode_ids(grey_as_rgb, palette=True)


def test_ids_become_classes():
    table = IdTable((7, 8, 300), ignore=(0, 9))
    raw = np.array([[7, 8, 300], [0, 9, 7]], np.uint16)
    assert table.convert(raw).tolist() == [[0, 1, 2], [255, 255, 0]]
    assert table.convert(raw).dtype == np.uint8
    with pytest.raises(UsageError, match="x 1, y 0 has the id 5; expected 7, 8, 300 of the 3 classes, or 0, 9"):
        table.convert(np.array([[7, 5]], np.uint8))
    assert IdTable((7,), "others").convert(np.array([[7, 5]])).tolist() == [[0, 255]]
    with pytest.raises(UsageError, match="has the id 21; expected 0 to 20 of the 21 classes, or 255 to be ignored"):
        IdTable(tuple(range(21))).convert(np.array([[3, 21]]))


def test_colours_become_classes():
    table = ColourTable(((0, 0, 0), (128, 64, 255)), ((224, 224, 192),), ("road", "sky"))
    rgb = np.array([[[0, 0, 0], [128, 64, 255], [224, 224, 192]]], np.uint8)
    assert table.read(encoded(Image.fromarray(rgb))).tolist() == [[0, 1, 255]]
    rgb[0, 2] = (120, 66, 250)
    with pytest.raises(
        UsageError, match=r"x 2, y 0 has the colour \(120, 66, 250\).* nearest is 'sky' with \(128, 64, 255\)"
    ):
        table.read(encoded(Image.fromarray(rgb)))
    others = ColourTable(table.colours, "others")
    assert others.read(encoded(Image.fromarray(rgb))).tolist() == [[0, 1, 255]]


def test_a_palette_may_hold_the_colours():
    ids = np.array([[0, 1], [1, 0]])
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    assert ColourTable(((200, 100, 0), (10, 20, 30))).read(encoded(image)).tolist() == [[1, 0], [0, 1]]


def test_files_that_are_no_label_maps(tmp_path):
    data = palette_png(np.random.default_rng(0).integers(0, 4, (64, 64)), 8)
    for bad, message in (
        (data[: len(data) // 2], "the PNG file is truncated"),
        (b"", "empty"),
        (b"no image", "not an image"),
        (encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))), "one channel"),
    ):
        with pytest.raises(BadImage, match=message):
            label_maps.decode_ids(bad)
    with pytest.raises(BadImage, match="no such file"):
        label_maps.decode_ids(tmp_path / "none.png")
