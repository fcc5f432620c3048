"""The catalog: which models are wanted, in which variant, for which target. Read, checked, and extended."""

from paddock.lifecycle.catalog.check import Catalog, CheckedCatalog, check_catalog, parse_catalog
from paddock.lifecycle.catalog.entry import GATES, CatalogEntry, catalog_schema
from paddock.lifecycle.catalog.file import catalog_place, load_catalog, read_catalog, require_catalog
from paddock.lifecycle.catalog.yaml_tree import CatalogProblem

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
