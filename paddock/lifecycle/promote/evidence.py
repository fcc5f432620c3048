"""The measurements of a candidate and of the promoted snapshot: the facts that the gates decide on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddock.measure.answers import Answers
from paddock.measure.gate_report import Gate
from paddock.measure.paired import PairedQuality
from paddock.measure.paired_speed import PairedSpeed
from paddock.measure.roleplay import Roleplay
from paddock.model.finding import Verdict
from paddock.model.reference import SnapshotId


@dataclass(frozen=True, slots=True)
class Missing:
    """Why something was not measured. `by_candidate`: the candidate is the reason, so that its gate fails; else the
    gate cannot decide."""

    reason: str
    by_candidate: bool = False


class NotFinite(Missing):
    """The candidate predicts a text with logits that are not finite."""


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """The candidate's verdict, the reason of a reject, and the promoted snapshot's verdict if there is one."""

    verdict: Verdict
    reason: str = ""
    promoted: Verdict | None = None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory that the engine took with the candidate's plan, and what it predicted for it, in bytes."""

    measured_bytes: int
    planned_bytes: int

    @property
    def ratio(self) -> float:
        return self.measured_bytes / max(self.planned_bytes, 1)


@dataclass(frozen=True, slots=True)
class PairedPredictions:
    """The paired quality of both against a reference. `reference_is_coarser`: that is the promoted snapshot, and has
    fewer bits per weight than the candidate, so that a difference is not the candidate's loss alone."""

    quality: PairedQuality
    reference: SnapshotId
    reference_is_coarser: bool = False


@dataclass(frozen=True, slots=True)
class PairedRoleplay:
    candidate: Roleplay
    promoted: Roleplay


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the gates decide on. None: it does not apply to the model's kind, was not requested, or there is nothing
    to compare with.

    `same_weights` says that the candidate has the weights of the promoted snapshot, so that nothing is measured.
    `finite` is True if all outputs were finite. `template` are the gates of the chat template, which are decided
    where templates are compared.
    """

    same_weights: str | None = None
    audit: AuditVerdict | None = None
    finite: Literal[True] | Missing | None = None
    predictions: PairedPredictions | Missing | None = None
    answers: Answers | Missing | None = None
    speed: PairedSpeed | Missing | None = None
    memory: MemoryUse | Missing | None = None
    template: tuple[Gate, ...] = ()
    roleplay: PairedRoleplay | Missing | None = None
