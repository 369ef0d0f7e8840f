"""Folders of images: layouts, splits that stay when files are added, and mistakes."""

import numpy as np
import pytest

from vision.data import create, open_source
from vision.data.images import opencv
from vision.errors import UsageError


def write(root, **classes):
    """Writes empty image files: `write(root, cat=3)` makes root/cat/0.jpg to root/cat/2.jpg."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number}.jpg").touch()


def files(path, split):
    return {source.describe(i) for source in [open_source(f"folder:{path}", split)] for i in range(len(source))}


def test_a_split_by_hash(tmp_path):
    write(tmp_path, cat=300, dog=200)
    train, val = files(tmp_path, "train"), files(tmp_path, "val")
    assert not train & val and len(train | val) == 500
    assert files(tmp_path, "all") == train | val and files(tmp_path, "test") == val
    assert 370 < len(train) < 430
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.class_names == ("cat", "dog")
    for i in range(len(source)):
        assert f"/{source.class_names[source.labels[i]]}/" in source.describe(i)
        assert source.records[i] == {"image": source.describe(i), "label": source.labels[i]}


def test_files_stay_on_their_side_when_others_are_added(tmp_path):
    write(tmp_path, cat=40, dog=40)
    train, val = files(tmp_path, "train"), files(tmp_path, "val")
    write(tmp_path, cat=80, elk=30)
    assert train <= files(tmp_path, "train") and val <= files(tmp_path, "val")


def test_ranges_of_percent_part_the_files(tmp_path):
    write(tmp_path, cat=200)
    parts = [files(tmp_path, f"all[{low}%:{low + 25}%]") for low in (0, 25, 50, 75)]
    assert sum(map(len, parts)) == 200 == len(set.union(*parts)) and min(map(len, parts)) > 25
    assert files(tmp_path, "all[:80%]") == files(tmp_path, "train")
    assert files(tmp_path, "train[:50%]") | files(tmp_path, "train[50%:]") == files(tmp_path, "train")
    assert files(tmp_path, "train[:50%]") == files(tmp_path, "all[:40%]")


def test_split_folders(tmp_path):
    write(tmp_path / "train", cat=3, dog=2)
    write(tmp_path / "val", dog=2)
    assert len(files(tmp_path, "train")) == 5
    source = open_source(f"folder:{tmp_path}", "val")
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [1, 1]
    with pytest.raises(UsageError, match=r"unknown split 'test'.* Valid: train, val"):
        open_source(f"folder:{tmp_path}", "test")
    write(tmp_path / "val", eel=1)
    with pytest.raises(UsageError, match=r"has the class 'eel', which .*train does not have"):
        open_source(f"folder:{tmp_path}", "val")


def test_what_lies_beside_train_is_left_out(tmp_path):
    write(tmp_path / "train", cat=3, dog=2)
    write(tmp_path / "val", dog=2)
    write(tmp_path, test=4, raw=5)  # images without class folders, as of a contest
    write(tmp_path / "notes", drafts=1)
    assert len(files(tmp_path, "train")) == 5 and len(files(tmp_path, "val")) == 2
    assert open_source(f"folder:{tmp_path}", "train").class_names == ("cat", "dog")
    with pytest.raises(UsageError, match=r"split: .*/test has no subfolders; one folder per class .*, as in .*/train"):
        open_source(f"folder:{tmp_path}", "test")
    with pytest.raises(UsageError, match=r"unknown split 'raw'.* Valid: train, val"):
        open_source(f"folder:{tmp_path}", "raw")


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, car=4, train=4)
    assert open_source(f"folder:{tmp_path}", "all").class_names == ("car", "train")


def test_other_files_are_left_out_and_deeper_ones_are_found(tmp_path):
    write(tmp_path, cat=1)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "more").mkdir()
    for name in ("cat/.x.jpg", "cat/notes.txt", "cat/Thumbs.db", "readme.md", "cat/more/B.PNG"):
        (tmp_path / name).touch()
    assert files(tmp_path, "all") == {str(tmp_path / "cat" / "0.jpg"), str(tmp_path / "cat" / "more" / "B.PNG")}


def test_images_reach_the_batch(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        opencv().imwrite(str(tmp_path / name / "1.bmp"), np.full((4, 4, 3), (0, 0, 100 + label), np.uint8))
    batch = create(f"folder:{tmp_path}", "all", 2, "decode", train=False).batch(0)
    np.testing.assert_array_equal(batch["image"][:, 0, 0], [[100, 0, 0], [101, 0, 0]])
    np.testing.assert_array_equal(batch["label"], [0, 1])


def test_mistakes(tmp_path):
    def error(split="all"):
        with pytest.raises(UsageError) as caught:
            open_source(f"folder:{tmp_path / 'photos'}", split, "config.data.train")
        return str(caught.value)

    assert "there is no folder" in error()
    (tmp_path / "photos").mkdir()
    assert "has no subfolders; one folder per class is expected" in error()
    write(tmp_path / "photos", cat=2, dog=0)
    assert error().endswith("dog has no image.")
    write(tmp_path / "photos", dog=1)
    assert "config.data.train.split: unknown split 'trian'; did you mean 'train'" in error("trian")
    for split in ("train[", "all[:120%]", "all[60%:40%]", "all[:10]", ""):
        assert "is not a split, such as" in error(split)
