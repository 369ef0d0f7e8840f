"""Residual networks' weights in torchvision's and timm's naming, and in that of BiT's own files."""

from vision.weights.rules import CONV, DENSE, DENSE_OF_1X1, Kind, Rule, norm

_DENSE_OF_MAP = Kind(lambda x: x[0, 0], lambda x: x[None, None])

# ResNet; timm has the same names.
TORCHVISION: tuple[Rule, ...] = (
    Rule(r"conv1\.weight", "params/stem/conv/kernel", CONV),
    *norm("bn1", "stem/norm"),
    Rule(r"layer(\d)\.(\d+)\.conv(\d)\.weight", "params/stage_<1>/block_<2+1>/conv_<3>/kernel", CONV),
    *norm(r"layer(\d)\.(\d+)\.bn(\d)", "stage_<1>/block_<2+1>/norm_<3>"),
    Rule(r"layer(\d)\.(\d+)\.downsample\.0\.weight", "params/stage_<1>/block_<2+1>/shortcut_conv/kernel", CONV),
    *norm(r"layer(\d)\.(\d+)\.downsample\.1", "stage_<1>/block_<2+1>/shortcut_norm"),
    Rule(r"fc\.weight", "params/head/kernel", DENSE),
    Rule(r"fc\.bias", "params/head/bias"),
)
TIMM = TORCHVISION


def stages(theirs: str, ours: str) -> tuple[Rule, ...]:
    """timm's names of BiT's stages, in a network (`theirs` and `ours` empty) or before a hybrid's transformer."""
    pattern, path = rf"{theirs}stages\.(\d)\.blocks\.(\d+)", f"params/{ours}stage_<1+1>/block_<2+1>"
    return (
        Rule(rf"{pattern}\.conv(\d)\.weight", f"{path}/conv_<3>/kernel", CONV),
        Rule(rf"{pattern}\.norm(\d)\.weight", f"{path}/norm_<3>/scale"),
        Rule(rf"{pattern}\.norm(\d)\.bias", f"{path}/norm_<3>/bias"),
        Rule(rf"{pattern}\.downsample\.conv\.weight", f"{path}/shortcut_conv/kernel", CONV),
        Rule(rf"{pattern}\.downsample\.norm\.weight", f"{path}/shortcut_norm/scale"),
        Rule(rf"{pattern}\.downsample\.norm\.bias", f"{path}/shortcut_norm/bias"),
    )


# ResNetV2.
TIMM_V2: tuple[Rule, ...] = (
    Rule(r"stem\.conv\.weight", "params/stem_conv/kernel", CONV),
    *stages("", ""),
    Rule(r"norm\.weight", "params/norm/scale"),
    Rule(r"norm\.bias", "params/norm/bias"),
    Rule(r"head\.fc\.weight", "params/head/kernel", DENSE_OF_1X1),
    Rule(r"head\.fc\.bias", "params/head/bias"),
)


def _bit_blocks() -> tuple[Rule, ...]:
    rules = ()
    for index, letter in enumerate("abc", start=1):
        unit, path = rf"(?:resnet/)?block(\d)/unit(?:0)?(\d+)/{letter}", "params/stage_<1>/block_<2>"
        rules += (
            Rule(f"{unit}/standardized_conv2d/kernel", f"{path}/conv_{index}/kernel"),
            Rule(f"{unit}/group_norm/gamma", f"{path}/norm_{index}/scale"),
            Rule(f"{unit}/group_norm/beta", f"{path}/norm_{index}/bias"),
            Rule(f"{unit}/proj/standardized_conv2d/kernel", f"{path}/shortcut_conv/kernel"),
        )
    return rules


# ResNetV2 from the .npz files of Big Transfer.
BIG_TRANSFER: tuple[Rule, ...] = (
    Rule("(?:resnet/)?root_block/standardized_conv2d/kernel", "params/stem_conv/kernel"),
    *_bit_blocks(),
    Rule("(?:resnet/)?group_norm/gamma", "params/norm/scale"),
    Rule("(?:resnet/)?group_norm/beta", "params/norm/bias"),
    Rule("(?:resnet/)?head/conv2d/kernel", "params/head/kernel", _DENSE_OF_MAP),
    Rule("(?:resnet/)?head/conv2d/bias", "params/head/bias"),
)
