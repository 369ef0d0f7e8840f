"""VGG's weights as torchvision and timm name them: `features` counts ReLU and pooling too, so rules vary with depth."""

import numpy as np

from vision.models.vgg import VGG
from vision.weights.rules import CONV, DENSE, Kind, Rule, dense_after_map, layer, norm


def torchvision(model: VGG) -> tuple[Rule, ...]:
    """The rules for a VGG of this depth, with batch norm or without."""
    return (
        *convolutions(model),
        *layer(r"classifier\.0", "dense_1", dense_after_map(*_last_map(model))),
        *layer(r"classifier\.3", "dense_2", DENSE),
        *layer(r"classifier\.6", "head", DENSE),
    )


def timm(model: VGG) -> tuple[Rule, ...]:
    """The rules for timm's form, in which the hidden dense layers are convolutions."""
    return (
        *convolutions(model),
        *layer(r"pre_logits\.fc1", "dense_1", _window_kernel(*_last_map(model))),
        *layer(r"pre_logits\.fc2", "dense_2", _window_kernel(model.hidden[0] if model.hidden else 1, 1, 1)),
        *layer(r"head\.fc", "head", DENSE),
    )


def convolutions(model: VGG) -> tuple[Rule, ...]:
    """The rules without those of the dense layers, also for other networks whose encoder is a VGG."""
    rules, index = (), 0
    for stage, size in enumerate(model.stage_sizes, start=1):
        for number in range(1, size + 1):
            rules += layer(rf"features\.{index}", f"stage_{stage}/conv_{number}", CONV)
            if model.batch_norm:
                rules += norm(rf"features\.{index + 1}", f"stage_{stage}/norm_{number}")
            index += 3 if model.batch_norm else 2  # convolution, batch norm, ReLU
        index += 1  # max pooling
    return rules


def _last_map(model: VGG) -> tuple[int, int, int]:
    """(channels, height, width) of the map that the first dense layer reads."""
    return model.width * min(2 ** (len(model.stage_sizes) - 1), 8), model.window, model.window


def _window_kernel(channels: int, height: int, width: int) -> Kind:
    """A convolution's (out, in, height, width) that sees the whole map -> the kernel of a dense layer."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(height * width * channels, -1)

    def to_theirs(x: np.ndarray) -> np.ndarray:
        return x.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)

    return Kind(to_ours, to_theirs)
