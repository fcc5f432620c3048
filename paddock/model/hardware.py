"""Detect the CPU, memory and GPUs of this machine that the current process may use.

Cores are limited by the process's CPU affinity and its cgroup's quota, memory by its cgroup's limit. Detection never
fails: values that cannot be determined are left out.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from paddock.model.gpu import Gpu, detect_gpus

_UNLIMITED = 2**60  # cgroup v1 represents "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as far as a process may use it.

    `cores` are physical cores: the second hardware thread of a core does not speed up matrix products. `why_no_gpu` is
    a sentence with the reason if there is no GPU, else empty.
    """

    cpu: str
    cores: int
    ram_bytes: int
    ram_available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    why_no_gpu: str = ""

    @property
    def name(self) -> str:
        """The GPUs, else the processor with its cores, for people: `2 x NVIDIA H200`."""
        if not self.gpus:
            return f"{self.cpu}, {self.cores} {'core' if self.cores == 1 else 'cores'}"
        counts = Counter(gpu.name for gpu in self.gpus)
        return ", ".join(name if number == 1 else f"{number} x {name}" for name, number in counts.items())

    @property
    def identity(self) -> str:
        """A hash, 12 hex digits, of the properties that determine how fast the engine runs. Free memory is not
        included."""
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
    """Detect this machine, with its free memory now."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit, used in _memory_limits():
        total, available = min(total, limit), min(available, max(limit - used, 0))
    detected = detect_gpus()
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        ram_bytes=total,
        ram_available_bytes=available,
        gpus=detected.gpus,
        why_no_gpu=detected.unavailable_reason,
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
    """The hardware threads of the core of thread `number`; `number` itself if the system does not report them."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _cgroups(controller: str) -> Iterator[Path]:
    """The directories of this process's cgroup and its parents, all of whose limits apply."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, name = line.split(":", 2)
            if number != "0" and controller not in controllers.split(","):
                continue
            root = Path("/sys/fs/cgroup") if number == "0" else Path("/sys/fs/cgroup") / controller
            own = root / name.lstrip("/")
            yield from (directory for directory in (own, *own.parents) if directory.is_relative_to(root))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _cpu_quotas() -> Iterator[int]:
    for directory in _cgroups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (directory / "cpu.max").read_text().split()
            yield math.ceil(int(quota) / int(period))
        quota_us, period_us = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
        if quota_us and period_us and quota_us > 0:
            yield math.ceil(quota_us / period_us)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, used and not reclaimable) of each cgroup, in bytes."""
    for directory in _cgroups("memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(directory / limit_name), _number(directory / used_name)
            if limit is not None and limit < _UNLIMITED:
                yield limit, max((used or 0) - _reclaimable(directory), 0)


def _reclaimable(directory: Path) -> int:
    with suppress(OSError, ValueError):
        for line in (directory / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key in {"inactive_file", "total_inactive_file"}:
                return int(value)
    return 0
