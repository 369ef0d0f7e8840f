"""Weights of torchvision's two-stage detectors, and of the classifiers that VGG's version begins with.

torchvision's own files of the first versions, trained on COCO, want batch norm with `norm_epsilon` 0 in the backbone's
section and 90 classes.
"""

from vision.models import backbones
from vision.models.rcnn import FasterRCNN
from vision.models.vgg import VGG
from vision.weights import resnet
from vision.weights.rules import CONV, DENSE, DENSE_OF_1X1, TRANSPOSED, Rule, dense_after_map, layer, nested, norm


def torchvision(model: FasterRCNN) -> tuple[Rule, ...]:
    """The rules of `fasterrcnn_resnet50_fpn`, its second version, and those with masks or key points.

    Files from before the convolutions of pyramid and heads were wrapped (names that lack a ".0") are read as well.
    """
    return (
        *nested(resnet.TORCHVISION, r"backbone\.body\.", "backbone"),
        *pyramid(model.strides),
        *_rpn(),
        *_box_head(model),
        *_mask_head(model),
        *_keypoint_head(model),
        *_dense_layers_of_vgg(model),
    )


def pyramid(strides: tuple[int, ...]) -> tuple[Rule, ...]:
    """The rules of torchvision's feature pyramid on maps of these strides, finest first, without its extra levels.

    Published files lack the second number (".0"), which newer versions add when they read them.
    """
    rules: tuple[Rule, ...] = ()
    for index, stride in enumerate(strides):
        for theirs, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            pattern, path = rf"backbone\.fpn\.{theirs}\.{index}", f"pyramid/{ours}_{stride}"
            rules += (*layer(rf"{pattern}(?:\.0|)", f"{path}/conv", CONV), *norm(rf"{pattern}\.1", f"{path}/norm"))
    return rules


def _rpn() -> tuple[Rule, ...]:
    return (
        Rule(r"rpn\.head\.conv\.(\d)\.0\.weight", "params/rpn/conv_<1+1>/kernel", CONV),
        Rule(r"rpn\.head\.conv\.(\d)\.0\.bias", "params/rpn/conv_<1+1>/bias"),
        *layer(r"rpn\.head\.conv", "rpn/conv_1", CONV),
        *layer(r"rpn\.head\.cls_logits", "rpn/objectness", CONV),
        *layer(r"rpn\.head\.bbox_pred", "rpn/offsets", CONV),
    )


def _convolutions(pattern: str, path: str) -> tuple[Rule, ...]:
    """3x3 convolutions at the places 0, 1, ... of a sequence, each alone or before its norm."""
    return (
        Rule(rf"{pattern}\.(\d)\.0\.weight", f"params/{path}/convolutions/conv_<1+1>/kernel", CONV),
        Rule(rf"{pattern}\.(\d)\.0\.bias", f"params/{path}/convolutions/conv_<1+1>/bias"),
        *norm(rf"{pattern}\.(\d)\.1", f"{path}/convolutions/norm_<1+1>"),
    )


def _box_head(model: FasterRCNN) -> tuple[Rule, ...]:
    pattern = r"roi_heads\.box_head"
    width = model.box_convolutions[-1] if model.box_convolutions else model.channels
    first = dense_after_map(width, model.roi_size, model.roi_size)
    rules = (
        *layer(r"roi_heads\.box_predictor\.cls_score", "box_head/head/logits", DENSE),
        *layer(r"roi_heads\.box_predictor\.bbox_pred", "box_head/head/offsets", DENSE),
    )
    if not model.box_convolutions:
        fc7 = layer(rf"{pattern}\.fc7", "box_head/dense_2", DENSE)
        return (*layer(rf"{pattern}\.fc6", "box_head/dense_1", first), *fc7, *rules)
    dense = len(model.box_convolutions) + 1  # after the flattening
    return (
        *_convolutions(pattern, "box_head"),
        *layer(rf"{pattern}\.{dense}", "box_head/dense_1", first),
        *rules,
    )


def _mask_head(model: FasterRCNN) -> tuple[Rule, ...]:
    if not model.masks:
        return ()
    pattern, predictor = r"roi_heads\.mask_head", r"roi_heads\.mask_predictor"
    return (
        *_convolutions(pattern, "mask_head"),
        Rule(rf"{pattern}\.mask_fcn(\d)\.weight", "params/mask_head/convolutions/conv_<1>/kernel", CONV),
        Rule(rf"{pattern}\.mask_fcn(\d)\.bias", "params/mask_head/convolutions/conv_<1>/bias"),
        *layer(rf"{predictor}\.conv5_mask", "mask_head/transposed", TRANSPOSED),
        *layer(rf"{predictor}\.mask_fcn_logits", "mask_head/head", DENSE_OF_1X1),
    )


def _keypoint_head(model: FasterRCNN) -> tuple[Rule, ...]:
    if not model.keypoints:
        return ()
    rules: tuple[Rule, ...] = ()
    for index in range(len(model.keypoint_convolutions)):
        path = f"keypoint_head/convolutions/conv_{index + 1}"
        rules += layer(rf"roi_heads\.keypoint_head\.{2 * index}", path, CONV)  # each before a ReLU
    predictor = r"roi_heads\.keypoint_predictor\.kps_score_lowres"
    return (*rules, *layer(predictor, "keypoint_head/transposed", TRANSPOSED))


def _dense_layers_of_vgg(model: FasterRCNN) -> tuple[Rule, ...]:
    """The box head of a network on VGG begins as the dense layers of the classifier (Ren et al. 2015, section 3.2)."""
    backbone = backbones.configured(model.backbone)()
    if not isinstance(backbone, VGG) or model.pyramid != "none" or len(model.box_hidden) != 2:
        return ()
    channels = backbone.width * min(2 ** (len(backbone.stage_sizes) - 1), 8)
    return (
        *layer(r"classifier\.0", "box_head/dense_1", dense_after_map(channels, model.roi_size, model.roi_size)),
        *layer(r"classifier\.3", "box_head/dense_2", DENSE),
    )
