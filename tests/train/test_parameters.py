import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.errors import UsageError
from vision.train.parameters import is_kernel, map_with_path, match, parameter_paths

PARAMS = {
    "backbone": {"stage_1": {"conv": {"kernel": np.ones((3, 3, 2, 4))}, "norm": {"scale": np.ones(4)}}},
    "head": {"kernel": np.ones((4, 2)), "bias": np.ones(2)},
}
PATHS = ["backbone/stage_1/conv/kernel", "backbone/stage_1/norm/scale", "head/bias", "head/kernel"]


def test_paths_are_in_the_order_of_the_leaves():
    paths = parameter_paths(PARAMS)
    assert list(paths) == PATHS
    assert all(a is b for a, b in zip(paths.values(), jax.tree.leaves(PARAMS), strict=True))


def test_an_optimiser_state_has_paths_too():
    state = optax.adam(0.1).init({"w": jnp.ones(2)})
    assert list(parameter_paths({"opt_state": state})) == ["opt_state/0/count", "opt_state/0/mu/w", "opt_state/0/nu/w"]


def test_map_with_path_keeps_the_structure():
    sizes = map_with_path(lambda path, leaf, other: (path, leaf.size + other.size), PARAMS, PARAMS)
    assert sizes["head"]["bias"] == ("head/bias", 4)


def test_the_first_match_of_the_whole_path_wins():
    found = match(["head/.*", ".*/kernel"], PARAMS, "rules")
    assert found == dict(zip(PATHS, [1, None, 0, 0], strict=True))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["haed/.*"], r"rules\[0\]: 'haed/\.\*' matches no parameter; the nearest are 'head/"),
        (["stage_1"], r"only a part of 'backbone/stage_1/conv/kernel', 'backbone/stage_1/norm/scale'; write '\.\*'"),
        ([".*", "head/.*"], r"rules\[1\]: 'head/\.\*' never applies: an earlier rule, '\.\*', matches first"),
        (["(head"], r"rules\[0\]: '\(head' is not a regular expression"),
    ],
)
def test_a_rule_that_decides_nothing_is_an_error(patterns, message):
    with pytest.raises(UsageError, match=message):
        match(patterns, PARAMS, "rules")


def test_kernels():
    assert [is_kernel(path) for path in PATHS] == [True, False, False, True]
    assert is_kernel("kernel")
    assert not is_kernel("kernel/bias")
