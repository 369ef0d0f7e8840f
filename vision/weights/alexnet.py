"""AlexNet's weights in torchvision's naming: `features` and `classifier` count ReLU, pooling and dropout too."""

from vision.weights.rules import CONV, DENSE, SAME, Rule, dense_after_map

_LAYERS = (
    *((f"features.{index}", f"conv_{number}", CONV) for number, index in enumerate((0, 3, 6, 8, 10), start=1)),
    ("classifier.1", "dense_1", dense_after_map(256, 6, 6)),
    ("classifier.4", "dense_2", DENSE),
    ("classifier.6", "head", DENSE),
)

TORCHVISION: tuple[Rule, ...] = tuple(
    Rule(rf"{theirs}.{parameter}".replace(".", r"\."), f"params/{ours}/{name}", kind)
    for theirs, ours, kernel in _LAYERS
    for parameter, name, kind in (("weight", "kernel", kernel), ("bias", "bias", SAME))
)
