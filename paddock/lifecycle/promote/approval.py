"""Approval of a promotion by a person: the question, and the answer that is kept with the snapshot's reports.

A snapshot that was declined, or that nobody answered for in time, is not asked about again: `refusal` tells why it is
held back. `paddock promote` promotes it all the same, since then a person decides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from paddock.errors import PromotionConflict
from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import head, read_dossier
from paddock.lifecycle.promote.gating import PromotionScope
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.reference import SnapshotId

APPROVAL = "approval.json"
MOST_DIFFERENCES = 20_000
"""Characters of the differences that are shown: Prefect takes at most 512 KiB of parameters."""


class Decision(StrEnum):
    APPROVED = "approved"
    DECLINED = "declined"
    NONE = "not answered"


@dataclass(frozen=True, slots=True)
class Approval:
    """The decision, the name of the person who gave it, as that person wrote it, and the reason. `replaces` is the
    snapshot that the promotion would have replaced; `at` is ISO 8601 in UTC."""

    decision: Decision
    reason: str
    by: str | None
    replaces: str | None
    at: str

    @classmethod
    def now(cls, decision: Decision, *, reason: str, by: str | None = None, replaces: str | None = None) -> Approval:
        return cls(decision, reason, by, replaces, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def approved(self) -> bool:
        return self.decision is Decision.APPROVED

    @property
    def line(self) -> str:
        who = f" by {self.by}" if self.by else ""
        return f"{self.decision}{who}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "decision": str(self.decision)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Approval:
        by, replaces = value["by"], value["replaces"]
        return cls(
            Decision(value["decision"]),
            str(value["reason"]),
            None if by is None else str(by),
            None if replaces is None else str(replaces),
            str(value["at"]),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """The question to a person: whether to promote a snapshot in place of `replaces`, by the time `until`. `dossier` is
    the begin of its dossier, as Markdown; `differences` is plain text."""

    id: SnapshotId
    replaces: str | None
    default: bool
    until: datetime
    dossier: str
    differences: str

    @property
    def line(self) -> str:
        instead = f" in place of {_short(self.replaces)}" if self.replaces else ""
        also = ", and make its variant the model's default" if self.default else ""
        return f"Promote {self.id.short}{instead}{also}?"


def _short(name: str) -> str:
    """The full name of a snapshot with eight digits of its commit."""
    model, _, revision = name.rpartition("@")
    return f"{model}@{revision[:8]}"


@step(Kind.STORE, "ask", line=lambda question: question.line)
def ask(
    clients: Clients, manifest: Manifest, *, replaces: str | None, default: bool, days: float, differences: str
) -> Question:
    """Put together what a person is asked, who has so many days to answer."""
    until = datetime.now(UTC) + timedelta(days=days)
    dossier = head(read_dossier(clients, manifest))
    return Question(manifest.id, replaces, default, until, dossier, differences[:MOST_DIFFERENCES])


@step(Kind.STORE, "record-approval", line=lambda approval: approval.line)
def record_approval(clients: Clients, manifest: Manifest, approval: Approval) -> Approval:
    """Write the answer to the snapshot's reports, replacing an earlier one, and share it with other workers."""
    reports.record(clients, manifest, APPROVAL, approval.to_json())
    reports.share(clients, manifest, APPROVAL)
    return approval


def read_approval(clients: Clients, manifest: Manifest) -> Approval | None:
    return reports.read(clients, manifest, APPROVAL, Approval.from_json)


def refusal(clients: Clients, manifest: Manifest) -> Approval | None:
    """The answer that holds a snapshot back; None where it was approved, or nobody was asked."""
    approval = read_approval(clients, manifest)
    return None if approval is None or approval.approved else approval


def would_replace(clients: Clients, manifest: Manifest, scope: PromotionScope) -> str | None:
    """The snapshot that a promotion would replace now, by its full name."""
    replaced = scope.replaced(clients.volume.promoted(manifest.model), manifest.id)
    return str(replaced) if replaced else None


def require_unchanged(clients: Clients, manifest: Manifest, scope: PromotionScope, *, replaces: str | None) -> None:
    """Raise PromotionConflict where a promotion would replace another snapshot than `replaces`. One that was promoted
    meanwhile, by hand, replaces nothing."""
    now = would_replace(clients, manifest, scope)
    if now != replaces and not clients.volume.promoted(manifest.model).holds(manifest.id):
        raise PromotionConflict(
            f"{manifest.id.short} was to replace {replaces or 'nothing'}, and would replace {now or 'nothing'} now:"
            " another snapshot was promoted since",
            cure=f"promote it with `paddock promote {manifest.id}`, which compares it with that one first",
        )
