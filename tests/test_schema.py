"""The signature is the schema: unknown keys, missing keys and wrong types, each said in one sentence."""

from functools import partial
from typing import Literal

import flax.linen as nn
import pytest

from vision import schema
from vision.errors import UsageError, unknown_name


def recipe(
    size: int, *, rate: float = 0.1, names: tuple[str, ...] = (), mode: Literal["a", "b"] = "a", flag: bool = False
):
    """A function with one parameter of each kind.

    Args:
        size: how large, over
            two lines: with a colon.
        rate: how fast.
        names: of things.
        mode: a or b.
        flag: on or off.
    """


class Module(nn.Module):
    """A module.

    Attributes:
        width: channels.
    """

    width: int = 8
    norm: object = None


def test_keys_come_from_signature_and_docstring():
    keys = schema.keys(recipe)
    assert list(keys) == ["size", "rate", "names", "mode", "flag"]
    assert keys["size"].required and not keys["rate"].required
    assert keys["size"].meaning == "how large, over two lines: with a colon."
    assert keys["rate"].default == 0.1


def test_keys_of_a_module_leave_out_linen_fields_and_injected_ones():
    assert list(schema.keys(Module, injected=("norm",))) == ["width"]
    bound = schema.keys(partial(Module, width=3), injected=("norm",))["width"]
    assert (bound.default, bound.meaning) == (3, "channels.")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"size": 1, "rat": 0.5}, r"here\.rat: unknown key; did you mean 'rate'\?"),
        ({}, r"here: missing 'size'"),
        ({"size": "1"}, r"here\.size: expected int, given '1' \(str\)"),
        ({"size": True}, r"here\.size: expected int, given True \(bool\)"),
        ({"size": 1, "mode": "c"}, r"here\.mode: expected 'a' or 'b', given 'c'"),
        ({"size": 1, "names": "ab"}, r"here\.names: expected tuple\[str, ...\], given 'ab'"),
        ({"size": 1, "rate": True}, r"here\.rate: expected float"),
        ({"size": 1, "flag": 1}, r"here\.flag: expected bool"),
    ],
)
def test_wrong_sections(section, message):
    with pytest.raises(UsageError, match=message):
        schema.check(recipe, section, "here")


def test_right_sections():
    schema.check(recipe, {"size": 1, "rate": 1, "names": ("x",), "mode": "b", "flag": True}, "here")


def test_unknown_name_offers_the_nearest():
    assert "did you mean 'resnet50'?" in str(
        unknown_name("model", "rasnet50", ["resnet50", "vgg16"], "config.model.name")
    )
    assert "did you mean" not in str(unknown_name("model", "zzz", ["resnet50"]))


def test_a_long_table_lists_only_names_like_the_given_one():
    names = [f"network{index}" for index in range(100)] + ["unlike"]
    message = str(unknown_name("model", "network50x", names))
    assert "did you mean 'network50'?" in message and "(101 in all)" in message and "unlike" not in message
