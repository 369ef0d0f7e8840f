"""Every format gives the arrays that are in the file, damaged files are told apart, and a source is found by names."""

import functools
import json
import re

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision import models, weights
from vision.errors import UsageError
from vision.train.checkpoints import Checkpoints
from vision.weights import files, safetensors
from vision.weights.rules import our_path, their_name

SIZE = (32, 32)


@functools.cache
def resnet(**arguments):
    model = models.create("resnet", 5, stage_sizes=(1, 2), width=4, block="bottleneck", **arguments)
    return model, noise(models.variable_shapes(model, (*SIZE, 3)))


@functools.cache
def vit(**arguments):
    model = models.create("vit", 5, width=8, depth=2, heads=2, patch_size=8, **arguments)
    return model, noise(models.variable_shapes(model, (*SIZE, 3)))


def noise(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def names_and_values(model, variables, source):
    """What a file of that source would hold."""
    return weights.to_state_dict(model, variables, source)


def test_safetensors_by_its_specification(tmp_path):
    header = json.dumps(
        {
            "__metadata__": {"any": "text"},
            "b": {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]},
            "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
            "scalar": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
        }
    ).encode()
    data = np.float32([1, 2]).tobytes() + np.array([1.5, -2], ml_dtypes.bfloat16).tobytes() + np.int64(7).tobytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    found = files.read(path)
    np.testing.assert_array_equal(found["a"], [[1, 2]])
    np.testing.assert_array_equal(found["b"].astype(np.float32), [1.5, -2])
    assert found["scalar"] == 7 and found["scalar"].shape == ()
    renamed = path.rename(tmp_path / "without_ending")
    assert set(files.read(renamed)) == {"a", "b", "scalar"}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from([*safetensors.DTYPES.values()]), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_safetensors_round_trip(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    entries.pop("__metadata__", None)
    tensors = {name: np.arange(np.prod(shape)).reshape(shape).astype(dtype) for name, (dtype, shape) in entries.items()}
    safetensors.write(path, tensors)
    found = safetensors.read(path)
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + length) % 8 == 0


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"a": np.zeros(100, np.float32)})
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:40], whole[:-1], b"\xff" * 50):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="not a safetensors file, or cut short"):
            safetensors.read(path)


def test_save_and_load(tmp_path):
    model, variables = resnet()
    path = tmp_path / "a.safetensors"
    weights.save(path, model, variables)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert_same(weights.load(model, path, image_size=SIZE), variables)
    variance = variables["batch_stats"]["stage_2"]["block_2"]["norm_3"]["var"]
    np.testing.assert_array_equal(files.read(path)["layer2.1.bn3.running_var"], variance)
    with pytest.raises(UsageError, match=r"written as \.safetensors"):
        weights.save(tmp_path / "a.pth", model, variables)


def test_a_source_is_found_by_its_names(tmp_path):
    model, variables = vit()
    path = tmp_path / "a.safetensors"
    for source in ("torchvision", "timm"):
        weights.save(path, model, variables, source)
        assert_same(weights.load(model, path, image_size=SIZE), variables)
    safetensors.write(path, {f"module.{k}": v for k, v in names_and_values(model, variables, "timm").items()})
    assert_same(weights.load(model, path, image_size=SIZE), variables)
    safetensors.write(path, {"strange": np.zeros(3)})
    with pytest.raises(UsageError, match=r"a\.safetensors: names like strange are not known for ViT"):
        weights.load(model, path)
    weights.save(path, model, variables)
    with pytest.raises(UsageError, match=r"a\.safetensors: weights of timm for ViT: .*class_token"):
        weights.load(model, path, "timm", image_size=SIZE)


