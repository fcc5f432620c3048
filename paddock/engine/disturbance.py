"""Watch what disturbs a measurement: other load on the machine, and a processor or GPU that slows down.

Read from Linux' `/proc/stat` (proc(5)) and sysfs (`cpufreq`, `thermal_throttle`). What a machine does not report, as
many virtual ones, is None and disturbs nothing.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from paddock.model.gpu import is_slowed_down

_CPUS = Path("/sys/devices/system/cpu")
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The disturbance of a measurement.

    `other_cores` is how many of the machine's `cores` other processes used on average; `frequency_change` how much
    slower the cores were clocked at the end, as a share of the beginning (-0.2: a fifth slower); `throttled` whether
    the processor or a GPU was slowed down since it was hot or short of power.
    """

    cores: int
    other_cores: float | None
    frequency_change: float | None
    throttled: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "cores": self.cores,
            "other_cores": self.other_cores,
            "frequency_change": self.frequency_change,
            "throttled": self.throttled,
        }


class DisturbanceWatch:
    """Watches from its construction on."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._busy_before_s = busy_s()
        self._own_s = time.process_time()
        self._mhz = _mean_mhz()
        self._throttles = _throttle_count()

    def end(self) -> Disturbance:
        elapsed_s = time.perf_counter() - self._began_s
        busy_after_s, mhz = busy_s(), _mean_mhz()
        other = None
        if self._busy_before_s is not None and busy_after_s is not None and elapsed_s > 0:
            others_s = busy_after_s - self._busy_before_s - (time.process_time() - self._own_s)
            other = round(max(0.0, others_s / elapsed_s), 2)
        change = round(mhz / self._mhz - 1, 3) if mhz and self._mhz else None
        throttled = _throttle_count() > self._throttles or is_slowed_down()
        # Not the cores that this process may use: `/proc/stat` counts those of the whole machine, in a container too.
        return Disturbance(os.cpu_count() or 1, other, change, throttled)


def busy_s() -> float | None:
    """Seconds that all cores together were not idle, also those that a hypervisor took away."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    except (OSError, ValueError):
        return None
    return float(user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _mean_mhz() -> float | None:
    values = _numbers("cpufreq/scaling_cur_freq")
    return mean(values) / 1000 if values else None


def _throttle_count() -> int:
    return sum(_numbers("thermal_throttle/core_throttle_count"))


def _numbers(name: str) -> list[int]:
    """The number in a file of each core that has it."""
    numbers = []
    for path in _CPUS.glob(f"cpu[0-9]*/{name}"):
        try:
            numbers.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return numbers
