"""Weights of torchvision's segmentation networks, and of the classifiers that others begin with."""

from vision.models.deeplab import DeepLab
from vision.weights import resnet, vgg
from vision.weights.rules import CONV, DENSE_OF_1X1, Rule, nested, norm

# FCN, DeconvNet and SegNet begin with VGG; the dense layers of the first two are its own.
fcn = deconvnet = vgg.torchvision
segnet = vgg.convolutions


def deeplab(model: DeepLab) -> tuple[Rule, ...]:
    """The rules of `deeplabv3_resnet50`, `fcn_resnet50` and deeper ones, by the kind of their head."""
    head = _conv_head("classifier", "classifier") if model.head == "conv" else _pyramid(len(model.rates))
    backbone = nested(resnet.TORCHVISION, r"backbone\.", "backbone")
    return (*backbone, *head, *_conv_head("aux_classifier", "auxiliary"))


def _unit(pattern: str, path: str, first: int = 0) -> tuple[Rule, ...]:
    """A convolution, and the batch norm that follows it, at these places of a sequence."""
    return (
        Rule(rf"{pattern}\.{first}\.weight", f"params/{path}/conv/kernel", CONV),
        *norm(rf"{pattern}\.{first + 1}", f"{path}/norm"),
    )


def _scores(pattern: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{pattern}\.weight", f"params/{path}/head/kernel", DENSE_OF_1X1),
        Rule(rf"{pattern}\.bias", f"params/{path}/head/bias"),
    )


def _conv_head(pattern: str, path: str) -> tuple[Rule, ...]:
    return (*_unit(pattern, f"{path}/unit"), *_scores(rf"{pattern}\.4", path))


def _pyramid(rates: int) -> tuple[Rule, ...]:
    """A pyramid of one plain branch, so many dilated ones, and one that begins with a pooling."""
    pattern, path = r"classifier\.0\.convs", "classifier/branch"
    branches = [_unit(rf"{pattern}\.{index}", f"{path}_{index + 1}") for index in range(rates + 1)]
    branches.append(_unit(rf"{pattern}\.{rates + 1}", f"{path}_{rates + 2}", first=1))
    return (
        *(rule for branch in branches for rule in branch),
        *_unit(r"classifier\.0\.project", "classifier/projection"),
        *_unit("classifier", "classifier/unit", first=1),
        *_scores(r"classifier\.4", "classifier"),
    )
