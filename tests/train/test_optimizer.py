import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from vision.errors import UsageError
from vision.train import optimizer as optimizers
from vision.train.durations import Clock
from vision.train.update_rules import OPTIMIZERS

CLOCK = Clock(batch_size=10, num_examples=100, total_steps=100)


def network(seed=0):
    """Parameters of every kind: convolution, attention, norm, dense."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
        "attention": {"query": {"kernel": (4, 2, 3)}, "out": {"kernel": (2, 3, 4)}},
        "head": {"kernel": (4, 5), "bias": (5,)},
        "position": (1, 7, 4),
    }
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def small(seed=0):
    """Fewer parameters, for what is compiled for every optimiser."""
    params = network(seed)
    return {"conv": {"kernel": params["conv"]["kernel"]}, "head": params["head"]}


def kernels(seed=0):
    """Parameters that are all kernels."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 4), "dense": (4, 5), "head": (5, 2)}
    return {name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)} for name, shape in shapes.items()}


def create(name, params, **section):
    section.setdefault("learning_rate", 0.1)
    return optimizers.create(name=name, params=params, clock=CLOCK, **section)


def run(transform, params, steps=5, gradient=None):
    """Parameters after some steps down a quadratic with another curvature in every coordinate."""
    curvature = jax.tree.map(lambda x: jnp.linspace(0.1, 1.0, x.size).reshape(x.shape), params)
    gradient = gradient or (lambda p: jax.tree.map(jnp.multiply, curvature, p))

    @jax.jit
    def step(params, state):
        updates, state = transform.update(gradient(params), state, params, value=jnp.float32(1))
        return optax.apply_updates(params, updates), state

    state = transform.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **({"rtol": 1e-5, "atol": 1e-6} | tolerance)), a, b)


SETTINGS = {"adadelta": {"learning_rate": 10.0}, "lars": {"trust_coefficient": 1.0}, "lion": {"learning_rate": 0.02}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_goes_down_a_quadratic(name):
    params = small()
    transform = create(
        name, params, **({"learning_rate": 0.05, "weight_decay": 1e-4} | SETTINGS.get(name, {}))
    ).transform
    size = lambda tree: sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(run(transform, params, steps=30)) < 0.8 * size(params)


REFERENCES = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adagrad": optax.adagrad(0.1),
    "adadelta": optax.adadelta(0.1),
    "rmsprop": optax.rmsprop(0.1),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.0),
    "lion": optax.lion(0.1, weight_decay=0.0),
    "adafactor": optax.adafactor(0.1),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_optax_optimiser_of_that_name(name):
    params = small()
    assert_same(
        run(create(name, params).transform, params), run(optax.with_extra_args_support(REFERENCES[name]), params)
    )


@pytest.mark.parametrize(
    ("name", "arguments", "reference"),
    [
        ("rmsprop", {"momentum": 0.5, "centered": True}, optax.rmsprop(0.1, momentum=0.5, centered=True)),
        ("adam", {"b1": 0.8, "nesterov": True}, optax.adam(0.1, b1=0.8, nesterov=True)),
        (
            "adafactor",
            {"momentum": 0.9, "clipping_threshold": 0.5},
            optax.adafactor(0.1, momentum=0.9, clipping_threshold=0.5),
        ),
    ],
)
def test_arguments_reach_the_optimiser(name, arguments, reference):
    params = small()
    ours = create(name, params, **arguments).transform
    assert_same(run(ours, params), run(optax.with_extra_args_support(reference), params))


@pytest.mark.parametrize(
    ("name", "reference"),
    [  # where every parameter is a kernel, the default decay is everywhere
        ("adamw", optax.adamw(0.1, weight_decay=0.3)),
        ("lion", optax.lion(0.1, weight_decay=0.3)),
        ("lamb", optax.lamb(0.1, weight_decay=0.3)),
        ("lars", optax.lars(0.1, weight_decay=0.3)),
    ],
)
def test_decay_of_kernels_equals_optax(name, reference):
    params = kernels()
    ours = create(name, params, weight_decay=0.3).transform
    assert_same(run(ours, params), run(optax.with_extra_args_support(reference), params))


def test_decay_is_decoupled_and_of_kernels_only_by_default():
    params = network()
    zero = lambda p: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
    for name in ("sgd", "momentum", "adamw", "rmsprop", "muon"):
        after = run(create(name, params, weight_decay=0.5).transform, params, steps=1, gradient=zero)
        assert_same(after["head"]["kernel"], params["head"]["kernel"] * (1 - 0.1 * 0.5))
        assert_same(after["conv"]["kernel"], params["conv"]["kernel"] * (1 - 0.1 * 0.5))
        for path in (("head", "bias"), ("norm", "scale")):
            np.testing.assert_array_equal(after[path[0]][path[1]], params[path[0]][path[1]])
        np.testing.assert_array_equal(after["position"], params["position"])


