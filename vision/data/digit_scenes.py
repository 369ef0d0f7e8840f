"""The embedded data set for segmentation and detection: real handwritten digits scattered over 96x96 pixels, in TFDS.

2,000 scenes of the training digits and 500 of the test digits of `digits`, prepared on first use. `scene_drawing` says
how they are drawn.
"""

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from vision.data import builders, digits, instances, label_maps, scene_drawing, tfds_source
from vision.data.builders import png
from vision.data.label_maps import IdTable
from vision.data.scene_drawing import MAX_OBJECTS, SIDE
from vision.data.source import Source
from vision.data.tfds_source import PreparedSplit, TfdsSegmentationRecords
from vision.errors import UsageError

VERSION = "1.0.0"
DIGITS = tuple("0123456789")
EXAMPLES = {"train": 2000, "test": 500}
# What is in a scene -> its number of digits; the names are those of the TFDS configurations.
OBJECTS = {"many": None, "one": 1}


def open_scenes(
    rest: str,
    split: str,
    where: str = "data",
    *,
    annotations: Literal["segmentation", "boxes", "masks"] = "segmentation",
    objects: Literal["many", "one"] = "many",
) -> Source:
    """Opens one split, "train" or "test", or a slice of one.

    Args:
        rest: nothing.
        split: as TFDS writes it: "train[:90%]".
        where: the place of the section in the configuration, for messages.
        annotations: "segmentation": the class of each pixel, 11 with the background; "boxes": 10 classes of objects
            with boxes and visible shares; "masks": those and the pixels of each object.
        objects: "many", 1 to 8 digits in a scene, or "one" digit, whose class is the scene's `label` as well.

    Raises:
        UsageError: no such split, or the data set cannot be written.
    """
    if rest:
        raise UsageError(f"{where}.name: 'digit_scenes' takes no argument, given {rest!r}.")
    data = tfds_source.open_split("digit_scenes", prepare(objects), split, where)
    if annotations == "segmentation":
        records = TfdsSegmentationRecords(data, "image", "segmentation", IdTable(tuple(range(11))))
        return Source("digit_scenes", split, records, ("background", *DIGITS))
    return Source("digit_scenes", split, SceneRecords(data, annotations == "masks", OBJECTS[objects]), DIGITS)


@dataclasses.dataclass(frozen=True)
class SceneRecords:
    """`vision.data.source.Records` of scenes with their objects.

    A record has `boxes` (N, 4), tight around what is seen of each digit, `classes`, `valid` and `visible` (N,), and
    `masks` (N, 96, 96) of what is seen; in the order in which the digits were drawn, later ones over earlier ones.

    Attributes:
        data: the examples.
        masks: whether the records have masks.
        count: how many digits each scene has, where all have as many; then N is this and not 8.
    """

    data: PreparedSplit
    masks: bool = False
    count: int | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.data[index]
        objects, count = example["objects"], self.count or MAX_OBJECTS
        found = len(objects["label"])
        y0, x0, y1, x1 = np.rint(np.reshape(objects["bbox"], (-1, 4)) * SIDE).T
        record = {
            "image": example["image"],
            "boxes": instances.padded(np.stack([x0, y0, x1, y1], axis=1).astype(np.float32), count),
            "classes": instances.padded(np.asarray(objects["label"], np.int32), count),
            "valid": np.arange(count) < found,
            "visible": instances.padded(np.asarray(objects["visible"], np.float32), count),
        }
        if self.masks:
            ids = label_maps.decode_ids(example["instances"])
            record["masks"] = instances.masks(ids, np.arange(1, found + 1), count)
        if self.count == 1:
            record["label"] = int(objects["label"][0])
        return record

    def describe(self, index: int) -> str:
        return self.data.describe(index)

    def labels(self) -> np.ndarray:
        """(M,) classes of all objects."""
        return self.data.labels("objects", lambda example: example["objects"]["label"])

    def counts(self) -> np.ndarray:
        """(N,) objects in each record."""
        return self.data.labels("number of objects", lambda example: len(example["objects"]["label"]))


