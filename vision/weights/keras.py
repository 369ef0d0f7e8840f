"""Names of Keras's ResNet: those of the 2015 Caffe model ("res2a_branch2a") and today's ("conv2_block1_1_conv")."""

from vision.weights.rules import Rule

_BRANCHES = {"1": "shortcut_{}", "2a": "{}_1", "2b": "{}_2", "2c": "{}_3"}
_LETTERS = "abcdefgh"  # the blocks of a stage; deeper networks number them: a, b1, b2, ...


def _conv(name: str, path: str) -> tuple[Rule, ...]:
    return (Rule(f"{name}/kernel", f"params/{path}/kernel"), Rule(f"{name}/bias", f"params/{path}/bias"))


def _norm(name: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{name}/gamma", f"params/{path}/scale"),
        Rule(f"{name}/beta", f"params/{path}/bias"),
        Rule(f"{name}/moving_mean", f"batch_stats/{path}/mean"),
        Rule(f"{name}/moving_variance", f"batch_stats/{path}/var"),
    )


def _caffe_blocks() -> tuple[Rule, ...]:
    rules = []
    for branch, place in _BRANCHES.items():
        blocks = [(letter, f"{number}") for number, letter in enumerate(_LETTERS, start=1)] + [(r"b(\d+)", "<2+1>")]
        for block, number in blocks:
            path = f"stage_<1-1>/block_{number}/{place}"
            rules += _conv(rf"res(\d){block}_branch{branch}", path.format("conv"))
            rules += _norm(rf"bn(\d){block}_branch{branch}", path.format("norm"))
    return tuple(rules)


RESNET = (
    *_conv("conv1", "stem/conv"),
    *_norm("bn_conv1", "stem/norm"),
    *_caffe_blocks(),
    *_conv("fc1000", "head"),
    *_conv("conv1_conv", "stem/conv"),
    *_norm("conv1_bn", "stem/norm"),
    *_conv(r"conv(\d)_block(\d+)_0_conv", "stage_<1-1>/block_<2>/shortcut_conv"),
    *_norm(r"conv(\d)_block(\d+)_0_bn", "stage_<1-1>/block_<2>/shortcut_norm"),
    *_conv(r"conv(\d)_block(\d+)_([123])_conv", "stage_<1-1>/block_<2>/conv_<3>"),
    *_norm(r"conv(\d)_block(\d+)_([123])_bn", "stage_<1-1>/block_<2>/norm_<3>"),
    *_conv("(?:probs|predictions)", "head"),
)
