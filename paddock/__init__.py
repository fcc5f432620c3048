"""Paddock manages GGUF models for llama.cpp. This package exports its public functions.

Each function is imported when it is first used, so that importing the package takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paddock import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from paddock.chat.template import setup_chat_template
    from paddock.gguf.directory import get_gguf_file_path
    from paddock.lifecycle.acquire.download import download_model_to_path
    from paddock.lifecycle.inventory import delete_model_from_volume, get_model_path_from_name, list_model_files
    from paddock.validation.compatibility import is_model_supported
    from paddock.validation.configuration import get_model_config
    from paddock.validation.sharding import check_model_sharding

_MODULES = {
    "get_model_path_from_name": "paddock.lifecycle.inventory",
    "download_model_to_path": "paddock.lifecycle.acquire.download",
    "get_gguf_file_path": "paddock.gguf.directory",
    "get_model_config": "paddock.validation.configuration",
    "check_model_sharding": "paddock.validation.sharding",
    "setup_chat_template": "paddock.chat.template",
    "is_model_supported": "paddock.validation.compatibility",
    "list_model_files": "paddock.lifecycle.inventory",
    "delete_model_from_volume": "paddock.lifecycle.inventory",
}

__all__ = [
    "__version__",
    "check_model_sharding",
    "delete_model_from_volume",
    "download_model_to_path",
    "get_gguf_file_path",
    "get_model_config",
    "get_model_path_from_name",
    "is_model_supported",
    "list_model_files",
    "setup_chat_template",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
