"""Names with their numbers of parameters."""

import pytest

from vision import models
from vision.errors import UsageError
from vision.models.listing import list_models


def test_a_family():
    assert list_models("resnet[15][08]") == {"resnet18": 11_689_512, "resnet50": 25_557_032}
    assert list_models("linear", num_classes=10) == {"linear": 1_505_290}
    assert set(list_models("vit_?16")) == {name for name in models.MODELS if len(name) == 7 and name.endswith("16")}


def test_the_size_of_the_image_is_that_of_the_name():
    # timm: vit_base_patch16_384 and vit_base_patch16_224
    assert list_models("vit_base_patch16_???") == {
        "vit_base_patch16_224": 86_567_656,
        "vit_base_patch16_384": 86_859_496,
    }
    assert "vit_huge_patch14_224" in models.MODELS and "vit_huge_patch14_384" not in models.MODELS


def test_no_name():
    with pytest.raises(UsageError, match=r"no model is called 'resnt\*'; did you mean 'resnet"):
        list_models("resnt*")
