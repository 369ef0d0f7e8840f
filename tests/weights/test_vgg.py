"""The rules of VGG and AlexNet: every published tensor has its place, and comes back as it was."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision import models
from vision.models import alexnet as alexnet_networks
from vision.models import vgg as vgg_networks
from vision.weights import alexnet, vgg
from vision.weights.rules import our_path, their_name

STATE_DICTS = Path(__file__).parents[1] / "fixtures" / "reference" / "state_dicts.json.gz"
NAMES = ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg16_bn")


def network_and_rules(name):
    if name == "alexnet":
        return alexnet_networks.VARIANTS[name](), alexnet.TORCHVISION
    model = vgg_networks.VARIANTS[name]()
    return model, vgg.torchvision(model)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_its_place(name):
    model, rules = network_and_rules(name)
    shapes = flatten_dict(models.variable_shapes(model, (224, 224, 3)), sep="/")
    filled = []
    for theirs, shape in json.loads(gzip.decompress(STATE_DICTS.read_bytes()))[f"torchvision/{name}"][
        "state_dict"
    ].items():
        (rule,) = (rule for rule in rules if re.fullmatch(rule.pattern, theirs))
        path = our_path(rule, theirs)
        if path is None:
            continue
        tensor = np.broadcast_to(np.float32(0), shape)  # no memory behind it
        assert shapes[path].shape == (
            rule.kind.to_ours(tensor).shape if len(shape) < 2 else _shape_of(rule.kind, shape)
        )
        assert [found for found in (their_name(rule, path) for rule in rules) if found] == [theirs]
        filled.append(path)
    assert sorted(filled) == sorted(shapes)


def _shape_of(kind, shape):
    """The shape that a kind gives, learnt from a tensor with one output."""
    result = kind.to_ours(np.zeros((1, *shape[1:]), np.float32)).shape
    return (*result[:-1], shape[0])


@pytest.mark.parametrize("source", [vgg.torchvision, vgg.timm])
def test_round_trip_of_the_first_dense_layer(source):
    """Both sources read pixel (row, column) of channel c with one weight, wherever they store it."""
    model = vgg_networks.VGG(stage_sizes=(1, 1), width=3, hidden=(4,), window=2)
    (rule,) = (rule for rule in source(model) if rule.path == "params/dense_1/kernel")
    theirs = np.arange(4 * 6 * 2 * 2).reshape(4, 6, 2, 2)
    theirs = theirs if source is vgg.timm else theirs.reshape(4, -1)
    ours = rule.kind.to_ours(theirs)
    assert ours.shape == (2 * 2 * 6, 4)
    np.testing.assert_array_equal(rule.kind.to_theirs(ours), theirs)
    flat = theirs.reshape(4, 6, 2, 2)
    for unit, channel, row, column in np.ndindex(flat.shape):
        assert ours[(row * 2 + column) * 6 + channel, unit] == flat[unit, channel, row, column]


def test_timm_names():
    model = vgg_networks.VARIANTS["vgg11"]()
    rules = vgg.timm(model)
    paths = flatten_dict(models.variable_shapes(model, (224, 224, 3)), sep="/")
    named = {path: [name for rule in rules if (name := their_name(rule, path))] for path in paths}
    assert all(len(names) == 1 for names in named.values())
    assert named["params/dense_1/kernel"] == ["pre_logits.fc1.weight"]
    assert named["params/dense_2/bias"] == ["pre_logits.fc2.bias"]
    assert named["params/head/kernel"] == ["head.fc.weight"]
    assert named["params/stage_5/conv_2/kernel"] == ["features.18.weight"]
