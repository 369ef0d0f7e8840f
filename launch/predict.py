"""Predicts with a run, or with the weights of another project.

python -m launch.predict --workdir=runs/a --images='photos/*.png' --out=predictions
python -m launch.predict --model=resnet50_v1 --weights=FILE --images='photos/*.jpg'
"""

import glob
import json
from collections import Counter
from pathlib import Path

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
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images at a time.", lower_bound=1)
ON_BAD_IMAGE = flags.DEFINE_enum("on_bad_image", "stop", ["stop", "skip"], "What to do with a file that is no image.")
SHOWN = 64


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Writes one line of JSON for each image, the files that the task has for it, and a picture of the first ones."""
    from vision.explain.plots import PLOTS
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
    lines, shown, written = [], [], []
    names = output_names(files)
    for found in run.predictions(files, BATCH_SIZE.value, ON_BAD_IMAGE.value):
        file = files[found["index"]]
        facts = run.network.task.describe(found["predictions"], run.class_names)
        lines.append(json.dumps({"file": file, **facts}) + "\n")
        written += write_files(run, found, file, out / names[found["index"]])
        if len(shown) < SHOWN:
            shown.append({**found, "file": file})
    write_text(out / "predictions.jsonl", "".join(lines))  # in one piece: a bad image leaves earlier predictions
    print(f"{len(lines)} of {len(files)} images: {out / 'predictions.jsonl'}")
    if written:
        whole = "the size of the images" if run.sees_whole_images() else "the size of what the network sees of an image"
        print(f"{len(written)} files of {whole}, such as {written[0]}")
    name = run.network.task.prediction_plot
    if name and shown:
        results = Results(
            images=[example["image"] for example in shown],
            predictions={key: [e["predictions"][key] for e in shown] for key in shown[0]["predictions"]},
            batch={"file": [example["file"] for example in shown]},
            class_names=run.class_names,
        )
        PLOTS[name](out / "predictions.png", results)
        print(f"Pictures of the first {len(shown)}: {out / 'predictions.png'}")


def write_files(run, found: dict, file: str, path: Path) -> list[Path]:
    """Writes what the task has for one image to files, in the image's own size where the transforms keep all of it.

    Args:
        run: the run.
        found: one of `run.predictions`.
        file: the image's.
        path: of what is written, without the endings.
    """
    from vision.data.images import decode
    from vision.explain.plots import FILES

    names = run.network.task.prediction_files
    if names and run.sees_whole_images():
        found = run.at_size(found, decode(file))
    return [FILES[name](path, found["image"], found["predictions"], run.class_names) for name in names]


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
