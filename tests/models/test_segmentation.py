"""Networks that segment: published parameter counts, and the contract that all of them keep."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import listing

PUBLISHED = {  # 21 classes and 3 channels where nothing is said
    134_346_581: ("fcn32s", {}),
    134_357_354: ("fcn16s", {}),
    134_362_751: ("fcn8s", {}),
    136_152_917: ("fcn32s", {"learned": "all"}),
    134_815_994: ("fcn16s", {"learned": "all"}),
    134_489_759: ("fcn8s", {"learned": "all"}),
    134_362_751 + 2 * 16 * 21**2: ("fcn8s", {"learned": "skips"}),
    35_322_218: ("fcn_resnet50", {}),
    32_957_013: ("fcn_resnet50", {"auxiliary": False}),
    54_314_346: ("fcn_resnet101", {}),
    42_004_074: ("deeplabv3_resnet50", {}),
    60_996_202: ("deeplabv3_resnet101", {}),
    251_805_653: ("deconvnet", {}),
    251_772_245: ("deconvnet", {"batch_norm": False}),
    29_449_932: ("segnet", {"num_classes": 12}),
    29_455_125: ("segnet", {}),
    31_030_658: ("unet_paper", {"num_classes": 2, "channels": 1}),
    31_033_045: ("unet", {"batch_norm": False}),
    31_037_698: ("unet", {"num_classes": 2}),
}
RESNET = {"name": "resnet", "stage_sizes": (1, 1), "width": 4}
SMALL = {
    "fcn8s": {
        "stage_sizes": (1, 1, 1, 1, 1),
        "width": 4,
        "hidden": 8,
        "padding": 1,
        "batch_norm": True,
        "learned": "skips",
    },
    "fcn": {"backbone": RESNET, "strides": (4, 8), "dropout": 0.5, "upsampling": "transposed"},
    "deeplabv3": {"backbone": {**RESNET, "dilate": (True,)}, "width": 8, "rates": (1, 2)},
    "fcn_resnet50": {"backbone": RESNET},
    "deconvnet": {"stage_sizes": (1, 2), "width": 4, "hidden": 8, "window": 3, "dropout": 0.5},
    "segnet": {"stage_sizes": (2, 1, 1), "width": 4, "dropout": 0.5},
    "unet": {"width": 4, "depth": 1, "dropout": 0.5},
    "unet_paper": {"width": 4, "depth": 1},
}
DEEP = ("fcn8s", "deconvnet", "segnet", "unet")  # with a `remat` of their own
SIDES = (37, 41)  # divisible by nothing


def shapes(model, *image_shape, train=False):
    def run(key, image):
        return model.init_with_output({"params": key, "dropout": key}, image, train=train)[0]

    return jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct(image_shape, jnp.float32))


@functools.cache
def small(name):
    model = models.create(name, 5, **SMALL[name])
    random = np.random.default_rng(0)

    def value(path, leaf):
        kind = path[-1].key
        scale = {"kernel": (2 / max(np.prod(leaf.shape[:-1]), 1)) ** 0.5}.get(kind, 0.1)
        return np.float32(
            (kind in ("scale", "var"))
            + scale
            * np.abs(random.standard_normal(leaf.shape))
            * (1 if kind == "var" else random.choice([-1, 1], leaf.shape))
        )

    variables = jax.tree_util.tree_map_with_path(value, models.variable_shapes(model, (*SIDES, 3)))
    return model, variables, random.random((2, *SIDES, 3), np.float32)


@pytest.mark.parametrize("count", PUBLISHED)
def test_published_parameter_counts(count):
    name, fields = PUBLISHED[count]
    fields = {"num_classes": 21, **fields}
    image_shape = (224, 224, fields.pop("channels", 3))
    assert (
        models.count_parameters(models.variable_shapes(models.create(name, **fields), image_shape)["params"]) == count
    )


@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_size_of_the_image(name):
    model = models.create(name, 5, "bfloat16", **SMALL[name])
    outputs = shapes(model, 2, *SIDES, 3)
    for logits in (outputs["logits"], *outputs.get("aux_logits", ())):
        assert logits.shape == (2, *SIDES, 5) and logits.dtype == jnp.float32
    assert set(shapes(models.create(name, None, **SMALL[name]), 2, *SIDES, 3)) == {"features"}
    assert {leaf.dtype for leaf in jax.tree.leaves(models.variable_shapes(model, (*SIDES, 3)))} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name):
    """And dropout, where there is one, changes the logits of training and of nothing else."""
    model, variables, image = small(name)
    state = {key: value for key, value in variables.items() if key != "params"}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def gradient(params, key):
        def energy(params):
            outputs, _ = model.apply(
                {"params": params, **state}, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            return sum(jnp.mean(jnp.sin(x)) for x in (outputs["logits"], *outputs.get("aux_logits", ())))

        return jax.value_and_grad(energy)(params)

    value, slopes = gradient(variables["params"], jax.random.key(3))
    for path, slope in flax.traverse_util.flatten_dict(slopes, sep="/").items():
        assert np.all(np.isfinite(slope)), path
        assert np.any(np.abs(slope) > 0), path
    assert value == gradient(variables["params"], jax.random.key(3))[0]
    assert value != gradient(variables["params"], jax.random.key(4))[0]  # all of these have a dropout


@pytest.mark.parametrize("name", DEEP)
def test_computing_again_changes_nothing(name):
    model, variables, image = small(name)
    again = model.clone(remat=True)
    assert jax.tree.structure(models.variable_shapes(again, (*SIDES, 3))) == jax.tree.structure(variables)
    program = jax.make_jaxpr(jax.grad(lambda v: again.apply(v, image)["logits"].sum(), allow_int=True))(variables)
    assert "remat" in str(program)
    assert "remat" not in str(jax.make_jaxpr(model.apply)(variables, image))


def test_all_are_listed():
    listed = {
        name: parameters for name in ("segnet", "fcn8s") for name, parameters in listing.list_models(name, 21).items()
    }
    assert listed == {"segnet": 29_455_125, "fcn8s": 134_362_751}


def test_mistakes_in_a_backbone_say_where():
    for fields, message in (
        ({"backbone": "resnt18"}, r"config.model.backbone.name: unknown model 'resnt18'; did you mean 'resnet18'"),
        (
            {"backbone": {"name": "resnet18", "widht": 8}},
            r"config.model.backbone.widht: unknown key; did you mean 'width'",
        ),
        ({"backbone": {"name": "resnet18", "width": "8"}}, r"config.model.backbone.width: expected int"),
        ({"backbone": {"width": 8}}, r"config.model.backbone: missing 'name'"),
        ({"backbone": {"name": "resnet18", "num_classes": 8}}, r"config.model.backbone.num_classes: .*leave it out"),
        ({"backbone": 18}, r"config.model.backbone: expected str or Mapping"),
        ({"upsampling": "max_unpool"}, r"config.model.upsampling: expected .*'nearest'"),
    ):
        with pytest.raises(UsageError, match=message):
            models.create("fcn", 5, **fields)
