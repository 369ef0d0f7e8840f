import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from vision.errors import UsageError
from vision.train import checksums
from vision.train.checkpoints import Checkpoints, library_versions
from vision.train.parameters import parameter_paths
from vision.train.state import TrainState


def make_state(seed=0, width=16):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"conv": {"kernel": draw(3, 3, 2, width)}, "head": {"kernel": draw(width, 5), "bias": draw(5)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1, mu_dtype=jnp.bfloat16))
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    model_state = {
        "batch_stats": {"mean": draw(width).astype(jnp.bfloat16), "count": jnp.int32(2**31 - 1)},
        "empty": {},
    }
    return TrainState(
        step=jnp.int32(seed),
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        ema={"params": params, "model_state": model_state} if seed % 2 else None,
        rng=jax.random.key(seed),
    )


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(parameter_paths(a).items(), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def data_files(folder):
    """The files that hold array values, largest first."""
    files = [path for path in (folder / "state").rglob("d/*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def flip(file, offset, bit=0):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1 << bit
    file.write_bytes(content)


def change(file, old, new):
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: texts.append(text % arguments))
    return texts


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_round_trip_is_exact(tmp_path, seed):
    state, extras = make_state(seed), {"config": {"seed": 1, "list": [1, 2.5, None]}, "name": "é"}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.save(7, state, extras=extras)
        checkpoints.wait()
        assert checkpoints.steps() == [7]
    with Checkpoints(tmp_path) as checkpoints:
        restored, found, step = checkpoints.restore(abstract(state))
    assert_identical(restored, state)
    assert (found, step) == (extras, 7)
    # The key goes on as the same key.
    np.testing.assert_array_equal(jax.random.normal(restored.rng, (3,)), jax.random.normal(state.rng, (3,)))


@pytest.mark.parametrize("impl", ["rbg", "threefry2x32"])
def test_typed_keys_keep_their_generator(tmp_path, impl):
    state = {"one": jax.random.key(3, impl=impl), "many": jax.random.split(jax.random.key(4, impl=impl), 5)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        assert_identical(checkpoints.restore(abstract(state))[0], state)


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    state = {"w": jnp.arange(4_000_000, dtype=jnp.float32)}
    expected = np.array(state["w"])
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: -x - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in range(3):
            checkpoints.save(step, state)
            state = overwrite(state)
        checkpoints.wait()
        for step in range(3):
            restored, _, _ = checkpoints.restore(abstract(state), step)
            np.testing.assert_array_equal(restored["w"], expected if step % 2 == 0 else -expected - 1)


def test_a_restored_state_may_be_donated(tmp_path):
    state = {"w": jnp.arange(1_000_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state))[0]
    changed = jax.jit(lambda tree: {"w": tree["w"] * 2}, donate_argnums=0)(restored)
    np.testing.assert_array_equal(changed["w"], 2 * state["w"])


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 4)])
def test_the_newest_and_the_best_stay(tmp_path, mode, best):
    accuracy = {1: 0.5, 2: 0.9, 3: None, 4: 0.1, 5: float("nan"), 6: 0.6, 7: 0.7, 8: None}
    with Checkpoints(tmp_path, keep=2, best="test/accuracy", best_mode=mode) as checkpoints:
        for step, value in accuracy.items():
            checkpoints.save(step, {"x": jnp.int32(step)}, metrics=None if value is None else {"test/accuracy": value})
        checkpoints.wait()
        assert checkpoints.steps() == [best, 7, 8]
        assert checkpoints.best_step() == best
    # Another process finds the same, also one that was not told which metric decides.
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() == best
        assert checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.int32)}, "best")[2] == best
    with Checkpoints(tmp_path, keep=1, best="test/accuracy", best_mode=mode) as checkpoints:
        checkpoints.save(9, {"x": jnp.int32(9)})
        checkpoints.wait()
        assert checkpoints.steps() == [best, 9]


