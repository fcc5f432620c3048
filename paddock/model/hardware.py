"""The machine that a model would run on.

Counts are what this process may use, not what the box has: the cores of its affinity and its cgroup's quota, the
memory under its cgroup's limit. Asking never fails: what cannot be learned is left out.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from paddock.model.gpu import Gpu, detect_gpus

_UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores` are physical ones: a second hardware thread of a core adds nothing to matrix products. `why_no_gpu` is a
    sentence for people where there is none, and empty where there is one.
    """

    cpu: str
    cores: int
    ram_bytes: int
    ram_available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    why_no_gpu: str = ""

    @property
    def identity(self) -> str:
        """What decides how fast the engine runs here, as 12 hex digits: not the memory that happens to be free."""
        facts = (
            self.cpu,
            self.cores,
            round(self.ram_bytes / 2**30),
            [(gpu.name, round(gpu.vram_bytes / 2**30)) for gpu in self.gpus],
        )
        return sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "ram_bytes": self.ram_bytes,
            "ram_available_bytes": self.ram_available_bytes,
            "gpus": [gpu.to_json() for gpu in self.gpus],
            "why_no_gpu": self.why_no_gpu,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Machine:
        return cls(**{**value, "gpus": tuple(Gpu(**gpu) for gpu in value["gpus"])})


def this_machine() -> Machine:
    """This machine, as this process may use it now."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit, used in _memory_limits():
        total, available = min(total, limit), min(available, max(limit - used, 0))
    seen = detect_gpus()
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        ram_bytes=total,
        ram_available_bytes=available,
        gpus=seen.gpus,
        why_no_gpu=seen.unavailable_reason,
    )


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    usable = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    physical = {_siblings(number) for number in usable}
    return max(1, min([len(physical), *_cpu_quotas()]))


def _siblings(number: int) -> str:
    """The hardware threads of the core that thread `number` belongs to; itself alone where the system does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _cgroups(controller: str) -> Iterator[Path]:
    """The directories of this process's cgroup and of those above it: a limit of any of them holds."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, name = line.split(":", 2)
            if number != "0" and controller not in controllers.split(","):
                continue
            root = Path("/sys/fs/cgroup") if number == "0" else Path("/sys/fs/cgroup") / controller
            here = root / name.lstrip("/")
            yield from (place for place in (here, *here.parents) if place.is_relative_to(root))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _cpu_quotas() -> Iterator[int]:
    for place in _cgroups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (place / "cpu.max").read_text().split()
            yield math.ceil(int(quota) / int(period))
        quota_us, period_us = _number(place / "cpu.cfs_quota_us"), _number(place / "cpu.cfs_period_us")
        if quota_us and period_us and quota_us > 0:
            yield math.ceil(quota_us / period_us)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, what is used of it and could not be freed), both in bytes."""
    for place in _cgroups("memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(place / limit_name), _number(place / used_name)
            if limit is not None and limit < _UNLIMITED:
                yield limit, max((used or 0) - _reclaimable(place), 0)


def _reclaimable(place: Path) -> int:
    with suppress(OSError, ValueError):
        for line in (place / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key in {"inactive_file", "total_inactive_file"}:
                return int(value)
    return 0