def prepare(objects: str = "many", data_dir: str | None = None) -> str:
    """The folder of the prepared data set, which is written first if it is not there; see `builders.prepare`.

    Args:
        objects: in `OBJECTS`.
        data_dir: the TFDS data folder.
    """
    return builders.prepare(f"digit_scenes/{objects}/{VERSION}", lambda folder: builder(objects, folder), data_dir)


def builder(objects: str = "many", data_dir: str | None = None):
    """The TFDS builder `digit_scenes`.

    Its features are `image` (96, 96, 3), `segmentation` (96, 96, 1) with 0 for background and 1 + class for digits,
    `instances` (96, 96, 1) with k for the k-th object, and `objects`: `bbox`, `label`, `visible` (the share that later
    digits leave in sight) and `id` (the digit's place in scikit-learn).

    Args:
        objects: in `OBJECTS`.
        data_dir: the TFDS data folder.
    """
    return _builder_class()(config=objects, data_dir=data_dir)


@functools.cache
def _builder_class():
    import tensorflow_datasets as tfds

    class DigitScenes(tfds.core.GeneratorBasedBuilder):
        """Scenes of handwritten digits."""

        VERSION = tfds.core.Version(VERSION)
        BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name, version=VERSION) for name in OBJECTS)

        def _info(self):
            image = functools.partial(tfds.features.Image, encoding_format="png")
            return tfds.core.DatasetInfo(
                builder=self,
                description="Real handwritten digits of varying size, colour and overlap on textured backgrounds.",
                homepage="https://archive.ics.uci.edu/dataset/80",
                features=tfds.features.FeaturesDict(
                    {
                        "image": image(shape=(SIDE, SIDE, 3)),
                        "segmentation": image(shape=(SIDE, SIDE, 1)),
                        "instances": image(shape=(SIDE, SIDE, 1)),
                        "objects": tfds.features.Sequence(
                            {
                                "bbox": tfds.features.BBoxFeature(),
                                "label": tfds.features.ClassLabel(num_classes=10),
                                "visible": tfds.features.Scalar(np.float32),
                                "id": tfds.features.Scalar(np.int64),
                            }
                        ),
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            count = OBJECTS[self.builder_config.name]
            return {split: ((index, _example(scene)) for index, scene in scenes(split, count)) for split in EXAMPLES}

        def _generate_examples(self):
            raise NotImplementedError  # abstract in TFDS; `_split_generators` returns the examples themselves

    return DigitScenes


def scenes(split: str, count: int | None = None):
    """Yields (index, scene) of a split; the scenes' `ids` are places in scikit-learn's digits.

    Args:
        split: in `EXAMPLES`.
        count: of digits in each scene; by default 1 to 8.
    """
    images, labels = digits.levels()
    test = digits.test_indices(labels)
    chosen = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    ink = scene_drawing.glyphs(images[chosen])
    # Each split of each configuration has a stream of its own.
    seed = 2 * list(OBJECTS.values()).index(count) + list(EXAMPLES).index(split)
    for index in range(EXAMPLES[split]):
        scene = scene_drawing.draw(seed, index, ink, labels[chosen], count)
        yield index, scene._replace(ids=chosen[scene.ids])


def _example(scene: scene_drawing.Scene) -> dict[str, Any]:
    """A scene as the builder's features."""
    import tensorflow_datasets as tfds

    _, boxes = instances.boxes(scene.instances)
    semantic = np.concatenate([[0], scene.classes + 1]).astype(np.uint8)[scene.instances]
    objects = [
        {
            "bbox": tfds.features.BBox(ymin=y0 / SIDE, xmin=x0 / SIDE, ymax=y1 / SIDE, xmax=x1 / SIDE),
            "label": int(label),
            "visible": visible,
            "id": int(identity),
        }
        for (x0, y0, x1, y1), label, visible, identity in zip(
            boxes.tolist(), scene.classes, scene.visible, scene.ids, strict=True
        )
    ]
    return {
        "image": png(scene.image),
        "segmentation": png(semantic[..., None]),
        "instances": png(scene.instances[..., None]),
        "objects": objects,
    }
