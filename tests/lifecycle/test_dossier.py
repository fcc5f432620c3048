"""The dossier of a stored snapshot: what it is composed from, where it is written, and that it is written again."""

from __future__ import annotations

import shlex

import pytest

from infra.local.hub import HubService
from paddock.cli.model_argument import find_snapshot
from paddock.lifecycle import dossier
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier.document import Verdicts
from paddock.lifecycle.run import benchmark
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from tests.support.pages import COMMANDS
from tests.support.tiny_hub import MODEL, NAME, validate_snapshot


def page(clients: Clients, manifest: Manifest) -> str:
    return dossier.markdown(dossier.read_dossier(clients, manifest))


def test_missing_reports_are_stated(clients: Clients, pulled: Manifest) -> None:
    text = page(clients, pulled)
    assert "! **not fully checked**" in text
    assert text.count("? **not measured**") == 2
    assert "✓ **nothing was there**" in text
    assert f"`{pulled.revision}`" in text
    assert "| licence | mit |" in text


def test_a_model_without_a_licence_is_marked(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"README.md": None})
    assert "| licence | **not stated** |" in page(clients, pull(clients, Reference(MODEL)).manifest)


def test_untrusted_text_cannot_end_a_cell_or_add_markup(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"README.md": b'---\nlicense: "a|b<script>\\n# own heading"\n---\n'})
    text = page(clients, pull(clients, Reference(MODEL)).manifest)
    assert "| licence | a\\|b\\<script> # own heading |" in text
    assert "\n# own heading" not in text


def test_it_is_written_to_the_reports_and_composed_from_them(clients: Clients, pulled: Manifest) -> None:
    validation = validate_snapshot(clients, pulled)
    assert validate.read_validation(clients, pulled) == validation
    written = dossier.write_dossier(clients, pulled)
    assert clients.volume.read_report(pulled.id, dossier.REPORT) == written.markdown
    value = clients.volume.read_report(pulled.id, dossier.JSON_REPORT)
    assert dossier.DossierDocument.from_json(value or "") == written.document
    assert "With 128 tokens of context" in written.markdown


def test_a_context_beyond_the_trained_one_is_reduced_to_it(clients: Clients, pulled: Manifest) -> None:
    found = validate.check_compatibility(clients, pulled, 1_000_000)
    assert found.preflight.plan.context_tokens == 256


def test_reports_of_another_variant_of_the_same_commit_are_not_shown(clients: Clients, pulled: Manifest) -> None:
    validate_snapshot(clients, pulled)
    assert "not fully checked" in page(clients, pull(clients, Reference.parse(f"{NAME}:Q4_K_M")).manifest)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"verdict": "accept"}', '{"files": {}, "report": 1}', "\x00"])
def test_a_report_that_cannot_be_parsed_is_ignored(clients: Clients, pulled: Manifest, damage: str) -> None:
    for name in (validate.VALIDATION_REPORT, benchmark.BENCHMARK, "gates.json", "quality.json"):
        clients.volume.write_report(pulled.id, name, damage)
    assert page(clients, pulled).count("? **not measured**") == 2


def test_a_report_of_another_version_is_ignored(clients: Clients, pulled: Manifest) -> None:
    validate_snapshot(clients, pulled)
    text = clients.volume.read_report(pulled.id, validate.VALIDATION_REPORT)
    assert text is not None
    clients.volume.write_report(pulled.id, validate.VALIDATION_REPORT, text.replace('"block_count"', '"of_tomorrow"'))
    assert validate.read_validation(clients, pulled) is None


def test_the_commands_that_it_names_can_be_typed(clients: Clients, pulled: Manifest) -> None:
    before = dossier.read_dossier(clients, pulled)
    validate_snapshot(clients, pulled)
    after = dossier.read_dossier(clients, pulled)
    answers = [getattr(before.verdicts, question) for question in Verdicts.model_fields]
    lines = [answer.command for answer in answers if answer.command]
    lines += [command.line for document in (before, after) for command in document.run.commands]
    assert len(set(lines)) == 10
    for line in set(lines):
        program, name, *arguments = shlex.split(line)
        assert program == "paddock"
        context = COMMANDS[name].make_context(name, arguments)
        assert find_snapshot(clients, context.params.get("model") or context.params["models"][0]) == pulled
