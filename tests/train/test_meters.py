"""Meters against a clock that the test turns, and the work of a matrix product against its known count."""

import jax
import jax.numpy as jnp
import pytest

from vision.train import meters


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def meter_and_clock(**arguments):
    clock = Clock()
    return meters.Meter(clock=clock, memory=lambda: None, **arguments), clock


def test_an_interval():
    meter, clock = meter_and_clock(flops_per_step=3e9, peak=1e10, devices=4)
    with meter.excluded():  # compiling
        clock.now += 100
    for _ in range(5):
        with meter.waiting():
            clock.now += 0.5
        meter.tick(64)
        clock.now += 1.5
    assert meter.report() == pytest.approx(
        {
            "step_time": 2.0,
            "data_wait": 0.25,
            "examples_per_second": 32.0,
            "flops_per_second": 4 * 3e9 / 2.0,
            "peak_share": 0.15,
        }
    )
    # The next interval knows nothing of the last one; the totals do.
    meter.tick(10)
    clock.now += 1
    assert meter.report()["examples_per_second"] == 10
    assert (meter.examples_in_total, meter.seconds_in_total) == (330, 11)
    assert meter.report() == {}


def test_waiting_counts_when_the_data_ends():
    meter, clock = meter_and_clock()
    with pytest.raises(StopIteration), meter.waiting():
        clock.now += 3
        raise StopIteration
    meter.tick(1)
    clock.now += 1
    assert meter.report()["data_wait"] == 0.75


def test_steps_of_different_work():
    meter, clock = meter_and_clock(flops_per_step=1e9)
    meter.tick(1)
    meter.flops_per_step = 4e9
    meter.tick(1)
    clock.now += 2
    assert meter.report()["flops_per_second"] == 5e9 / 2
    meter.tick(1)
    meter.flops_per_step = None
    meter.tick(1)
    clock.now += 2
    assert "flops_per_second" not in meter.report()


def test_work_that_is_not_known_is_left_out():
    meter, clock = meter_and_clock(flops_per_step=1e9)
    meter.tick(1)
    clock.now += 1
    report = meter.report()
    assert report["flops_per_second"] == 1e9 and "peak_share" not in report


def test_work_of_a_matrix_product():
    shape = jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((64, 128), jnp.float32)
    flops = meters.compiled_flops(jax.jit(jnp.matmul).lower(*shape).compile())
    assert flops == pytest.approx(2 * 32 * 64 * 128, rel=0.01)


@pytest.mark.parametrize("costs", [None, [], [{}], {"flops": -1.0}, {"bytes accessed": 4.0}])
def test_work_that_xla_does_not_count(costs):
    class Compiled:
        def cost_analysis(self):
            return costs

    assert meters.compiled_flops(Compiled()) is None


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU v3", 61.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla T4", 65),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA GB200", 2250),
    ],
)
def test_peaks_by_the_names_that_devices_give_themselves(kind, tera):
    assert meters.peak_flops(kind) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA RTX A4000", "NVIDIA T400", "TPU v9", ""])
def test_unknown_devices_have_no_peak(kind):
    assert meters.peak_flops(kind) is None


def test_memory_is_the_most_that_was_held():
    before = meters.peak_memory()
    held = bytearray(b"x") * 300_000_000
    after = meters.peak_memory()
    assert 0.01 < before <= after < 1000
    assert after >= len(held) / 1e9
    del held
    assert meters.peak_memory() >= after
