"""Predicts with a run, or with the weights of another project.

python -m launch.predict --workdir=runs/a --images='photos/*.png' --out=predictions
python -m launch.predict --model=resnet50_v1 --weights=FILE --images='photos/*.jpg'
python -m launch.predict --workdir=runs/ssd --images=frames --annotations=val.json
"""

import glob
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from launch import command
from vision.errors import UsageError

WORKDIR = flags.DEFINE_string("workdir", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step.")
MODEL = flags.DEFINE_string("model", None, "In place of --workdir: a network's name, with --weights.")
WEIGHTS = flags.DEFINE_string("weights", None, "A file of another project's weights for --model.")
SOURCE = flags.DEFINE_string("source", None, "Whose names the weights have: torchvision, timm, ...")
IMAGES = flags.DEFINE_multi_string("images", [], "A file, a folder or a pattern in quotes; may be given several times.")
OUT = flags.DEFINE_string("out", "predictions", "Folder for predictions.jsonl, predictions.png and files per image.")
ANNOTATIONS = flags.DEFINE_string(
    "annotations", None, "A JSON file in COCO's format whose ids of images and categories detections.json is to have."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images at a time.", lower_bound=1)
ON_BAD_IMAGE = flags.DEFINE_enum("on_bad_image", "stop", ["stop", "skip"], "What to do with a file that is no image.")
SHOWN = 64


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Writes one line of JSON for each image, the files that the task has for it, and a picture of the first ones.

    What finds objects gives them in pixels of the images' files, and all of them as detections.json in COCO's format.
    """
    from vision.explain.plots import FILES, PLOTS
    from vision.explain.results import Results
    from vision.train.writers import write_text
    from vision.training import use_compilation_cache

    if overrides:
        raise UsageError(
            f"unexpected --config.{next(iter(overrides))}: a run predicts with the config it was trained with."
        )
    use_compilation_cache()
    run = open_run()
    files = find_images([*IMAGES.value, *arguments])  # further arguments: a pattern that the shell expanded
    out = Path(OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={out}: cannot be written: {error.strerror or error}.") from error
    task = run.network.task
    lines, shown, written, detections = [], [], [], []
    names, ids = output_names(files), coco_ids(ANNOTATIONS.value, files, run)
    for found in run.predictions(files, BATCH_SIZE.value, ON_BAD_IMAGE.value):
        file = files[found["index"]]
        facts = task.describe(run.in_file(found)["predictions"], run.class_names)
        lines.append(json.dumps({"file": file, **facts}) + "\n")
        image, predictions = at_size(run, found, file)
        path = out / names[found["index"]]
        written += [FILES[name](path, image, predictions, run.class_names) for name in task.prediction_files]
        if task.coco_results:
            entries = task.coco_results(predictions, image.shape[:2], ids.images[found["index"]])
            detections += [{"file_name": ids.files[found["index"]], **with_category(entry, ids)} for entry in entries]
        if len(shown) < SHOWN:
            shown.append({**found, "file": file})
    write_text(out / "predictions.jsonl", "".join(lines))  # in one piece: a bad image leaves earlier predictions
    print(f"{len(lines)} of {len(files)} images: {out / 'predictions.jsonl'}")
    if task.coco_results:
        write_text(out / "detections.json", "[" + ",\n".join(map(json.dumps, detections)) + "]\n")
        print(f"{len(detections)} detections in COCO's format: {out / 'detections.json'}")
    if written:
        whole = "the size of the images" if keeps_size(run) else "the size of what the network sees of an image"
        print(f"{len(written)} files of {whole}, such as {written[0]}")
    name = task.prediction_plot
    if name and shown:
        results = Results(
            images=[example["image"] for example in shown],
            predictions={key: [e["predictions"][key] for e in shown] for key in shown[0]["predictions"]},
            batch={"file": [example["file"] for example in shown]},
            class_names=run.class_names,
        )
        PLOTS[name](out / "predictions.png", results)
        print(f"Pictures: {out / 'predictions.png'}")


def keeps_size(run) -> bool:
    """Whether what a run predicts can be brought to the size of an image's file."""
    return not run.network.task.maps or run.sees_whole_images()


def at_size(run, found: dict, file: str) -> tuple:
    """Image and predictions of one of a run's predictions, in the size of the file if the transforms keep all of it."""
    from vision.data.images import decode

    task = run.network.task
    if keeps_size(run) and (task.prediction_files or task.coco_results):
        found = run.at_size(found, decode(file))
    return found["image"], found["predictions"]


class CocoIds(NamedTuple):
    """The name and the id of each file, and the id of each class, in detections.json."""

    files: list[str]
    images: list[int]
    categories: list[int]


def coco_ids(annotations: str | None, files: list[str], run) -> CocoIds:
    """Those of a JSON file in COCO's format, by the names of files and classes; without one, numbers from 1.

    Raises:
        UsageError: the run finds no objects, there is no such file, it lacks one of the names, or two have one name.
    """
    if annotations is None:
        names = [Path(file).name for file in files]
        names = names if len(set(names)) == len(names) else files
        return CocoIds(names, list(range(1, len(files) + 1)), list(range(1, len(run.class_names) + 1)))
    where = f"--annotations={annotations}"
    if not run.network.task.coco_results:
        raise UsageError(f"{where}: this run finds no objects that would be numbered by it; leave it out.")
    try:
        content = json.loads(Path(annotations).read_text(encoding="utf-8"))
        known = {image["file_name"]: image["id"] for image in content["images"]}
        categories = {category["name"]: category["id"] for category in content["categories"]}
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: is not in COCO's format: {error!r}.") from error
    names = names_in(known, files, where)
    missing = [name for name in run.class_names if name not in categories]
    if missing:
        raise UsageError(
            f"{where}: has no category {missing[0]!r}; {len(missing)} of {len(run.class_names)} are missing."
        )
    return CocoIds(names, [known[name] for name in names], [categories[name] for name in run.class_names])


def names_in(known: Iterable[str], files: list[str], where: str) -> list[str]:
    """What an annotation file calls each of some files: the same path, or the same end of one, or the same name.

    Raises:
        UsageError: there is none, or more than one; or two of the files would be the same.
    """
    by_name = defaultdict(list)
    for name in known:
        by_name[Path(name).name].append(name)
    missing = [file for file in files if Path(file).name not in by_name]
    if missing:
        raise UsageError(
            f"{where}: has no image {Path(missing[0]).name!r}; {len(missing)} of {len(files)} are missing."
        )
    names = []
    for file in files:
        candidates = by_name[Path(file).name]
        if len(candidates) > 1:
            ends = [name for name in candidates if f"/{Path(file).as_posix()}".endswith(f"/{Path(name).as_posix()}")]
            candidates = [max(ends, key=len)] if ends else candidates
        if len(candidates) > 1:
            raise UsageError(f"{where}: which image is {file}? It has {' and '.join(candidates[:3])}.")
        names += candidates
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        same = [file for file, name in zip(files, names, strict=True) if name == twice[0]]
        raise UsageError(f"{where}: {' and '.join(same[:3])} would all be its image {twice[0]!r}.")
    return names


def with_category(entry: dict, ids: CocoIds) -> dict:
    """An entry of the results with the id of its category in place of the number of its class."""
    return {**entry, "category_id": ids.categories[entry["category_id"] - 1]}


def output_names(files: list[str]) -> list[str]:
    """A name for the output of each file, all different: its own without the ending, led by folders where needed.

    ["a/1.png", "b/1.png", "b/2.png"] -> ["a_1", "b_1", "2"]. Names that differ in upper and lower case only count as
    the same, as they do for some file systems; files of one path but for the ending are numbered.
    """
    parts = [[part for part in Path(file).with_suffix("").parts if part not in ("/", ".", "..")] for file in files]

    def named(depths: list[int]) -> list[str]:
        return ["_".join(own[-depth:]) for own, depth in zip(parts, depths, strict=True)]

    depths = [1] * len(files)
    while True:
        counts = Counter(name.lower() for name in named(depths))
        deeper = [
            min(len(own), depth + (counts[name.lower()] > 1))
            for own, depth, name in zip(parts, depths, named(depths), strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper
    taken = {}
    for name in named(depths):
        number, chosen = 1, name
        while chosen.lower() in taken:
            number, chosen = number + 1, f"{name}_{number + 1}"
        taken[chosen.lower()] = chosen
    return list(taken.values())


def open_run():
    """The run, or the network with another project's weights, that the flags name."""
    if not (MODEL.value or WEIGHTS.value):
        from vision.run import load

        return load(command.required(WORKDIR, "runs/a"), CHECKPOINT.value)
    if WORKDIR.value:
        raise UsageError("--workdir and --model: a run has its own network and weights; give one of the two.")
    from vision import pretrained

    name = command.required(MODEL, "resnet50_v1")
    return pretrained.load(name, command.required(WEIGHTS, "resnet50.safetensors"), source=SOURCE.value)


def find_images(places: list[str]) -> list[str]:
    """Files, folders and patterns -> files, sorted within each place.

    Raises:
        UsageError: a place without any image.
    """
    from vision.data.images import SUFFIXES

    if not places:
        raise UsageError("--images is missing, as in --images='photos/*.png'.")
    files = []
    for place in places:
        if Path(place).is_dir():
            found = sorted(str(p) for p in Path(place).rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            found = (
                [place]
                if Path(place).is_file()
                else sorted(f for f in glob.glob(place, recursive=True) if Path(f).is_file())
            )
        if not found:
            raise UsageError(f"--images={place}: no image matches.")
        files += found
    return files


if __name__ == "__main__":
    command.run(main)
