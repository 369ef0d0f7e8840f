"""The loop's bookkeeping, with a step of plain arithmetic: what is logged, saved, evaluated and when it stops."""

import jax.numpy as jnp
import pytest

from vision.errors import UsageError
from vision.train import loop
from vision.train.meters import Meter
from vision.train.state import TrainState


class Step:
    """A step whose loss is a function of the step: `CompiledStep` without a network."""

    compile_seconds, flops = 0.5, None

    def __init__(self, loss=float):
        self.loss, self.compiled = loss, 0

    def is_new(self, batch):
        return not self.compiled

    def compile(self, state, batch):
        self.compiled += 1

    def __call__(self, state, batch):
        number = int(state.step) + 1
        assert batch == number  # every step gets its own batch
        return state.replace(step=jnp.int32(number)), {"loss": (jnp.float32(self.loss(number)), jnp.float32(1))}


def at(step):
    return TrainState(jnp.int32(step), None, None, None, None, None)


def fit(
    times, start=0, step=None, progress=None, stop=lambda step: None, improved=lambda metrics: False, evaluate=None
):
    """(outcome, rows written, saved {step: (metrics, progress)}) of a run without a network."""
    rows, saved = {}, {}
    hooks = loop.Hooks(
        write=lambda at, row: rows.__setitem__(at, row),
        evaluate=evaluate or (lambda state: {"test/loss": 10.0 - int(state.step)}),
        improved=improved,
        save=lambda at, state, metrics, progress: saved.__setitem__(at, (metrics, progress)),
        show=lambda at, metrics, report: None,
        stop=stop,
    )
    batches = iter((number, 1) for number in range(start + 1, 1000))
    outcome = loop.fit(at(start), step or Step(), batches, times, hooks, Meter(), progress)
    return outcome, rows, saved


def logged(rows, name="train/loss"):
    return {step: row[name] for step, row in rows.items() if name in row}


def test_logs_means_and_everything_at_the_end():
    outcome, rows, saved = fit(loop.Times(total=11, log=3, evaluate=4, save=5))
    assert logged(rows) == {3: 2, 6: 5, 9: 8, 11: 10.5}
    assert logged(rows, "test/loss") == {4: 6, 8: 2, 11: -1}
    assert sorted(saved) == [5, 10, 11]
    assert saved[11][0] == {"test/loss": -1}
    assert outcome.step == 11 and outcome.stopped_by is None


def test_never_means_at_the_end_only():
    _, rows, saved = fit(loop.Times(total=4, log=0, evaluate=0, save=0))
    assert sorted(rows) == [4] and sorted(saved) == [4]


@pytest.mark.parametrize("cut", range(1, 11))
def test_resuming_anywhere_logs_the_same(cut):
    times = loop.Times(total=11, log=4, evaluate=3, save=cut)
    _, straight, _ = fit(times)
    _, before, saved = fit(times, stop=lambda step: "SIGTERM" if step == cut else None)
    assert max(saved) == cut
    _, after, _ = fit(times, start=cut, progress=saved[cut][1])
    resumed = {step: row for step, row in before.items() if step <= cut} | after
    assert logged(resumed) == logged(straight)
    assert logged(resumed, "test/loss") == logged(straight, "test/loss")


def test_a_signal_saves_and_stops():
    outcome, rows, saved = fit(loop.Times(9, 2, 0, 0), stop=lambda step: "SIGTERM" if step == 5 else None)
    assert (outcome.step, outcome.stopped_by) == (5, "SIGTERM")
    assert sorted(saved) == [5] and sorted(rows) == [2, 4]
    assert saved[5][1]["pending"] == [(5, {"loss": (5.0, 1.0)})]


def test_an_improvement_is_saved_between_intervals():
    _, _, saved = fit(loop.Times(10, 0, 3, 0), improved=lambda metrics: metrics.get("test/loss") == 4)
    assert sorted(saved) == [6, 10]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_metric_and_last_good_checkpoint(bad):
    def loss(step):
        return bad if step == 8 else 1.0

    with pytest.raises(UsageError, match=r"step 8: loss is (nan|inf).*checkpoint of step 5 is the last good one"):
        fit(loop.Times(20, 10, 0, 5), step=Step(loss))
    with pytest.raises(UsageError, match=r"step 8: .*no checkpoint yet"):
        fit(loop.Times(20, 10, 0, 0), step=Step(loss))


def test_a_bad_state_is_never_saved():
    saved = {}
    with pytest.raises(UsageError, match="step 5: loss"):
        saved = fit(loop.Times(20, 10, 0, 5), step=Step(lambda step: float("nan") if step == 5 else 1.0))[2]
    assert not saved


def test_batches_are_sent_ahead_in_order():
    import numpy as np

    sent = []
    host = ({"mask": np.ones(3), "n": n} for n in range(5))
    batches = loop.prefetch_to_device(host, lambda batch: sent.append(batch["n"]) or batch["n"], ahead=2)
    assert next(batches) == (0, 3)
    assert sent == [0, 1]
    assert [batch for batch, _ in batches] == [1, 2, 3, 4]


def test_told_to_stop_during_an_evaluation_saves_and_owes_it():
    times = loop.Times(total=9, log=3, evaluate=3, save=0)
    _, straight, _ = fit(times)
    stopping = []

    def evaluate(state):
        if int(state.step) == 6 and not stopping:
            stopping.append("SIGTERM")
            return None
        return {"test/loss": 10.0 - int(state.step)}

    outcome, before, saved = fit(times, evaluate=evaluate, stop=lambda step: stopping[0] if stopping else None)
    assert (outcome.step, outcome.stopped_by, sorted(before), sorted(saved)) == (6, "SIGTERM", [3], [6])
    _, after, _ = fit(times, start=6, progress=saved[6][1])
    assert logged(before | after) == logged(straight)
    assert logged(before | after, "test/loss") == logged(straight, "test/loss")


def test_metrics_are_fetched_now_and_then_even_without_a_log(monkeypatch):
    monkeypatch.setattr(loop, "LONGEST_PENDING", 4)
    with pytest.raises(UsageError, match="step 6: loss"):
        fit(loop.Times(900, 0, 0, 0), step=Step(lambda step: float("nan") if step == 6 else 1.0))
