"""How the gates of a variant are decided: by the catalog, or by the parameters of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paddock.lifecycle.catalog import load_catalog
from paddock.lifecycle.clients import Clients
from paddock.model.reference import SnapshotId

if TYPE_CHECKING:
    from paddock.lifecycle.catalog.entry import GateName


@dataclass(frozen=True, slots=True)
class GateRules:
    """How gates are decided. `bounds` replace defaults, by the gate's name; `undecided_blocks`: a gate that could not
    decide holds the candidate back. Without `context_tokens`, a comparison has its own; `roleplay`: it is compared."""

    bounds: Mapping[str, float] = field(default_factory=dict)
    undecided_blocks: bool = False
    context_tokens: int | None = None
    roleplay: bool = False

    def with_parameters(
        self,
        *,
        bounds: Mapping[GateName, float] | None,
        undecided_blocks: bool | None,
        context_tokens: int | None,
        roleplay: bool,
    ) -> GateRules:
        """These rules, with the parameters of a comparison that are not None in their place."""
        return GateRules(
            self.bounds if bounds is None else _by_name(bounds),
            self.undecided_blocks if undecided_blocks is None else undecided_blocks,
            context_tokens or self.context_tokens,
            roleplay,
        )


def _by_name(bounds: Mapping[GateName, float]) -> dict[str, float]:
    return {str(name): bound for name, bound in bounds.items()}


def gate_rules(clients: Clients, id: SnapshotId) -> GateRules:
    """The rules of the catalog's entry that wants a variant, else the defaults. Raises as `load_catalog`."""
    catalog = load_catalog(clients.settings)
    entry = catalog.wish(id.model, id.variant) if catalog else None
    if entry is None:
        return GateRules()
    return GateRules(
        _by_name(entry.gates), entry.undecided == "block", entry.context_tokens, entry.profile == "roleplay"
    )