def test_metrics_that_come_later_make_a_checkpoint_the_best(tmp_path):
    def save(step, metrics, **extras):
        with Checkpoints(tmp_path, keep=1, best="accuracy") as checkpoints:
            return checkpoints.save(step, {"x": jnp.int32(step)}, metrics=metrics, extras=extras)

    save(1, {"accuracy": 0.5})
    assert save(2, {}, owed=True)  # told to end before it could evaluate
    assert save(2, {"accuracy": 0.9}, owed=False)  # the next process does it
    assert not save(2, {"accuracy": 0.1}, owed=True)
    with Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.best_step() == 2
        assert reader.restore({"x": jax.ShapeDtypeStruct((), jnp.int32)})[1:] == ({"owed": False}, 2)
    save(3, {"accuracy": 0.6})
    save(4, {"accuracy": 0.7})
    with Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.steps() == [2, 4]
        assert reader.best_step() == 2


def test_metrics_may_come_while_the_step_is_being_written(tmp_path):
    with Checkpoints(tmp_path, keep=1, best="accuracy") as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(1_000_000)})
        checkpoints.save(1, {"x": jnp.zeros(1_000_000)}, metrics={"accuracy": 0.9})
        checkpoints.save(2, {"x": jnp.zeros(1_000_000)}, metrics={"accuracy": 0.8})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.best_step() == 1


def test_a_process_killed_while_it_adds_metrics_loses_nothing(tmp_path):
    script = """
        import os, signal, sys
        import jax.numpy as jnp
        from vision.train import checkpoints
        store = checkpoints.Checkpoints(sys.argv[1], best="accuracy")
        store.save(1, {"w": jnp.arange(10)})
        store.wait()
        os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.save(1, {"w": jnp.arange(10)}, metrics={"accuracy": 0.5})
    """
    result = run_child(script, tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    with Checkpoints(tmp_path, best="accuracy") as checkpoints:
        assert checkpoints.restore({"w": jax.ShapeDtypeStruct((10,), jnp.int32)})[2] == 1
        assert checkpoints.best_step() is None
        assert checkpoints.save(1, {"w": jnp.arange(10)}, metrics={"accuracy": 0.5})
        assert checkpoints.best_step() == 1


@pytest.mark.parametrize("damage", [os.truncate, lambda file, _: change(file, "0.9", "0.2")])
def test_damaged_metrics_are_named_and_do_not_hide_the_best(tmp_path, warnings, damage):
    accuracy = {1: 0.5, 2: 0.8, 3: 0.7, 4: 0.9}
    with Checkpoints(tmp_path, keep=4, best="accuracy") as checkpoints:
        for step, value in accuracy.items():
            checkpoints.save(step, {"x": jnp.int32(step)}, metrics={"accuracy": value})
    damage(tmp_path / "4" / "checksums" / "record.json", 30)
    for options in ({"read_only": True}, {"best": "accuracy", "keep": 4}):
        warnings.clear()
        with Checkpoints(tmp_path, **options) as checkpoints:
            assert checkpoints.best_step() == 2
            assert "4 is damaged (record.json" in warnings[0]
            assert checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.int32)}, "best")[2] == 2
            assert checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.int32)})[2] == 3


def test_a_reader_follows_a_run_that_saves_and_deletes(tmp_path, monkeypatch, warnings):
    """What is read goes, and something newer comes, right after the folder was listed: more than once."""
    target = {"x": jax.ShapeDtypeStruct((), jnp.int32)}
    with Checkpoints(tmp_path, keep=1, best="accuracy") as checkpoints:
        checkpoints.save(1, {"x": jnp.int32(1)}, metrics={"accuracy": 0.1})
        checkpoints.wait()
        steps = Checkpoints.steps

        def moving_on(reader):
            found = steps(reader)
            if reader.read_only and found[-1] < goal:
                newer = found[-1] + 1
                checkpoints.save(newer, {"x": jnp.int32(newer)}, metrics={"accuracy": newer / 10})
                checkpoints.wait()
            return found

        monkeypatch.setattr(Checkpoints, "steps", moving_on)
        with Checkpoints(tmp_path, read_only=True) as reader:
            for which, goal in (("last", 3), ("best", 5)):
                state, _, step = reader.restore(target, which)
                assert (int(state["x"]), step) == (goal, goal)
            goal = 7
            assert reader.best_step() == 7
            goal = 8
            with pytest.raises(UsageError, match=r"no checkpoint 7 in .*; there are \[8\]"):
                reader.restore(target, 7)
    assert not warnings


