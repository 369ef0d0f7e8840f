"""`config.init`: a run that starts from the weights of another run, or of another project."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vision
from vision import config as configs
from vision import experiment, models, sections, weights
from vision.data.images import opencv
from vision.errors import UsageError
from vision.models.vit import resample_positions
from vision.train.writers import Console
from vision.weights import safetensors

VIT = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "patch_size": 4}


def config_of(model, side=16, classes=3, **overrides):
    data = {"name": f"fake:{side}x{side}x3:{classes}:12", "split": "train", "batch_size": 6, "transforms": "decode"}
    made = configs.thaw(
        {
            "model": model,
            "task": {"name": "classification"},
            "data": {"preprocess": {"name": "standardize"}, "train": data, "eval": {"test": data}},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "train": {"steps": 2},
        }
    )
    configs.override(made, {name.replace("__", "."): str(value) for name, value in overrides.items()})
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a small ViT, whose head is not zero any more."""
    folder = tmp_path_factory.mktemp("runs") / "vit"
    with open("/dev/null", "w") as nowhere:
        return vision.fit(config_of(VIT), folder, console=Console(folder.with_suffix(".txt"), stream=nowhere))


def starting(config):
    wired = experiment.build(config)
    return wired, wired.variables()


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_run_starts_where_another_ended(trained):
    _, variables = starting(config_of(VIT, init__weights=trained.workdir))
    assert same(variables["params"], trained.variables["params"])


def test_a_new_head_for_other_classes(trained):
    wired, variables = starting(config_of(VIT, classes=5, init__weights=trained.workdir, init__head="new"))
    params = dict(variables["params"])
    assert params.pop("head")["kernel"].shape == (16, 5)
    assert same(params, {name: leaf for name, leaf in trained.variables["params"].items() if name != "head"})
    assert wired.network.description["class_names"] == [str(i) for i in range(5)]
    with pytest.raises(UsageError, match=r"config\.init: .*head/bias is \(5,\).*head='new'"):
        starting(config_of(VIT, classes=5, init__weights=trained.workdir))


def test_another_image_size_resamples_the_positions_of_a_vit(trained):
    _, variables = starting(config_of(VIT, side=24, init__weights=trained.workdir))
    old = trained.variables["params"]["positions"]
    np.testing.assert_allclose(variables["params"]["positions"], resample_positions(old, (4, 4), (6, 6)), atol=1e-6)


def test_only_the_part_below_a_prefix(trained, tmp_path):
    inner = {f"params/encoder/{path.removeprefix('params/')}": leaf for path, leaf in flat(trained.variables).items()}
    file = tmp_path / "outer.safetensors"
    safetensors.write(file, inner | {"params/decoder/kernel": np.zeros(3, np.float32)}, {})
    _, variables = starting(config_of(VIT, init__weights=file, init__prefix="encoder"))
    assert same(variables["params"], trained.variables["params"])
    with pytest.raises(UsageError, match=r"nothing lies under 'encode'; there is decoder, encoder"):
        starting(config_of(VIT, init__weights=file, init__prefix="encode"))
    with pytest.raises(UsageError, match="have no place in it"):
        starting(config_of(VIT, init__weights=file))


def flat(variables):
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}


def test_images_are_prepared_as_the_weights_of_a_run_expect(trained):
    config = config_of(VIT, init__weights=trained.workdir, data__preprocess__name="weights")
    config.data.train.transforms = config.data.eval.test.transforms = "weights"
    config.data.train.name = "fake:16x16x3:3:64"  # other images, whose own mean is another
    wired = experiment.build(config)
    assert configs.freeze(wired.config.data.preprocess) == trained.network.description["preprocess"] | {
        "mean": tuple(trained.network.description["preprocess"]["mean"]),
        "std": tuple(trained.network.description["preprocess"]["std"]),
    }
    assert wired.config.data.train.transforms == "decode"
    assert configs.freeze(sections.complete(wired.config)) == configs.freeze(wired.config)


def test_images_are_prepared_as_published(tmp_path):
    model = models.create("resnet18", 1000)
    weights.save(tmp_path / "a.safetensors", model, models.initialize(model, jax.random.key(0), (64, 64, 3)))
    config = config_of({"name": "resnet18"}, init__weights=tmp_path / "a.safetensors", init__head="new")
    config.data.preprocess = {"name": "weights"}
    config.data.train.transforms = config.data.eval.test.transforms = "weights"
    done = sections.complete(config)
    assert done.data.preprocess.mean == (0.485, 0.456, 0.406)
    assert done.data.train.transforms == "decode|random_resized_crop((224, 224), method='auto')|flip"
    assert done.data.eval.test.transforms == "decode|resize_small(256, method='auto')|central_crop((224, 224))"


def test_a_kept_classifier_keeps_its_names(trained, tmp_path):
    data = tmp_path / "photos"
    for name in "xyz":
        (data / "train" / name).mkdir(parents=True)
        for index in range(3):
            image = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
            opencv().imwrite(str(data / "train" / name / f"{index}.png"), image)
    config = config_of(VIT, init__weights=trained.workdir)
    for section in (config.data.train, config.data.eval.test):
        section.name = f"folder:{data}"
    with pytest.raises(UsageError, match="would call them by wrong names; take head='new'"):
        experiment.build(config)
    config.init.head = "new"
    assert experiment.build(config).network.description["class_names"] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"init__weights": "nowhere.safetensors"},
            r"config\.init\.weights: nowhere\.safetensors: no such file",
        ),
        ({"init__weight": "a"}, r"config\.init\.weight: unknown key; did you mean 'weights'\?"),
        ({"init__head": "old"}, r"config\.init\.head: expected 'keep' or 'new', given 'old'"),
        ({"data__preprocess__name": "weights"}, r"config\.init\.weights, which is not set"),
        ({"data__eval__test__transforms": "weights"}, r"config\.data\.eval\.test\.transforms: 'weights' means"),
        ({"optimizer__layer_decay": 1.5}, r"config\.optimizer\.layer_decay: 1\.5 must be above 0 and at most 1"),
    ],
)
def test_what_is_wrong_is_named(overrides, message):
    with pytest.raises(UsageError, match=message):
        starting(config_of(VIT, **overrides))
