"""Read the environment: the settings of this process, and what its child processes get of it.

Secrets may also be stored elsewhere. `missing_secrets` names those to look for, and `load` accepts what was found: the
environment always wins, and the values are not written to it, since child processes would inherit them.

The only module of the library that reads environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from paddock.errors import BadSetting
from paddock.settings.fields import Settings
from paddock.settings.values import AwsKeys
from paddock.settings.variables import SETTINGS

_AWS_ID, _AWS_SECRET, _AWS_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
SECRETS: Final = ("HF_TOKEN", "PADDOCK_API_KEY", _AWS_ID, _AWS_SECRET, _AWS_TOKEN)
"""The variables whose values may be stored elsewhere. The access key's id is no secret, but changes with the key."""
_AWS_KEY_SOURCES = (
    _AWS_SECRET,
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables by which boto3 finds keys."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """The value for a variable of SECRETS that is not from the environment, and the place that has it, for messages."""

    place: str
    value: str = field(repr=False)


def load(stored: Mapping[str, StoredSecret] | None = None) -> Settings:
    """Read the settings from the environment, again at each call. Empty variables count as unset.

    `stored` has values for variables of SECRETS. Only those that `missing_secrets` names are used.

    Raises BadSetting, which names the variable and the problem but never the value, since it may be a secret.
    """
    missing = missing_secrets() if stored else frozenset()
    used = {variable: one for variable, one in (stored or {}).items() if variable in missing}
    values: dict[str, Any] = {"aws_keys": _stored_keys(used)}
    for name, setting in SETTINGS.items():
        for variable in setting.names:
            if text := _value(variable):
                values[name] = setting.read(text, source=f"the setting {variable}")
                break
            if one := used.get(variable):
                source, cure = f"the setting {variable}", f"correct it in {one.place}"
                values[name] = setting.read(one.value.strip(), source=source, cure=cure)
                break
    return Settings(**values)


def missing_secrets() -> frozenset[str]:
    """The variables of SECRETS that the environment does not set, and that are of use.

    The keys of S3 belong together. Where the environment says where boto3 finds keys, none of them is missing, but the
    id of an access key may be set without its secret.
    """
    missing = {variable for variable in SECRETS if not _value(variable)}
    if _value("HUGGING_FACE_HUB_TOKEN"):
        missing.discard("HF_TOKEN")
    if any(map(_value, _AWS_KEY_SOURCES)):
        missing -= {_AWS_ID, _AWS_SECRET, _AWS_TOKEN}
    return frozenset(missing)


def _stored_keys(used: Mapping[str, StoredSecret]) -> AwsKeys | None:
    """The keys of S3, where their secret is stored; the id may be in the environment."""
    if _AWS_SECRET not in used:
        return None
    secret = used[_AWS_SECRET]
    key_id = used[_AWS_ID].value.strip() if _AWS_ID in used else _value(_AWS_ID)
    if not key_id:
        raise BadSetting(f"{secret.place} has a key without its id", cure=f"set {_AWS_ID}, or store it beside the key")
    token = used[_AWS_TOKEN].value.strip() if _AWS_TOKEN in used else _value(_AWS_TOKEN)
    return AwsKeys(key_id, secret.value.strip(), token or None)


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


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


def keep_matplotlib_in_cache() -> None:
    """Let matplotlib, once it is imported, keep its list of fonts in Paddock's cache, unless MPLCONFIGDIR says where.

    By default it makes two directories in the user's home."""
    os.environ.setdefault("MPLCONFIGDIR", str(load().cache / "paddock" / "matplotlib"))


def limit_numpy_to_one_thread() -> None:
    """Let numpy's library, once it is imported, start no thread for each core, unless OPENBLAS_NUM_THREADS is set: they
    wait for work by spinning."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def visible_gpus() -> tuple[str, ...] | None:
    """The numbers or UUIDs of GPUs in CUDA_VISIBLE_DEVICES; None if it is not set, and all GPUs are visible."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else tuple(name.strip() for name in value.split(","))
