"""Paddock's settings, from environment variables.

Variables have the ecosystem's names (`HF_…`) where they exist, and otherwise Paddock's own (`PADDOCK_…`). `AWS_…` and
`PREFECT_…` are read by boto3 and Prefect themselves. `docs/settings.md` lists every setting; a test compares the two.
"""

from paddock.settings.environment import child_environment, forces_color, load, log_format, visible_gpus
from paddock.settings.fields import MIB, Settings
from paddock.settings.values import Secret
from paddock.settings.variables import SETTINGS, Setting

__all__ = [
    "MIB",
    "SETTINGS",
    "Secret",
    "Setting",
    "Settings",
    "child_environment",
    "forces_color",
    "load",
    "log_format",
    "visible_gpus",
]
