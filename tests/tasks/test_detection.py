"""What all detectors share, from a batch to `launch.predict`: a detector that finds what is brighter than around it."""

import dataclasses
import functools
import json
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import models, tasks
from vision.data import catalog
from vision.data.images import opencv
from vision.data.source import Source
from vision.ops import nms
from vision.tasks import Mean
from vision.tasks.detection import describe, detector, image_sizes, mistakes, truth

HIGH, WIDE, MOST, FOUND = 60, 88, 4, 12
BRIGHTNESS = {"grey": 130, "white": 250}
SHAPES = ((10, 10), (20, 14), (14, 20), (40, 40))  # (width, height) of the things
EVALUATED = 24


# Data: bright rectangles on noise, each with a mask of all of it, its centre and a corner, in PNG.


class Bricks:
    """Up to `MOST` bricks an image, apart from each other; every seventh one is a crowd."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        rng = np.random.default_rng([7, index])
        image = rng.integers(0, 60, (HIGH, WIDE, 1)).astype(np.uint8)
        free, boxes, classes = np.ones((HIGH, WIDE), bool), np.zeros((MOST, 4), np.float32), np.zeros(MOST, np.int32)
        masks, count = np.zeros((MOST, HIGH, WIDE), np.uint8), 0
        for _ in range(index % (MOST + 1)):
            width, height = SHAPES[rng.integers(len(SHAPES))]
            x, y = rng.integers(0, WIDE - width + 1), rng.integers(0, HIGH - height + 1)
            if free[y : y + height, x : x + width].all():
                free[max(0, y - 4) : y + height + 4, max(0, x - 4) : x + width + 4] = False
                boxes[count], classes[count] = (x, y, x + width, y + height), rng.integers(2)
                image[y : y + height, x : x + width] = list(BRIGHTNESS.values())[classes[count]]
                masks[count, y : y + height, x : x + width] = 1
                count += 1
        points = np.stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, :2]], axis=1)
        there = np.arange(MOST) < count
        return {
            "image": opencv().imencode(".png", image)[1].tobytes(),
            "boxes": boxes,
            "classes": classes,
            "valid": there,
            "crowd": there & ((index + np.arange(MOST)) % 7 == 0),
            "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
            "masks": masks,
            "keypoints": np.concatenate([points, 2.0 * there[:, None, None].repeat(2, 1)], axis=2).astype(np.float32),
        }

    def describe(self, index):
        return f"bricks {index}"

    def labels(self):
        return np.concatenate(
            [record["classes"][record["valid"]] for record in map(self.__getitem__, range(len(self)))]
        )


def open_bricks(rest, split, where):
    return Source(f"bricks:{rest}", split, Bricks(int(rest)), tuple(BRIGHTNESS))


# A model without much to learn: windows of the right shapes, whose score is how much brighter they are than around.


@functools.cache
def windows(high, wide):
    """(A, 4), every third pixel."""
    found = [
        (x, y, x + width, y + height)
        for width, height in SHAPES
        for y in range(0, high - height + 1, 3)
        for x in range(0, wide - width + 1, 3)
    ]
    return np.array(found, np.float32)


def sums(image, boxes):
    """(B, H, W), (A, 4) -> (B, A) sums of pixels whose centres are inside, and (A,) their number on the image."""
    rows, columns = (
        ((np.arange(side) + 0.5 > boxes[:, low, None]) & (np.arange(side) + 0.5 < boxes[:, low + 2, None])).astype(
            float
        )
        for side, low in zip(image.shape[1:], (1, 0), strict=True)
    )
    return jnp.einsum("ah,bhw,aw->ba", rows, image, columns), rows.sum(1) * columns.sum(1)


class Bright(nn.Module):
    """Attributes: num_classes: number of classes; dtype: of the computation."""

    num_classes: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image, train=False):
        steepness = self.param("steepness", nn.initializers.constant(20.0), ())
        boxes = windows(*image.shape[1:3])
        (inside, count), (around, more) = (sums(image[..., 0], boxes + grow) for grow in (0, np.array([-3, -3, 3, 3])))
        level = inside / count
        contrast = level - (around - inside) / (more - count)
        score = nn.sigmoid(steepness * (contrast - 0.35))
        white = nn.sigmoid(steepness * (level - 0.7))
        return {"scores": score, "white": white, "windows": jnp.asarray(boxes), "steepness": steepness}


def bright_boxes(*, class_names: tuple[str, ...] = (), with_masks: bool = True) -> tasks.Task:
    """Finds bright boxes.

    Args:
        class_names: of the data.
        with_masks: whether masks and points are found as well.
    """

    def loss(outputs, batch):
        objects = truth(batch)
        count = jnp.sum(objects["valid"]).astype(jnp.float32)
        return {"steep": Mean((outputs["steepness"] - 20.0) ** 2 * count, count)}

    def detect(outputs, batch):
        def one(scores, white, size):
            boxes = outputs["windows"]
            inside = (boxes[:, 2] <= size[1] + 1) & (boxes[:, 3] <= size[0] + 1)
            index, kept = nms.nms(boxes, scores, 0.3, FOUND, inside & (scores > 0.05))
            boxes, scores = boxes[index], jnp.where(kept, scores[index], 0.0)
            found = {"boxes": boxes, "scores": scores, "valid": kept}
            found["classes"] = (white[index] > 0.5).astype(jnp.int32)
            if with_masks:
                found["masks"] = jnp.ones((FOUND, 14, 14)).at[:, :2, :2].set(0.2)
                points = jnp.stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, :2]], axis=1)
                found["keypoints"] = jnp.concatenate([points, scores[:, None, None].repeat(2, 1)], axis=2)
            return found

        return jax.vmap(one)(outputs["scores"], outputs["white"], image_sizes(batch))

    return detector(loss=loss, detect=detect, class_names=class_names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, workdir) of the detector after two steps through the whole trainer."""
    from ml_collections import ConfigDict

    import vision
    from vision.train.writers import Console

    config = ConfigDict()
    config.model = dict(name="bright")
    config.task = dict(name="bright_boxes")
    shared = dict(name=f"bricks:{EVALUATED}", transforms="decode(channels=1)")
    config.data = dict(
        preprocess=dict(name="normalize"),
        train=dict(shared, split="train", batch_size=8),
        eval=dict(test=dict(shared, split="test", batch_size=10)),
    )
    config.optimizer = dict(name="momentum", learning_rate=1e-3)
    config.train = dict(steps=2)
    config.log = dict(every=1, predictions=8)
    config.checkpoint = dict(every=0, best="test/mask_AP")
    workdir = tmp_path_factory.mktemp("runs") / "bright"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "bright", Bright)
        patch.setitem(tasks.TASKS, "bright_boxes", bright_boxes)
        patch.setitem(catalog.SOURCES, "bricks", open_bricks)
        with open(os.devnull, "w") as silent:
            run = vision.fit(config, workdir, console=Console(workdir.parent / "log.txt", stream=silent))
        yield run, workdir


