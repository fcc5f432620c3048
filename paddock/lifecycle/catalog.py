"""Load the catalog of wanted models. A placeholder: there is none yet, so that nothing is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from paddock.model.names import ModelName
from paddock.model.reference import Variant
from paddock.settings import Settings


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    keep: int


class Catalog:
    def wish(self, model: ModelName, variant: Variant) -> CatalogEntry | None:  # noqa: ARG002
        return None


def load_catalog(settings: Settings) -> Catalog | None:  # noqa: ARG001
    return None
