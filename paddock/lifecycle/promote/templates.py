"""Decide the gates of a candidate's chat template."""

from __future__ import annotations

from paddock.lifecycle.clients import Clients
from paddock.measure.gate_report import Gate
from paddock.model.artifact import Manifest


def template_gates(
    clients: Clients,  # noqa: ARG001 - nothing compares templates yet
    manifest: Manifest,  # noqa: ARG001
    promoted: Manifest | None,  # noqa: ARG001
) -> tuple[Gate, ...]:
    return ()
