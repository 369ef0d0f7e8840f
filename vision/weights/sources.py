"""Whose names we know: per source and class of network, the rules that translate them."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from vision.errors import UsageError, unknown_name
from vision.models import backbones
from vision.weights import (
    alexnet,
    densenet,
    googlenet,
    inception,
    keras,
    lpips,
    rcnn,
    resnet,
    retinanet,
    segmentation,
    ssd,
    vgg,
    vit,
)
from vision.weights.rules import Rule, nested

Rules = tuple[Rule, ...]

# Per source and class of network: rules, or a function of the network that gives them.
RULES: dict[str, dict[str, Rules | Callable[[Any], Rules]]] = {
    "torchvision": {
        "AlexNet": alexnet.TORCHVISION,
        "DeconvNet": segmentation.deconvnet,
        "DeepLab": segmentation.deeplab,
        "DenseNet": densenet.TORCHVISION,
        "DilatedVGG": ssd.classifier,
        "FCN": segmentation.fcn,
        "FasterRCNN": rcnn.torchvision,
        "GoogLeNet": googlenet.TORCHVISION,
        "Inception": inception.torchvision,
        "ResNet": resnet.TORCHVISION,
        "RetinaNet": retinanet.torchvision,
        "SSD": ssd.torchvision,
        "SegNet": segmentation.segnet,
        "VGG": vgg.torchvision,
        "ViT": vit.TORCHVISION,
    },
    "timm": {
        "DenseNet": densenet.TIMM,
        "Inception": inception.timm,
        "ResNet": resnet.TIMM,
        "ResNetV2": resnet.TIMM_V2,
        "VGG": vgg.timm,
        "ViT": vit.timm,
    },
    "big_vision": {"ResNetV2": resnet.BIG_TRANSFER, "ViT": vit.BIG_VISION},
    "keras": {"ResNet": keras.RESNET},
    "lpips": {"AlexNet": lpips.ALEXNET, "VGG": lpips.vgg},
}
OURS = "vision"
_IDENTITY = (Rule(r"((?:params|batch_stats)/.*)", "<1>"),)


def rules_for(model: Any, source: str) -> Rules:
    """The rules for a network's tensors as this source names them; "vision" is our own names.

    A network on a backbone takes the tensors of that backbone's classifier too.

    Raises:
        UsageError: an unknown source, or one without rules for this network.
    """
    if source == OURS:
        return _IDENTITY
    if source not in RULES:
        raise unknown_name("source of weights", source, (*RULES, OURS))
    families = RULES[source]
    known = [families[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in families]
    section = getattr(model, "backbone", None)
    if known or section is not None:
        own = known[0] if known else ()
        own = own(model) if callable(own) else own
        return (*own, *(nested(rules_for(backbones.configured(section)(), source), "", "backbone") if section else ()))
    name = type(model).__name__
    others = [other for other, table in RULES.items() if name in table] or ["no source"]
    raise UsageError(
        f"weights of {source!r}: no rules for {name}, but for {', '.join(sorted(families))}; {name} has "
        f"rules for those of {', '.join(others)}."
    )


def detect(model: Any, names: Iterable[str]) -> str:
    """The source whose rules know the most of these names.

    Raises:
        UsageError: no source knows any.
    """
    names = list(names)
    known = {}
    for source in (*RULES, OURS):
        try:
            patterns = [re.compile(rule.pattern) for rule in rules_for(model, source)]
        except UsageError:
            continue
        known[source] = sum(any(pattern.fullmatch(name) for pattern in patterns) for name in names)
    best = max(known, key=known.__getitem__)
    if not known[best]:
        raise UsageError(
            f"names like {', '.join(names[:3]) or 'none at all'} are not known for {type(model).__name__} from "
            f"{', '.join(known)}."
        )
    return best
