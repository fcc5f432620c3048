"""Detect NVIDIA GPUs and read their memory and energy through NVML. The only module that imports pynvml.

If no GPU is available (no package nvidia-ml-py, no driver, no device, none that this process may use), the reason is a
sentence in `DetectedGpus.unavailable_reason`; nothing is raised.

CUDA_VISIBLE_DEVICES hides GPUs from the engine but not from NVML. They are hidden here too, so that a worker with one
GPU of eight detects one. Numbers in it follow the order of the PCI bus, as in NVML and `nvidia-smi`.
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
    """One GPU.

    `vram_bytes` is its memory without the part that the driver reserves, `vram_available_bytes` its free memory.
    `bandwidth_bytes_per_s` is the maximum from the memory's clock and bus width, None if the driver does not report
    them.
    """

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
    """The GPUs that this process may use. `unavailable_reason` is empty if there is at least one."""

    gpus: tuple[Gpu, ...]
    unavailable_reason: str = ""


class _NoGpu(Exception):
    """No GPU is available; the message is the reason."""


def detect_gpus() -> DetectedGpus:
    """Detect the GPUs of this machine that this process may use, with their free memory now."""
    try:
        with _open_nvml() as (nvml, handles):
            return DetectedGpus(tuple(_gpu(nvml, handle) for handle in handles))
    except _NoGpu as error:
        return DetectedGpus((), str(error))


def energy_j() -> float | None:
    """The energy that the GPUs have used since the driver was loaded, in joules; None if it is not reported."""
    with suppress(_NoGpu), _open_nvml() as (nvml, handles):
        return sum(int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles) / 1000
    return None


def vram_used_bytes() -> int | None:
    """The GPU memory that all processes use, in bytes, summed over the GPUs; None if it is not reported."""
    with suppress(_NoGpu), _open_nvml() as (nvml, handles):
        return sum(int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
    return None


def is_slowed_down() -> bool:
    """Whether a GPU runs at a lower clock now because it is hot, or short of power. False where that is not
    reported."""
    with suppress(_NoGpu, AttributeError), _open_nvml() as (nvml, handles):
        slowed = (
            nvml.nvmlClocksThrottleReasonHwSlowdown
            | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
            | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
            | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
        )
        return any(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & slowed for handle in handles)
    return False


@contextmanager
def _open_nvml() -> Iterator[tuple[Any, list[Any]]]:
    """Initialize NVML, and yield it with a handle for each usable GPU, at least one. Raises _NoGpu, also instead of
    NVML's errors."""
    try:
        import pynvml as nvml
    except ImportError:
        raise _NoGpu("the package nvidia-ml-py is not installed") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _NoGpu(f"the NVIDIA driver is not available ({error})") from None
    try:
        handles = _visible_handles(nvml)
        if not handles:
            raise _NoGpu("the NVIDIA driver shows no GPU that this process may use")
        yield nvml, handles
    except nvml.NVMLError as error:
        raise _NoGpu(f"the NVIDIA driver reported an error ({error})") from None
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _visible_handles(nvml: Any) -> list[Any]:
    all_handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    visible = visible_gpus()
    if visible is None:
        return all_handles
    found = []
    for name in visible:
        handle = _find_handle(nvml, all_handles, name)
        if handle is None:  # CUDA ignores all GPUs after an invalid entry
            break
        found.append(handle)
    return found


def _find_handle(nvml: Any, handles: list[Any], name: str) -> Any | None:
    if name.isdecimal():
        return handles[int(name)] if int(name) < len(handles) else None
    if name.startswith(_MIG):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    return next((handle for handle in handles if name and _text(nvml.nvmlDeviceGetUUID(handle)).startswith(name)), None)


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    bandwidth, reserved = None, 0
    with suppress(nvml.NVMLError, AttributeError, TypeError):  # not supported by older drivers and packages
        reserved = int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).reserved)
    with suppress(nvml.NVMLError):
        clock_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1_000_000
        bandwidth = 2 * clock_hz * nvml.nvmlDeviceGetMemoryBusWidth(handle) // 8  # two transfers per clock
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), int(memory.total) - reserved, int(memory.free), bandwidth)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
