"""Published two-stage detectors: the same proposals, scores, detections and masks, and the same tensors back."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from vision import models, weights

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference"
FASTER, MASK = "torchvision/fasterrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn"


def answers(name):
    with np.load(FOLDER / "expected" / f"{name.replace('/', '_', 1)}.npz") as file:
        return dict(file)


def shapes(name):
    networks = json.loads(gzip.decompress((FOLDER / "state_dicts.json.gz").read_bytes()))
    return networks[name]["state_dict"]


def difference(given, expected):
    """The largest difference in standard deviations of what is expected."""
    assert given.shape == expected.shape
    return float(np.abs(np.asarray(given, np.float64) - expected).max() / np.std(expected, dtype=np.float64))


@pytest.mark.slow
def test_mask_rcnn(reference):
    """Everything the reference has, from the first level of the pyramid to the last mask."""
    expected = answers(MASK)
    _, height, width = expected["input_size"]
    model = models.create(
        "maskrcnn_resnet50_fpn",
        90,
        before_nms=(200, 200),
        proposals=(50, 50),
        score_threshold=0.02,
        max_detections=20,
    )
    state_dict = reference.state_dict(MASK)
    variables = weights.from_state_dict(model, state_dict, image_size=(height, width))
    assert models.count_parameters(variables["params"]) == reference.parameters(MASK) == 44_454_513

    outputs = jax.device_get(jax.jit(model.apply)(variables, reference._fill.image(1, height, width)))
    for level, name in enumerate(("0", "1", "2", "3", "pool")):
        found = np.moveaxis(outputs["features"][4 << level][0], -1, 0)
        assert difference(found[:8, :4, :4], expected[f"feature_{name}_corner"]) < 1e-4
        assert difference(np.array([found.mean(), found.std(ddof=1)]), expected[f"feature_{name}_mean_std"]) < 1e-4
    assert outputs["proposals"]["valid"].all()
    assert difference(outputs["proposals"]["boxes"][0], expected["proposals"]) < 1e-4
    assert difference(outputs["logits"][0], expected["class_logits"]) < 1e-3
    offsets = outputs["offsets"][0].reshape(50, -1)[:, ::7]
    assert difference(offsets, expected["box_regression_every_7th_column"]) < 1e-3
    found = {name: value[0] for name, value in outputs["detections"].items()}
    assert found["valid"].all()
    np.testing.assert_array_equal(found["classes"] + 1, expected["labels"])
    assert difference(found["boxes"], expected["boxes"]) < 1e-3
    assert difference(found["scores"], expected["scores"]) < 1e-3
    assert difference(found["masks"][:8], expected["mask_probabilities"].astype(np.float32)) < 2e-3  # half precision

    back = weights.to_state_dict(model, variables)
    assert set(back) == set(state_dict)
    for key, value in state_dict.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_faster_rcnn_answers_as_mask_rcnn():
    """The two references share all weights but the mask head's, so that one network stands for both."""
    faster, mask = answers(FASTER), answers(MASK)
    for name, value in faster.items():
        np.testing.assert_array_equal(value, mask[name], err_msg=name)
    assert set(shapes(MASK)) - set(shapes(FASTER)) == {name for name in shapes(MASK) if ".mask_" in name}
