"""Weights of the Inception networks in torchvision's (v3) and timm's naming."""

from vision.errors import UsageError
from vision.models.inception import Inception
from vision.weights.rules import CONV, DENSE, Rule, norm


def unit(pattern: str, path: str) -> tuple[Rule, ...]:
    """The rules of their convolution with batch norm at `pattern` and our `ConvUnit` at `path`."""
    return (
        Rule(rf"{pattern}\.conv\.weight", f"params/{path}/conv/kernel", CONV),
        *norm(rf"{pattern}\.bn", f"{path}/norm"),
    )


def dense(pattern: str, path: str) -> tuple[Rule, ...]:
    """The rules of their dense layer at `pattern` and ours at `path`."""
    return (
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", DENSE),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
    )


_V3 = (
    *unit("Conv2d_(1a|2a|2b|4a)_3x3", "conv_<1>"),
    *unit("Conv2d_3b_1x1", "conv_3b"),
    *unit(r"Mixed_(5[bcd]|6[bcde]|7[bc])\.branch1x1", "mixed_<1>/branch_1/unit_1"),
    *unit(r"Mixed_(5[bcd]|6[bcde]|7[bc])\.branch_pool", "mixed_<1>/branch_4/unit_1"),
    *unit(r"Mixed_(5[bcd])\.branch5x5_(\d)", "mixed_<1>/branch_2/unit_<2>"),
    *unit(r"Mixed_(5[bcd])\.branch3x3dbl_(\d)", "mixed_<1>/branch_3/unit_<2>"),
    *unit(r"Mixed_6a\.branch3x3", "mixed_6a/branch_1/unit_1"),
    *unit(r"Mixed_6a\.branch3x3dbl_(\d)", "mixed_6a/branch_2/unit_<1>"),
    *unit(r"Mixed_(6[bcde])\.branch7x7_(\d)", "mixed_<1>/branch_2/unit_<2>"),
    *unit(r"Mixed_(6[bcde])\.branch7x7dbl_(\d)", "mixed_<1>/branch_3/unit_<2>"),
    *unit(r"Mixed_7a\.branch3x3_(\d)", "mixed_7a/branch_1/unit_<1>"),
    *unit(r"Mixed_7a\.branch7x7x3_(\d)", "mixed_7a/branch_2/unit_<1>"),
    *unit(r"Mixed_(7[bc])\.branch3x3_(1|2a|2b)", "mixed_<1>/branch_2/unit_<2>"),
    *unit(r"Mixed_(7[bc])\.branch3x3dbl_(1|2|3a|3b)", "mixed_<1>/branch_3/unit_<2>"),
    *unit(r"AuxLogits\.conv([01])", "auxiliary/unit_<1+1>"),
    *dense(r"AuxLogits\.fc", "auxiliary/head"),
    *dense("fc", "head"),
)


def _branches(pattern: str, path: str, *units: int, pool: bool = False) -> tuple[Rule, ...]:
    """The rules of timm's branches, numbered from 0, at `pattern` and ours at `path`.

    Args:
        pattern: regular expression for the name of their block.
        path: of our block.
        *units: number of convolutions of each branch; a branch of one is not numbered at timm.
        pool: whether a pooling with one convolution, numbered 1, is the branch after these.
    """
    group = pattern.count("(") + 1  # number of the group that a convolution's number is
    rules = unit(rf"{pattern}\.branch{len(units)}\.1", f"{path}/branch_{len(units) + 1}/unit_1") if pool else ()
    for index, count in enumerate(units):
        theirs, ours = rf"{pattern}\.branch{index}", f"{path}/branch_{index + 1}"
        rules += unit(theirs, f"{ours}/unit_1") if count == 1 else unit(rf"{theirs}\.(\d)", f"{ours}/unit_<{group}+1>")
    return rules


def _residual(pattern: str, path: str, *units: int) -> tuple[Rule, ...]:
    """The rules of timm's residual block at `pattern` and ours at `path`."""
    return (
        *_branches(pattern, f"{path}/branches", *units),
        Rule(rf"{pattern}\.conv2d\.weight", f"params/{path}/projection/kernel", CONV),
        Rule(rf"{pattern}\.conv2d\.bias", f"params/{path}/projection/bias"),
    )


def _forked(pattern: str, path: str) -> tuple[Rule, ...]:
    """The rules of Inception-v4's blocks on the last maps, whose convolutions have letters where they fork."""
    return (
        *_branches(pattern, path, 1),
        *unit(rf"{pattern}\.branch1_(\d)([ab]?)", f"{path}/branch_2/unit_<1+1><2>"),
        *unit(rf"{pattern}\.branch2_(\d)([ab]?)", f"{path}/branch_3/unit_<1+1><2>"),
        *unit(rf"{pattern}\.branch3\.1", f"{path}/branch_4/unit_1"),
    )


_V4 = (
    *unit(r"features\.0", "conv_1a"),
    *unit(r"features\.1", "conv_2a"),
    *unit(r"features\.2", "conv_2b"),
    *unit(r"features\.3\.conv", "mixed_3a/branch_2/unit_1"),
    *_branches(r"features\.4", "mixed_4a", 2, 4),
    *unit(r"features\.5\.conv", "mixed_5a/branch_1/unit_1"),
    *(rule for i in range(4) for rule in _branches(rf"features\.{6 + i}", f"mixed_5{'bcde'[i]}", 1, 2, 3, pool=True)),
    *_branches(r"features\.10", "mixed_6a", 1, 3),
    *(
        rule
        for i in range(7)
        for rule in _branches(rf"features\.{11 + i}", f"mixed_6{'bcdefgh'[i]}", 1, 3, 5, pool=True)
    ),
    *_branches(r"features\.18", "mixed_7a", 2, 4),
    *(rule for i in range(3) for rule in _forked(rf"features\.{19 + i}", f"mixed_7{'bcd'[i]}")),
    *dense("last_linear", "head"),
)

_RESNET_V2 = (
    *unit("conv2d_(1a|2a|2b|3b|4a|7b)", "conv_<1>"),
    *_branches("mixed_5b", "mixed_5b", 1, 2, 3, pool=True),
    *_residual(r"repeat\.(\d)", "block_35_<1+1>", 1, 2, 3),
    *_branches("mixed_6a", "mixed_6a", 1, 3),
    *_residual(r"repeat_1\.(\d+)", "block_17_<1+1>", 1, 3),
    *_branches("mixed_7a", "mixed_7a", 2, 2, 3),
    *_residual(r"repeat_2\.([0-8])", "block_8_<1+1>", 1, 3),
    *_residual("block8", "block_8_10", 1, 3),
    *dense("classif", "head"),
)


def torchvision(model: Inception) -> tuple[Rule, ...]:
    """The rules for Inception-v3, the only one of these networks that torchvision has.

    Raises:
        UsageError: the model is another one.
    """
    if model.variant != "v3":
        raise UsageError(f"torchvision has weights of Inception v3 only, not of {model.variant}; those are timm's.")
    return _V3


def timm(model: Inception) -> tuple[Rule, ...]:
    """The rules for the model's variant; timm's names for Inception-v3 are torchvision's."""
    return {"v3": _V3, "v4": _V4, "resnet_v2": _RESNET_V2}[model.variant]
