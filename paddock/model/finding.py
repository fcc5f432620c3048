"""What a check says: a finding, wherever it arises, and the verdict that follows from all of them.

A check never decides. It records findings; `verdict_of` is the one gate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    INFO = "info"
    WARN = "warn"
    REJECT = "reject"


class Verdict(StrEnum):
    ACCEPT = "accept"
    WARN = "warn"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, and what it saw.

    `rule` is a stable name with its families in front (`gguf.container.magic`). `where` is the byte offset (`byte
    24`), the metadata key, or the path that the finding is about. `message` is one sentence with what came and what was
    expected; `cure` is what to do.
    """

    rule: str
    severity: Severity
    message: str
    where: str = ""
    cure: str = ""

    def to_json(self) -> dict[str, str]:
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Finding:
        return cls(
            rule=value["rule"],
            severity=Severity(value["severity"]),
            message=value["message"],
            where=value.get("where", ""),
            cure=value.get("cure", ""),
        )


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts on one thing: looking again with less never makes it better."""
    return max(verdicts, key=list(Verdict).index)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Reject if any finding rejects, warn if any warns, else accept."""
    severities = {finding.severity for finding in findings}
    if Severity.REJECT in severities:
        return Verdict.REJECT
    return Verdict.WARN if Severity.WARN in severities else Verdict.ACCEPT
