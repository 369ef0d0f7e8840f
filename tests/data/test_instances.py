"""Boxes and masks of a map of instance ids, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision.data import instances
from vision.errors import UsageError

maps = arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4))


@given(maps)
@settings(max_examples=60, deadline=None)
def test_boxes_and_masks(ids):
    found, boxes = instances.boxes(ids)
    masks = instances.masks(ids, found, 5)
    assert found.tolist() == sorted(set(ids.ravel().tolist()) - {0}) and masks.shape == (5, *ids.shape)
    for identity, box, mask in zip(found, boxes, masks, strict=False):
        y, x = np.nonzero(ids == identity)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_array_equal(mask, ids == identity)
    assert not masks[len(found) :].any() and boxes.dtype == np.float32 and masks.dtype == np.uint8


def test_padding():
    assert instances.padded(np.ones((2, 4)), 3).tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert instances.padded(np.zeros((0, 4)), 2).shape == (2, 4)
    with pytest.raises(UsageError, match="3 objects, more than max_objects=2"):
        instances.padded(np.ones(3), 2)
