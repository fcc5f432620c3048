"""Text of strangers is shown as text, in each place where it is shown. `tests/flows/test_foreign_text.py` has those in
Prefect, `test_expectations` Data Docs, `test_dossier_page` each field of the dossier, `test_pictures` matplotlib's."""

from __future__ import annotations

import csv
import io
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from paddock.cli.logs import log_to_stderr, print_progress
from paddock.cli.output import report_failure
from paddock.cli.printing import print_line, print_table
from paddock.cli.progress import ProgressBars
from paddock.cli.render import render_history, render_manifest
from paddock.errors import HubRefused
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import Action
from paddock.lifecycle.upkeep.refresh.report import Surroundings, write_report
from paddock.lifecycle.upkeep.usage import UsageLine, UsageSummary
from paddock.lifecycle.upkeep.volume_use import UseHistory, UseSample
from paddock.model.markdown import as_text, code, table, verbatim
from paddock.model.names import printable
from paddock.plain_text import csv_cell, lines, one_line
from paddock.serving.refusal import bad_request
from paddock.serving.requests.json_body import InvalidJson, parse_text
from paddock.store.history import Promoted, Promotion
from paddock.store.usage import UsageTotal
from paddock.transfer.progress import Progress
from tasks.use_picture import draw
from tests.support.dossier_facts import CHAT, MANIFEST
from tests.support.foreign_text import HOSTILE, assert_no_markup, assert_one_element_of_text, assert_plain
from tests.support.stores import Q8, A

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
texts = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def _history(text: str) -> None:
    render_history([Promotion("1", Q8, A, None, Q8, None, NOW, reason=text, by=text)])


def _manifest(text: str) -> None:
    manifest = replace(MANIFEST, licence=text, quantization=text, engine_version=text)
    chat = replace(CHAT, origin=text, why=text, stop=(text,))
    render_manifest(manifest, promoted=Promoted(MANIFEST.model), chat=chat)


def _bars(text: str) -> None:
    bars = ProgressBars(quiet=False)
    with bars:
        bars.on_start(10)
        bars.on_progress(Progress(text, 10, 10, 10, 0, 0.0))


def _log(text: str) -> None:
    logger = logging.getLogger("paddock.test_foreign_text")
    logger.propagate = False  # pytest's own handler would put the lone surrogates into a report, which is UTF-8
    log_to_stderr(logger, verbose=False)
    try:
        logger.warning("the licence is %s", text)
        raise ValueError(text)
    except ValueError:
        logger.exception("it failed")
    finally:
        logger.handlers.clear()


TERMINAL: dict[str, Callable[[str], object]] = {
    "a line": print_line,
    "a line of progress": print_progress,
    "a table": lambda text: print_table(("name", "why"), [(text, text)]),
    "the history": _history,
    "a manifest": _manifest,
    "progress bars": _bars,
    "an error": lambda text: report_failure(False, "x", text, text, 1),
    "an error as JSON": lambda text: report_failure(True, "x", text, text, 1),
    "a log": _log,
}


@pytest.mark.parametrize("place", TERMINAL)
def test_on_a_terminal(place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for text in HOSTILE.values():
        TERMINAL[place](text)
        out, err = capfd.readouterr()
        for name in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\x1b[1m", "\x1b[0m", "\r"):  # rich's own
            out, err = out.replace(name, ""), err.replace(name, "")
        assert out + err
        assert_plain(out + err, many_lines=True)
        assert "ERROR paddock" not in [line[:13] for line in (out + err).splitlines()]


@texts
def test_in_an_error(text: str) -> None:
    error = HubRefused(f"the Hub says {text}", cure=f"ask {text}")
    assert_plain(error.message)
    assert_plain(error.cure, many_lines=True)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert_plain(str(bad_request(printable(text))))
    assert_plain(printable(text))


@texts
def test_in_markdown(text: str) -> None:
    for markdown in (as_text(text), code(text), f"- {as_text(text)}"):
        assert_no_markup(
            markdown, blocks={"bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"}
        )
    assert_no_markup(verbatim(text), blocks={"fence"})
    cells = {f"{name}_{end}" for name in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")}
    assert_no_markup(table(("a", "b"), [(as_text(text), code(text))]), blocks=cells)


@texts
def test_in_the_report_of_a_night(text: str) -> None:
    outcome = EntryOutcome(
        text, None, None, text, text, Action.FETCH, RefreshOutcome.FAILED, text, f"because {text}", worse=(text,)
    )
    surroundings = Surroundings(other_engines=(text,), problems=(text,))
    page = write_report([outcome], surroundings, at=NOW, catalog=text, line=text)
    same = write_report(
        [replace(outcome, model="m", channel="c", target="t", change="x", reason="because y", worse=("z",))],
        replace(surroundings, other_engines=("e",), problems=("p",)),
        at=NOW,
        catalog="c",
        line="l",
    )
    from markdown_it import MarkdownIt

    kinds = [[token.type for token in MarkdownIt("gfm-like", {"linkify": False}).parse(one)] for one in (page, same)]
    assert kinds[0] == kinds[1]
    assert_no_markup(page, blocks=set(kinds[1]))


@texts
def test_in_a_spreadsheet(text: str) -> None:
    line = UsageLine({"worker": text}, replace(UsageTotal.of([]), workers=(text, "b")))
    written = UsageSummary("worker", "the volume", (line,), line.total).to_csv()
    head, row = csv.reader(io.StringIO(written))
    assert len(head) == len(row)
    for cell in row:
        assert_plain(cell)
        assert not cell.startswith(("=", "+", "-", "@", "|", "%", " ", "\t"))


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    assert [csv_cell(cell) for cell in ("-1.5", "+2", "3e-4", "a-b", "Q4_K_M")] == [
        "-1.5",
        "+2",
        "3e-4",
        "a-b",
        "Q4_K_M",
    ]


@texts
def test_in_a_picture_of_use(text: str) -> None:
    sample = UseSample(NOW, 20, {text: 5}, 2, 3)
    assert_one_element_of_text(draw(UseHistory((sample,)), title=f"Use of {text}"))


@texts
def test_in_the_answer_to_a_request(text: str) -> None:
    """Keys of a request come back in its errors."""
    key = json.dumps(text)
    with pytest.raises(InvalidJson) as refused:
        parse_text(f"{{{key}: 1, {key}: 2}}")
    assert_plain(str(refused.value))
    assert_plain(refused.value.path)


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("Žluťoučký kůň, 模型, \U0001f40e\ufe0f", "a" * 1000, "", "tab"):
        assert one_line(text) == lines(text) == text
    assert lines("one\r\n\ttwo\n") == "one\n\ttwo\n"
