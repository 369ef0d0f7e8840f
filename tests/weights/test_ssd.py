"""Published weights of SSD300: the same boxes, scores, detections and tensors back; VGG-16 as its trunk."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision import models, tasks, weights
from vision.errors import UsageError
from vision.models import vgg

ANSWERS = Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "torchvision_ssd300_vgg16.npz"
NAME = "torchvision/ssd300_vgg16"


@pytest.mark.slow
def test_ssd300(reference):
    state_dict, image = reference.state_dict(NAME), reference._fill.image(1, 300, 300)
    model = models.create("ssd300_vgg16", 90)
    variables = weights.from_state_dict(model, state_dict, image_size=(300, 300))
    assert models.count_parameters(variables["params"]) == reference.parameters(NAME)
    task = tasks.create("ssd", score_threshold=0.02, candidates=200, detections=50)

    @jax.jit
    def answer(variables):
        outputs = model.apply(variables, image)
        return outputs, task.predict(outputs, {"image": image})

    outputs, found = jax.device_get(answer(variables))
    given = {
        "default_boxes": outputs["anchors"],
        "cls_logits_every_37th": outputs["logits"][:, ::37],
        "bbox_regression_every_37th": outputs["offsets"][:, ::37],
        "boxes": found["boxes"][0],
        "scores": found["scores"][0],
        "labels": found["classes"][0] + 1,
    }
    assert found["valid"].all()
    with np.load(ANSWERS) as expected:
        for key, value in given.items():
            assert value.shape == expected[key].shape
            difference = np.abs(value - expected[key]).max() / expected[key].std()
            assert difference <= (0 if key == "labels" else 1e-3), f"{key}: {difference}"

    back = weights.to_state_dict(model, variables, "torchvision")
    assert set(back) == set(state_dict)
    for key, value in state_dict.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_published_names_are_found(reference):
    assert weights.detect(models.create("ssd300_vgg16", 90), reference.shapes(NAME)) == "torchvision"


def test_trunk_of_vgg():
    """VGG-16's convolutions, and every fourth unit and third tap of its dense layers, are those of the trunk."""
    small = {"name": "vgg16_dilated", "width": 2, "hidden": 3}
    classifier = vgg.VGG(7, width=2, hidden=(12, 12))
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: random.standard_normal(leaf.shape).astype(np.float32),
        models.variable_shapes(classifier, (32, 32, 3)),
    )
    theirs = weights.to_state_dict(classifier, variables)
    model = models.create("ssd300_vgg16", 5, backbone=small, extra=(4, 4, 4, 4))
    rest = (r"params/(extra_\d|box_head|l2_norm)/.*",)
    loaded = weights.from_state_dict(model, theirs, image_size=(300, 300), head="new", allow_missing=rest)
    ours, expected = loaded["params"]["backbone"], variables["params"]
    convolutions = {path for path in flatten_dict(expected) if path[0].startswith("stage")}
    assert {path for path in flatten_dict(ours) if path[0].startswith("stage")} == convolutions
    for path in convolutions:
        np.testing.assert_array_equal(flatten_dict(ours)[path], flatten_dict(expected)[path])
    dense = expected["dense_1"]["kernel"].reshape(7, 7, 16, 12)
    np.testing.assert_array_equal(ours["fc6"]["kernel"], dense[::3, ::3, :, ::4])
    np.testing.assert_array_equal(ours["fc6"]["bias"], expected["dense_1"]["bias"][::4])
    np.testing.assert_array_equal(ours["fc7"]["kernel"][0, 0], expected["dense_2"]["kernel"][::4, ::4])
    trunk = models.create("vgg16_dilated", width=2, hidden=3)
    with pytest.raises(UsageError, match="cannot be had back"):
        weights.to_state_dict(trunk, {"params": ours})
