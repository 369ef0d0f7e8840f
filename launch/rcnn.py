"""R-CNN on the features of a trained network: learns to find the objects of a data set, and tells how well.

python -m launch.rcnn --workdir=runs/a --data=voc:VOCdevkit/VOC2007 --train_split=trainval --test_split=test --out=rcnn
python -m launch.rcnn --config=configs/transfer.py:frozen --data=voc:cells    # with the weights of config.init
"""

from pathlib import Path

from absl import flags

from launch import command
from vision.errors import UsageError

WORKDIR = flags.DEFINE_string("workdir", None, "The run folder of the network that reads the regions.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step.")
CONFIG = flags.DEFINE_string("config", None, "In place of --workdir: a config, whose config.init has the weights.")
OUTPUT = flags.DEFINE_string("output", "pooled", "Output of the network: pooled, logits or features/STRIDE.")
DATA = flags.DEFINE_string("data", None, "The images with objects: voc:PATH, coco:PATH, yolo:PATH, ...")
TRAIN_SPLIT = flags.DEFINE_string("train_split", "train", "The split of --data to learn from.")
TEST_SPLIT = flags.DEFINE_string("test_split", "test", "The split of --data to find objects in.")
MAX_PROPOSALS = flags.DEFINE_integer("max_proposals", 2000, "Most regions of an image.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 500, "Wider images are searched for regions at this width.", lower_bound=16)
MODE = flags.DEFINE_enum("mode", "fast", ["single", "fast", "quality"], "How thoroughly regions are searched.")
CONTEXT = flags.DEFINE_integer(
    "context", 16, "Pixels around a region that are read as well, of an input of 227.", lower_bound=0
)
SVM_C = flags.DEFINE_float("svm_c", 1e-3, "The SVMs' C; more where there are few images.", lower_bound=1e-9)
MAX_IMAGES = flags.DEFINE_integer("max_images", None, "Most images of each split: the first ones.", lower_bound=1)
OUT = flags.DEFINE_string("out", "rcnn", "Folder for the pictures, metrics.json and heads.npz, what was learnt.")
SHOWN = 64


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Learns an SVM and a box regressor for each class, prints the average precision and draws what was found."""
    import dataclasses
    import json

    import numpy as np

    from vision import rcnn
    from vision.tasks.average_precision import average_precision
    from vision.train.evaluation import split_scalars
    from vision.train.progress import table
    from vision.train.writers import Console, write_text
    from vision.training import use_compilation_cache

    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}; flags begin with --, as in --workdir=runs/a.")
    out = Path(OUT.value)
    name = command.required(DATA, "voc:VOCdevkit/VOC2007")
    sources = {split: open_objects(name, split) for split in (TRAIN_SPLIT.value, TEST_SPLIT.value)}
    train, test = sources[TRAIN_SPLIT.value], sources[TEST_SPLIT.value]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={out}: cannot be written: {error.strerror or error}.") from error
    use_compilation_cache()
    run = command.open_run(WORKDIR.value, CHECKPOINT.value, CONFIG.value, overrides)
    settings = rcnn.Settings(MAX_PROPOSALS.value, WIDTH.value, MODE.value, CONTEXT.value, svm_c=SVM_C.value)
    extract = rcnn.extractor(run, OUTPUT.value)
    console = Console()

    examples = []
    for index in range(limited(train)):
        examples.append(rcnn.regions(train.records[index], extract, run.image_shape, settings, with_objects=True))
        console.status(f"train: {index + 1} of {limited(train)} images")
    heads = rcnn.fit(examples, len(train.class_names), settings)
    np.savez(out / "heads.npz", class_names=np.array(train.class_names), **dataclasses.asdict(heads))
    known = []
    for one in rcnn.detections(test, range(limited(test)), extract, run.image_shape, heads, settings):
        known.append(one)
        console.status(f"test: {len(known)} of {limited(test)} images")
    scalars, arrays = split_scalars(average_precision(known, train.class_names))
    write_text(out / "metrics.json", json.dumps(scalars, indent=1) + "\n")
    rows = [(label, arrays["class_AP"][i], arrays["class_AP50"][i]) for i, label in enumerate(train.class_names)]
    console.print(table([("all", scalars["AP"], scalars["AP50"]), *rows], ("class", "AP", "AP50")))
    draw(out, test, known, scalars, arrays)
    console.print(f"Wrote {out}: metrics.json, heads.npz, detections.png, precision_recall.png")


def open_objects(name: str, split: str):
    """A split of the data. Raises UsageError where it has no objects with boxes."""
    from vision.data import open_source

    source = open_source(name, split, f"--data={name}, split {split!r}")
    if not len(source) or "boxes" not in source.records[0]:
        raise UsageError(f"--data={name}: {split!r} has no images with boxes; take voc:PATH, coco:PATH or yolo:PATH.")
    return source


def limited(source) -> int:
    """How many images of a split are looked at."""
    return min(len(source), MAX_IMAGES.value or len(source))


def draw(out: Path, source, known: list[dict], scalars: dict, arrays: dict) -> None:
    """Writes the pictures of an evaluation: of the first images, and the precision-recall curves."""
    from vision.data.images import decode
    from vision.explain.plots import PLOTS
    from vision.explain.results import Results

    shown = known[:SHOWN]

    def columns(prefix: str) -> dict:
        names = [name for name in shown[0] if name.startswith("found_") == bool(prefix)]
        return {name.removeprefix(prefix): [one[name] for one in shown] for name in names}

    results = Results(
        images=[decode(source.records[index]["image"]) for index in range(len(shown))],
        predictions=columns("found_"),
        batch=columns(""),
        class_names=source.class_names,
        arrays=arrays,
        metrics=scalars,
        split=source.split,
    )
    PLOTS["detection_grid"](out / "detections.png", results)
    PLOTS["precision_recall"](out / "precision_recall.png", results)


if __name__ == "__main__":
    command.run(main)
