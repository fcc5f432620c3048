"""Find out what a refresh is planned from: what the Hub has, against what is held and promoted. Changes nothing."""

from __future__ import annotations

from paddock.lifecycle.catalog import Catalog
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.lifecycle.upkeep.refresh.plan import RefreshPlan


@step(Kind.HUB, "plan-refresh", line=lambda plan: plan.line)
def plan_refresh(clients: Clients, catalog: Catalog) -> RefreshPlan:
    """Plan what a refresh does for each entry of a catalog. Changes nothing.

    An entry that cannot be planned is `withdrawn` or `blocked`, with the reason. Raises StoreUnavailable and
    NoPermission where the volume cannot be read.
    """
    raise NotImplementedError
