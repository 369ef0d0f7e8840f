"""`coco:PATH`: objects with boxes, masks or keypoints from COCO's instances and person_keypoints JSON."""

import os
from typing import Any, Literal

import numpy as np

from vision.data import coco, image_files, objects, splits
from vision.data.image_files import Paths
from vision.data.objects import Annotations, Options, is_set
from vision.data.source import Source
from vision.errors import UsageError, unknown_name

# In place of a class: the category is not in the file, or none of those asked for.
_UNKNOWN, _LEFT_OUT = -1, -2
_FILES = {"boxes": "instances", "masks": "instances", "keypoints": "person_keypoints"}


def open_coco(
    path: str,
    split: str,
    where: str = "data",
    *,
    annotations: Literal["boxes", "masks", "keypoints"] = "boxes",
    images: str = "{split}2017",
    json: str | None = None,
    classes: tuple[str, ...] = (),
    max_objects: int | None = None,
    empty: bool = True,
    on_bad_annotation: Literal["drop", "stop"] = "drop",
    check_images: bool = True,
) -> Source:
    """Opens one split of objects in COCO's JSON.

    The classes are the categories in the order of the JSON file, counted from 0. Records have `crowd` and `area`,
    that of the box where the file has none. A range of hashes of the files' names may follow the split: "val[:50%]".
    In these files a keypoint is the number of a pixel; in the records it is the centre of that pixel, half a pixel
    further right and down.

    Args:
        path: the folder.
        split: what takes the place of "{split}" in the paths.
        where: the place of the section in the configuration, for messages.
        annotations: "boxes"; "masks", the objects' pixels as well; or "keypoints", boxes and keypoints.
        images: the folder of the images.
        json: the JSON file; by default "annotations/instances_{split}2017.json", for keypoints
            "annotations/person_keypoints_{split}2017.json".
        classes: names of the categories that are classes, in this order; by default all. Those of others are left out.
        max_objects: objects a record has room for; by default the largest number in the split.
        empty: keep images without objects.
        on_bad_annotation: "drop" leaves bad annotations and damaged images out and reports them, "stop" lists them.
        check_images: read the header and the end of each image, once, for those that are damaged or of another size.

    Raises:
        UsageError: no such folder or split, an unknown category, a JSON file not of this format, or bad annotations.
    """
    pattern = json or f"annotations/{_FILES[annotations]}_{{split}}2017.json"
    name, low, high, content, file = coco.read_json(path, split, pattern, where)
    folder = os.path.join(os.path.expanduser(path), images.replace("{split}", name))
    try:
        order, names = _classes(content, classes, where)
        chosen = sorted(
            (one for one in content["images"] if low <= splits.percentile(one["file_name"]) < high),
            key=lambda one: one["file_name"],
        )
        places = {image["id"]: place for place, image in enumerate(chosen)}
        known = coco.images_by_id(content, file, where)
        found, strays = [], []
        for one in content["annotations"]:
            image = one.get("image_id")
            if image not in known:
                strays.append(f"{file}: annotation {one.get('id')}: there is no image {image!r}")
            elif image in places and order.get(one.get("category_id")) != _LEFT_OUT:
                found.append(one)
        found.sort(key=lambda one: places[one["image_id"]])
        paths = Paths.of([os.path.join(folder, one["file_name"]) for one in chosen])
        stated = np.array(
            [[image_files.stated_side(one.get(side)) for side in ("height", "width")] for one in chosen], np.int32
        ).reshape(-1, 2)
        keypoints = _keypoint_names(content) if annotations == "keypoints" else None
        if keypoints == ():
            raise UsageError(f"{where}.source.annotations: no category in {file} has keypoints.")
        table = _table(found, places, order, paths, annotations, keypoints)
    except (KeyError, TypeError, AttributeError) as error:
        raise coco.malformed(file, error, where) from None
    options = Options(on_bad_annotation, max_objects, empty, where)
    sizes = image_files.sizes(paths, stated, check_images)
    return objects.open_objects(
        f"coco:{path}", split, paths, sizes, table, names, options, keypoints or (), tuple(strays)
    )


def _classes(content: dict, classes: tuple[str, ...], where: str) -> tuple[dict[int, int], tuple[str, ...]]:
    """{category id: class, or `_LEFT_OUT`} and the classes' names."""
    names = tuple(category["name"] for category in content["categories"])
    for one in classes:
        if one not in names:
            raise unknown_name("category", one, names, f"{where}.source.classes")
    labels = {one: place for place, one in enumerate(classes or names)}
    return {one["id"]: labels.get(one["name"], _LEFT_OUT) for one in content["categories"]}, classes or names


def _keypoint_names(content: dict) -> tuple[str, ...]:
    """Those of the category that has the most; others have the first of them."""
    return max((tuple(category.get("keypoints", ())) for category in content["categories"]), key=len, default=())


def _table(
    found: list[dict[str, Any]],
    places: dict[Any, int],
    order: dict[int, int],
    paths: Paths,
    annotations: str,
    keypoints: tuple[str, ...] | None,
) -> Annotations:
    boxes = np.full((len(found), 4), np.nan)
    area = np.full(len(found), np.nan)
    reasons: dict[int, str] = {}
    points = None if keypoints is None else np.zeros((len(found), len(keypoints), 3))
    for row, one in enumerate(found):
        try:
            x, y, width, height = one["bbox"]
            boxes[row] = x, y, width, height
        except (KeyError, TypeError, ValueError):
            reasons[row] = f"bbox is {one.get('bbox')!r}; expected four numbers: x, y, width and height"
        if isinstance(one.get("area"), int | float):
            area[row] = one["area"]
        if one.get("category_id") not in order:
            reasons[row] = f"its class is unknown: category_id {one.get('category_id')!r} is not among the categories"
        if points is not None:
            try:
                values = np.asarray(one["keypoints"], np.float64).reshape(-1, 3)
                points[row, : len(values)] = values
            except (KeyError, TypeError, ValueError):
                reasons[row] = f"keypoints are not {len(keypoints)} times three numbers: x, y and visibility"
    area = np.where(np.isfinite(area), area, boxes[:, 2] * boxes[:, 3])
    boxes[:, 2:] += boxes[:, :2]
    if points is not None:
        points[..., :2] += np.where(points[..., 2:] > 0, 0.5, 0.0)
        points[..., :2] *= points[..., 2:] > 0

    def name(row: int) -> str:
        one = found[row]
        return f"{paths[places[one['image_id']]]}: annotation {one.get('id', row)}"

    return Annotations(
        images=np.array([places[one["image_id"]] for one in found], np.int64),
        boxes=boxes,
        classes=np.array([order.get(one.get("category_id"), _UNKNOWN) for one in found], np.int64),
        name=name,
        reasons=reasons,
        crowd=np.array([is_set(one.get("iscrowd")) for one in found], bool),
        area=area,
        keypoints=points,
        regions=[one.get("segmentation") for one in found] if annotations == "masks" else None,
    )
