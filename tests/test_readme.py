"""What the README says is there, and what is there is in the README."""

import re
from pathlib import Path

import pytest

from vision.data.catalog import SOURCES
from vision.data.preprocess import PREPROCESS
from vision.data.transforms import TRANSFORMS
from vision.tasks import TASKS
from vision.train.schedules import SCHEDULES
from vision.train.update_rules import OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TABLES = {
    "transforms": TRANSFORMS,
    "sources": [name for name in SOURCES if not name.startswith("fake")],
    "tasks": TASKS,
    "optimisers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "preprocessings": PREPROCESS,
    "configs": [path.name for path in (ROOT / "configs").glob("*.py")],
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_name_is_told(kind):
    missing = [name for name in TABLES[kind] if not re.search(rf"\b{re.escape(name)}\b", README)]
    assert missing == []


def test_its_files_are_there():
    files = re.findall(r"\]\(([\w./]+)\)", README)
    assert files and [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", ["README.md", *(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py"))])
def test_nothing_is_left_to_fill_in(path):
    text = (ROOT / path).read_text()
    assert re.findall(r"^(?:[A-Z]+_)*(?:MEASURED|TEXT|TABLE|OUTPUT|FIXME|TBD)$", text, re.MULTILINE) == []
