"""Hybrids: counts, the root's padding and strides, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import hybrid, vit

pytestmark = pytest.mark.slow  # networks of many layers are traced

PUBLISHED = {
    "vit_tiny_r_s16_p8_224": 6_337_704,
    "vit_small_r26_s32_224": 36_431_912,
    "vit_base_r50_s16_224": 98_659_112,
    "vit_base_r50_s16_384": 98_950_952,
    "vit_large_r50_s32_224": 328_994_856,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    side = int(name[-3:])
    shapes = models.variable_shapes(hybrid.VARIANTS[name](num_classes=1000), (side, side, 3))
    assert models.count_parameters(shapes) == PUBLISHED[name]


def test_features_of_root_and_transformer():
    model = hybrid.VARIANTS["vit_base_r50_s16_224"](num_classes=10, depth=1)
    variables = models.variable_shapes(model, (64, 96, 3))
    outputs = jax.eval_shape(model.apply, variables, jnp.zeros((2, 64, 96, 3)))
    shapes = {stride: features.shape for stride, features in outputs["features"].items()}
    assert shapes == {4: (2, 16, 24, 256), 8: (2, 8, 12, 512), 16: (2, 4, 6, 768)}


def test_any_size_rounds_up_and_remat_changes_nothing():
    model = vit.ViT(3, "Ti", patch_size=1, width=16, depth=1, heads=2, root_stages=(1, 1), root_width=32)
    image = jax.random.normal(jax.random.key(0), (1, 33, 18, 3))
    variables = models.initialize(model, jax.random.key(1), image.shape[1:])
    outputs = jax.jit(model.apply)(variables, image)
    assert {stride: f.shape[1:3] for stride, f in outputs["features"].items()} == {4: (9, 5), 8: (5, 3)}
    names = {"norm_1", "norm_2", "norm_3", "conv_1", "conv_2", "conv_3", "shortcut_conv", "shortcut_norm"}
    assert set(variables["params"]["root"]["stage_2"]["block_1"]) == names
    again = jax.jit(model.clone(remat=True).apply)(variables, image)
    np.testing.assert_allclose(again["pooled"], outputs["pooled"], rtol=1e-5, atol=1e-5)


def test_sizes_are_counted_on_the_map():
    vit.check_patches((98, 31), 1, 32)
    vit.check_patches((96, 62), 8, 4)  # maps of 24 and 16
    with pytest.raises(
        UsageError, match="100x224 does not divide into patches of 32x32; resize it to 96x224 or 128x224"
    ):
        models.variable_shapes(hybrid.VARIANTS["vit_tiny_r_s16_p8_224"](num_classes=10), (100, 224, 3))