def big_vision_names(variables, layers):
    """A ViT's arrays as the two projects write them; `layers` are their names of a block's layers."""
    params = variables["params"]
    arrays = {
        "cls": params["class_token"][None, None],
        "embedding/kernel": params["patch_embedding"]["kernel"],
        "embedding/bias": params["patch_embedding"]["bias"],
        "Transformer/encoder_norm/scale": params["norm"]["scale"],
        "Transformer/encoder_norm/bias": params["norm"]["bias"],
        "head/kernel": params["head"]["kernel"],
        "head/bias": params["head"]["bias"],
    }
    for index in range(2):
        block = params[f"block_{index + 1}"]
        for ours, theirs in zip(("norm_1", "attention", "norm_2", "mlp"), layers, strict=True):
            for name, leaf in flat(block[ours]).items():
                name = name.replace("dense_1", "Dense_0").replace("dense_2", "Dense_1")
                arrays[f"Transformer/encoderblock_{index}/{theirs}/{name}"] = leaf
    return {name: np.asarray(value) for name, value in arrays.items()}


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}{key}/").items()}


def test_vision_transformer_npz(tmp_path):
    model, variables = vit()
    arrays = big_vision_names(variables, ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"))
    arrays["Transformer/posembed_input/pos_embedding"] = np.asarray(variables["params"]["positions"])[None]
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(weights.load(model, tmp_path / "a.npz", image_size=SIZE), variables)


@pytest.mark.parametrize("stacked", [False, True])
def test_big_vision_npz(tmp_path, stacked):
    model, variables = vit()
    arrays = big_vision_names(variables, ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"))
    arrays["pos_embedding"] = np.asarray(variables["params"]["positions"])[None]
    if stacked:
        blocks = [name for name in arrays if "encoderblock_0/" in name]
        for name in blocks:
            pair = [arrays.pop(name.replace("_0/", f"_{i}/", 1)) for i in range(2)]
            arrays[name.replace("encoderblock_0/", "encoderblock/")] = np.stack(pair)
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in arrays.items()}
    np.savez(tmp_path / "a.npz", **{f"params/{name}": value for name, value in half.items()}, **{"opt/0": np.zeros(3)})
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), variables)
    assert_same(weights.load(model, tmp_path / "a.npz", image_size=SIZE), expected)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_keras_names_of_the_whole_network(name):
    """The 320 arrays of Keras's ResNet-50, in both of its namings, are exactly our variables."""
    model = models.create(name, 1000, conv_bias=True)
    wanted = set(flat(models.variable_shapes(model, (224, 224, 3))))
    rules = weights.RULES["keras"]["ResNet"]
    for first, last in (("conv1_conv/kernel", "predictions/bias"), ("conv1/kernel", "fc1000/bias")):
        if name == "resnet101" and last == "fc1000/bias":
            continue
        found, unused = set(), []
        for theirs in keras_names((3, 4, 6, 3) if name == "resnet50" else (3, 4, 23, 3), old=first == "conv1/kernel"):
            path = next((our_path(rule, theirs) for rule in rules if re.fullmatch(rule.pattern, theirs)), None)
            (unused.append if path is None else found.add)(path or theirs)
        assert (found, unused) == (wanted, [])


def keras_names(stages, old):
    conv, norm = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")
    ends = ("conv1", "bn_conv1", "fc1000") if old else ("conv1_conv", "conv1_bn", "predictions")
    layers = dict(zip(ends, (conv, norm, conv), strict=True))
    for stage, blocks in enumerate(stages, start=2):
        for block in range(blocks):
            for branch in range(1 if block else 0, 4):
                if old:
                    where = f"{stage}{'abcdefgh'[block]}_branch{'1' if branch == 0 else '2' + 'abc'[branch - 1]}"
                    layers |= {f"res{where}": conv, f"bn{where}": norm}
                else:
                    where = f"conv{stage}_block{block + 1}_{branch}"
                    layers |= {f"{where}_conv": conv, f"{where}_bn": norm}
    return [f"{layer}/{variable}" for layer, variables in layers.items() for variable in variables]