def test_a_checkpoint_that_goes_while_its_arrays_are_read_makes_no_noise(tmp_path):
    script = """
        import os, pathlib, sys
        import jax.numpy as jnp
        from vision.train import checkpoints
        path = sys.argv[1]
        with checkpoints.Checkpoints(path) as store:
            for step in (1, 2):
                store.save(step, {"params": {f"w{i}": jnp.ones((100, 100)) for i in range(200)}})
        verify = checkpoints.checksums.verify_files
        def verify_and_delete(folder):
            verify(folder)
            if folder.parent.name == "2":  # half of the arrays fail while the others are on their way
                largest = max(pathlib.Path(folder).rglob("d/*"), key=lambda file: file.stat().st_size)
                os.truncate(largest, largest.stat().st_size // 2)
        checkpoints.checksums.verify_files = verify_and_delete
        print(checkpoints.Checkpoints(path, read_only=True).restore_weights()[2])
    """
    result = run_child(script, tmp_path)
    assert result.stdout == "1\n", result.stderr
    (line,) = result.stderr.splitlines()
    assert "2 is damaged (the arrays cannot be read" in line


def test_without_a_metric_only_the_newest_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, {"x": jnp.int32(step)}, metrics={"test/loss": 1.0 / step})
        checkpoints.wait()
        assert checkpoints.steps() == [20, 30]
        assert checkpoints.best_step() is None
        with pytest.raises(UsageError, match="no best checkpoint"):
            checkpoints.restore({}, "best")


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, {"x": jnp.int32(1)})
        checkpoints.wait()
        assert not checkpoints.save(1, {"x": jnp.int32(2)})
        assert checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.int32)})[0] == {"x": 1}


def test_flips_at_random_places_of_the_data_files_are_caught(tmp_path, warnings):
    rng = np.random.default_rng(0)
    state = make_state(2, width=300)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state)
    files = data_files(tmp_path / "2")
    sizes = np.array([file.stat().st_size for file in files])
    # Ten random bytes, and one in ten random files, which are mostly small.
    places = [divmod_by_sizes(int(place), sizes) for place in rng.integers(sizes.sum(), size=10)]
    places += [(index, int(rng.integers(sizes[index]))) for index in rng.integers(len(files), size=10)]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for index, offset in places:
            bit = int(rng.integers(8))
            flip(files[index], offset, bit)
            with pytest.raises(UsageError, match=r"2 is damaged"):
                checkpoints.restore(abstract(state), 2)
            flip(files[index], offset, bit)
        assert_identical(checkpoints.restore(abstract(state), 2)[0], state)


def divmod_by_sizes(place, sizes):
    """(which part, where in it) of a place in parts of these sizes, one after the other."""
    index = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
    return index, place - int(np.cumsum(sizes)[index] - sizes[index])


def test_an_array_that_was_written_wrongly_is_caught_by_its_own_checksum(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    state = make_state(2, width=300)
    monkeypatch.setattr(checksums, "verify_files", lambda folder: None)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state)
        checkpoints.wait()
        for path in ("params/conv/kernel", "params/head/kernel", "opt_state/1/0/mu/conv/kernel"):
            values = np.asarray(parameter_paths(state)[path]).tobytes()  # stored as they are, without compression
            for file in data_files(tmp_path / "2"):
                start = file.read_bytes().find(values)
                if start < 0:
                    continue
                offset = start + int(rng.integers(len(values)))
                flip(file, offset)
                with pytest.raises(UsageError, match=rf"damaged \(the checksum of {path} does not agree"):
                    checkpoints.restore(abstract(state), 2)
                flip(file, offset)
                break
            else:
                pytest.fail(f"{path} is in no file")


