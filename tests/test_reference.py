"""The reference of a config's keys: complete, with a meaning for each."""

import itertools
import re
from pathlib import Path

import pytest

from vision import config as configs
from vision import reference, sections

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"  --(config[\w.]*)=(.*)   \[(.+)\]")


@pytest.mark.parametrize("network", ["linear", "mlp", "lenet", "resnet", "vit", "autoencoder"])
def test_every_key_with_its_value_meaning_and_file(network):
    config = configs.load(f"{ROOT}/configs/digits.py:{network}")
    shown, undocumented, lines = {}, [], reference.explain(config).splitlines()
    for line, following in itertools.pairwise(lines):
        entry = ENTRY.fullmatch(line)
        if entry:
            shown[entry[1].removeprefix("config.")] = entry[2]
            if not following.startswith("      ") and not entry[1].endswith(".name"):
                undocumented.append(entry[1])
    expected = {path: repr(value) for path, value in configs.flatten(sections.complete(config))}
    assert shown == expected
    assert not undocumented
    files = re.findall(r"^config[\w.]*   \((.+)\)$", "\n".join(lines), re.MULTILINE)
    assert len(files) == len(list(sections.sections(sections.complete(config))))
    assert all((ROOT / file).is_file() for file in files)


def test_what_is_left_to_weights_that_are_not_at_hand():
    text = reference.explain(configs.load(f"{ROOT}/configs/transfer.py:frozen"))
    assert re.search(r"--config.data.preprocess.name='weights'   \[str\]\n +one of .*standardize_each, weights\.", text)
    assert "--config.data.train.transforms='weights'   [str]" in text
    assert "--config.init.weights='resnet50.safetensors'" in text


def test_names_come_with_their_alternatives():
    text = reference.explain(configs.load(f"{ROOT}/configs/digits.py:mlp"))
    for shown in ("model.name='mlp'", "task.name='classification'", "optimizer.name='adamw'"):
        assert f"--config.{shown}   [str]\n      one of " in text
    for name in ("autoencoder", "resnet50", "segmentation", "lion"):
        assert re.search(rf"\b{name}[,.]", text)
    assert max(map(len, text.splitlines())) < 200
    assert "--config.parallel='jit'   ['jit' or 'pmap']" in text
