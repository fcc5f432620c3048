"""Text of strangers is text in Prefect, whose UI renders descriptions, pages and the cells of tables as Markdown."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from paddock.chat.template import ChatFormat
from paddock.lifecycle.assess.chat_template import ChatTemplateCheck
from paddock.lifecycle.promote.approval import Question
from paddock.lifecycle.upkeep.maintain import Maintained, StepOutcome
from paddock.lifecycle.upkeep.orphans import Orphans
from paddock.lifecycle.upkeep.scrub import Scrubbed
from paddock.lifecycle.upkeep.usage import UsageLine, UsageSummary
from paddock.lifecycle.upkeep.verify import VerifiedFile
from paddock.measure.gate_report import Gate
from paddock.model.finding import Finding, Severity, Verdict
from paddock.store.usage import UsageTotal
from tasks import approval_artifacts, artifacts, escaped_artifacts, gate_artifacts, volume_artifacts
from tasks.events import EventName, ModelEvent, _bounded
from tasks.run_log import _PlainAdapter
from tasks.subject import ArtifactSubject, StoreSubject
from tests.support.dossier_facts import GATES, MANIFEST
from tests.support.foreign_text import HOSTILE, assert_no_markup, assert_plain

ALL = " ".join(HOSTILE.values())
LINES = "\n".join(HOSTILE.values())
TEXTS = ("plain", ALL, LINES)
_MARKS = ("em_open", "em_close")
"""Of the page of an approval."""
_LISTS = ("bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close")
"""Rows of a table that are too wide for the page."""
STORES = ("scrub", "orphans", "usage", "maintenance")


def subject(text: str) -> ArtifactSubject:
    return ArtifactSubject(MANIFEST.model, text, f"hostile {TEXTS.index(text)}")


def store(text: str) -> StoreSubject:
    return StoreSubject(text, f"hostile {TEXTS.index(text)}")


def _findings(text: str) -> None:
    artifacts.findings(subject(text), Verdict.WARN, [Finding(text, Severity.WARN, text, text, text)])


def _chat(text: str) -> None:
    chat = ChatFormat(text, text, text, text, text, (text,))
    artifacts.chat(subject(text), ChatTemplateCheck(chat, {"one turn": text}, (Finding("a", Severity.WARN, text),)))


def _scrub(text: str) -> None:
    file = VerifiedFile(MANIFEST.id, text, 1, MANIFEST.files[0].sha256, False, damage=text)
    volume_artifacts.scrub(store(text), Scrubbed(text, 1, 1, 1, (file,), (text,), True, 1.0))


def _usage(text: str) -> None:
    line = UsageLine({"worker": text}, replace(UsageTotal.of([]), workers=(text,)))
    volume_artifacts.usage(store(text), UsageSummary("worker", text, (line,), line.total))


def _maintenance(text: str) -> None:
    outcomes = (StepOutcome(text, 1.0, text), StepOutcome(text, 1.0, text, text))
    volume_artifacts.maintenance(store(text), Maintained(outcomes))


def question(text: str) -> Question:
    return Question(MANIFEST.id, None, True, datetime(2026, 5, 1, tzinfo=UTC), "", text)


def _gates(text: str) -> None:
    gate = Gate(text, text, text, text, None, None, False, text)
    gate_artifacts.gates(
        subject(text), replace(GATES, model=text, promoted=text, reference=text, engine=text, gates=(gate,))
    )


PLACES: dict[str, Callable[[str], None]] = {
    "findings": _findings,
    "chat": _chat,
    "scrub": _scrub,
    "orphans": lambda text: volume_artifacts.orphans(store(text), Orphans((), (text,), (text,))),
    "usage": _usage,
    "maintenance": _maintenance,
    "approval": lambda text: approval_artifacts.approval(subject(text), question(text)),
    "gates": _gates,
}


@pytest.fixture(scope="module")
def written(_recorded: None) -> dict[tuple[str, str], Artifact]:
    """The artifact of each place and text."""

    @flow(name="hostile")
    def write() -> None:
        for text in TEXTS:
            for place in PLACES.values():
                place(text)

    write()
    keys = {
        (store(text) if place in STORES else subject(text)).key(place): (place, text)
        for place in PLACES
        for text in TEXTS
    }
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=list(keys))))
    return {keys[one.key]: one for one in found if one.key}


@pytest.mark.parametrize("text", TEXTS[1:], ids=["one line", "lines"])
@pytest.mark.parametrize("place", PLACES)
def test_in_an_artifact(place: str, text: str, written: dict[tuple[str, str], Artifact]) -> None:
    one, plain = written[place, text], written[place, "plain"]
    assert_no_markup(one.description or "")
    if one.type == "table":
        cells = [cell for row in json.loads(str(one.data)) for cell in row.values() if isinstance(cell, str)]
        assert cells
        for cell in cells:
            assert_no_markup(cell)
    else:
        kinds = [token.type for token in MarkdownIt("gfm-like", {"linkify": False}).parse(str(plain.data))]
        assert_no_markup(str(one.data), blocks=[*kinds, *_LISTS], marks=_MARKS)


def test_only_one_module_makes_artifacts() -> None:
    root = Path(escaped_artifacts.__file__).parent.parent
    names = [
        str(path.relative_to(root))
        for folder in ("tasks", "flows", "paddock")
        for path in (root / folder).rglob("*.py")
        if "_artifact(" in path.read_text() or "prefect.artifacts" in path.read_text()
    ]
    assert names == ["tasks/escaped_artifacts.py"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_in_the_form_of_an_approval(text: str) -> None:
    assert_no_markup(approval_artifacts.form_markdown(question(text)), blocks={"fence"}, marks=_MARKS)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_in_an_event(text: str) -> None:
    payload: dict[str, Any] = ModelEvent.of(EventName.REJECTED, MANIFEST.id, reason=text, rules=[text]).payload
    for value in (_bounded(payload)["reason"], *_bounded(payload)["rules"]):
        assert_plain(value)


def test_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    log = _PlainAdapter(logging.getLogger("test_foreign_text"), {})
    with caplog.at_level(logging.INFO):
        for text in HOSTILE.values():
            log.info("it failed: %s", text)
            log.warning(text)
    assert len(caplog.messages) == 2 * len(HOSTILE)
    for message in caplog.messages:
        assert_plain(message)
