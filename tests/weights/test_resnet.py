"""Big Transfer's files and timm's state dicts give a pre-activation network the same variables."""

import re

import jax
import numpy as np

from vision import models, weights
from vision.models.resnet_v2 import ResNetV2


def test_names_of_big_transfer():
    model = ResNetV2(num_classes=3, stage_sizes=(1, 2), width=32)
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (32, 32, 3))
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)
    timm = weights.to_state_dict(model, variables, "timm")
    assert timm["stages.1.blocks.0.downsample.conv.weight"].shape == (256, 128, 1, 1)
    assert timm["head.fc.weight"].shape == (3, 256, 1, 1)

    state_dict = {}
    for name, value in timm.items():
        block = re.fullmatch(r"stages\.(\d)\.blocks\.(\d)\.(conv|norm|downsample\.conv)(\d?)\.(weight|bias)", name)
        if block:
            unit = f"resnet/block{int(block[1]) + 1}/unit{int(block[2]) + 1:02d}/"
            layer = "a/proj" if block[3] == "downsample.conv" else "abc"[int(block[4]) - 1]
            kind = {"weight": "gamma", "bias": "beta"}[block[5]]
            ours = "standardized_conv2d/kernel" if "conv" in block[3] else f"group_norm/{kind}"
            key = f"{unit}{layer}/{ours}"
        else:
            key = (
                "resnet/"
                + {
                    "stem.conv.weight": "root_block/standardized_conv2d/kernel",
                    "norm.weight": "group_norm/gamma",
                    "norm.bias": "group_norm/beta",
                    "head.fc.weight": "head/conv2d/kernel",
                    "head.fc.bias": "head/conv2d/bias",
                }[name]
            )
        state_dict[key] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    assert len(state_dict) == len(timm)
    given = weights.from_state_dict(model, state_dict, "big_vision", image_size=(32, 32))
    jax.tree.map(np.testing.assert_array_equal, given, variables)
