"""What a training loop's speed is made of: step time, waiting for data, examples/s, memory and floating-point work."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Peak of dense matrix products in bfloat16 (float16 where a chip has no bfloat16 units: V100, T4), in FLOP/s per JAX
# device. The first entry whose words are in the device's kind counts, so variants stand before families.
# TPU: Google Cloud's "TPU versions" pages, per chip; halved for v2, v3 and 7x, where a device is one of two cores.
# NVIDIA: data sheets and architecture white papers, the figures without sparsity.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("TPU v2", 46e12 / 2),
    ("TPU v3", 123e12 / 2),
    ("TPU v4 lite", 138e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU7x", 2307e12 / 2),
    ("B200", 2250e12),
    ("GB200", 2250e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("V100-PCIE", 112e12),
    ("V100", 125e12),
    ("A10G", 70e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("T4", 65e12),
    ("A40", 150e12),
    ("A30", 165e12),
    ("A10", 125e12),
    ("RTX A6000", 155e12),
    ("RTX 3090", 71e12),
    ("RTX 4090", 165e12),
    ("RTX 5090", 210e12),
)


def peak_flops(device_kind: str) -> float | None:
    """The device's peak in FLOP/s (dense, bfloat16), or None for one that is not in the table.

    Args:
        device_kind: `jax.Device.device_kind`, such as "NVIDIA A100-SXM4-40GB" or "TPU v5 lite".
    """
    # Whole words only: an "RTX A4000" is no "A40".
    words = f" {device_kind.lower().replace('-', ' ')} "
    for name, peak in PEAK_FLOPS:
        if f" {name.lower().replace('-', ' ')} " in words:
            return peak
    return None


def compiled_flops(compiled: Any) -> float | None:
    """Floating-point operations of one call of a compiled function, on one device; None where XLA does not say.

    A function partitioned over devices counts one device's part. What XLA counts is the program as it runs,
    rematerialisation included, and the body of a loop once: scale the count of a step that scans over micro-batches.

    Args:
        compiled: `jax.jit(f).lower(...).compile()`.
    """
    try:
        costs = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if isinstance(costs, (list, tuple)):  # one per program in some releases of JAX
        costs = costs[0] if costs else None
    flops = (costs or {}).get("flops", -1.0)
    return float(flops) if flops > 0 else None


def peak_memory() -> float | None:
    """The most memory in use so far, in GB (1e9 bytes): of this host's fullest device, or on CPU of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    in_use = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    if in_use:
        return max(in_use) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Meter:
    """Times the loop on the host, between two reports.

    Steps run asynchronously: an interval's figures are right when `report` follows a value read back from the device,
    as it does where the loop logs. In between, nothing waits for the device.

    Attributes:
        flops_per_step: work of one step on one device, or None while it is not known; that of the steps to come, for
            batches of different shapes are different work.
        examples_in_total: real examples of all intervals reported so far.
        seconds_in_total: training seconds of those intervals, without what was excluded.
    """

    def __init__(
        self,
        *,
        flops_per_step: float | None = None,
        peak: float | None = None,
        devices: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        memory: Callable[[], float | None] = peak_memory,
    ):
        """Starts the first interval.

        Args:
            flops_per_step: work of one step on one device, `compiled_flops(...)`; may be set later.
            peak: peak of one device in FLOP/s, `peak_flops(...)`.
            devices: number of devices the step runs on, over all hosts.
            clock: seconds, rising.
            memory: peak memory in GB, or None.
        """
        self.flops_per_step = flops_per_step
        self.examples_in_total = 0
        self.seconds_in_total = 0.0
        self._peak, self._devices, self._clock, self._memory = peak, devices, clock, memory
        self._restart()

    def _restart(self) -> None:
        self._start, self._steps, self._examples = self._clock(), 0, 0
        self._waited = self._excluded = 0.0
        self._flops: float | None = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around `next(batch)`: time in here is waiting for data."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Around compiling, evaluating and saving: time in here is no training time. Not inside `waiting`."""
        start = self._clock()
        try:
            yield
        finally:
            self._excluded += self._clock() - start

    def tick(self, examples: int) -> None:
        """Counts one step of `examples` real examples, over all hosts."""
        self._steps += 1
        self._examples += examples
        known = self._flops is not None and self.flops_per_step
        self._flops = self._flops + self.flops_per_step if known else None

    def report(self) -> dict[str, float]:
        """The figures of the interval since the last report, and a new interval.

        Returns:
            step_time (seconds a step), data_wait (share of the time, 0 to 1), examples_per_second, memory_gb,
            flops_per_second (all devices together) and peak_share (of the devices' peak, 0 to 1); what is not known
            is left out, and without a step since the last report only memory_gb is known.
        """
        seconds = self._clock() - self._start - self._excluded
        result = {}
        if self._steps and seconds > 0:
            result["step_time"] = seconds / self._steps
            result["data_wait"] = min(1.0, self._waited / seconds)
            result["examples_per_second"] = self._examples / seconds
            if self._flops:
                per_device = self._flops / seconds
                result["flops_per_second"] = per_device * self._devices
                if self._peak:
                    result["peak_share"] = per_device / self._peak
        self.examples_in_total += self._examples
        self.seconds_in_total += seconds
        memory = self._memory()
        if memory is not None:
            result["memory_gb"] = memory
        self._restart()
        return result
