"""Darknet's files, written here as its own code lays them out, give back the numbers that were written."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision import models, weights
from vision.errors import UsageError

TRUNK = {"stage_sizes": (1, 2), "width": 2}
DETECTOR = {"backbone": {"name": "darknet53", **TRUNK}, "strides": (2, 4), "anchors": ((4, 5), (9, 6)), "width": 2}


def detector(classes=3):
    return models.create("yolov3", classes, **DETECTOR)


def random_variables(model):
    random = np.random.default_rng(0)
    shapes = models.variable_shapes(model, (32, 32, 3))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)


def trunk_places(prefix=""):
    """In the order of darknet53.cfg: each stage's step, then its blocks."""
    places = [f"{prefix}stem"]
    for stage, blocks in enumerate(TRUNK["stage_sizes"], start=1):
        places.append(f"{prefix}stage_{stage}/down")
        places += [f"{prefix}stage_{stage}/block_{b}/conv_{c}" for b in range(1, blocks + 1) for c in (1, 2)]
    return places


def detector_places():
    """In the order of yolov3.cfg: the coarsest scale first."""
    convolutions = [f"conv_{number}" for number in range(1, 7)]
    coarse = [f"scale_4/{name}" for name in (*convolutions, "head")]
    return [*trunk_places("backbone/"), *coarse, *(f"scale_2/{name}" for name in ("lateral", *convolutions, "head"))]


def write(path, variables, places, version=(0, 2, 0), end=None):
    values, stream = flatten_dict(variables, sep="/"), []
    for place in places:
        if place.endswith("head"):
            stream += [values[f"params/{place}/bias"], values[f"params/{place}/kernel"]]
        else:
            norm = f"{place}/norm"
            stream += [values[f"params/{norm}/{name}"] for name in ("bias", "scale")]
            stream += [values[f"batch_stats/{norm}/{name}"] for name in ("mean", "var")]
            stream.append(values[f"params/{place}/conv/kernel"])
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    numbers = np.concatenate([array.transpose(axes[array.ndim]).reshape(-1) for array in stream])
    seen = np.array([7], np.int64 if version >= (0, 2, 0) else np.int32)
    path.write_bytes(np.array(version, np.int32).tobytes() + seen.tobytes() + numbers[:end].tobytes())
    return path


def assert_equal(found, expected):
    found, expected = (flatten_dict(tree, sep="/") for tree in (found, expected))
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("version", [(0, 2, 0), (0, 1, 0)])
def test_a_detector(tmp_path, version):
    variables = random_variables(detector())
    path = write(tmp_path / "yolov3.weights", variables, detector_places(), version)
    assert_equal(weights.load(detector(), path, image_size=(32, 32)), variables)


def test_a_classifier_with_its_head_and_without(tmp_path):
    model = models.create("darknet53", 5, **TRUNK)
    variables = random_variables(model)
    path = write(tmp_path / "darknet53.weights", variables, [*trunk_places(), "head"])
    assert_equal(weights.load(model, path), variables)
    params = {name: value for name, value in variables["params"].items() if name != "head"}
    trunk = models.create("darknet53", None, **TRUNK)
    assert_equal(weights.load(trunk, path), variables | {"params": params})


def test_the_trunk_alone_begins_a_detector(tmp_path):
    variables = random_variables(models.create("darknet53", None, **TRUNK))
    path = write(tmp_path / "darknet53.conv.74", variables, trunk_places())
    with pytest.raises(UsageError, match=r"variables are not in the weights: .*scale_"):
        weights.load(detector(), path, image_size=(32, 32))
    found = weights.load(detector(), path, image_size=(32, 32), allow_missing=[r"\w+/scale_.*"])
    assert_equal({name: found[name]["backbone"] for name in found}, variables)


def test_other_classes_take_a_new_head(tmp_path):
    variables = random_variables(detector(7))
    path = write(tmp_path / "yolov3.weights", variables, detector_places())
    with pytest.raises(UsageError, match="take head='new' for other classes"):
        weights.load(detector(), path, image_size=(32, 32))
    found = weights.load(detector(), path, image_size=(32, 32), head="new")
    assert_equal(found["params"]["backbone"], variables["params"]["backbone"])
    assert_equal(found["params"]["scale_2"]["lateral"], variables["params"]["scale_2"]["lateral"])
    assert found["params"]["scale_2"]["head"]["bias"].shape == (8,)


def test_damaged_files_and_other_networks(tmp_path):
    variables = random_variables(detector())
    with pytest.raises(UsageError, match="no such file"):
        weights.load(detector(), tmp_path / "absent.weights")
    cut = write(tmp_path / "cut.weights", variables, detector_places(), end=100)
    with pytest.raises(UsageError, match=r"cut.weights: ends within .*; the file is cut off, or of another network"):
        weights.load(detector(), cut)
    cut.write_bytes(cut.read_bytes()[:-2])
    with pytest.raises(UsageError, match="not a whole number of float32"):
        weights.load(detector(), cut)
    whole = write(tmp_path / "yolov3.weights", variables, detector_places())
    with pytest.raises(UsageError, match=r"YOLOv1 has layers besides convolutions, .*params/head/bias|dense"):
        weights.load(models.create("yolov1", 3, backbone={"name": "darknet53", **TRUNK}, stride=4, grid=16), whole)
