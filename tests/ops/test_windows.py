"""Windows against the network's arithmetic, and the greedy merge of boxes against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import windows

COUNT = 7
compiled = jax.jit(windows.merge)


def test_windows_and_boxes_within_them():
    found = np.asarray(windows.sliding_windows((2, 3), 10, 4))
    assert found.shape == (6, 4)
    np.testing.assert_array_equal(found[[0, 1, 3]], [(0, 0, 10, 10), (4, 0, 14, 10), (0, 4, 10, 14)])
    shares = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.2, 0.6, 1.1]])[:, None]
    boxes = np.asarray(windows.from_windows(shares, jnp.asarray(found)[None]))
    np.testing.assert_array_equal(boxes[0], found)
    np.testing.assert_allclose(boxes[1, 3], (5, 6, 6, 15), rtol=1e-6)


def cost(one, other):
    low, high = np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])
    both = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
    union = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both
    apart = np.linalg.norm((one[:2] + one[2:] - other[:2] - other[2:]) / 2)
    return apart / np.linalg.norm(high - low) + 1 - both / union


def merged(boxes, scores, threshold):
    """[(score, box)], the straightforward way."""
    rows = [(score, box.astype(np.float64)) for score, box in zip(scores, boxes, strict=True)]
    while len(rows) > 1:
        pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
        i, j = min(pairs, key=lambda pair: cost(rows[pair[0]][1], rows[pair[1]][1]))
        if cost(rows[i][1], rows[j][1]) > threshold:
            break
        rows[i] = (rows[i][0] + rows[j][0], (rows[i][1] + rows[j][1]) / 2)
        del rows[j]
    return rows


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, COUNT), threshold=st.sampled_from([0.1, 0.5, 0.9, 2.0]))
def test_merging_is_that_of_a_loop(seed, number, threshold):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 30, (COUNT, 2)), rng.uniform(10, 30, (COUNT, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores, valid = rng.uniform(0.1, 1, COUNT).astype(np.float32), np.arange(COUNT) < number
    found = jax.device_get(compiled(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(valid), threshold))
    expected = merged(boxes[:number], scores[:number], threshold)
    assert found[2].sum() == len(expected)
    for (score, box), given_box, given_score in zip(expected, found[0][found[2]], found[1][found[2]], strict=True):
        np.testing.assert_allclose(given_box, box, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(given_score, score, rtol=1e-5)
    assert not found[0][~found[2]].any() and not found[1][~found[2]].any()
    np.testing.assert_allclose(found[1].sum(), scores[:number].sum(), rtol=1e-5)
