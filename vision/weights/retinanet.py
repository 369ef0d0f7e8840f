"""Weights of torchvision's RetinaNets, their names of today and those that its published files have."""

import math

import numpy as np

from vision.models.retinanet import RetinaNet
from vision.weights import rcnn, resnet
from vision.weights.rules import CONV, Kind, Rule, layer, nested


def torchvision(model: RetinaNet) -> tuple[Rule, ...]:
    """The rules of `retinanet_resnet50_fpn` and its second version.

    Their outputs are counted as if the first class were the background, but it is a class like others that no object
    ever has: 91 outputs for 90 classes. It is dropped, so that their label k is our class k - 1, as with all of
    torchvision's detectors; written back, it has weights of zero and the prior's bias. The published file of the first
    version wants batch norm with `norm_epsilon` 0 in the backbone's section.
    """
    boxes = len(model.scales) * len(model.aspect_ratios)
    return (
        *nested(resnet.TORCHVISION, r"backbone\.body\.", "backbone"),
        *_pyramid(model.strides),
        *_subnet("classification_head", "class_head", model.depth),
        *_subnet("regression_head", "box_head", model.depth),
        Rule(r"head\.classification_head\.cls_logits\.weight", "params/class_head/head/kernel", _kernel(boxes)),
        Rule(r"head\.classification_head\.cls_logits\.bias", "params/class_head/head/bias", _bias(boxes, model.prior)),
        Rule(r"head\.regression_head\.bbox_reg\.weight", "params/box_head/offsets/kernel", CONV),
        Rule(r"head\.regression_head\.bbox_reg\.bias", "params/box_head/offsets/bias"),
    )


def _pyramid(strides: tuple[int, ...]) -> tuple[Rule, ...]:
    rules = rcnn.pyramid(tuple(sorted(strides)))
    for number in (6, 7):
        stride = max(strides) * 2 ** (number - 5)
        rules += layer(rf"backbone\.fpn\.extra_blocks\.p{number}", f"pyramid/extra_{stride}", CONV)
    return rules


def _subnet(theirs: str, ours: str, depth: int) -> tuple[Rule, ...]:
    pattern = rf"head\.{theirs}\.conv\."
    rules = (
        *layer(rf"{pattern}(\d)\.0", f"{ours}/conv_<1+1>", CONV),
        Rule(rf"{pattern}(\d)\.1\.weight", f"params/{ours}/norm_<1+1>/scale"),
        Rule(rf"{pattern}(\d)\.1\.bias", f"params/{ours}/norm_<1+1>/bias"),
    )
    for index in range(depth):  # their published files count the ReLUs too
        rules += layer(rf"{pattern}{2 * index}", f"{ours}/conv_{index + 1}", CONV)
    return rules


def _kernel(boxes: int) -> Kind:
    drop = _drop_first(boxes, 0.0)
    return Kind(lambda x: CONV.to_ours(drop.to_ours(x)), lambda x: drop.to_theirs(CONV.to_theirs(x)))


def _bias(boxes: int, prior: float) -> Kind:
    return _drop_first(boxes, -math.log((1 - prior) / prior))


def _drop_first(boxes: int, value: float) -> Kind:
    """Of (boxes x classes, ...) the first class of each box is left out, and put back as a constant."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.reshape(boxes, -1, *x.shape[1:])[:, 1:].reshape(-1, *x.shape[1:])

    def to_theirs(x: np.ndarray) -> np.ndarray:
        by_box = x.reshape(boxes, -1, *x.shape[1:])
        first = np.full_like(by_box[:, :1], value)
        return np.concatenate([first, by_box], axis=1).reshape(-1, *x.shape[1:])

    return Kind(to_ours, to_theirs)
