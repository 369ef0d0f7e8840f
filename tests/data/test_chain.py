"""Chains of transforms are parsed, never evaluated."""

import numpy as np
import pytest

from vision.data import chain
from vision.data.chain import Call, parse
from vision.data.transforms import FIXED, TRANSFORMS, is_random
from vision.errors import UsageError


def test_a_chain():
    assert parse("decode|random_resized_crop(224, area=(0.3, 1.0)) | flip()") == (
        Call("decode", {}),
        Call("random_resized_crop", {"size": 224, "area": (0.3, 1.0)}),
        Call("flip", {}),
    )


def test_lines_lists_and_strings():
    assert parse("resize([4, 6],\n  'area')\n | flip") == (
        Call("resize", {"size": (4, 6), "method": "area"}),
        Call("flip", {}),
    )


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_chain(text):
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decode|flop", "config.x: unknown transform 'flop'; did you mean 'flip'"),
        ("decode|random_resize_crop(3)", "did you mean 'random_resized_crop'"),
        ("decode|resize", "resize: missing 'size'"),
        ("resize('a')", r"resize.size: expected int or tuple\[int, int\], given 'a'"),
        ("resize(2.5)", "resize.size: expected int"),
        ("resize(True)", "resize.size: expected int"),
        ("resize(2, 'linear', 4, 5)", "takes 2 arguments"),
        ("resize(2, size=3)", "given twice"),
        ("resize(**{'size': 3})", "given twice, or is not of the form"),
        ("resize(*(1, 2))", "arguments are numbers"),
        ("flip(probablity=1.0)", "flip.probablity: unknown key; did you mean 'probability'"),
        ("flip(rng=3)", "flip.rng: unknown key"),
        ("resize(4, 'bilinear')", "resize.method: expected 'auto' or 'linear'"),
        ("decode||flip", "is not a chain of transforms"),
        ("decode|flip(", "is not a chain of transforms"),
        ("decode + flip", "expected the name of a transform, given 'decode \\+ flip'"),
        ("decode|3", "expected the name of a transform"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text, "config.x")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('pwned')",
        "resize(__import__('os').mkdir('pwned'))",
        "resize(size=[open('pwned', 'w') for _ in '1'])",
        "(lambda: open('pwned', 'w'))()",
        "decode|(pwned := 3)",
        'resize(f\'{open("pwned", "w")}\')',
        "decode.__class__",
        "decode) or open('pwned', 'w') or (decode",
    ],
)
def test_code_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        parse(text)
    assert not list(tmp_path.iterdir())


def test_transforms_draw_from_one_generator_in_turn():
    calls = parse("random_crop(4)|noise(20)|flip")
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    first, second = (chain.apply(calls, {"image": image}, np.random.default_rng(5))["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4, 4, 3)


@pytest.mark.parametrize(
    "text",
    [
        "resize((4, 5))|pad_to(((3, 9), (6, 9), (5, 7)))",
        "scale_jitter|brightness(0.5)|random_crop(6, pad_smaller=True)|resize_small(9)",
        "resize_long(20)|contrast(0.5)|random_resized_crop((7, 3))|letterbox((9, 9))",
        "noise(3)|flip|rotate(9)|central_crop((5, 9))",
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_shape_is_known_without_the_image(text, seed):
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    moved = chain.apply(parse(text), {"image": image}, np.random.default_rng(seed))["image"]
    assert chain.output_shape(parse(text), (9, 11), np.random.default_rng(seed)) == moved.shape[:2]


def test_the_deterministic_part():
    assert parse("decode|random_crop(4)|resize(8)|flip") != parse("decode|resize(8)")
    assert chain.deterministic(parse("decode|random_crop(4)|resize(8)|flip")) == parse("decode|resize(8)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("decode(channels=1)", "decode(channels=1)"),
        ("decode|random_resized_crop(224, area=(0.3, 1.0), method='area')|flip", "decode|resize(224, 'area')"),
        (
            "decode|resize((40, 48))|random_crop((32, 40), padding=4, fill=9)|noise(3)",
            "decode|resize((40, 48))|central_crop((32, 40), fill=9)",
        ),
        (
            "decode|scale_jitter(0.5, 2.0)|random_crop(48, pad_smaller=True)|hue(9)|keep(('boxes',))",
            "decode|central_crop(48, pad_smaller=True)|keep(('boxes',))",
        ),
        (
            "decode|expand|random_iou_crop|random_resize_within((640, 800, 672), 1333)|mosaic(640, centre=(0.3, 0.5))",
            "decode|resize_within((640, 800, 672), 1333)|letterbox(640)",
        ),
        ("resize_long(9)|pad_to([[9, 9], [18, 9]])", "resize_long(9)|pad_to(((9, 9), (18, 9)))"),
    ],
)
def test_the_text_without_chance(text, expected):
    result = chain.deterministic_text(text)
    assert parse(result) == parse(expected)
    assert chain.deterministic_text(result) == result


@pytest.mark.parametrize(
    "text", ["flip|decode", "brightness(0.3)|decode", "brightness(0.3)", "noise(3)", "contrast(0.3)"]
)
def test_an_image_that_is_still_encoded(text):
    with pytest.raises(UsageError, match='put "decode" first'):
        chain.apply(parse(text), {"image": b"..."}, np.random.default_rng(0))


def test_what_takes_the_place_of_a_random_transform_is_fixed_and_gives_the_same_size():
    example = {"image": np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)}
    for name, fixed in FIXED.items():
        assert is_random(TRANSFORMS[name]) and not is_random(TRANSFORMS[fixed])
        text = f"{name}((4,), 99)" if name == "random_resize_within" else f"{name}((4, 5))"
        sizes = {
            chain.apply(parse(each), example, np.random.default_rng(0), lambda calls: example)["image"].shape
            for each in (text, chain.deterministic_text(text))
        }
        assert sizes == {(4, 5, 3)}
