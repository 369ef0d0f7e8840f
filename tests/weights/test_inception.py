"""The rules of GoogLeNet, the Inception networks and DenseNet: every tensor has its place, and its name back."""

import gzip
import json
import re
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from vision import models
from vision.errors import UsageError
from vision.models import densenet, googlenet, inception
from vision.weights.rules import our_path, their_name
from vision.weights.sources import rules_for

STATE_DICTS = Path(__file__).parents[1] / "fixtures" / "reference" / "state_dicts.json.gz"
VARIANTS = {**googlenet.VARIANTS, **inception.VARIANTS, **densenet.VARIANTS}


def shapes_of(model):
    return flatten_dict(models.variable_shapes(model, (299, 299, 3)), sep="/")


def published(ours):
    """The shape that PyTorch gives to the tensor of this shape: only kernels differ."""
    return [ours[3], ours[2], *ours[:2]] if len(ours) == 4 else list(ours[::-1])


def names_of(rules, path):
    return [name for rule in rules if (name := their_name(rule, path))]


@pytest.mark.parametrize(
    "source, name",
    [
        ("torchvision", "googlenet"),
        ("torchvision", "inception_v3"),
        ("torchvision", "densenet121"),
        pytest.param("torchvision", "densenet161", marks=pytest.mark.slow),
        pytest.param("timm", "inception_resnet_v2", marks=pytest.mark.slow),
    ],
)
def test_every_tensor_has_its_place(source, name):
    model = VARIANTS[name]()
    rules, shapes, filled = rules_for(model, source), shapes_of(model), []
    for theirs, shape in json.loads(gzip.decompress(STATE_DICTS.read_bytes()))[f"{source}/{name}"][
        "state_dict"
    ].items():
        (rule,) = (rule for rule in rules if re.fullmatch(rule.pattern, theirs))
        path = our_path(rule, theirs)
        if path is not None:
            assert published(shapes[path].shape) == shape, theirs
            assert names_of(rules, path) == [theirs]
            filled.append(path)
    assert sorted(filled) == sorted(shapes)


@pytest.mark.slow
def test_names_of_inception_v4():
    """No reference has these: names and shapes as timm's network declares them."""
    model = inception.VARIANTS["inception_v4"]()
    rules, shapes = rules_for(model, "timm"), shapes_of(model)
    named = {path: names_of(rules, path) for path in shapes}
    assert {len(names) for names in named.values()} == {1}
    found = {names[0]: published(shapes[path].shape) for path, names in named.items()}
    assert len(found) == len(shapes) == 149 * 5 + 2
    declared = {
        "features.0.conv.weight": [32, 3, 3, 3],
        "features.3.conv.conv.weight": [96, 64, 3, 3],
        "features.4.branch0.1.bn.running_var": [96],
        "features.4.branch1.1.conv.weight": [64, 64, 1, 7],
        "features.5.conv.conv.weight": [192, 192, 3, 3],
        "features.6.branch0.conv.weight": [96, 384, 1, 1],
        "features.9.branch3.1.conv.weight": [96, 384, 1, 1],
        "features.10.branch0.conv.weight": [384, 384, 3, 3],
        "features.10.branch1.2.conv.weight": [256, 224, 3, 3],
        "features.17.branch2.3.conv.weight": [224, 224, 7, 1],
        "features.18.branch1.2.conv.weight": [320, 256, 7, 1],
        "features.19.branch1_0.conv.weight": [384, 1536, 1, 1],
        "features.20.branch1_1a.conv.weight": [256, 384, 1, 3],
        "features.20.branch1_1b.conv.weight": [256, 384, 3, 1],
        "features.21.branch2_1.conv.weight": [448, 384, 3, 1],
        "features.21.branch2_3b.conv.weight": [256, 512, 3, 1],
        "features.21.branch3.1.bn.bias": [256],
        "last_linear.weight": [1000, 1536],
    }
    assert {name: found.get(name) for name in declared} == declared


def test_older_names_of_densenet():
    """The files that torchvision publishes are from before its layers were renamed."""
    rules = rules_for(densenet.DenseNet(), "torchvision")
    for old, new in (("norm.1.running_mean", "norm1.running_mean"), ("conv.2.weight", "conv2.weight")):
        prefix = "features.denseblock3.denselayer24."
        paths = [
            [our_path(rule, prefix + name) for rule in rules if re.fullmatch(rule.pattern, prefix + name)]
            for name in (old, new)
        ]
        assert paths[0] == paths[1] and len(paths[0]) == 1
        assert names_of(rules, paths[0][0]) == [prefix + new]


def test_torchvision_has_one_inception():
    with pytest.raises(UsageError, match="timm"):
        rules_for(inception.Inception(variant="v4"), "torchvision")