@functools.cache
def keras_arrays():
    _, variables = resnet(conv_bias=True)
    rules = weights.RULES["keras"]["ResNet"]
    names = {path: next(filter(None, (their_name(rule, path) for rule in rules))) for path in flat(variables)}
    return {names[path]: np.asarray(value) for path, value in flat(variables).items()}


@pytest.mark.parametrize("form", ["groups", "nested", "keras1"])
def test_keras_files(tmp_path, form):
    model, variables = resnet(conv_bias=True)
    old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in keras_arrays().items():
            layer, variable = name.split("/")
            place = {
                "groups": f"{layer}/{layer}/{variable}:0",
                "nested": f"model_weights/{layer}/{layer}/{variable}:0",
                "keras1": f"{layer}/{layer}_{old.get(variable, variable)}_1:0",
            }[form]
            file[place] = value
        file["optimizer_weights/training/x:0"] = np.zeros(3)
        if form != "nested":
            del file["optimizer_weights"]
    assert_same(weights.load(model, tmp_path / "a.h5", image_size=SIZE), variables)


def test_tensorflow_js(tmp_path):
    model, variables = resnet(conv_bias=True)
    entries = [{"name": n, "shape": v.shape, "dtype": str(v.dtype)} for n, v in keras_arrays().items()]
    content = b"".join(value.tobytes() for value in keras_arrays().values())
    cut = len(content) // 3 + 1  # in the middle of an array, and of a number
    shards = [content[:cut], content[cut : 2 * cut], content[2 * cut :]]
    for index, shard in enumerate(shards):
        (tmp_path / f"group1-shard{index}.bin").write_bytes(shard)
    paths = [f"group1-shard{index}.bin" for index in range(3)]
    text = json.dumps({"weightsManifest": [{"paths": paths, "weights": entries}]})
    (tmp_path / "model.json").write_text(text)
    assert_same(weights.load(model, tmp_path / "model.json", image_size=SIZE), variables)
    (tmp_path / "group1-shard2.bin").unlink()
    with pytest.raises(UsageError, match=r"not a TensorFlow\.js model with its weights beside it"):
        weights.load(model, tmp_path / "model.json")


@pytest.mark.parametrize("ema", [False, True])
def test_run_folders(tmp_path, ema):
    model, variables = resnet()
    other = jax.tree.map(lambda x: x + 1, variables)
    stored = {"params": variables["params"], "model_state": {"batch_stats": variables["batch_stats"]}}
    average = {"params": other["params"], "model_state": {"batch_stats": other["batch_stats"]}} if ema else None
    with Checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(3, {**stored, "ema": average})
    assert_same(weights.load(model, tmp_path, image_size=SIZE), other if ema else variables)
    wider = models.create("resnet", 7, stage_sizes=(1, 2), width=4, block="bottleneck")
    given = weights.load(wider, tmp_path, image_size=SIZE, head="new")
    assert given["params"]["head"]["kernel"].shape == (32, 7)
    with pytest.raises(UsageError, match="not a run folder"):
        weights.load(model, tmp_path / "checkpoints")


def test_a_run_with_scanned_blocks(tmp_path):
    model, variables = vit(scan=True)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(3, {"params": variables["params"], "model_state": {}, "ema": None})
    assert_same(weights.load(model, tmp_path, image_size=SIZE)["params"], variables["params"])


def test_files_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="no such file of weights"):
        files.read(tmp_path / "a.npz")
    for name, content, message in (
        ("a.txt", b"hello", "not a known format of weights"),
        ("a.npz", b"hello", r"not a whole \.npz file"),
        ("a.h5", b"hello", "not a whole HDF5 file"),
        ("a.json", b"{}", "not a TensorFlow.js model"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=message):
            files.read(tmp_path / name)
    np.savez(tmp_path / "b.npz", a=np.array([{}], object))
    with pytest.raises(UsageError, match=r"not a whole \.npz file"):
        files.read(tmp_path / "b.npz")
