"""Shows a network as a table: python -m launch.summarize --model=vgg16 --image_size=224"""

import re

from absl import flags

from launch import command

MODEL = flags.DEFINE_string("model", None, "Name of the network; a pattern in quotes, 'resnet*', lists names.")
IMAGE_SIZE = flags.DEFINE_string("image_size", "224", "Side in pixels, or HEIGHTxWIDTH.")
CHANNELS = flags.DEFINE_integer("channels", 3, "Channels of the image.", lower_bound=1)
NUM_CLASSES = flags.DEFINE_integer("num_classes", 1000, "Number of classes; 0 for no classifier.", lower_bound=0)
DEPTH = flags.DEFINE_integer("depth", None, "How deeply nested modules are shown; all where not given.", lower_bound=1)
FORMAT = flags.DEFINE_enum("format", "text", ["text", "markdown", "json"], "How the table is written.")


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Prints the table; fields of the network are given as --config.model.key=value."""
    from ml_collections import ConfigDict

    from vision import config as configs
    from vision import models
    from vision.errors import UsageError
    from vision.explain import summary

    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}; flags begin with --, as in --model=vgg16.")
    name = command.required(MODEL, "vgg16")
    size = _size(IMAGE_SIZE.value)
    if any(character in name for character in "*?["):
        from vision.models.listing import each_model

        for found, parameters in each_model(name, NUM_CLASSES.value):
            print(f"{found:24} {parameters:>14,}", flush=True)
        return
    foreign = [key for key in overrides if not key.startswith("model.")]
    if foreign:
        raise UsageError(f"unexpected --config.{foreign[0]}: only fields of the network, --config.model.KEY=VALUE.")
    config = ConfigDict({"model": {}}, type_safe=False)
    configs.override(config, overrides)
    model = models.create(name, NUM_CLASSES.value, **configs.freeze(config.model))
    found = summary.summarize(model, size, CHANNELS.value, DEPTH.value)
    title = f"{name}, {size[0]}x{size[1]}x{CHANNELS.value}"
    print(summary.FORMATS[FORMAT.value](found, title), end="")


def _size(text: str) -> tuple[int, int]:
    from vision.errors import UsageError

    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or not int(match[1]) or match[2] == "0":
        raise UsageError(f"--image_size={text}: expected a side in pixels, or HEIGHTxWIDTH, such as 224 or 480x640.")
    return int(match[1]), int(match[2] or match[1])


if __name__ == "__main__":
    command.run(main)
