"""Published two-stage detectors: the same proposals, scores, detections and masks, and the same tensors back."""

import gzip
import json
import re
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


SMALL = dict(
    backbone={"name": "resnet", "block": "bottleneck", "stage_sizes": (1, 1), "width": 4},
    strides=(4, 8),
    channels=6,
    anchor_sizes=((8,), (16,), (32,)),
    proposals=(8, 8),
    roi_size=2,
    box_hidden=(5, 5),
    masks=True,
    mask_convolutions=(4, 4),
)


def random_values(model, side=64):
    random = np.random.default_rng(0)
    variables = models.variable_shapes(model, (side, side, 3))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), variables)


@pytest.mark.parametrize(
    "fields, names",
    [
        (
            {"keypoints": 3, "keypoint_convolutions": (4, 4)},
            {
                "backbone.fpn.layer_blocks.1.0.bias": (6,),
                "rpn.head.conv.0.0.weight": (6, 6, 3, 3),
                "roi_heads.box_head.fc6.weight": (5, 6 * 4),
                "roi_heads.mask_head.1.0.weight": (4, 4, 3, 3),
                "roi_heads.keypoint_head.2.weight": (4, 4, 3, 3),
                "roi_heads.keypoint_predictor.kps_score_lowres.weight": (4, 3, 4, 4),
            },
        ),
        (
            {"norms": True, "rpn_widths": (6, 6), "box_convolutions": (4, 4), "box_hidden": (5,)},
            {
                "backbone.fpn.inner_blocks.0.1.running_var": (6,),
                "rpn.head.conv.1.0.bias": (6,),
                "roi_heads.box_head.1.1.num_batches_tracked": (),
                "roi_heads.box_head.3.weight": (5, 4 * 4),
                "roi_heads.mask_head.0.1.weight": (4,),
            },
        ),
    ],
)
def test_round_trip_and_published_names(fields, names):
    model = models.create("faster_rcnn", 2, **(SMALL | fields))
    variables = random_values(model)
    theirs = weights.to_state_dict(model, variables)
    assert {name: theirs[name].shape for name in names} == names
    assert weights.detect(model, theirs) == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, weights.from_state_dict(model, theirs, image_size=(64, 64)), variables)
    if "keypoints" not in fields:
        return
    # The names of the first files, and new classes.
    first = {re.sub(r"(fpn\.\w+\.\d)\.0", r"\1", name).replace("conv.0.0", "conv"): x for name, x in theirs.items()}
    first = {
        re.sub(r"mask_head\.(\d)\.0", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}", n): x for n, x in first.items()
    }
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias", "roi_heads.mask_head.mask_fcn2.bias"} <= set(
        first
    )
    model = models.create("faster_rcnn", 7, **(SMALL | fields))
    loaded = weights.from_state_dict(model, first, image_size=(64, 64), head="new")["params"]
    for name in ("backbone", "pyramid", "rpn", "keypoint_head"):
        jax.tree.map(np.testing.assert_array_equal, loaded[name], variables["params"][name])
    assert loaded["box_head"]["head"]["logits"]["kernel"].shape == (5, 8)
    assert loaded["mask_head"]["head"]["kernel"].shape == (4, 8)


def test_dense_layers_of_vgg():
    """A classifier's dense layers begin the box head, its convolutions the backbone; the rest stays fresh."""
    small = {"stage_sizes": (1, 1, 1, 1, 1), "width": 2}
    classifier = models.create("vgg16", 7, hidden=(6, 5), window=3, **small)
    variables = random_values(classifier, 96)
    theirs = weights.to_state_dict(classifier, variables)
    fields = {"backbone": {"name": "vgg16", **small}, "roi_size": 3, "box_hidden": (6, 5), "proposals": (8, 8)}
    model = models.create("fasterrcnn_vgg16", 4, **fields)
    options = dict(image_size=(96, 96), head="new", allow_missing=(r"params/rpn/.*",))
    loaded = weights.from_state_dict(model, theirs, **options)["params"]
    for number in (1, 2):
        name = f"dense_{number}"
        jax.tree.map(np.testing.assert_array_equal, loaded["box_head"][name], variables["params"][name])
    for stage in loaded["backbone"]:
        jax.tree.map(np.testing.assert_array_equal, loaded["backbone"][stage], variables["params"][stage])
