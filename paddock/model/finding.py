"""Findings of checks, and the verdict that follows from them.

Checks record findings and do not decide; `verdict_of` alone computes a verdict.
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
    """The violation of a rule, or information about a file.

    `rule` is a stable, dotted name with the family first (`gguf.container.magic`). `where` is a byte offset (`byte
    24`), a metadata key, or a path. `message` is one sentence with the actual and the expected value; `cure` is what to
    do.
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
    """The worst of several verdicts on the same subject: a later, less thorough check never improves a verdict."""
    return max(verdicts, key=list(Verdict).index)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Reject if any finding rejects, warn if any warns, else accept."""
    severities = {finding.severity for finding in findings}
    if Severity.REJECT in severities:
        return Verdict.REJECT
    return Verdict.WARN if Severity.WARN in severities else Verdict.ACCEPT
