"""`python -m launch.predict`: files, folders and patterns in, predictions.jsonl and pictures out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vision
from vision.data import open_source
from vision.data.images import opencv


@pytest.fixture(scope="module")
def photos(trained, launcher):
    """The test split as PNG files, `photos/LABEL/INDEX.png`, and a file that is no image."""
    assert trained.code == 0, trained.err
    source, folder = open_source("digits", "test"), launcher.folder / "photos"
    for index, label in enumerate(source.labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        (folder / str(label) / f"{index:03}.png").write_bytes(source.records[index]["image"])
    (folder / "notes.txt").write_text("no image")
    (launcher.folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def shown(photos, launcher):
    """What the command shows for each way to name images."""
    three = sorted(str(path.relative_to(launcher.folder)) for path in (photos / "3").iterdir())
    ways = {
        "folder": ["--images=photos", "--checkpoint=last", "--batch_size=50"],
        "file": [f"--images={three[0]}"],
        "pattern": ["--images=photos/[34]/*.png"],
        "deep pattern": ["--images=photos/**/00*.png"],
        "several": [f"--images={three[1]}", "--images", "photos/4", "--images=photos/5/*.png"],
        "shell": ["--images", *three],
        "skip": ["--images=broken.png", f"--images={three[0]}", "--on_bad_image=skip"],
    }
    workdir = "--workdir=runs/digits-mlp"
    arguments = [[workdir, f"--out=out/{name}", *images] for name, images in ways.items()]
    return dict(zip(ways, launcher.run_many("predict", arguments), strict=True))


def lines_of(launcher, name):
    text = (launcher.folder / "out" / name / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def files_in(photos, launcher, pattern):
    return sorted(str(path.relative_to(launcher.folder)) for path in photos.glob(pattern))


@pytest.mark.parametrize("way", ["folder", "file", "pattern", "deep pattern", "several", "shell"])
def test_images_are_found(shown, photos, launcher, way):
    three = files_in(photos, launcher, "3/*.png")
    expected = {
        "folder": files_in(photos, launcher, "*/*.png"),
        "file": three[:1],
        "pattern": files_in(photos, launcher, "[34]/*.png"),
        "deep pattern": files_in(photos, launcher, "*/00*.png"),
        "several": [three[1], *files_in(photos, launcher, "4/*.png"), *files_in(photos, launcher, "5/*.png")],
        "shell": three,
    }[way]
    done = shown[way]
    assert (done.code, done.err) == (0, "")
    assert [line["file"] for line in lines_of(launcher, way)] == expected
    assert f"{len(expected)} of {len(expected)} images: out/{way}/predictions.jsonl" in done.out
    assert opencv().imread(str(launcher.folder / "out" / way / "predictions.png")).std() > 1


def test_predictions_of_the_test_split_are_as_accurate_as_logged(shown, launcher):
    assert shown["folder"].code == 0
    lines = lines_of(launcher, "folder")
    rows = [json.loads(row) for row in (launcher.folder / "runs/digits-mlp/metrics.jsonl").read_text().splitlines()]
    right = [line["class"] == line["file"].split("/")[1] for line in lines]
    assert np.mean(right) == rows[-1]["test/accuracy"]
    among_five = [line["file"].split("/")[1] in [top["class"] for top in line["top5"]] for line in lines]
    assert np.mean(among_five) == rows[-1]["test/top5_accuracy"]


def test_a_line_has_file_class_probability_and_top5(shown, launcher):
    assert shown["folder"].code == 0
    for line in lines_of(launcher, "folder"):
        assert list(line) == ["file", "class", "probability", "top5"]
        assert line["top5"][0] == {"class": line["class"], "probability": line["probability"]}
        probabilities = [top["probability"] for top in line["top5"]]
        assert len({top["class"] for top in line["top5"]}) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-5


def test_python_gives_the_same(shown, launcher):
    assert shown["several"].code == 0
    lines = lines_of(launcher, "several")
    run = vision.load(launcher.folder / "runs" / "digits-mlp")
    found = run.predict([str(launcher.folder / line["file"]) for line in lines])
    assert [facts["class"] for facts in found] == [line["class"] for line in lines]
    expected = [line["probability"] for line in lines]
    assert [facts["probability"] for facts in found] == pytest.approx(expected, abs=1e-6)


def test_a_bad_image_is_left_out_where_asked_for(shown, launcher):
    done = shown["skip"]
    assert done.code == 0, done.err
    assert "1 of 2 images" in done.out
    assert [line["file"] for line in lines_of(launcher, "skip")] == [lines_of(launcher, "shell")[0]["file"]]


def test_names_in_an_annotation_file():
    """In a process of its own, too: which image of COCO's JSON each file is."""
    given = [
        (["x/a.png", "y/a.png"], ["/photos/y/a.png", "x/a.png"]),
        (["a.png", "b.png"], ["photos/b.png"]),
        (["x/a.png", "y/a.png"], ["z/a.png"]),
        (["a.png"], ["x/a.png", "y/a.png"]),
        (["a.png"], ["b.png"]),
    ]
    code = """import json, sys
from launch import predict
from vision.errors import UsageError
for known, files in json.load(sys.stdin):
    try:
        print(json.dumps(predict.names_in(known, files, "--annotations=val.json")))
    except UsageError as error:
        print(error)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(given), text=True, capture_output=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '["y/a.png", "x/a.png"]',
        '["b.png"]',
        "--annotations=val.json: which image is z/a.png? It has x/a.png and y/a.png.",
        "--annotations=val.json: x/a.png and y/a.png would all be its image 'a.png'.",
        "--annotations=val.json: has no image 'b.png'; 1 of 1 are missing.",
    ]


def test_names_of_outputs_are_all_different():
    """In a process of its own, as the commands define the same flags."""
    given = {
        "alone": ["photos/a.png", "./b.jpeg", "/abs/c.d.png"],
        "folders": ["a/1.png", "b/1.png", "b/2.png", "x/b/1.png"],
        "endings": ["a/1.png", "a/1.jpg", "a/1.PNG", "1_2.png"],
        "cases": ["a/Cat.png", "b/cat.png"],
        "twice": ["1.png", "1.png", "1.png"],
        "like another": ["a_1.png", "a/1.png", "b/1.png"],
        "up": ["../a.png", "a.png"],
    }
    code = "import json, sys; from launch import predict; "
    code += "print(json.dumps({k: predict.output_names(v) for k, v in json.load(sys.stdin).items()}))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(given), text=True, capture_output=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout)
    assert names["alone"] == ["a", "b", "c.d"]
    assert names["folders"] == ["a_1", "b_1", "2", "x_b_1"]
    assert names["cases"] == ["a_Cat", "b_cat"]
    assert names["twice"] == ["1", "1_2", "1_3"]
    for files, found in zip(given.values(), names.values(), strict=True):
        assert len(files) == len({name.lower() for name in found}), found
        assert not any("/" in name for name in found)
