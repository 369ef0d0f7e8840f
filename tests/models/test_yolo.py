"""YOLO and its trunks: published sizes, small forms, and where predictions lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models.yolo import COCO_ANCHORS, place_anchors

TINY = {"name": "darknet53", "stage_sizes": (1, 1, 1), "width": 4}
V1 = {"backbone": TINY, "stride": 8, "grid": 4, "convolutions": (8,), "hidden": (16,)}
V3 = {"backbone": TINY, "strides": (4, 8), "anchors": ((4, 5), (9, 6), (12, 12), (20, 30)), "width": 4}


def shapes(name, *image_shape, **arguments):
    return models.variable_shapes(models.create(name, **arguments), image_shape)["params"]


@pytest.mark.parametrize(
    "name, side, num_classes, count",
    [
        ("yolov1", 448, 20, 271_703_550),
        ("fast_yolo", 448, 20, 45_089_374),
        ("yolov3", 416, 80, 61_949_149),
        ("yolov3", 416, 20, 61_626_049),
        ("darknet53", 256, None, 40_584_928),
        ("darknet53", 256, 1000, 41_609_928),
    ],
)
def test_published_parameter_counts(name, side, num_classes, count):
    assert models.count_parameters(shapes(name, side, side, 3, num_classes=num_classes)) == count


@pytest.mark.parametrize("name, convolutions, dense", [("yolov1", 24, 2), ("fast_yolo", 9, 3), ("darknet53", 52, 1)])
def test_number_of_layers(name, convolutions, dense):
    kernels = [leaf for leaf in jax.tree.leaves(shapes(name, 448, 448, 3, num_classes=20)) if len(leaf.shape) > 1]
    assert [sum(len(kernel.shape) == axes for kernel in kernels) for axes in (4, 2)] == [convolutions, dense]


def random_variables(model, *image_shape):
    """Small random kernels, norms that change nothing: without compiling an initialiser."""
    random = np.random.default_rng(0)

    def leaf(path, shape):
        if path[-1].key in ("scale", "var"):
            return np.ones(shape.shape, np.float32)
        scale = np.prod(shape.shape[:-1]) ** -0.5 if len(shape.shape) > 1 else 0
        return (scale * random.standard_normal(shape.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, models.variable_shapes(model, image_shape))


def output_shapes(model, side, train=False):
    def run(variables, image):
        return model.apply(variables, image, train=train, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})

    return jax.eval_shape(run, models.variable_shapes(model, (side, side, 3)), jnp.ones((2, side, side, 3)))[0]


def test_v1_predicts_for_each_cell():
    found = output_shapes(models.create("yolov1", 3, **V1), 32, train=True)
    given = {name: found[name].shape for name in ("class_scores", "confidences", "cell_boxes")}
    assert given == {"class_scores": (2, 4, 4, 3), "confidences": (2, 4, 4, 2), "cell_boxes": (2, 4, 4, 2, 4)}
    assert set(found["features"]) == {1, 2, 4, 8}


def test_v1_drops_units_while_training_only():
    model = models.create("yolov1", 3, **V1)
    image = jnp.ones((1, 32, 32, 3))
    variables = random_variables(model, *image.shape[1:])

    @jax.jit
    def confidences(key):
        found = model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]
        return found["confidences"]

    assert not np.array_equal(*(confidences(jax.random.key(seed)) for seed in (0, 1)))


def test_v1_without_hidden_layers_predicts_each_cell_from_its_place():
    model = models.create("yolov1", 3, backbone=TINY, stride=4, grid=(4, 2), convolutions=(8, 8), hidden=())
    params = models.variable_shapes(model, (32, 16, 3))["params"]
    assert params["head"]["kernel"].shape == (8, 3 + 2 * 5)
    found = jax.eval_shape(
        lambda key, image: model.init_with_output(key, image)[0], jax.random.key(0), np.ones((1, 32, 16, 3))
    )
    assert found["confidences"].shape == (1, 4, 2, 2)


def test_v1_says_which_grids_fit():
    with pytest.raises(UsageError, match=r"config.model.grid: .*is 4x4.*5x5 cells.*grid of 4x4, or images of 40x40"):
        shapes("yolov1", 32, 32, 3, num_classes=3, **(V1 | {"grid": 5}))
    with pytest.raises(UsageError, match=r"config.model.convolutions: .*is 4x4 for a grid of 2x2 cells"):
        shapes("yolov1", 32, 32, 3, num_classes=3, **(V1 | {"grid": 2, "convolutions": ()}))
    with pytest.raises(UsageError, match=r"config.model.stride: the backbone has features at strides 1, 2, 4, 8"):
        shapes("yolov1", 32, 32, 3, num_classes=3, **(V1 | {"stride": 16}))


def test_v3_predicts_for_each_anchor():
    found = output_shapes(models.create("yolov3", 3, **V3), 32, train=True)
    count = 2 * (8 * 8 + 4 * 4)
    assert found["logits"].shape == (2, count, 3) and found["objectness"].shape == (2, count)
    assert found["offsets"].shape == (2, count, 4) and found["anchors"].shape == (count, 4)
    assert found["strides"].shape == (count,)


def test_v3_takes_sides_that_its_strides_do_not_divide():
    found = output_shapes(models.create("yolov3", 3, **V3), 27)
    assert found["objectness"].shape == (2, 2 * (7 * 7 + 4 * 4))


def test_v3_predictions_lie_where_their_anchors_do():
    """Moving the image by the coarsest stride moves what is predicted, at both scales, by as much."""
    model = models.create("yolov3", 3, **V3)
    variables = random_variables(model, 160, 160, 3)
    image = np.zeros((2, 160, 160, 3), np.float32)
    spot = np.random.default_rng(0).uniform(size=(6, 6, 3))
    image[0, 68:74, 68:74] = spot
    image[1, 84:90, 76:82] = spot
    found = jax.jit(model.apply)(variables, image)
    size = found["anchors"][:, 2:] - found["anchors"][:, :2]
    for stride in (4, 8):
        for shape in np.unique(size[found["strides"] == stride], axis=0):
            of_shape = np.flatnonzero((found["strides"] == stride) & np.all(size == shape, axis=1))
            moves = [np.abs(x - x[0]) for x in np.asarray(found["objectness"])[:, of_shape]]  # corner: background
            places = [np.asarray(found["anchors"])[of_shape[np.argmax(move)], :2] for move in moves]
            np.testing.assert_array_equal(places[1] - places[0], [8, 16])


def test_anchors_are_in_the_middle_of_their_cells():
    boxes, strides = place_anchors([(2, 3), (1, 2)], (8, 16), COCO_ANCHORS[:4])
    np.testing.assert_array_equal(strides, [8.0] * 12 + [16.0] * 4)
    np.testing.assert_array_equal(boxes[0], [4 - 5, 4 - 6.5, 4 + 5, 4 + 6.5])
    np.testing.assert_array_equal(boxes[3], [12 - 8, 4 - 15, 12 + 8, 4 + 15])  # second place, second shape
    np.testing.assert_array_equal(boxes[-1], [24 - 15, 8 - 30.5, 24 + 15, 8 + 30.5])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"strides": (4, 16)}, r"config.model.strides: expected each to be twice the one before; given \(4, 16\)"),
        ({"anchors": ((4, 5), (6, 7), (8, 9))}, r"config.model.anchors: expected as many for each of the 2 strides"),
        ({"anchors": ((4, 5), (6, 0))}, r"config.model.anchors: .*above 0"),
        ({"backbone": {"name": "darknet54"}}, r"config.model.backbone.name: .*did you mean 'darknet53'"),
    ],
)
def test_v3_explains_mistakes(change, message):
    with pytest.raises(UsageError, match=message):
        shapes("yolov3", 32, 32, 3, num_classes=3, **(V3 | change))


@pytest.mark.parametrize("name", ["darknet53", "extraction", "fast_extraction"])
def test_trunks_have_features_by_stride_and_classify(name):
    small = {"stage_sizes": (1, 1), "width": 4} if name == "darknet53" else {"width": 1 / 32, "batch_norm": True}
    found = [output_shapes(models.create(name, 5, remat=remat, **small), 64, train=True) for remat in (False, True)]
    assert all(x.shape[1:3] == (64 // stride, 64 // stride) for stride, x in found[0]["features"].items())
    assert found[0]["logits"].shape == (2, 5) and found[0]["pooled"].dtype == jnp.float32
    assert found[0] == found[1]


def test_new_heads_and_layer_numbers():
    """Transfer to other classes and learning rates by depth know the parts by their paths."""
    model = models.create("yolov3", 3, **V3)
    params = models.variable_shapes(model, (32, 32, 3))["params"]
    assert set(params) == {"backbone", "scale_4", "scale_8"} and "head" in params["scale_4"]
    numbers = models.layer_numbers(model, (32, 32, 3))
    assert numbers["backbone/stem/conv/kernel"] == 0
    assert numbers["scale_8/head/kernel"] < numbers["scale_4/head/kernel"] == max(numbers.values())
