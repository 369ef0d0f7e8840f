"""Torchvision's names of RetinaNet's tensors, new and old, and the output that stands for no class."""

import math

import jax
import numpy as np
import pytest

from vision import models, weights

SMALL = dict(
    backbone={"name": "resnet", "block": "bottleneck", "stage_sizes": (1, 1, 1, 1), "width": 4}, channels=8, depth=2
)


def random_values(model):
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (64, 64, 3))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)


def test_names_of_the_pyramid_are_those_of_all_detectors(reference):
    """What a ResNet-50 with a pyramid is called is known from Mask R-CNN, which has one level more."""
    published = {
        name: shape
        for name, shape in reference.shapes("torchvision/maskrcnn_resnet50_fpn").items()
        if name.startswith("backbone.") and "blocks.3" not in name
    }
    model = models.create("retinanet_resnet50_fpn", 90)
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), models.variable_shapes(model, (64, 64, 3))
    )
    theirs = {name: value.shape for name, value in weights.to_state_dict(model, variables).items()}
    ours = {name for name in theirs if name.startswith("backbone.")}
    extra = {f"backbone.fpn.extra_blocks.p{number}.{kind}" for number in (6, 7) for kind in ("weight", "bias")}
    assert ours == set(published) | extra
    # The pyramid's inner blocks read maps of other strides than Mask R-CNN's, which begins at 4.
    assert all(theirs[name] == shape for name, shape in published.items() if "inner_blocks" not in name)
    assert theirs["backbone.fpn.inner_blocks.0.0.weight"] == (256, 512, 1, 1)
    assert theirs["head.classification_head.cls_logits.weight"] == (9 * 91, 256, 3, 3)
    assert theirs["head.regression_head.bbox_reg.bias"] == (36,)
    assert theirs["head.regression_head.conv.3.0.weight"] == (256, 256, 3, 3)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_round_trip(norm):
    model = models.create("retinanet", 4, head_norm=norm, **SMALL)
    variables = random_values(model)
    theirs = weights.to_state_dict(model, variables)
    assert ("head.regression_head.conv.1.1.weight" in theirs) == (norm == "group")
    assert weights.detect(model, theirs) == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, weights.from_state_dict(model, theirs, image_size=(64, 64)), variables)


def test_their_first_class_is_dropped():
    model = models.create("retinanet", 4, **SMALL)
    variables = random_values(model)
    theirs = weights.to_state_dict(model, variables)
    kernel, bias = (theirs[f"head.classification_head.cls_logits.{kind}"] for kind in ("weight", "bias"))
    by_box = bias.reshape(9, 5)
    np.testing.assert_allclose(by_box[:, 0], -math.log(99), rtol=1e-6)
    assert not kernel.reshape(9, 5, 8, 3, 3)[:, 0].any()
    np.testing.assert_array_equal(by_box[:, 1:].reshape(-1), variables["params"]["class_head"]["head"]["bias"])


def test_names_of_the_published_files():
    """They count the subnets' ReLUs, and have no second number in the pyramid."""
    model = models.create("retinanet", 4, **SMALL)
    variables = random_values(model)
    published = {}
    for name, value in weights.to_state_dict(model, variables).items():
        parts = name.split(".")
        if parts[0] == "head" and parts[2] == "conv":
            parts[3:5] = [str(2 * int(parts[3]))]
        if parts[1] == "fpn" and parts[2] != "extra_blocks":
            del parts[4]
        if parts[-1] != "num_batches_tracked":  # frozen batch norms have none
            published[".".join(parts)] = value
    assert "head.classification_head.conv.2.weight" in published and "backbone.fpn.layer_blocks.1.bias" in published
    loaded = weights.from_state_dict(model, published, image_size=(64, 64))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
