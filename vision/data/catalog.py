"""The data sets there are: the name in a configuration, and the options in its `source` section, to a source."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vision import schema
from vision.data import coco, coco_objects, digit_scenes, digits, fake, folder, pairs, tfds_source, voc, yolo
from vision.data.source import Source
from vision.errors import unknown_name

# The kinds of data sets that are not plain TFDS names. Each function is called with what follows "kind:", the split and
# the section's place in the configuration, and the options.
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits.open_digits,
    "digit_scenes": digit_scenes.open_scenes,
    "folder": folder.open_folder,
    "pairs": pairs.open_pairs,
    "coco": coco_objects.open_coco,
    "voc": voc.open_voc,
    "yolo": yolo.open_yolo,
    "coco_panoptic": coco.open_panoptic,
    "coco_stuff": coco.open_stuff,
    "fake": fake.open_fake,
    "fake_segmentation": fake.open_fake_segmentation,
    "fake_detection": fake.open_fake_detection,
}
# Arguments of these functions that are no options.
FACTS = ("name", "rest", "path", "split", "where")


def open_source(name: str, split: str, where: str = "data", options: Mapping[str, Any] | None = None) -> Source:
    """Opens one split of a data set.

    Args:
        name: "digits"; "digit_scenes"; "folder:PATH", one folder per class; "pairs:PATH", images and label maps;
            "coco_panoptic:PATH", "coco_stuff:PATH"; "coco:PATH", "voc:PATH", "yolo:PATH", images and objects;
            "fake:HEIGHTxWIDTHxCHANNELS:CLASSES[:EXAMPLES]", "fake_segmentation:..." and "fake_detection:...", random
            images; or any TFDS name that is prepared as ArrayRecord: "cifar10", "imagenet2012", "name/config:version".
        split: a split of the data set, or a slice of one as TFDS writes it: "train", "train[:90%]".
        where: the place of the section in the configuration, for messages.
        options: further keyword arguments of the function that `opener` gives for the name.

    Raises:
        UsageError: no such data set or split, an unknown option, or the data are not there.
    """
    function = opener(name, where)
    options = dict(options or {})
    schema.check(function, options, f"{where}.source", injected=FACTS)
    kind, _, rest = name.partition(":")
    return function(rest if kind in SOURCES else name, split, where, **options)


def opener(name: str, where: str = "data") -> Callable[..., Source]:
    """The function that opens the data set of a name; its keyword arguments are the options of the `source` section.

    Raises:
        UsageError: no such kind of data set.
    """
    kind, separator, rest = name.partition(":")
    if kind in SOURCES:
        return SOURCES[kind]
    is_tfds_version = re.fullmatch(r"\d+\.\d+\.\d+|\d+\.\*\.\*|\d+\.\d+\.\*", rest)
    if separator and not is_tfds_version:
        raise unknown_name("kind of data set", kind, SOURCES, f"{where}.name")
    return tfds_source.open_prepared
