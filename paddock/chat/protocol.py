"""Messages and resource limits shared by `render` and its sandboxed subprocess. This module does not import Jinja."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paddock.model.finding import Finding, Severity

MAX_SOURCE_BYTES = 256 * 1024
STEP_CPU_S = 1.0
"""Limit on the CPU time of one parse or one rendering. The slowest of 70 real templates needs a twentieth of it."""

BATCH_CPU_S = 3
"""Limit on the CPU time of one process, for all steps together."""

WALL_S = 10.0
"""Limit on the wall time of one process. A template cannot sleep, so this only matters on an overloaded machine."""

ADDRESS_SPACE_BYTES = 256 * 1024 * 1024


def output_limit(input_size: int) -> int:
    """Return the maximum output of one rendering in characters: 65,536 plus four times the input's characters."""
    return 64 * 1024 + 4 * input_size


@dataclass(frozen=True, slots=True)
class TemplateAnalysis:
    """The result of the static check: findings, and the triggers, which are the texts and numbers that the template
    compares values with.
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
    def from_json(cls, value: dict[str, Any]) -> TemplateAnalysis:
        """Parse the output of `to_json`. Raises KeyError, TypeError or ValueError for other values."""
        findings = tuple(Finding.from_json(finding) for finding in value["findings"])
        return cls(
            findings, tuple(str(text) for text in value["texts"]), tuple(int(number) for number in value["numbers"])
        )


class RenderStatus(StrEnum):
    """The outcome of a rendering. `raised`: the template called `raise_exception`; `error`: another exception;
    `unsafe`: the Jinja sandbox refused an operation. The last five are exceeded limits.
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
        return self in {
            RenderStatus.MEMORY,
            RenderStatus.OUTPUT,
            RenderStatus.DEPTH,
            RenderStatus.RANGE,
            RenderStatus.KILLED,
        }


@dataclass(frozen=True, slots=True)
class RenderResult:
    """The result of one rendering. `text` is the output if the status is `ok`, otherwise the reason of the failure."""

    status: RenderStatus
    text: str

    @property
    def ok(self) -> bool:
        return self.status is RenderStatus.OK

    def to_json(self) -> dict[str, str]:
        return {"status": self.status, "text": self.text}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RenderResult:
        """Parse the output of `to_json`. Raises KeyError or ValueError for other values."""
        return cls(RenderStatus(value["status"]), str(value["text"]))
