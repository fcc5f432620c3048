"""The machine that a model would run on.

Counts are what this process may use, not what the box has: the cores of its affinity and its cgroup's quota, the
memory under its cgroup's limit. Asking never fails: what cannot be learned is left out.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number near 2**63


@dataclass(frozen=True, slots=True)
class Gpu:
    """`bandwidth_bytes_per_s` is what the memory's clock and bus allow at most, None where the driver does not say."""

    name: str
    vram_bytes: int
    vram_available_bytes: int
    bandwidth_bytes_per_s: int | None = None

    def to_json(self) -> dict[str, int | str | None]:
        return {
            "name": self.name,
            "vram_bytes": self.vram_bytes,
            "vram_available_bytes": self.vram_available_bytes,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
        }


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores` are physical ones: a second hardware thread of a core adds nothing to matrix products."""

    cpu: str
    cores: int
    ram_bytes: int
    ram_available_bytes: int
    gpus: tuple[Gpu, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "ram_bytes": self.ram_bytes,
            "ram_available_bytes": self.ram_available_bytes,
            "gpus": [gpu.to_json() for gpu in self.gpus],
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
    return Machine(cpu=_cpu(), cores=_cores(), ram_bytes=total, ram_available_bytes=available, gpus=_gpus())


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


def _gpus() -> tuple[Gpu, ...]:
    """NVIDIA's, through its own library where it and a driver are there."""
    try:
        with _nvml() as nvml:
            return tuple(_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount()))
    except _NoNvml:
        return ()


def gpu_absence() -> str:
    """Why `Machine.gpus` is empty, in words; empty where it is not."""
    try:
        with _nvml() as nvml:
            return "" if nvml.nvmlDeviceGetCount() else "the NVIDIA driver finds no GPU"
    except _NoNvml as error:
        return str(error)


class _NoNvml(Exception):
    """Its message says what is missing."""


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError:
        raise _NoNvml("no GPU is looked for, since nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _NoNvml(f"no NVIDIA driver answers ({error})") from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise _NoNvml(f"the NVIDIA driver does not tell its GPUs ({error})") from None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(nvml: Any, number: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    bandwidth = None
    with suppress(nvml.NVMLError):
        clock_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1_000_000
        bandwidth = 2 * clock_hz * nvml.nvmlDeviceGetMemoryBusWidth(handle) // 8  # two transfers a clock
    return Gpu(name if isinstance(name, str) else name.decode(), int(memory.total), int(memory.free), bandwidth)