def test_decay_follows_the_rules():
    params = network()
    rules = (("head/kernel", {"decay": 0.0}), ("position", {"decay": 2.0}))
    zero = lambda p: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
    after = run(create("sgd", params, weight_decay=0.5, rules=rules).transform, params, steps=1, gradient=zero)
    np.testing.assert_array_equal(after["head"]["kernel"], params["head"]["kernel"])
    assert_same(after["position"], params["position"] * (1 - 0.1 * 0.5 * 2))
    assert_same(after["conv"]["kernel"], params["conv"]["kernel"] * (1 - 0.1 * 0.5))


def test_a_multiplier_scales_the_update_of_sgd_exactly():
    params = network()
    gradient = network(1)
    plain = create("sgd", params).transform
    scaled = create("sgd", params, rules=(("head/.*", {"lr": 0.25}),)).transform
    a, _ = plain.update(gradient, plain.init(params), params)
    b, _ = scaled.update(gradient, scaled.init(params), params)
    np.testing.assert_array_equal(b["head"]["kernel"], 0.25 * a["head"]["kernel"])
    np.testing.assert_array_equal(b["conv"]["kernel"], a["conv"]["kernel"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_do_not_move_and_hold_no_memory(name):
    params = small()
    rules = [["conv/.*", {"freeze": True}]]  # lists, as JSON has them
    section = {"rules": rules, "weight_decay": 0.1, "clip_norm": 1.0}
    frozen = create(name, params, **section).transform
    after = run(frozen, params, steps=3)
    np.testing.assert_array_equal(after["conv"]["kernel"], params["conv"]["kernel"])
    assert np.any(after["head"]["kernel"] != params["head"]["kernel"])
    # The memory is that of a network without them, and so are the updates of the rest.
    rest = {"head": params["head"]}
    alone = create(name, rest, weight_decay=0.1, clip_norm=1.0).transform
    size = lambda state: sum(x.size for x in jax.tree.leaves(state))  # noqa: E731
    assert size(frozen.init(params)) == size(alone.init(rest))
    assert_same({"head": after["head"]}, run(alone, rest, steps=3))


def test_clipping_is_by_the_global_norm():
    params, gradient = network(), network(1)
    norm = float(optax.tree.norm(gradient))
    for limit, factor in ((norm / 2, 0.5), (norm * 2, 1.0)):
        transform = create("sgd", params, learning_rate=1.0, clip_norm=limit).transform
        updates, _ = transform.update(gradient, transform.init(params), params)
        assert_same(updates, jax.tree.map(lambda g, factor=factor: -factor * g, gradient))


def test_clipping_does_not_count_frozen_gradients():
    params, gradient = network(), network(1)
    limit = 0.5 * float(optax.tree.norm(gradient["head"]))
    rules = (("head/.*", {}), (".*", {"freeze": True}))
    transform = create("sgd", params, learning_rate=1.0, clip_norm=limit, rules=rules).transform
    updates, _ = transform.update(gradient, transform.init(params), params)
    assert_same(updates["head"], jax.tree.map(lambda g: -0.5 * g, gradient["head"]))


def test_muon_orthogonalises_hidden_kernels_as_matrices_and_leaves_the_rest_to_adam():
    params, gradient = network(), network(1)
    muon = create("muon", params, consistent_rms=None, learning_rate=1.0, ns_steps=12).transform
    adam = create("adam", params, learning_rate=1.0, b2=0.95).transform
    updates, _ = muon.update(gradient, muon.init(params), params)
    expected, _ = adam.update(gradient, adam.init(params), params)
    assert_same(updates["head"], expected["head"])
    assert_same(updates["position"], expected["position"])
    assert_same(updates["norm"], expected["norm"])
    matrices = {"conv": (18, 4), "query": (4, 6), "out": (6, 4)}
    found = {"conv": updates["conv"], **updates["attention"]}
    for name, shape in matrices.items():
        rows, columns = shape
        singular = np.linalg.svd(np.asarray(found[name]["kernel"]).reshape(shape), compute_uv=False)
        # The quintic iteration maps every singular value to about [0.7, 1.2]; then the shape's factor.
        assert np.all(np.abs(singular / np.sqrt(max(1, columns / rows)) - 1) < 0.35), (name, singular)


def test_muon_updates_have_the_root_mean_square_of_adam():
    params, gradient = network(), network(1)
    transform = create("muon", params, learning_rate=1.0).transform
    updates, _ = transform.update(gradient, transform.init(params), params)
    for kernel in (updates["conv"]["kernel"], updates["attention"]["query"]["kernel"]):
        assert float(jnp.sqrt(jnp.mean(kernel**2))) == pytest.approx(0.2, rel=0.3)


def test_muon_on_a_plain_matrix_equals_optax():
    params = {"hidden": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)}}
    ours = run(create("muon", params).transform, params)
    assert_same(ours, run(optax.with_extra_args_support(optax.contrib.muon(0.1, consistent_rms=0.2)), params))


