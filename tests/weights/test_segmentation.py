"""Published segmentation weights: the same logits, the same tensors back, and classifiers' weights for the trunks."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision import models, weights
from vision.errors import UsageError
from vision.models import vgg

ANSWERS = Path(__file__).parents[1] / "fixtures" / "reference" / "expected" / "torchvision_fcn_resnet50.npz"
SMALL_RESNET = {"name": "resnet", "block": "bottleneck", "stage_sizes": (1, 1), "width": 4}
HEADS = (r"params/(?!backbone/).*", r"batch_stats/(?!backbone/).*")  # everything but the backbone


@pytest.mark.slow
def test_fcn_resnet50(reference):
    """On an input of 97x131 pixels, whose sides divide by nothing; every 4th row and column."""
    name = "torchvision/fcn_resnet50"
    state_dict, image = reference.state_dict(name), reference._fill.image(1, 97, 131)
    model = models.create("fcn_resnet50", 21)
    variables = weights.from_state_dict(model, state_dict, image_size=(97, 131))
    assert models.count_parameters(variables["params"]) == reference.parameters(name)

    @jax.jit
    def logits(variables):
        outputs = model.apply(variables, image)
        return {"out": outputs["logits"], "aux": outputs["aux_logits"][0]}

    with np.load(ANSWERS) as expected:
        for key, given in logits(variables).items():
            difference = np.moveaxis(np.asarray(given)[:, ::4, ::4], -1, 1) - expected[key]
            assert np.abs(difference).max() / expected[key].std() < 1e-4

    back = weights.to_state_dict(model, variables, "torchvision")
    assert set(back) == set(state_dict)
    for key, value in state_dict.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def random_values(model):
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (64, 64, 3))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", ["deeplabv3", "fcn_resnet50"])
def test_round_trip_and_published_names(name):
    model = models.create(name, 5, backbone=SMALL_RESNET, **({"width": 8} if name == "deeplabv3" else {}))
    variables = random_values(model)
    theirs = weights.to_state_dict(model, variables)
    if name == "deeplabv3":
        assert theirs["classifier.0.convs.3.0.weight"].shape == (8, 32, 3, 3)  # the last dilation
        assert theirs["classifier.0.convs.4.1.weight"].shape == (8, 32, 1, 1)  # after the pooling
        assert theirs["classifier.0.convs.4.2.running_var"].shape == (8,)
        assert theirs["classifier.0.project.0.weight"].shape == (8, 5 * 8, 1, 1)
        assert theirs["classifier.1.weight"].shape == (8, 8, 3, 3) and theirs["classifier.2.bias"].shape == (8,)
    assert theirs["classifier.4.weight"].shape[0] == theirs["aux_classifier.4.weight"].shape[0] == 5
    assert theirs["backbone.layer2.0.downsample.1.num_batches_tracked"].shape == ()
    assert weights.detect(model, theirs) == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, weights.from_state_dict(model, theirs, image_size=(64, 64)), variables)


@pytest.mark.parametrize("name, fields", [("fcn", {"strides": (4, 8)}), ("unet", {"strides": (4, 8), "width": 2})])
def test_backbone_of_a_classifier(name, fields):
    """A classifier's weights fill the backbone; what stands on it stays fresh, where that is allowed."""
    classifier = models.create(num_classes=7, **SMALL_RESNET)
    variables = random_values(classifier)
    theirs = weights.to_state_dict(classifier, variables)
    model = models.create(name, 5, backbone=SMALL_RESNET, **fields)
    loaded = weights.from_state_dict(model, theirs, image_size=(64, 64), head="new", allow_missing=HEADS)
    for collection, values in variables.items():
        ours = flatten_dict(loaded[collection]["backbone"], sep="/")
        expected = {path: x for path, x in flatten_dict(values, sep="/").items() if not path.startswith("head")}
        assert set(ours) == set(expected)
        for path, value in expected.items():
            np.testing.assert_array_equal(ours[path], value, err_msg=path)
    with pytest.raises(UsageError, match="of its variables are not in the weights"):
        weights.from_state_dict(model, theirs, image_size=(64, 64), head="new")


@pytest.mark.parametrize(
    "name, allow_missing, allow_unused",
    [
        ("fcn8s", (r"params/score_[34]/.*",), ()),
        ("deconvnet", (r"params/(deconv|up)\w*/.*", r"params/dense_\d_norm/.*", r"batch_stats/.*"), ()),
        ("segnet", (r"params/up_\d/.*", r"batch_stats/.*"), (r"classifier\..*",)),
    ],
)
def test_trunk_of_vgg(name, allow_missing, allow_unused):
    """VGG-16's convolutions and dense layers are those of the trunk, and fill all of it."""
    small = {"stage_sizes": (1, 1, 1, 1, 2), "width": 2}
    classifier = vgg.VGG(7, hidden=(6, 6), window=3, **small)
    variables = random_values(classifier)
    theirs = weights.to_state_dict(classifier, variables)
    own = {} if name == "segnet" else {"hidden": 6, "window": 3}
    model = models.create(name, 5, **small, **own, **({} if name == "fcn8s" else {"batch_norm": False}))
    loaded = weights.from_state_dict(
        model, theirs, image_size=(96, 96), head="new", allow_missing=allow_missing, allow_unused=allow_unused
    )["params"]
    kept = ("stage",) if name == "segnet" else ("stage", "dense")
    expected = {key: value for key, value in variables["params"].items() if key.startswith(kept)}
    jax.tree.map(np.testing.assert_array_equal, {key: loaded[key] for key in expected}, expected)


def test_published_trunk_fits():
    """Each tensor of VGG-16 but the classifier's last has its place in FCN, by name and shape."""
    path = Path(__file__).parents[1] / "fixtures" / "reference" / "state_dicts.json.gz"
    theirs = json.loads(gzip.decompress(path.read_bytes()))["torchvision/vgg16"]["state_dict"]
    shapes = flatten_dict(models.variable_shapes(models.create("fcn8s", 21), (64, 64, 3))["params"], sep="/")
    scores = {path for path in shapes if path.startswith(("head", "score"))}
    trunk = sum(int(np.prod(shapes[path].shape)) for path in set(shapes) - scores)
    assert trunk == sum(int(np.prod(s)) for name, s in theirs.items() if not name.startswith("classifier.6"))
