"""Check the contents of the small files beside a model, such as `config.json` and `tokenizer.json`.

The engine never reads them, so a broken one is kept and ignored: each is a warning, and never a rejection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from paddock.model.finding import Finding, Severity
from paddock.model.json_file import file_problem, read_json_object
from paddock.model.names import printable

RULE = "configuration.unreadable"
CONFIG_FILES = ("config.json", "tokenizer_config.json")
"""The files that Paddock itself reads. Each must hold a JSON object."""


def check_companions(directory: Path, paths: Iterable[str]) -> Iterator[Finding]:
    """Yield a warning for each of these files that is empty, a Git LFS pointer, unreadable, or not the JSON that its
    name promises."""
    for name in paths:
        path = directory / name
        problem = read_json_object(path)[1] if name in CONFIG_FILES else file_problem(path)
        if problem is not None:
            message = f"{printable(name)} is ignored: {problem}"
            yield Finding(RULE, Severity.WARN, message, name, "nothing to do: the engine reads the GGUF alone")


def companion_notes(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The messages of `check_companions` among `findings`. Each names its file."""
    return tuple(finding.message for finding in findings if finding.rule == RULE)