DAMAGE = {
    "flipped": lambda folder: flip(data_files(folder)[0], 1000),
    "truncated": lambda folder: os.truncate(data_files(folder)[0], 1000),
    "missing": lambda folder: data_files(folder)[0].unlink(),
    "no checksums": lambda folder: (folder / "checksums" / "process_0.json").unlink(),
    "empty checksums": lambda folder: (folder / "checksums" / "process_0.json").write_text("{}"),
    "flipped checksums": lambda folder: flip(folder / "checksums" / "process_0.json", 500),
    "other extras": lambda folder: change(folder / "checksums" / "record.json", '"a": 1', '"a": 2'),
    "truncated record": lambda folder: os.truncate(folder / "checksums" / "record.json", 20),
    "no record": lambda folder: (folder / "checksums" / "record.json").unlink(),
    "no state": lambda folder: (folder / "state").rename(folder / "elsewhere"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, warnings, damage):
    states = [make_state(seed, width=300) for seed in (2, 4)]
    with Checkpoints(tmp_path) as checkpoints:
        for state in states:
            checkpoints.save(int(state.step), state, extras={"a": 1})
    DAMAGE[damage](tmp_path / "4")
    with Checkpoints(tmp_path, read_only=True) as reader:
        with pytest.raises(UsageError, match=r"4 is damaged"):
            reader.restore(abstract(states[0]), 4)
        with pytest.raises(UsageError, match=r"4 is damaged"):
            reader.restore_weights(4)
        assert reader.restore_weights()[2] == 2
        assert reader.steps() == [2, 4]
    with Checkpoints(tmp_path) as checkpoints:
        warnings.clear()
        restored, _, step = checkpoints.restore(abstract(states[0]))
        assert step == 2
        assert_identical(restored, states[0])
        assert str(tmp_path / "4") in warnings[0]
        assert "is damaged" in warnings[0]
        # The run goes on, and saves steps 3 and 4 again.
        assert checkpoints.steps() == [2]
        assert checkpoints.save(3, restored)
        assert checkpoints.save(4, states[1], extras={"a": 3})
        checkpoints.wait()
        assert_identical(checkpoints.restore(abstract(states[1]))[0], states[1])


def test_nothing_whole_is_an_error(tmp_path, warnings):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UsageError, match="none was saved"):
            checkpoints.restore({})
        checkpoints.save(1, make_state())
        checkpoints.wait()
        data_files(tmp_path / "1")[0].unlink()
        with pytest.raises(UsageError, match=r"none of \[1\] is whole"):
            checkpoints.restore(abstract(make_state()))


def test_what_does_not_fit_is_said_in_one_sentence(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        with pytest.raises(UsageError) as error:
            checkpoints.restore(abstract(make_state(1, width=8)))
        text = str(error.value)
        assert "params/conv/kernel is (3, 3, 2, 16) float32 in it, (3, 3, 2, 8) float32 here" in text
        assert "and 7 more" in text  # 10 arrays have the width in their shape
        assert len(text) < 500 + len(str(tmp_path))
        target = abstract(state)
        with pytest.raises(UsageError, match=r"ema/model_state/batch_stats/count is only in it"):
            checkpoints.restore(target.replace(ema=None))
        with pytest.raises(UsageError, match=r"params/extra is not in it"):
            checkpoints.restore(target.replace(params=target.params | {"extra": target.step}))
        with pytest.raises(UsageError, match=r"step is \(\) int32 in it, \(\) float32 here"):
            checkpoints.restore(target.replace(step=jax.ShapeDtypeStruct((), jnp.float32)))
        with pytest.raises(UsageError, match=r"rng is \(2,\) key in it"):
            checkpoints.restore(target.replace(rng=jax.ShapeDtypeStruct((2,), jnp.uint32)))


def test_weights_alone_need_no_structure(tmp_path):
    for step in (1, 2):
        state = make_state(step)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, state, extras={"class_names": ["a"]})
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            weights, extras, found = checkpoints.restore_weights()
        assert (found, extras) == (step, {"class_names": ["a"]})
        assert_identical(weights["params"], state.params)
        model_state = {"batch_stats": state.model_state["batch_stats"]}  # what has no array is not kept
        assert_identical(weights["model_state"], model_state)
        if step % 2:
            assert_identical(weights["ema"], {"params": state.params, "model_state": model_state})
        else:
            assert weights["ema"] is None


def test_a_missing_step_offers_those_there_are(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"x": jnp.int32(1)})
        checkpoints.wait()
        with pytest.raises(UsageError, match=r"no checkpoint 5 in .*; there are \[3\], 'last' and 'best'"):
            checkpoints.restore({}, 5)


