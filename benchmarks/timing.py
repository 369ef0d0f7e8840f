"""How benchmarks compare: in turns, by medians."""

import statistics
import time
from collections.abc import Callable

import jax


def medians(functions: list[Callable], repeats: int) -> list[float]:
    """Median milliseconds of each function, run in turns so that whatever else the machine does hits all alike."""
    times = [[] for _ in functions]
    for function in functions:
        jax.block_until_ready(function())  # compiles
    for _ in range(repeats):
        for function, spent in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            spent.append(1000 * (time.perf_counter() - start))
    return [statistics.median(spent) for spent in times]
