"""Judge whether a benchmark can be believed: how much its repetitions differ, and what disturbed it.

A disturbed result is wrong by an unknown amount. It is marked with the reasons, is not compared with others, and is
measured again where there is time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_SPREAD = 0.10
"""Of the repetitions of one length, (slowest - fastest) / median."""
MAX_OTHER_SHARE = 0.10
"""Of the machine's cores, used by other processes."""
MAX_GPU_OTHER_SHARE = 0.75
"""The same while a GPU computes: the engine needs one core then."""
MAX_BANDWIDTH_SHARE = 1.10
"""Of the memory's bandwidth, read by decode: more is impossible, so that one of the two was disturbed."""
CACHED_BYTES = 64 * 2**20
"""The size of weights that a processor's cache may hold, for which the bandwidth is no limit."""
MIN_FREQUENCY_CHANGE = -0.10


def doubts(
    spreads: Mapping[str, float | None],
    disturbance: Mapping[str, Any],
    *,
    on_gpu: bool,
    weights_bytes: int,
    read_bytes_per_s: float | None,
    bandwidth_bytes_per_s: int | None,
) -> tuple[str, ...]:
    """Return why a result cannot be believed, a sentence part for each reason; empty where it can.

    `spreads` are those of each length, by its name; `disturbance` is that of `paddock.engine.disturbance`.
    """
    return (
        *_wide(spreads),
        *_busy(disturbance, MAX_GPU_OTHER_SHARE if on_gpu else MAX_OTHER_SHARE),
        *_slowed(disturbance),
        *_impossible(weights_bytes, read_bytes_per_s, bandwidth_bytes_per_s),
    )


def _wide(spreads: Mapping[str, float | None]) -> Sequence[str]:
    return [
        f"the repetitions of the {name} differ by {spread:.0%}"
        for name, spread in spreads.items()
        if spread is not None and spread > MAX_SPREAD
    ]


def _busy(disturbance: Mapping[str, Any], most: float) -> Sequence[str]:
    other_cores, cores = disturbance.get("other_cores"), disturbance.get("cores", 1)
    if other_cores is None or other_cores <= most * cores:
        return []
    return [f"other processes used {other_cores:.1f} of {cores} cores"]


def _slowed(disturbance: Mapping[str, Any]) -> Sequence[str]:
    if disturbance.get("throttled"):
        return ["the processor or the GPU was slowed down, since it was hot or short of power"]
    change = disturbance.get("frequency_change")
    if change is not None and change < MIN_FREQUENCY_CHANGE:
        return [f"the processor was clocked {-change:.0%} slower at the end"]
    return []


def _impossible(weights_bytes: int, read: float | None, bandwidth: int | None) -> Sequence[str]:
    if read is None or not bandwidth or weights_bytes < CACHED_BYTES or read <= MAX_BANDWIDTH_SHARE * bandwidth:
        return []
    return [f"decode read {read / 1e9:.1f} GB/s, more than the memory's {bandwidth / 1e9:.1f} GB/s"]
