"""Folders of images and label maps: layouts, splits, kinds of maps, and mistakes."""

import pathlib
import pickle

import numpy as np
import pytest

import vision
from vision.data import check, create, open_source
from vision.data.images import opencv
from vision.errors import UsageError

NUCLEI = pathlib.Path(vision.__file__).parents[2] / "shared" / "data" / "nuclei"
CLASSES = ("background", "cat", "dog")


def write(path, array):
    """Writes an image file, RGB or one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert opencv().imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def write_pairs(root, names, images="images/{}.jpg", masks="masks/{}.png"):
    """Writes pairs of 6x8 pixels; the map of the n-th has the ids 0 and n % 3."""
    for number, name in enumerate(names):
        write(root / images.format(name), np.full((6, 8, 3), number, np.uint8))
        write(root / masks.format(name), np.pad(np.full((3, 4), number % 3, np.uint8), ((0, 3), (4, 0))))


def opened(root, split="all", **options):
    options = {"classes": CLASSES} | options
    return open_source(f"pairs:{root}", split, "config.data.train", options)


def names(source):
    return [pathlib.Path(source.describe(i)).stem for i in range(len(source))]


def error(root, split="all", **options):
    with pytest.raises(UsageError) as caught:
        source = opened(root, split, **options)
        check(source, where="config.data.train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_masks_of_one_name(tmp_path):
    write_pairs(tmp_path, "abcdef")
    source = opened(tmp_path)
    assert (names(source), source.class_names, source.labels) == (list("abcdef"), CLASSES, None)
    record = source.records[2]
    assert record["segmentation"].dtype == np.uint8 and record["segmentation"].shape == (6, 8)
    assert record["segmentation"][0, 4] == 2 and record["segmentation"][5, 0] == 0
    batch = create(f"pairs:{tmp_path}", "all", 6, "decode", train=False, source={"classes": CLASSES}).batch(0)
    assert batch["segmentation"].max(axis=(1, 2)).tolist() == [0, 1, 2, 0, 1, 2]
    assert pickle.loads(pickle.dumps(source.records)).fingerprint() == source.records.fingerprint()
    (tmp_path / "masks" / "z.png").touch()  # a map without an image is nobody's
    assert len(opened(tmp_path)) == 6


def test_files_beside_each_other_and_deeper(tmp_path):
    write_pairs(tmp_path / "x", ["a/1", "a/2", "b/1"], "{}_image.png", "{}_mask.png")
    options = dict(images="x/*/*_image.png", masks="x/*/*_mask.png")
    assert len(opened(tmp_path, **options)) == 3
    assert opened(tmp_path, **options).describe(2).endswith("x/b/1_image.png")


def test_a_split_by_hash_stays(tmp_path):
    write_pairs(tmp_path, [f"n{i}" for i in range(60)])
    train, val = names(opened(tmp_path, "train")), names(opened(tmp_path, "val"))
    assert 40 <= len(train) < 56 and sorted(train + val) == sorted(names(opened(tmp_path)))
    halves = [set(names(opened(tmp_path, f"train[{part}]"))) for part in (":50%", "50%:")]
    assert set(train) == halves[0] | halves[1] and not halves[0] & halves[1] and all(halves)
    write_pairs(tmp_path, [f"m{i}" for i in range(20)])
    assert set(train) <= set(names(opened(tmp_path, "train")))
    assert "unknown split 'trian'; did you mean 'train'" in error(tmp_path, "trian")


def test_split_folders(tmp_path):
    write_pairs(tmp_path / "train", "abc")
    write_pairs(tmp_path / "val", "d")
    assert names(opened(tmp_path, "train")) == list("abc") and names(opened(tmp_path, "val")) == ["d"]
    assert "unknown split 'test'" in error(tmp_path, "test") and "Valid: train, val" in error(tmp_path, "test")


def test_the_split_within_the_patterns(tmp_path):
    write_pairs(tmp_path, ["u/1", "u/2"], "left/train/{}_left.png", "fine/train/{}_ids.png")
    write_pairs(tmp_path, ["v/1"], "left/val/{}_left.png", "fine/val/{}_ids.png")
    options = dict(images="left/{split}/*/*_left.png", masks="fine/{split}/*/*_ids.png")
    assert len(opened(tmp_path, "train", **options)) == 2 and len(opened(tmp_path, "val", **options)) == 1
    assert "unknown split 'test'. Valid: train, val" in error(tmp_path, "test", **options)


def test_an_index(tmp_path):
    write_pairs(tmp_path, ["000", "001", "010"])
    (tmp_path / "index.csv").write_text("number,split\n0,train\n10,test\n1,train\n")
    assert names(opened(tmp_path, "train")) == ["000", "001"] and names(opened(tmp_path, "test")) == ["010"]
    assert names(opened(tmp_path, "all")) == ["000", "010", "001"]
    assert "unknown split 'val'" in error(tmp_path, "val")
    assert len(opened(tmp_path, "all[:100%]", index="")) == 3  # left out, so the split is by hash
    (tmp_path / "index.csv").write_text("split,name\ntrain,7\n")
    assert "index.csv names '7', which is no image" in error(tmp_path, "train")


def test_lists_of_names(tmp_path):
    write_pairs(tmp_path, ["2007_1", "2007_2"], "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    write(tmp_path / "JPEGImages" / "2008_1.jpg", np.zeros((6, 8, 3), np.uint8))  # of another task: without a map
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_2\n2007_1\n\n")
    (lists / "val.txt").write_text("JPEGImages/2007_1.jpg SegmentationClass/2007_1.png\n")
    options = dict(images="JPEGImages/*", masks="SegmentationClass/*.png", lists="ImageSets/Segmentation/{split}.txt")
    assert names(opened(tmp_path, "train", **options)) == ["2007_2", "2007_1"]
    assert names(opened(tmp_path, "val", **options)) == ["2007_1"]
    assert "unknown split 'test'. Valid: train, val" in error(tmp_path, "test", **options)


def test_a_palette(tmp_path):
    from PIL import Image

    write_pairs(tmp_path, "a")
    ids = np.array([[0, 1, 255, 2]] * 6).repeat(2, axis=1)
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "masks" / "a.png")
    for mask in ("palette", "ids"):
        np.testing.assert_array_equal(opened(tmp_path, mask=mask).records[0]["segmentation"], ids)
    write_pairs(tmp_path, "a")
    assert "masks/a.png: the file has no palette" in error(tmp_path, mask="palette")


def test_colours_and_a_table(tmp_path):
    write_pairs(tmp_path, "ab")
    colours = ((0, 0, 0), (255, 0, 0), (0, 0, 255))
    rgb = np.array((*colours, (9, 9, 9)), np.uint8).reshape(1, 4, 3).repeat(6, 0).repeat(2, 1)
    for name in "ab":
        write(tmp_path / "masks" / f"{name}.png", rgb)
    expected = [0, 0, 1, 1, 2, 2, 255, 255]
    source = opened(tmp_path, mask="colors", colors=colours, ignore=((9, 9, 9),))
    assert source.records[1]["segmentation"][3].tolist() == expected
    (tmp_path / "classes.csv").write_text("name,r,g,b\nsky,0,0,0\ncar,255,0,0\nsea,0,0,255\nvoid,9,9,9\n")
    source = opened(tmp_path, mask="colors", classes=())
    assert source.class_names == ("sky", "car", "sea")
    assert source.records[1]["segmentation"][3].tolist() == expected
    message = error(tmp_path, mask="colors", colors=colours)
    assert message.startswith(
        f"config.data.train.name: {tmp_path}/images/a.jpg: its label map {tmp_path}/masks/a.png: "
    )
    assert "x 6, y 0 has the colour (9, 9, 9), which is no class; the nearest is 'background'" in message


def test_a_table_of_ids_and_colours(tmp_path):
    write_pairs(tmp_path, "ab")
    (tmp_path / "classes.csv").write_text("id,name,r,g,b\n2,dog,0,0,9\n1,cat,0,9,0\n0,void,9,9,9\n")
    assert sorted(set(opened(tmp_path, classes=()).records[1]["segmentation"].ravel().tolist())) == [1, 255]
    rgb = np.array([(0, 0, 9), (0, 9, 0), (9, 9, 9), (9, 9, 9)], np.uint8).reshape(1, 4, 3).repeat(6, 0).repeat(2, 1)
    write(tmp_path / "masks" / "b.png", rgb)
    source = opened(tmp_path, classes=(), mask="colors")
    assert source.records[1]["segmentation"][3].tolist() == [0, 0, 1, 1, 255, 255, 255, 255]


def test_a_table_of_ids(tmp_path):
    write_pairs(tmp_path, "abc")
    (tmp_path / "classes.csv").write_text("id,name\n2,dog\n1,cat\n0,ignore\n")
    source = opened(tmp_path, classes=())
    assert source.class_names == ("dog", "cat")
    assert sorted(set(source.records[1]["segmentation"].ravel().tolist())) == [1, 255]
    assert check(source, 2).pixel_counts == (12, 12)
    (tmp_path / "classes.csv").write_text("id,title\n2,dog\n")
    assert "classes.csv is not a table with the columns name" in error(tmp_path, classes=())


def test_instances(tmp_path):
    write_pairs(tmp_path, "ab")
    ids = np.zeros((6, 8), np.uint16)
    ids[1:3, 2:5], ids[4, 7], ids[0, 0] = 900, 3, 3
    write(tmp_path / "masks" / "a.png", ids)
    write(tmp_path / "masks" / "b.png", ids * 0)
    source = opened(tmp_path, mask="instances", classes=("background", "cell"))
    np.testing.assert_array_equal(source.records[0]["segmentation"], ids > 0)
    options = dict(mask="instances", classes=("background", "cell"), max_objects=4)
    source = opened(tmp_path, annotations="masks", **options)
    record = source.records[0]
    assert source.class_names == ("cell",)
    assert record["boxes"].tolist() == [[0, 0, 8, 5], [2, 1, 5, 3], [0] * 4, [0] * 4]
    assert record["valid"].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(record["masks"], [ids == 3, ids == 900, ids < 0, ids < 0])
    assert not source.records[1]["valid"].any() and source.records[1]["boxes"].shape == (4, 4)
    assert str(check(source, 1)).endswith("2 examples, 1 class of objects: cell 2, 1 image without objects")
    assert "masks" not in opened(tmp_path, annotations="boxes", **options).records[0]
    with pytest.raises(UsageError, match="2 objects, more than max_objects=1"):
        opened(tmp_path, annotations="boxes", **options | {"max_objects": 1}).records[0]
    assert "'boxes' needs mask='instances', given 'ids'" in error(tmp_path, annotations="boxes")


def test_ids_outside_the_table(tmp_path):
    write_pairs(tmp_path, "abc")
    message = error(tmp_path, classes=CLASSES[:2])
    assert message.startswith(
        f"config.data.train.name: {tmp_path}/images/c.jpg: its label map {tmp_path}/masks/c.png: "
    )
    assert message.endswith("x 4, y 0 has the id 2; expected 0, 1 of the 2 classes, or 255 to be ignored.")
    with pytest.raises(UsageError, match=r"images/c.jpg: its label map .*masks/c.png: .* has the id 2"):
        create(f"pairs:{tmp_path}", "all", 3, "decode", train=False, source={"classes": ("a", "b")}).batch(0)


def test_pairs_that_do_not_fit(tmp_path):
    write_pairs(tmp_path, "abcd")
    write(tmp_path / "masks" / "b.png", np.zeros((8, 6), np.uint8))
    # The header of a JPEG may be that of a picture to be turned; that of this one says something else.
    write(tmp_path / "images" / "b.jpg", np.zeros((7, 8, 3), np.uint8))
    assert error(tmp_path).endswith("masks/b.png is 8x6 (height x width), the image 7x8.")
    (tmp_path / "masks" / "c.png").unlink()
    message = error(tmp_path)
    assert "images/c.jpg has no label map" in message and message.endswith("masks/c.png (1 such of 4 images).")
    write(tmp_path / "images" / "a.png", np.zeros((6, 8, 3), np.uint8))
    assert "both images/a.jpg and images/a.png" in error(tmp_path)


def test_a_truncated_label_map_is_reported_and_may_be_skipped(tmp_path):
    write_pairs(tmp_path, "abcd")
    write(tmp_path / "masks" / "c.png", np.random.default_rng(0).integers(0, 3, (6, 8), np.uint8))
    data = (tmp_path / "masks" / "c.png").read_bytes()
    (tmp_path / "masks" / "c.png").write_bytes(data[:-20])
    assert "1 label map cannot be read, that of" in str(check(opened(tmp_path), 3))
    options = dict(train=False, source={"classes": CLASSES}, max_bad_share=0.5)
    with pytest.raises(UsageError, match=r"images/c.jpg: its label map .*masks/c.png: the PNG file is truncated$"):
        create(f"pairs:{tmp_path}", "all", 4, "decode", **options).batch(0)
    batch = create(f"pairs:{tmp_path}", "all", 4, "decode", on_bad_image="skip", **options).batch(0)
    assert batch["mask"].tolist() == [1, 1, 0, 1]


def test_mistakes(tmp_path):
    assert "there is no folder" in error(tmp_path / "none")
    assert "no image in" in error(tmp_path)
    write_pairs(tmp_path, "a")
    assert "config.data.train.source.classes: missing; name the classes here, or" in error(tmp_path, classes=())
    assert "need the same number of stars" in error(tmp_path, masks="masks/a.png")
    assert "source.colors: missing" in error(tmp_path, mask="colors")
    assert "source.ids: 2 ids for 3 classes" in error(tmp_path, ids=(1, 2))
    assert "source.ids: 1 is there twice" in error(tmp_path, ids=(1, 2, 1))
    assert "source.ids: expected numbers from 0 to 65535, given -1" in error(tmp_path, ids=(1, 2, -1))
    assert "source.ignore: 2 is a class as well" in error(tmp_path, ignore=(2,))
    assert "source.mask: expected 'ids' or 'palette' or 'colors' or 'instances'" in error(tmp_path, mask="id")
    assert "source.max_objects: expected at least 1" in error(tmp_path, max_objects=0)
    assert "source.iamges: unknown key; did you mean 'images'" in error(tmp_path, iamges="*")


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="the micrographs are not in ../shared/data/nuclei")
def test_micrographs_of_nuclei():
    options = dict(images="*_image.png", masks="*_instances.png", mask="instances", classes=("background", "nucleus"))
    train, test = (opened(NUCLEI, split, **options) for split in ("train", "test"))
    assert (len(train), len(test)) == (160, 60)
    report = check(test, 2)
    assert 0.05 < report.pixel_counts[1] / sum(report.pixel_counts) < 0.3 and not report.unreadable
    index = (NUCLEI / "index.csv").read_text().splitlines()[1:]
    nuclei = sum(int(row.split(",")[-1]) for row in index if ",test," in row)
    source = opened(NUCLEI, "test", annotations="boxes", max_objects=400, **options)
    assert len(source.labels) == source.object_counts.sum() == nuclei
