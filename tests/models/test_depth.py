"""The numbers of layers, by which learning rates decay."""

import jax
import pytest

from vision import models

pytestmark = pytest.mark.slow  # networks of many layers are traced


def by_layer(name, side, **fields):
    """[parts of the network in layer 0, in layer 1, ...]"""
    numbers = models.layer_numbers(models.create(name, 10, **fields), (side, side, 3))
    layers = [set() for _ in range(max(numbers.values()) + 1)]
    for path, number in numbers.items():
        layers[number].add("/".join(path.split("/")[:2]) if path.startswith("stage_") else path.split("/")[0])
    return layers


def test_resnet_counts_blocks():
    assert by_layer("resnet18", 64) == [
        {"stem"},
        *({f"stage_{stage}/block_{block}"} for stage in (1, 2, 3, 4) for block in (1, 2)),
        {"head"},
    ]


def test_vit_has_its_embeddings_first_and_the_last_norm_with_the_last_block():
    layers = by_layer("vit_ti16", 32, depth=3)
    assert layers == [
        {"class_token", "positions", "patch_embedding"},
        {"block_1"},
        {"block_2"},
        {"block_3", "norm"},
        {"head"},
    ]


def test_order_is_that_of_running_not_of_names():
    numbers = models.layer_numbers(models.create("vit_ti16", 10, depth=12), (32, 32, 3))
    firsts = [numbers[f"block_{block}/norm_1/scale"] for block in range(1, 13)]
    assert firsts == list(range(1, 13))  # block_10 after block_9


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "googlenet", "vit_tiny_r_s16_p8_224"])
def test_every_parameter_has_a_layer_and_the_head_is_last(name):
    model = models.create(name, 10)
    numbers = models.layer_numbers(model, (128, 128, 3))
    shapes = models.variable_shapes(model, (128, 128, 3))["params"]
    assert len(numbers) == len(jax.tree.leaves(shapes))
    assert numbers["head/kernel"] == max(numbers.values())
    assert set(numbers.values()) == set(range(max(numbers.values()) + 1))
