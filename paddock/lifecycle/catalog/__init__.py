"""The catalog: which models are wanted, in which variant, for which target. Read, checked, and extended.

A module of it is imported when one of its names is first used: most commands have no catalog to check.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddock.lifecycle.catalog.check import Catalog, CheckedCatalog, check_catalog, parse_catalog
    from paddock.lifecycle.catalog.entry import GATES, CatalogEntry, catalog_schema
    from paddock.lifecycle.catalog.file import catalog_place, load_catalog, read_catalog, require_catalog
    from paddock.lifecycle.catalog.yaml_tree import CatalogProblem

_MODULES = {
    "Catalog": "check",
    "CatalogEntry": "entry",
    "CatalogProblem": "yaml_tree",
    "CheckedCatalog": "check",
    "GATES": "entry",
    "catalog_place": "file",
    "catalog_schema": "entry",
    "check_catalog": "check",
    "load_catalog": "file",
    "parse_catalog": "check",
    "read_catalog": "file",
    "require_catalog": "file",
}

__all__ = [
    "GATES",
    "Catalog",
    "CatalogEntry",
    "CatalogProblem",
    "CheckedCatalog",
    "catalog_place",
    "catalog_schema",
    "check_catalog",
    "load_catalog",
    "parse_catalog",
    "read_catalog",
    "require_catalog",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
