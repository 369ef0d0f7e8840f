"""What other projects' weights expect of an image, and the names of the classes they know."""

import functools
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vision.errors import pick

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
# Means of Caffe's networks, blue first, on the scale 0..255.
CAFFE_MEAN = (103.939, 116.779, 123.68)


class Preprocessing(NamedTuple):
    """From a photograph to a network's input: (image / 255 - mean) / std, of each channel.

    Attributes:
        size: (height, width) in pixels of the centre crop that the network sees.
        resize: what the shorter side is resized to before the crop.
        interpolation: of the resizing.
        mean: of each channel, on the scale 0..1, in the channel order below.
        std: of each channel, on the scale 0..1, in the channel order below.
        channel_order: "RGB", or "BGR" for networks that came through Caffe.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def section(self) -> dict[str, Any]:
        """The `config.data.preprocess` that does this to the pixels."""
        order = self.channel_order
        return {"name": "standardize", "mean": self.mean, "std": self.std, "channel_order": order}

    def transforms(self, train: bool = False) -> str:
        """The chain of transforms that gives images of this size: the centre crop, or for training a random one."""
        method = "cubic" if self.interpolation == "bicubic" else "auto"
        if train:
            return f"decode|random_resized_crop({self.size}, method={method!r})|flip"
        return f"decode|resize_small({self.resize}, method={method!r})|central_crop({self.size})"


_HALF = Preprocessing(mean=HALF, std=HALF)

# Per source: pattern of the model's name -> record; the first that matches counts. Where a project has published
# several sets of weights for a network, this is the first one (of torchvision IMAGENET1K_V1).
PREPROCESSING: dict[str, tuple[tuple[str, Preprocessing], ...]] = {
    "torchvision": (
        # Trained by TensorFlow; torchvision applies this normalisation inside of the network (`transform_input`).
        ("googlenet", _HALF),
        ("inception_v3", _HALF._replace(size=(299, 299), resize=342)),
        # Its VGG-16 came from Caffe: a mean and no standard deviation, on the scale 0..255.
        ("ssd300_vgg16", Preprocessing((300, 300), 300, mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)),
        (".*", Preprocessing()),
    ),
    "timm": (
        ("inception_(v4|resnet_v2)", _HALF._replace(size=(299, 299), resize=333, interpolation="bicubic")),
        (r"resnetv2_.*(bit|bitm).*", _HALF._replace(size=(448, 448), resize=448)),
        (r"vit_.*_384", _HALF._replace(size=(384, 384), resize=384, interpolation="bicubic")),
        (r"vit_.*", _HALF._replace(resize=248, interpolation="bicubic")),
        (".*", Preprocessing(resize=235, interpolation="bicubic")),
    ),
    "big_vision": ((".*", _HALF),),
    "lpips": ((".*", Preprocessing()),),  # torchvision's weights
    "keras": (
        (
            ".*",
            Preprocessing(mean=tuple(m / 255 for m in CAFFE_MEAN), std=(1 / 255,) * 3, channel_order="BGR"),
        ),
    ),
}


def preprocessing(source: str, name: str = "") -> Preprocessing:
    """What the weights of this source expect for the model of this name.

    Args:
        source: in `RULES`: "torchvision", "timm", "big_vision", "keras" or "lpips".
        name: the model's name there: "inception_v3", "vit_small_patch32_224".

    Raises:
        UsageError: an unknown source.
    """
    table = pick(PREPROCESSING, "source of weights", source)
    return next(record for pattern, record in table if re.fullmatch(pattern, name))


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Names of ImageNet's 1,000 classes in the order of the logits; a few name two classes, as "crane" does."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines())