@pytest.fixture(scope="module")
def metrics(trained):
    """Of the last evaluation: null is NaN."""
    row = json.loads((trained[1] / "metrics.jsonl").read_text().splitlines()[-1])
    return {name.removeprefix("test/"): np.nan if value is None else value for name, value in row.items()}


@pytest.fixture(scope="module")
def zoomed(trained):
    """(run that enlarges and pads its images, its evaluation)."""
    run, transforms = trained[0], "decode(channels=1)|letterbox((64, 96))"
    config = run.config.copy_and_resolve_references()
    config.data.eval.test.transforms = transforms
    network = dataclasses.replace(run.network, description={**run.network.description, "transforms": transforms})
    run = dataclasses.replace(run, config=config, network=network)
    return run, run.evaluate("test", show=2)["test"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The images of the split as a folder of a video's frames, and the truth in COCO's format, with ids of its own."""
    folder = tmp_path_factory.mktemp("frames")
    names, records = tuple(BRIGHTNESS), Bricks(EVALUATED)
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * i + 7, "name": n} for i, n in enumerate(names)],
    }
    for index in range(len(records)):
        record, name = records[index], f"frame_{index:04}.png"
        (folder / name).write_bytes(record["image"])
        truth["images"].append({"id": 100 + 3 * index, "file_name": name, "height": HIGH, "width": WIDE})
        for row in np.flatnonzero(record["valid"]):
            x0, y0, x1, y1 = record["boxes"][row].tolist()
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": 100 + 3 * index,
                    "category_id": 10 * int(record["classes"][row]) + 7,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(record["area"][row]),
                    "iscrowd": int(record["crowd"][row]),
                    "segmentation": rectangle(record["masks"][row]),
                    # The number of the pixel of which the record has the centre.
                    "keypoints": (record["keypoints"][row] - np.array([0.5, 0.5, 0])).ravel().tolist(),
                    "num_keypoints": 2,
                }
            )
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def rectangle(mask):
    """COCO's run lengths, not compressed: down the columns, from zeros on."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


@pytest.fixture(scope="module")
def predicted(trained, files, tmp_path_factory):
    """The folder that `launch.predict` writes for the frames."""
    from absl import flags
    from absl.testing import flagsaver

    from launch import predict

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    out = tmp_path_factory.mktemp("out")
    given = dict(workdir=str(trained[1]), images=[str(files)], out=str(out), annotations=str(files / "truth.json"))
    with flagsaver.flagsaver(batch_size=7, **given):
        predict.main([], {})
    return out


def by_cocos_evaluator(files, entries, kind):
    """The evaluator's own numbers for the content of a file of results."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(str(files / "truth.json"))
    for entry in entries:  # boxes and masks of results lead the evaluator to other areas
        for other in {"bbox": ("segmentation",), "segm": ("bbox",), "keypoints": ("bbox", "segmentation")}[kind]:
            entry.pop(other, None)
    evaluator = COCOeval_faster(truth, truth.loadRes(entries), kind)
    if kind == "keypoints":
        evaluator.params.kpt_oks_sigmas = np.full(2, 0.05)
    evaluator.run()
    return evaluator.stats


NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")
KINDS = {
    "bbox": NAMES,
    "segm": [f"mask_{name}" for name in NAMES],
    "keypoints": [f"keypoint_{name}" for name in ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_ap_is_that_of_cocos_evaluator_on_the_files_that_predict_writes(metrics, predicted, files, kind):
    entries = json.loads((predicted / "detections.json").read_text())
    for name, value in zip(KINDS[kind], by_cocos_evaluator(files, entries, kind), strict=False):
        assert metrics[name] == value or (value == -1 and np.isnan(metrics[name])), name  # to the last bit
    assert 0.3 < metrics[KINDS[kind][0]] < 1


def test_so_it_is_where_images_are_enlarged_and_padded(zoomed, metrics, files):
    run, found = zoomed
    shown = found.shown[0]["batch"]
    assert shown["placement"].tolist() == pytest.approx([94 / WIDE, 0, 0, 0, 64 / HIGH, 0])
    assert shown["size"].tolist() == [64, 94]
    entries = []
    for number, example in enumerate(run.predictions([Bricks(EVALUATED)[i]["image"] for i in range(EVALUATED)])):
        for entry in run.network.task.coco_results(run.in_file(example)["predictions"], (HIGH, WIDE), 100 + 3 * number):
            entries.append(entry | {"category_id": 10 * entry["category_id"] - 3})
    for name, value in zip(NAMES, by_cocos_evaluator(files, entries, "bbox"), strict=False):
        assert found.metrics[name] == value or (value == -1 and np.isnan(found.metrics[name])), name
    assert found.metrics["AP50"] > 0.3 and found.metrics["AP"] != metrics["AP"]
    assert np.isnan(found.metrics["AP_large"])


def test_every_metric_is_there_before_the_first_step_and_after_the_last(trained, metrics, zoomed):
    """The config asks for the best by a metric of masks, which was known before anything was evaluated."""
    summary = json.loads((trained[1] / "summary.json").read_text())
    for name in (*NAMES, "mask_AP", "mask_AP50", "keypoint_AP", "keypoint_AR", "voc07_mAP", "voc12_mAP"):
        assert name in metrics and f"test/{name}" in summary["final"], name
    assert summary["final"]["test/AP_large"] is None  # there is none, and JSON has no NaN
    assert summary["best"]["test/mask_AP"] == metrics["mask_AP"]
    arrays = zoomed[1].arrays
    assert arrays["class_AP"].shape == arrays["class_mask_AP50"].shape == arrays["class_objects"].shape == (2,)
    records = [Bricks(EVALUATED)[index] for index in range(EVALUATED)]
    counted = [record["classes"][record["valid"] & ~record["crowd"]] for record in records]
    assert arrays["class_objects"].tolist() == np.bincount(np.concatenate(counted), minlength=2).tolist()


def test_plots_are_drawn_at_the_end(trained):
    _, workdir = trained
    drawn = {path.name for path in (workdir / "plots").iterdir()}
    assert {"AP.png", "detection_grid.png", "class_ap.png", "precision_recall.png"} <= drawn


def test_predict_writes_a_picture_a_line_and_entries_for_each_frame(predicted, metrics):
    lines = [json.loads(line) for line in (predicted / "predictions.jsonl").read_text().splitlines()]
    entries = json.loads((predicted / "detections.json").read_text())
    assert [os.path.basename(line["file"]) for line in lines] == [f"frame_{i:04}.png" for i in range(EVALUATED)]
    assert len(entries) == sum(len(line["objects"]) for line in lines) > 20
    assert metrics["detections_per_image"] == pytest.approx(len(entries) / EVALUATED)
    assert set(entries[0]) == {
        "file_name", "image_id", "category_id", "bbox", "score", "segmentation", "keypoints"
    }  # fmt: skip
    for index in (1, 4, 9):
        own = [entry for entry in entries if entry["file_name"] == f"frame_{index:04}.png"]
        assert {entry["image_id"] for entry in own} == {100 + 3 * index}
        for entry, fact in zip(own, lines[index]["objects"], strict=True):
            x, y, width, height = entry["bbox"]
            assert fact["box"] == pytest.approx([x, y, x + width, y + height], abs=0.01)
            assert entry["category_id"] == {"grey": 7, "white": 17}[fact["class"]]
            assert fact["keypoints"][0][:2] == pytest.approx([x + width / 2, y + height / 2], abs=0.01)
            assert entry["keypoints"][0] == pytest.approx(x + width / 2 - 0.5)
            assert entry["segmentation"]["size"] == [HIGH, WIDE]
        picture = opencv().imread(str(predicted / f"frame_{index:04}_objects.png"))
        assert picture.shape == (6 * HIGH, 6 * WIDE, 3)  # the first factor that gives 480 pixels
    assert (predicted / "predictions.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{}", "COCO's format"),
        ('{"images": [], "categories": []}', "has no image 'a.png'; 1 of 1 are missing"),
        ('{"images": [{"file_name": "x/a.png", "id": 3}], "categories": [{"name": "grey", "id": 1}]}', "no category"),
    ],
)
def test_annotations_that_do_not_fit_are_named(trained, tmp_path, content, message):
    from launch.predict import coco_ids
    from vision.errors import UsageError

    if content is not None:
        (tmp_path / "ids.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        coco_ids(str(tmp_path / "ids.json"), ["b/a.png"], trained[0])


def test_without_annotations_ids_are_numbers_from_one(trained):
    from launch.predict import coco_ids

    assert coco_ids(None, ["x/a", "b", "c"], trained[0]) == (["a", "b", "c"], [1, 2, 3], [1, 2])
    assert coco_ids(None, ["x/a", "y/a"], trained[0]).files == ["x/a", "y/a"]


# The functions themselves.


def test_interest_is_what_is_missed_and_what_is_not_there():
    box, other, far = [0.0, 0, 10, 10], [1.0, 0, 11, 10], [50.0, 50, 60, 60]
    found = {
        "boxes": jnp.array([[box, far], [other, far], [box, far], [box, far]]),
        "classes": jnp.array([[0, 0], [0, 0], [1, 0], [0, 0]]),
        "scores": jnp.array([[0.9, 0.4]] * 4),
        "valid": jnp.array([[True, False], [True, True], [True, False], [True, False]]),
    }
    batch = {
        "boxes": jnp.array([[box, [0.0] * 4]] * 4),
        "classes": jnp.zeros((4, 2), jnp.int32),
        "valid": jnp.array([[True, False]] * 3 + [[False, False]]),
    }
    # found; found with something else; found with the wrong class; not there
    expected = [0.1, 0.1 + 0.4, 1 + 0.9, 0.9]
    np.testing.assert_allclose(jax.jit(mistakes)(found, batch), expected, atol=1e-6)
    crowd = batch | {"crowd": jnp.ones((4, 2), bool)}
    np.testing.assert_allclose(jax.jit(mistakes)(found, crowd), [0, 0.4, 0.9, 0.9], atol=1e-6)


def test_descriptions_name_classes_and_leave_out_padding():
    predictions = {
        "boxes": np.array([[1.234567, 2, 3, 4], [0, 0, 0, 0]], np.float32),
        "scores": np.array([0.98766, 0.5], np.float32),
        "classes": np.array([1, 0]),
        "valid": np.array([True, False]),
    }
    facts = describe(predictions, ("a", "b"))
    assert facts == {"objects": [{"class": "b", "score": 0.9877, "box": [1.23, 2.0, 3.0, 4.0]}]}
    assert json.loads(json.dumps(describe(predictions, ()))) == {
        "objects": [{"class": "1", "score": 0.9877, "box": [1.23, 2.0, 3.0, 4.0]}]
    }


def test_the_task_has_what_the_trainer_and_the_plots_ask_for():
    from vision.explain import plots

    task = detector(loss=lambda o, b: {}, detect=lambda o, b: {})
    assert {*task.plots, task.prediction_plot} <= set(plots.PLOTS)
    assert set(task.prediction_files) <= set(plots.FILES)
