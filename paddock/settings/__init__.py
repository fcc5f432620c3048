"""Paddock's settings, from environment variables.

Variables have the ecosystem's names (`HF_…`) where they exist, and otherwise Paddock's own (`PADDOCK_…`). `AWS_…` and
`PREFECT_…` are read by boto3 and Prefect themselves. `docs/settings.md` lists every setting; a test compares the two.
"""

from paddock.settings.environment import (
    SECRETS,
    StoredSecret,
    child_environment,
    forces_color,
    keep_matplotlib_in_cache,
    limit_numpy_to_one_thread,
    load,
    log_format,
    missing_secrets,
    visible_gpus,
)
from paddock.settings.fields import MIB, Settings
from paddock.settings.values import AwsKeys, Secret
from paddock.settings.variables import SETTINGS, Setting

__all__ = [
    "MIB",
    "SECRETS",
    "SETTINGS",
    "AwsKeys",
    "Secret",
    "Setting",
    "Settings",
    "StoredSecret",
    "child_environment",
    "forces_color",
    "keep_matplotlib_in_cache",
    "limit_numpy_to_one_thread",
    "load",
    "log_format",
    "missing_secrets",
    "visible_gpus",
]
