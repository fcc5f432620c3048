"""What the two sides of the process share: what a template may take, and what goes over the pipe. It loads no Jinja."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paddock.model.finding import Finding, Severity

SOURCE_BYTES = 256 * 1024
STEP_CPU_S = 1.0
"""Processor time of one parse or one rendering. The slowest of 70 real templates takes a twentieth."""

BATCH_CPU_S = 3
"""Processor time of one process, all steps together."""

WALL_S = 10.0
"""Clock time of one process. A template cannot wait, so this only bounds a machine that gives it no processor."""

ADDRESS_SPACE_BYTES = 256 * 1024 * 1024


def output_limit(input_size: int) -> int:
    """The most that one rendering may give, in characters: 64 kB and four times its input."""
    return 64 * 1024 + 4 * input_size


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the syntax tree gives away: findings, and the *triggers*, the texts and numbers that it compares things
    with.
    """

    findings: tuple[Finding, ...]
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def rejected(self) -> bool:
        return any(finding.severity is Severity.REJECT for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        findings = [finding.to_json() for finding in self.findings]
        return {"findings": findings, "texts": list(self.texts), "numbers": list(self.numbers)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Analysis:
        """Raises KeyError, TypeError or ValueError for what is none."""
        findings = tuple(Finding.from_json(finding) for finding in value["findings"])
        return cls(
            findings, tuple(str(text) for text in value["texts"]), tuple(int(number) for number in value["numbers"])
        )


class Status(StrEnum):
    """How a rendering ended. `raised`: the template refused on purpose; `unsafe`: the sandbox stepped in; the last
    five are limits.
    """

    OK = "ok"
    RAISED = "raised"
    ERROR = "error"
    UNSAFE = "unsafe"
    MEMORY = "memory"
    OUTPUT = "output"
    DEPTH = "depth"
    RANGE = "range"
    KILLED = "killed"

    @property
    def is_limit(self) -> bool:
        return self in {Status.MEMORY, Status.OUTPUT, Status.DEPTH, Status.RANGE, Status.KILLED}


@dataclass(frozen=True, slots=True)
class Rendered:
    """One rendering: its text where the status is `ok`, and what stopped it everywhere else."""

    status: Status
    text: str

    @property
    def ok(self) -> bool:
        return self.status is Status.OK

    def to_json(self) -> dict[str, str]:
        return {"status": self.status, "text": self.text}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rendered:
        """Raises KeyError or ValueError for what is none."""
        return cls(Status(value["status"]), str(value["text"]))
