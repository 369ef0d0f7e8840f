"""Weights of torchvision's SSD300, and of VGG-16 classifiers for the network that it stands on."""

from collections.abc import Callable

import numpy as np

from vision.errors import UsageError
from vision.models.ssd import SSD, DilatedVGG
from vision.models.vgg import VGG
from vision.weights import vgg
from vision.weights.rules import CONV, Kind, Rule, layer, nested


def torchvision(model: SSD) -> tuple[Rule, ...]:
    """The rules of `ssd300_vgg16`; none for SSD on other backbones, which torchvision has not.

    Its class 0 is the background, as ours, so that its label k is our class k - 1.
    """
    backbone = model.backbone if isinstance(model.backbone, str) else model.backbone["name"]
    if backbone != "vgg16_dilated":
        return ()
    rules = (
        Rule(r"backbone\.scale_weight", "params/l2_norm/scale"),
        # The fifth stage and the dense layers follow a pooling in the first of `extra`.
        *(rule for rule in nested(_convolutions(), r"backbone\.", "backbone") if "stage_5" not in rule.path),
        *layer(r"backbone\.extra\.0\.7\.1", "backbone/fc6", CONV),
        *layer(r"backbone\.extra\.0\.7\.3", "backbone/fc7", CONV),
        *layer(r"head\.classification_head\.module_list\.(\d)", "head/level_<1+1>", CONV),
        *layer(r"head\.regression_head\.module_list\.(\d)", "box_head/level_<1+1>", CONV),
    )
    for number in (1, 2, 3):
        rules += layer(rf"backbone\.extra\.0\.{2 * number - 1}", f"backbone/stage_5/conv_{number}", CONV)
    for index, number in ((0, 1), (2, 2)):
        rules += layer(rf"backbone\.extra\.([1-9])\.{index}", f"extra_<1>/conv_{number}", CONV)
    return rules


def classifier(model: DilatedVGG) -> tuple[Rule, ...]:
    """The rules for torchvision's VGG-16, of whose dense layers every fourth unit and every third tap are kept.

    The published networks began in this way (section 3: "subsample parameters from fc6 and fc7"). Only for reading.
    """

    def fc6(x: np.ndarray) -> np.ndarray:
        by_map = x.reshape(len(x), model.width * 8, 7, 7)
        return by_map[::4, :, ::3, ::3].transpose(2, 3, 1, 0)

    return (
        *_convolutions(),
        Rule(r"classifier\.0\.weight", "params/fc6/kernel", _read_only(fc6)),
        Rule(r"classifier\.0\.bias", "params/fc6/bias", _read_only(lambda x: x[::4])),
        Rule(r"classifier\.3\.weight", "params/fc7/kernel", _read_only(lambda x: x[::4, ::4].T[None, None])),
        Rule(r"classifier\.3\.bias", "params/fc7/bias", _read_only(lambda x: x[::4])),
        Rule(r"classifier\.6\.(?:weight|bias)", None),
    )


def _convolutions() -> tuple[Rule, ...]:
    return vgg.convolutions(VGG())


def _read_only(to_ours: Callable[[np.ndarray], np.ndarray]) -> Kind:
    def to_theirs(x: np.ndarray) -> np.ndarray:
        raise UsageError("weights: the dense layers of a VGG-16 cannot be had back from a part of them.")

    return Kind(to_ours, to_theirs)
