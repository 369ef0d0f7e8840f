"""Polygons and run lengths as masks, against plain loops, and many of them in flat arrays."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision.data import regions


def column_counts(mask):
    """Run lengths down the columns, beginning with zeros, by a plain loop."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def compressed(counts):
    """COCO's text for run lengths, after the description of the format."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return text


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(max_examples=60, deadline=None)
def test_run_lengths(mask):
    counts = column_counts(mask)
    assert regions.run_lengths(compressed(counts)).tolist() == counts
    for form in (counts, compressed(counts)):
        region = {"size": list(mask.shape), "counts": form}
        np.testing.assert_array_equal(regions.region_mask(region, mask.shape), mask)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_long_runs(counts):
    assert regions.run_lengths(compressed(counts)).tolist() == counts


def test_polygons():
    mask = regions.region_mask([[2, 1, 5, 1, 5, 4, 2, 4], [0, 5, 1, 5, 1, 6, 0, 6]], (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    expected[5, 0] = True
    np.testing.assert_array_equal(mask, expected)


@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_polygons_against_a_plain_loop(corners):
    mask = regions.region_mask([np.ravel(corners).tolist()], (8, 9))
    for row in range(8):
        for column in range(9):
            x, y, inside = column + 0.5, row + 0.5, False
            for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
                inside ^= (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
            assert mask[row, column] == inside


PLACES = st.integers(-40, 200).map(lambda quarters: quarters / 4)
POLYGONS = st.lists(
    st.lists(PLACES, min_size=6, max_size=10).map(lambda values: values[: len(values) // 2 * 2]), max_size=3
)


def what_is_wrong(region):
    """Of a mask or polygons in an image of 20x30 (height x width); None for what can be drawn there."""
    if isinstance(region, np.ndarray):
        return None if region.any() else "its run lengths hold no pixel"
    if not region:
        return "it has no polygon of three corners"
    for polygon in region:
        if max(polygon[::2]) > 0 and min(polygon[::2]) < 30 and max(polygon[1::2]) > 0 and min(polygon[1::2]) < 20:
            return None
    return "its polygons lie outside the image of 30x20 (width x height)"


@given(st.lists(st.one_of(POLYGONS, arrays.arrays(bool, (20, 30))), max_size=5), st.data())
@settings(max_examples=60)
def test_many_in_flat_arrays(found, data):
    given = [
        {"size": [20, 30], "counts": compressed(column_counts(one))} if isinstance(one, np.ndarray) else one
        for one in found
    ]
    flat, wrong = regions.collect(given, [(20, 30)] * len(given))
    assert wrong == {row: why for row, one in enumerate(found) if (why := what_is_wrong(one))}
    rows = data.draw(st.lists(st.integers(0, max(0, len(given) - 1)), max_size=8 if given else 0))
    some = flat.take(np.array(rows, np.int64))
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(some.mask(place, (20, 30)), regions.region_mask(given[row], (20, 30)))
        np.testing.assert_array_equal(some.mask(place, (20, 30)), flat.mask(row, (20, 30)))


def test_what_cannot_be_drawn_is_told():
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    given = [
        None,
        [square, [1, 2, 3]],
        [[1, 2], [3, 4, 5, 6]],
        [square, [1, 2, 3, 4, 5, "6"]],
        {"size": [4, 4], "counts": [3, 12]},
        {"size": [4, 4]},
        {"size": [4, 4], "counts": "!"},
        [square, [0, 0, 1, float("nan"), 1, 1]],
        [square],
        [[4, 0, 6, 0, 6, 2], [-2, 1, 0, 1, 0, 3]],
        [[4, 0, 6, 0, 6, 2], [3.5, 0, 6, 0, 6, 2]],
        {"size": [4, 4], "counts": [16]},
    ]
    flat, wrong = regions.collect(given, [(4, 4)] * len(given))
    assert wrong == {
        0: "its segmentation is malformed",
        1: "a polygon of 3 numbers, which are no pairs of x and y",
        2: "it has no polygon of three corners",
        3: "its segmentation is malformed",
        4: "run lengths of 15 pixels and size [4, 4] for an image of 4x4",
        5: "its segmentation is malformed",
        6: wrong[6],
        7: "a corner of its polygons is no number",
        9: "its polygons lie outside the image of 4x4 (width x height)",
        11: "its run lengths hold no pixel",
    }
    assert [int(flat.mask(row, (4, 4)).sum()) for row in (0, 2, 4, 5, 6, 8)] == [0] * 5 + [4]
