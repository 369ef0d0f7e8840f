"""Vision transformers under big_vision's and vision_transformer's names, against Flax's own attention layers."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vision import models, weights
from vision.models import hybrid, vit


class FlaxBlock(nn.Module):
    """A block whose layers number themselves as big_vision's do."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2)(y, y)
        return x + FlaxMlp(name="MlpBlock_0")(nn.LayerNorm()(x))


class FlaxMlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1])(x))
        return nn.Dense(x.shape[-1])(hidden)


class FlaxTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        for index in range(2):
            x = FlaxBlock(name=f"encoderblock_{index}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class FlaxPool(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
        x = nn.MultiHeadDotProductAttention(2)(jnp.tile(probe, (len(x), 1, 1)), x)
        return (x + FlaxMlp(name="MlpBlock_0")(nn.LayerNorm()(x)))[:, 0]


class FlaxViT(nn.Module):
    attention_pool: bool

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(8, (4, 4), (4, 4), "VALID", name="embedding")(image).reshape(len(image), -1, 8)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.5), (1, x.shape[1], 8))
        if not self.attention_pool:
            x = jnp.concatenate([jnp.tile(self.param("cls", nn.initializers.normal(1.0), (1, 1, 8)), (2, 1, 1)), x], 1)
        x = FlaxTransformer(name="Transformer")(x)
        return nn.Dense(3, name="head")(FlaxPool(name="MAPHead_0")(x) if self.attention_pool else x[:, 0])


@pytest.mark.parametrize(
    "numbers, pool",
    [
        ("by kind", "token"),
        ("through", "attention"),
        pytest.param("by kind", "attention", marks=pytest.mark.slow),
        pytest.param("through", "token", marks=pytest.mark.slow),
    ],
)
def test_files_of_flax(pool, numbers):
    random = np.random.default_rng(0)
    image = random.standard_normal((2, 12, 12, 3), np.float32)
    theirs = FlaxViT(pool == "attention")
    scaled = lambda shape: random.standard_normal(shape) / max(np.prod(shape[:-1]), 1) ** 0.5  # noqa: E731
    shapes = jax.eval_shape(theirs.init, jax.random.key(1), image)
    variables = jax.tree.map(lambda leaf: scaled(leaf.shape).astype(np.float32), shapes)
    state_dict = flatten_dict(variables["params"], sep="/")
    if pool == "token":  # big_vision adds positions before the class token; the files' have one for it
        state_dict["pos_embedding"] = jnp.pad(state_dict["pos_embedding"], ((0, 0), (1, 0), (0, 0)))
    if numbers == "through":  # as vision_transformer numbers the layers of a block
        for old, new in (("LayerNorm_1", "LayerNorm_2"), ("Attention_0", "Attention_1"), ("MlpBlock_0", "MlpBlock_3")):
            state_dict = {re.sub(f"(encoderblock.*){old}", rf"\1{new}", name): x for name, x in state_dict.items()}
        state_dict["Transformer/posembed_input/pos_embedding"] = state_dict.pop("pos_embedding")
    else:
        state_dict = {f"params/{name}": value for name, value in state_dict.items()}
    ours = vit.ViT(3, "Ti", patch_size=4, width=8, depth=2, heads=2, pool=pool, activation="gelu_tanh")
    given = weights.from_state_dict(ours, state_dict, "big_vision", image_size=(12, 12))
    expected = jax.jit(theirs.apply)(variables, image)
    np.testing.assert_allclose(jax.jit(ours.apply)(given, image)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_hybrids_of_vision_transformer():
    """Its names for a root, on which its files and timm's loader agree, give every variable a value."""
    model = hybrid.VARIANTS["vit_small_r26_s32_224"](num_classes=3, depth=1, width=8, heads=2)
    shapes = flatten_dict(models.variable_shapes(model, (32, 32, 3))["params"], sep="/")
    state_dict = {}
    for path, leaf in shapes.items():
        *layers, leaf_name = path.split("/")
        if layers[:1] != ["root"]:
            continue
        unit = re.sub(r"stage_(\d)/block_(\d)", r"block\1/unit\2", "/".join(layers[1:]))
        unit = re.sub(r"conv_(\d)", r"conv\1", re.sub(r"norm_(\d)", r"gn\1", unit))
        for ours, theirs in (("stem_", "{}_root"), ("shortcut_", "{}_proj")):
            unit = unit.replace(f"{ours}conv", theirs.format("conv")).replace(f"{ours}norm", theirs.format("gn"))
        shape = leaf.shape if leaf_name == "kernel" else (1, 1, 1, *leaf.shape)
        state_dict[f"{unit}/{leaf_name}"] = np.random.default_rng(len(state_dict)).random(shape)
    assert {"conv_root/kernel", "gn_root/scale", "block2/unit1/gn_proj/bias", "block4/unit2/conv3/kernel"} <= set(
        state_dict
    )
    rest = [f"params/{path}" for path in shapes if not path.startswith("root/")]
    given = weights.from_state_dict(model, state_dict, "big_vision", image_size=(32, 32), allow_missing=rest)
    block = given["params"]["root"]["stage_3"]["block_2"]
    np.testing.assert_array_equal(block["conv_2"]["kernel"], np.float32(state_dict["block3/unit2/conv2/kernel"]))
    np.testing.assert_array_equal(block["norm_2"]["scale"], np.float32(state_dict["block3/unit2/gn2/scale"]).ravel())