def test_a_reader_makes_nothing(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Checkpoints(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write checkpoints to .*file/checkpoints: .*nothing was saved"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def run_child(script, *arguments, devices=1):
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_half_written_checkpoint_is_never_picked_up(tmp_path):
    script = """
        import os, signal, sys
        import jax.numpy as jnp
        from vision.train import checkpoints
        store = checkpoints.Checkpoints(sys.argv[1])
        store.save(1, {"w": jnp.arange(100_000)})
        store.wait()
        checkpoints.checksums.write = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # amid the save
        store.save(2, {"w": jnp.arange(100_000) + 1})
        store.wait()
    """
    result = run_child(script, tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert any(path.name.startswith("2") for path in tmp_path.iterdir())  # it had begun
    assert not (tmp_path / "2").exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        restored, _, step = checkpoints.restore({"w": jax.ShapeDtypeStruct((100_000,), jnp.int32)})
        assert step == 1
        np.testing.assert_array_equal(restored["w"], np.arange(100_000))
        checkpoints.save(2, restored)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"1", "2"}  # what was left is swept away


def test_a_full_disk_says_where_and_what_is_safe(tmp_path):
    script = """
        import resource, signal, sys
        import jax.numpy as jnp
        from vision.errors import UsageError
        from vision.train.checkpoints import Checkpoints
        try:
            with Checkpoints(sys.argv[1]) as store:
                store.save(1, {"w": jnp.zeros(1000)})
                store.wait()
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # writes fail beyond it
                store.save(2, {"w": jnp.zeros(1_000_000)})
                store.wait()
        except UsageError as error:
            print(error)
    """
    result = run_child(script, tmp_path)
    expected = f"cannot write checkpoints to {tmp_path}: File too large; the run is safe at step 1"
    assert expected in result.stdout, result.stdout + result.stderr[-2000:]


def test_restoring_onto_another_number_of_devices(tmp_path):
    state = {"w": jnp.arange(64, dtype=jnp.float32).reshape(16, 4), "rng": jax.random.key(1)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    script = """
        import sys
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from vision.train.checkpoints import Checkpoints
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
        target = {
            "w": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=rows),
            "rng": jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=everywhere),
        }
        with Checkpoints(sys.argv[1]) as store:
            state = store.restore(target)[0]
            assert state["w"].sharding == rows and state["rng"].sharding.is_equivalent_to(everywhere, 0)
            np.testing.assert_array_equal(state["w"], np.arange(64).reshape(16, 4))
            # The copies of a small array share NumPy's memory: a donated step must not write where another reads.
            copies = store.restore(target | {"w": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=everywhere)})[0]
            doubled = jax.jit(lambda w: 2 * w + 1, donate_argnums=0)(copies["w"])
            for shard in doubled.addressable_shards:
                np.testing.assert_array_equal(shard.data, 2 * np.arange(64).reshape(16, 4) + 1)
            store.save(2, state)
    """
    result = run_child(script, tmp_path, devices=8)
    assert result.returncode == 0, result.stderr[-3000:]
    with Checkpoints(tmp_path) as checkpoints:  # saved by 8 devices, each with its own checksum
        assert_identical(checkpoints.restore(abstract(state), 2)[0], state)
    record = json.loads((tmp_path / "2" / "checksums" / "process_0.json").read_text())["content"]
    assert list(record["w"]["crc32"]) == [f"{row}:{row + 2},0:4" for row in range(0, 16, 2)]


def test_library_versions():
    versions = library_versions()
    assert versions["jax"] == jax.__version__
    assert {"python", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(versions)
    assert json.loads(json.dumps(versions)) == versions


def test_saving_waits_for_no_disk(tmp_path):
    state = {"w": jnp.ones(25_000_000)}  # 100 MB
    jax.block_until_ready(state)
    with Checkpoints(tmp_path) as checkpoints:
        start = time.perf_counter()
        checkpoints.save(1, state)
        blocked = time.perf_counter() - start
        checkpoints.wait()
        total = time.perf_counter() - start
    assert blocked < 0.75 * total
