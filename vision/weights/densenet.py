"""Weights of DenseNet in torchvision's naming, which is timm's too."""

from vision.weights.rules import CONV, DENSE, Rule, norm

# Published files are older than the names: `norm.1` in them is `norm1` since.
_LAYER, _OUR_LAYER = r"features\.denseblock(\d)\.denselayer(\d+)", "block_<1>/layer_<2>"


def _conv(pattern: str, path: str) -> Rule:
    return Rule(rf"{pattern}\.weight", f"params/{path}/kernel", CONV)


TORCHVISION: tuple[Rule, ...] = (
    _conv(r"features\.conv0", "stem_conv"),
    *norm(r"features\.norm0", "stem_norm"),
    *norm(rf"{_LAYER}\.norm(?:\.)?1", f"{_OUR_LAYER}/bottleneck/norm"),
    _conv(rf"{_LAYER}\.conv(?:\.)?1", f"{_OUR_LAYER}/bottleneck/conv"),
    *norm(rf"{_LAYER}\.norm(?:\.)?2", f"{_OUR_LAYER}/growth/norm"),
    _conv(rf"{_LAYER}\.conv(?:\.)?2", f"{_OUR_LAYER}/growth/conv"),
    *norm(r"features\.transition(\d)\.norm", "transition_<1>/norm"),
    _conv(r"features\.transition(\d)\.conv", "transition_<1>/conv"),
    *norm(r"features\.norm5", "norm"),
    Rule(r"classifier\.weight", "params/head/kernel", DENSE),
    Rule(r"classifier\.bias", "params/head/bias"),
)
TIMM = TORCHVISION
