"""U-Net: the paper's sizes, mirrored borders, and other networks as its encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models
from vision.errors import UsageError
from vision.models import unet


def outputs_of(model, *image_shape):
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)


def test_published_sizes():
    """Figure 1: 572 pixels give 388, and the maps on the way."""
    model = models.create("unet_paper", 2, width=2, mirror=False)
    outputs = outputs_of(model, 1, 572, 572, 1)
    assert outputs["logits"].shape == (1, 388, 388, 2)
    assert {stride: x.shape[1] for stride, x in outputs["features"].items()} == {16: 28, 8: 52, 4: 100, 2: 196, 1: 388}
    assert unet.valid_size(557, 4) == unet.valid_size(572, 4) == (572, 388) and unet.lost_border(4) == 184


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_valid_sizes_by_trial(depth):
    """Each side up to 120 is tried: halved and doubled as the convolutions do."""

    def logits_of(side):
        for _ in range(depth):
            side -= 4
            if side < 2 or side % 2:
                return 0
            side //= 2
        side -= 4
        for _ in range(depth):
            side = 2 * side - 4
        return side

    possible = {side: logits_of(side) for side in range(200) if logits_of(side) > 0}
    for side in range(120):
        least = min(other for other in possible if other >= side)
        assert unet.valid_size(side, depth) == (least, possible[least])


def test_mirrored_border_gives_the_logits_of_the_middle():
    """The overlap-tile strategy: what valid convolutions see of the image is not changed by the mirrored border."""
    small = models.create("unet_paper", 2, width=2, depth=1, mirror=False)
    whole = small.clone(mirror=True)
    image = np.random.default_rng(0).standard_normal((1, 32, 28, 1)).astype(np.float32)
    variables = jax.jit(small.init)(jax.random.key(0), image)
    inner = jax.jit(small.apply)(variables, image)["logits"]
    outer = jax.jit(whole.apply)(variables, image)["logits"]
    lost = unet.lost_border(1) // 2
    assert outer.shape == (1, 32, 28, 2) and inner.shape == (1, 16, 12, 2)
    np.testing.assert_allclose(outer[:, lost:-lost, lost:-lost], inner, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "unet_paper"])
def test_any_size(name):
    for height, width in ((1, 3), (97, 131), (388, 388)):
        model = models.create(name, 2, width=2)
        assert outputs_of(model, 1, height, width, 3)["logits"].shape == (1, height, width, 2)


@pytest.mark.parametrize("patch_size", [2, 3])
def test_patches(patch_size):
    """Squares of pixels are places: an image moved by the coarsest stride has its logits moved, no finer maps exist."""
    model = models.create("unet", 2, width=4, depth=1, patch_size=patch_size, batch_norm=False)
    stride = 2 * patch_size
    image = np.random.default_rng(0).standard_normal((1, 12 * stride, 12 * stride, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    first = variables["params"][f"encoder_{patch_size}"]["conv_1"]["kernel"]
    assert first.shape == (3, 3, patch_size**2, 4 * patch_size)
    outputs = jax.jit(model.apply)(variables, image)
    assert sorted(outputs["features"]) == [patch_size, stride]
    moved = jax.jit(model.apply)(variables, np.roll(image, stride, axis=2))["logits"]
    inside = slice(5 * stride, -5 * stride)
    np.testing.assert_allclose(
        moved[:, inside, inside], np.roll(outputs["logits"], stride, axis=2)[:, inside, inside], atol=1e-5
    )
    assert outputs_of(model, 2, 31, 17, 3)["logits"].shape == (2, 31, 17, 2)


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest", "bed_of_nails"])
def test_fixed_upsampling(upsampling):
    model = models.create("unet", 2, width=4, depth=1, upsampling=upsampling)
    params = models.variable_shapes(model, (16, 16, 3))["params"]
    assert params["upsample_1"]["projection"]["kernel"].shape == (8, 4)
    assert outputs_of(model, 1, 16, 15, 3)["logits"].shape == (1, 16, 15, 2)


@pytest.mark.parametrize(
    "backbone, strides",
    [
        ("resnet18", (4, 8, 16, 32)),
        pytest.param("densenet121", (8, 16), marks=pytest.mark.slow),
        ("vgg11_bn", (1, 2, 4, 8, 16)),
        ("vit_ti16", (16,)),
        ({"name": "vit", "patch_size": 14, "depth": 1}, (14,)),
    ],
)
def test_backbones(backbone, strides):
    model = models.create("unet", 5, backbone=backbone, strides=strides, width=4)
    outputs = outputs_of(model, 1, 97, 131, 3)
    assert outputs["logits"].shape == (1, 97, 131, 5)
    assert min(outputs["features"]) == 1 and outputs["features"][1].shape[-1] == 4


def test_mistakes():
    with pytest.raises(UsageError, match=r"571x600 does not halve 4 times .* resize it to 556x588 or 572x604"):
        models.variable_shapes(models.create("unet_paper", 2, mirror=False), (571, 600, 3))
    with pytest.raises(UsageError, match="padding='valid' is for the network's own encoder"):
        models.variable_shapes(models.create("unet_paper", 2, backbone="resnet18"), (64, 64, 3))
    for fields in (dict(backbone="resnet18"), dict(padding="valid")):
        with pytest.raises(UsageError, match="patch_size=2 is for the network's own encoder with padding='same'"):
            models.variable_shapes(models.create("unet", 2, patch_size=2, **fields), (64, 64, 3))
