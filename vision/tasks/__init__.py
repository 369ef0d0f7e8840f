"""What a run learns: each task is a handful of pure functions of a model's outputs and a batch (see `task.Task`)."""

from typing import Any

from vision import schema
from vision.errors import pick
from vision.tasks.classification import classification
from vision.tasks.localization import localization
from vision.tasks.overfeat import overfeat
from vision.tasks.rcnn import rcnn
from vision.tasks.reconstruction import reconstruction
from vision.tasks.retinanet import retinanet
from vision.tasks.segmentation import segmentation
from vision.tasks.ssd import ssd
from vision.tasks.task import Mean, Task
from vision.tasks.yolo import yolov1, yolov3

__all__ = ["INJECTED", "TASKS", "Mean", "Task", "create"]

TASKS = {
    "classification": classification,
    "localization": localization,
    "overfeat": overfeat,
    "rcnn": rcnn,
    "reconstruction": reconstruction,
    "retinanet": retinanet,
    "segmentation": segmentation,
    "ssd": ssd,
    "yolov1": yolov1,
    "yolov3": yolov3,
}

# Facts about the data that a task may ask for as arguments; no config keys.
INJECTED = ("num_classes", "class_names")


def create(
    name: str,
    where: str = "config.task",
    *,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    **arguments: Any,
) -> Task:
    """The task of that name.

    Args:
        name: a key of `TASKS`.
        where: the section's place, for messages.
        num_classes: number of classes of the data, for tasks that ask for it.
        class_names: their names, for tasks that ask for them.
        **arguments: the task's own keys.

    Raises:
        UsageError: unknown name or key, or a value of the wrong type.
    """
    function = pick(TASKS, "task", name, f"{where}.name")
    schema.check(function, arguments, where, INJECTED)
    facts = {"num_classes": num_classes, "class_names": class_names}
    return function(**schema.accepted(function, facts), **arguments)
