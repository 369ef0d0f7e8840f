"""Training on images of several shapes compiles one program for each shape and no other, and learns from all."""

import contextlib
import json

import jax
import numpy as np
import pytest

from vision import config as configs
from vision import experiment, sections
from vision.data.images import opencv
from vision.train import loop, parallel, state
from vision.train.meters import Meter

STEPS = 50
CONFIG = {
    "model": {"name": "lenet"},
    "task": {"name": "classification"},
    "data": {
        "preprocess": {"name": "normalize"},
        "train": {
            "split": "train",
            "batch_size": 4,
            "transforms": "decode(channels=1)|random_resize_within((9, 12), 16)|flip|pad_to(((12, 16), (16, 12)))",
        },
        "eval": {},
    },
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
    "train": {"steps": STEPS},
}


@pytest.fixture
def wired(tmp_path):
    """Ten wide and five tall images of two classes."""
    for number in range(15):
        folder = tmp_path / "photos" / "train" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (12 + number % 2, 20) if number % 3 else (20, 13)
        image = np.random.default_rng(number).integers(0, 256, (*shape, 3), np.uint8)
        opencv().imwrite(str(folder / f"{number}.png"), image)
    made = configs.thaw(CONFIG)
    made.data.train.name = f"folder:{tmp_path / 'photos'}"
    return experiment.build(made)


@contextlib.contextmanager
def compilations():
    """The list of the programs that are compiled within it, by the seconds they took."""
    seen = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def fit(wired):
    """Trains for `STEPS` steps: the shapes of the images, what was logged, and the programs that were compiled."""
    start = state.create(wired.variables(), wired.optimizer.transform, jax.random.key(0), ema=False)
    start, step, rows = parallel.replicate(start, wired.mesh), wired.train_step(), {}
    shapes = []

    def put(batch):
        shapes.append(batch["image"].shape)
        return parallel.put_batch(batch, wired.mesh)

    hooks = loop.Hooks(rows.__setitem__, None, lambda m: False, lambda *a: None, lambda *a: None, lambda s: None)
    batches = loop.prefetch_to_device(wired.train_data.batches(), put)
    with compilations() as seen:
        outcome = loop.fit(start, step, batches, loop.Times(STEPS, 1, 0, 0), hooks, Meter())
    assert outcome.step == STEPS
    return shapes, rows, seen


def test_one_program_for_each_shape(wired):
    shapes, rows, seen = fit(wired)
    assert set(shapes) == {(4, 12, 16, 1), (4, 16, 12, 1)} == {(4, *shape) for shape in wired.train_data.image_shapes}
    tall = shapes[:STEPS].count((4, 16, 12, 1))
    assert abs(tall - STEPS / 3) <= 2
    assert len(seen) == 2
    # The log says what compiling took, when it did, and the work of a step is that of its shape.
    compiled = [at for at, row in rows.items() if "perf/compile_seconds" in row]
    assert compiled == [1, 1 + shapes.index(shapes[0][:1] + shapes[0][2:0:-1] + (1,))]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder as COCO's: wide, tall and square images with none to three objects, which have masks and key points."""
    root = tmp_path_factory.mktemp("coco")
    for folder in ("annotations", "train2017"):
        (root / folder).mkdir()
    images, objects, rng = [], [], np.random.default_rng(0)
    for number in range(24):
        height, width = ((60, 80), (80, 60), (70, 70))[number % 3]
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        opencv().imwrite(str(root / "train2017" / f"{number}.png"), picture)
        for _ in range(number // 3 % 4):
            left, top, side = (int(x) for x in rng.integers(4, 24, 3))
            right, bottom = left + side, top + side
            points = [x for _ in range(17) for x in (*rng.integers(4, 24, 2).tolist(), 2)]
            one = {"id": 1 + len(objects), "image_id": number, "category_id": 1, "iscrowd": 0, "area": side**2}
            one |= {"bbox": [left, top, side, side], "keypoints": points, "num_keypoints": 17}
            objects.append(one | {"segmentation": [[left, top, right, top, right, bottom, left, bottom]]})
    names = [f"point {number}" for number in range(17)]
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    content = json.dumps({"images": images, "annotations": objects, "categories": categories})
    for kind in ("instances", "person_keypoints"):
        (root / "annotations" / f"{kind}_train2017.json").write_text(content)
    return root


TRUNK = {"name": "resnet", "width": 4, "stage_sizes": (1, 1, 1)}
TWO_STAGE = dict(
    backbone=TRUNK,
    strides=(8, 16),
    channels=8,
    anchor_sizes=((8,), (16,), (24,)),
    before_nms=(20, 10),
    proposals=(10, 5),
    roi_samples=8,
    box_hidden=(8,),
)
DETECTORS = {
    "ssd": ({"backbone": TRUNK, "strides": (8, 16), "extra": ()}, "ssd", "boxes"),
    "retinanet": ({"backbone": TRUNK, "strides": (8, 16), "extra": "none", "channels": 8}, "retinanet", "boxes"),
    "yolov3": ({"backbone": TRUNK, "strides": (8, 16), "anchors": ((8, 8), (16, 16)), "width": 4}, "yolov3", "boxes"),
    "faster_rcnn": (TWO_STAGE, "rcnn", "boxes"),
    "mask_rcnn": (TWO_STAGE | {"mask_size": 4, "mask_convolutions": (4,)}, "rcnn", "masks"),
    "keypoint_rcnn": (TWO_STAGE | {"keypoint_size": 4, "keypoint_convolutions": (4,)}, "rcnn", "keypoints"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_do_not_care_how_many_objects_there_are(name, coco):
    fields, task, annotations = DETECTORS[name]
    made = configs.thaw(CONFIG)
    made.model, made.task = {"name": name, **fields}, {"name": task}
    made.data.train.name, made.data.train.source = f"coco:{coco}", {"annotations": annotations}
    made.data.train.batch_size = 2
    sizes = ((32, 48), (48, 32))
    made.data.train.transforms = f"decode|random_resize_within((24, 32), 48)|flip|pad_to({sizes})"
    shapes, _, seen = fit(experiment.build(made))
    assert {shape[1:3] for shape in shapes} == set(sizes)
    assert len(seen) == 2


PUBLISHED = [
    *(f"coco_{name}" for name in ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "ssd300", "yolov3")),
    *(f"voc_{name}" for name in ("faster_rcnn_vgg16", "ssd300", "yolov1")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_batches_of_the_published_recipes_have_the_shapes_that_are_promised(name, coco):
    """A step is compiled for each combination of shapes and dtypes: here there is one for each size of images."""
    made = configs.load(f"configs/{name}.py")
    made.data.train.name, made.data.train.batch_size = f"coco:{coco}", 2
    if name.startswith("voc_"):  # whose own options are those of another kind of source
        made.data.train.split, made.data.train.source = "train", {"annotations": "boxes"}
    pipeline = experiment.open_pipeline(sections.complete(made), "config.data.train")
    seen = set()
    for step in range(STEPS):
        seen.add(tuple((key, value.shape, str(value.dtype)) for key, value in sorted(pipeline.batch(step).items())))
    assert {shape[1:] for batch in seen for key, shape, _ in batch if key == "image"} == set(pipeline.image_shapes)
    assert len(seen) == len(pipeline.image_shapes)
