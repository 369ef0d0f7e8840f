"""The command that shows a network."""

import json


def test_summarize(launcher):
    text, markdown, data, listed, narrow = launcher.run_many(
        "summarize",
        [
            ["--model=resnet18", "--image_size=64x96", "--depth=1"],
            ["--model=resnet18", "--format=markdown"],
            ["--model=vit_ti16", "--format=json", "--num_classes=0"],
            ["--model=resnet[15][08]", "--num_classes=10"],
            ["--model=resnet", "--config.model.width=8", "--config.model.stage_sizes=(1,)", "--format=json"],
        ],
    )
    assert (text.code, text.err) == (0, "") and "resnet18, 64x96x3" in text.out and "2x3x512" in text.out
    assert markdown.out.startswith("### resnet18") and "| **total** |" in markdown.out
    assert json.loads(data.out)["parameters"] == 5_717_416 - 193_000
    assert [line.split()[0] for line in listed.out.splitlines()] == ["resnet18", "resnet50"]
    assert json.loads(narrow.out)["rows"][0]["output"] == [112, 112, 8]


def test_mistakes_are_one_sentence(launcher):
    done = launcher.run_many(
        "summarize",
        [
            [],
            ["--model=resnt18"],
            ["--model=vit_b16", "--image_size=225"],
            ["--model=vit_b16", "--image_size=big"],
            ["--model=resnet18", "--config.optimizer.name=adam"],
            ["--model=resnet18", "--config.model.widht=8"],
            ["resnet18"],
        ],
    )
    expected = (
        "--model is missing",
        "did you mean 'resnet18'",
        "resize it to 224x224 or 240x240",
        "--image_size=big: expected a side",
        "only fields of the network",
        "did you mean 'width'",
        "flags begin with --",
    )
    for result, message in zip(done, expected, strict=True):
        assert result.code == 1 and result.err.count("\n") == 1 and message in result.err