def test_the_learning_rate_follows_the_schedule_of_its_own_count():
    params = {"w": jnp.zeros(())}
    made = create("sgd", params, schedule="cosine", warmup="10%", learning_rate=2.0)
    state, moved = made.transform.init(params), []
    for _ in range(20):
        updates, state = made.transform.update({"w": jnp.float32(1)}, state, params)
        moved.append(-float(updates["w"]))
    np.testing.assert_allclose(moved, [float(made.schedule(step)) for step in range(20)], rtol=1e-6)
    assert float(optimizers.current_learning_rate(made, 5, state)) == pytest.approx(1.0)


def test_reduce_on_plateau_lives_in_the_optimiser_state():
    params = {"w": jnp.zeros(())}
    schedule = {"name": "reduce_on_plateau", "every": "2 steps", "patience": 3, "factor": 0.5, "final": 0.2}
    made = create("sgd", params, schedule=schedule, learning_rate=1.0)
    rates, state = [], made.transform.init(params)
    update = jax.jit(made.transform.update)
    for step in range(40):
        updates, state = update({"w": jnp.float32(1)}, state, params, value=jnp.float32(1.0))
        rates.append(-float(updates["w"]))
        assert rates[-1] == pytest.approx(float(optimizers.current_learning_rate(made, step, state)))
    # Compared every 2 steps; the first comparison is the best so far, the next 3 show no improvement: step 8 is halved.
    np.testing.assert_allclose(
        rates, np.select([np.arange(40) < 7, np.arange(40) < 13, np.arange(40) < 19], [1, 0.5, 0.25], 0.2)
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "adamm"}, r"config\.optimizer\.name: unknown optimizer 'adamm'; did you mean 'adam"),
        ({"name": "adam", "betta1": 0.9}, r"config\.optimizer\.betta1: unknown key"),
        ({"name": "adam", "momentun": 0.9}, r"momentun: unknown key"),
        ({"name": "momentum", "momentun": 0.9}, r"did you mean 'momentum'"),
        ({"name": "adam", "b1": "x"}, r"config\.optimizer\.b1: expected float"),
        ({"name": "adam", "learning_rate": -1.0}, r"learning_rate: -1\.0 must be 0 or above"),
        ({"name": "adam", "ema": 1.5}, r"ema: 1\.5 must be between 0 and 1"),
        ({"name": "adam", "clip_norm": 0.0}, r"clip_norm: 0\.0 must be above 0"),
        ({"name": "adam", "accumulate": 0}, r"accumulate: 0 must be 1 or above"),
        ({"name": "adam", "warmup": "5 parsecs"}, r"config\.optimizer\.warmup: '5 parsecs' is not a duration"),
        (
            {"name": "adam", "rules": (("x",),)},
            r"config\.optimizer\.rules\[0\]: expected \(regular expression, options\)",
        ),
        ({"name": "adam", "rules": ((".*", {"lrr": 1.0}),)}, r"rules\[0\]\.lrr: unknown key; did you mean 'lr'"),
        ({"name": "adam", "rules": ((".*", {"freeze": 1}),)}, r"rules\[0\]\.freeze: expected bool"),
        ({"name": "adam", "rules": (("haed/.*", {"lr": 0.1}),)}, r"matches no parameter"),
    ],
)
def test_what_is_wrong_is_named(section, message):
    with pytest.raises(UsageError, match=message):
        create(params=network(), **section)


def test_a_section_needs_a_name_and_a_learning_rate():
    with pytest.raises(UsageError, match=r"config\.optimizer: missing 'name'"):
        optimizers.check({})
    with pytest.raises(UsageError, match=r"missing 'learning_rate'"):
        optimizers.check({"name": "sgd"})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_key_has_a_meaning(name):
    keys = optimizers.keys_for(name)
    assert [key for key, entry in keys.items() if not entry.meaning] == []
    assert {"learning_rate", "schedule", "weight_decay", "rules", "ema", "accumulate"} <= set(keys)
    defaults = {key: entry.default for key, entry in keys.items() if not entry.required}
    assert json.loads(json.dumps(defaults)).keys() == defaults.keys()
    optimizers.check({**defaults, "name": name, "learning_rate": 0.1})


def test_the_description_counts_parameters():
    text = create("adamw", network(), weight_decay=0.1, rules=(("conv/.*", {"freeze": True}),)).description
    assert text.startswith("adamw, learning rate 0.1 (constant); ")
    assert "76 parameters frozen" in text  # 3 * 3 * 2 * 4 + 4
    assert "68 parameters with decay 0.1" in text  # 4 * 2 * 3 + 2 * 3 * 4 + 4 * 5
