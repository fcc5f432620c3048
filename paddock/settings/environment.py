"""Read the environment: the settings of this process, and what its child processes get of it.

The only module of the library that reads environment variables.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from paddock.settings.fields import Settings
from paddock.settings.variables import SETTINGS


def load() -> Settings:
    """Read the settings from the environment, again at each call. Empty variables count as unset.

    Raises BadSetting, which names the variable and the problem but never the value, since it may be a secret.
    """
    values: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        for variable in setting.names:
            if text := os.environ.get(variable, "").strip():
                values[name] = setting.read(text, source=f"the setting {variable}")
                break
    return Settings(**values)


def log_format() -> Literal["text", "json"]:
    """As `Settings.log_format`, for what is printed before the settings are read, or since they cannot be: a value that
    is not known is text."""
    return "json" if os.environ.get("PADDOCK_LOG_FORMAT", "").strip() == "json" else "text"


def forces_color() -> bool:
    """Whether FORCE_COLOR asks for the output of a terminal where there is none, as rich understands it."""
    return bool(os.environ.get("FORCE_COLOR"))


_CHILD_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "LANG", "LC_ALL", "TZ")


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process that reads untrusted data: no token or key, and no home directory that has one.

    It makes CUDA number GPUs by PCI bus, like NVML and `visible_gpus`; by default CUDA puts the fastest first.
    """
    inherited = {name: os.environ[name] for name in _CHILD_VARIABLES if name in os.environ}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **inherited, **extra}


def visible_gpus() -> tuple[str, ...] | None:
    """The numbers or UUIDs of GPUs in CUDA_VISIBLE_DEVICES; None if it is not set, and all GPUs are visible."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else tuple(name.strip() for name in value.split(","))
