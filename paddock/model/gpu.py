"""NVIDIA's GPUs, as the driver's own library (NVML) tells of them: the one door to it.

A machine can be without a GPU in several ways (no package nvidia-ml-py, no driver, no device, none that this process
may use), and each is a sentence in `Seen.unavailable_reason`. Nothing here fails for want of one.

CUDA_VISIBLE_DEVICES hides GPUs from the engine, and NVML shows them all the same: here they are hidden too, so that a
worker with one GPU of eight counts one. Numbers in it are those of the PCI bus, as in NVML and `nvidia-smi`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from paddock.settings import visible_gpus

_MIG = "MIG-"


@dataclass(frozen=True, slots=True)
class Gpu:
    """`vram_bytes` is what the driver leaves to programs. `bandwidth_bytes_per_s` is what the memory's clock and bus
    allow at most, None where the driver does not say."""

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
class DetectedGpus:
    """The GPUs that this process may use; `unavailable_reason` is empty where there are any."""

    gpus: tuple[Gpu, ...]
    unavailable_reason: str = ""


class _Absent(Exception):
    """Why there is none, in words."""


def detect_gpus() -> DetectedGpus:
    """The GPUs of this machine that this process may use now."""
    try:
        with _opened() as (nvml, handles):
            return DetectedGpus(tuple(_gpu(nvml, handle) for handle in handles))
    except _Absent as absent:
        return DetectedGpus((), str(absent))


def energy_j() -> float | None:
    """What the GPUs have taken since the driver was loaded, in joules; None where it is not told."""
    with suppress(_Absent), _opened() as (nvml, handles):
        return sum(int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles) / 1000
    return None


def vram_used_bytes() -> int | None:
    """What all processes hold of the GPUs' memory; None where it is not told."""
    with suppress(_Absent), _opened() as (nvml, handles):
        return sum(int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
    return None


@contextmanager
def _opened() -> Iterator[tuple[Any, list[Any]]]:
    """NVML, and a handle for each GPU that may be used: one at least. Raises _Absent, also for what NVML raises."""
    try:
        import pynvml as nvml
    except ImportError:
        raise _Absent("the package nvidia-ml-py is not installed") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _Absent(f"NVIDIA's driver is not there ({error})") from None
    try:
        handles = _visible(nvml)
        if not handles:
            raise _Absent("NVIDIA's driver shows no GPU that this process may use")
        yield nvml, handles
    except nvml.NVMLError as error:
        raise _Absent(f"NVIDIA's driver does not answer as it should ({error})") from None
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _visible(nvml: Any) -> list[Any]:
    everyone = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    wanted = visible_gpus()
    if wanted is None:
        return everyone
    found = []
    for name in wanted:
        handle = _named(nvml, everyone, name)
        if handle is None:  # CUDA stops here too
            break
        found.append(handle)
    return found


def _named(nvml: Any, everyone: list[Any], name: str) -> Any | None:
    if name.isdecimal():
        return everyone[int(name)] if int(name) < len(everyone) else None
    if name.startswith(_MIG):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    return next((one for one in everyone if name and _text(nvml.nvmlDeviceGetUUID(one)).startswith(name)), None)


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    bandwidth, reserved = None, 0
    with suppress(nvml.NVMLError, AttributeError, TypeError):  # an older driver or package has no word for it
        reserved = int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).reserved)
    with suppress(nvml.NVMLError):
        clock_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1_000_000
        bandwidth = 2 * clock_hz * nvml.nvmlDeviceGetMemoryBusWidth(handle) // 8  # two transfers a clock
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), int(memory.total) - reserved, int(memory.free), bandwidth)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
