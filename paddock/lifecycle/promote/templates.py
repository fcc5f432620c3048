"""Decide the gates of a candidate's chat template against that of the promoted snapshot."""

from __future__ import annotations

from paddock.chat.comparison import compare_templates
from paddock.errors import ModelError
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.template_gates import template_gates
from paddock.measure.gate_report import Gate
from paddock.model.artifact import Manifest


def decide_template(clients: Clients, manifest: Manifest, promoted: Manifest | None) -> tuple[Gate, ...]:
    """Compare the templates that both are served with. A promoted template that cannot be read is not compared with.

    Raises CorruptFile for a damaged candidate.
    """
    candidate = chat_of_snapshot(clients, manifest)
    try:
        other = chat_of_snapshot(clients, promoted) if promoted else None
    except ModelError:
        other = None
    return template_gates(compare_templates(candidate, other))
