"""Find the price of an hour of a machine that was measured.

Of several prices that are set, the first of these counts:

1. the one that the caller gives, for every machine
2. PADDOCK_PRICE_PER_HOUR, for this machine
3. the catalog's price of the work pool whose worker measured
4. the catalog's price of the target that describes the machine most closely (`paddock.planning.target_match`); of two
   that are equally close, the first in the file

Nothing is assumed for another machine: without such a price it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paddock.lifecycle.catalog import load_catalog
from paddock.lifecycle.catalog.prices import POOLS
from paddock.lifecycle.clients import Clients
from paddock.measure.benchmark_report import Benchmark
from paddock.model.hardware import this_machine
from paddock.planning.target_match import specificity


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices that are set. `machine_id` is the identity of this machine, and `of_this_machine` its price."""

    machine_id: str
    given: float | None = None
    of_this_machine: float | None = None
    catalog: Mapping[str, float] = field(default_factory=dict)

    def of(self, measured: Benchmark) -> tuple[float | None, str]:
        """(the price of an hour of the machine that measured, where it is from); None and "" where none is set."""
        is_this_machine = measured.machine.identity == self.machine_id
        if self.given is not None:
            return self.given, "--price"
        if is_this_machine and self.of_this_machine is not None:
            return self.of_this_machine, "PADDOCK_PRICE_PER_HOUR"
        if measured.pool is not None and measured.pool in self.catalog:
            return self.catalog[measured.pool], f"the catalog's price of {measured.pool}"
        targets = [name for name in self.catalog if name not in POOLS]
        closeness = {name: specificity(name, measured.machine, is_this_machine=is_this_machine) for name in targets}
        best = max(targets, key=lambda name: closeness[name], default=None)
        if best is None or not closeness[best]:
            return None, ""
        return self.catalog[best], f"the catalog's price of {best}"


def load_prices(clients: Clients, *, given: float | None = None) -> Prices:
    """Read the prices that are set. Raises as `load_catalog`."""
    catalog = load_catalog(clients.settings)
    return Prices(
        machine_id=this_machine().identity,
        given=given,
        of_this_machine=clients.settings.price_per_hour,
        catalog=catalog.prices if catalog else {},
    )
