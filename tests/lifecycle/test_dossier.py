"""The dossier states what is known and what is missing, and escapes untrusted text."""

from __future__ import annotations

import pytest

from infra.local.hub import HubService
from paddock.lifecycle import dossier
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run import benchmark
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from tests.support.tiny_hub import MODEL, NAME, validate_snapshot


def test_missing_reports_are_stated(clients: Clients, pulled: Manifest) -> None:
    text = dossier.compose(clients, pulled)
    assert "Not validated yet" in text
    assert "Not measured yet" in text
    assert f"`{pulled.revision}`" in text
    assert "| licence | mit |" in text


def test_a_model_without_a_licence_is_marked(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"README.md": None})
    assert "**not stated**" in dossier.compose(clients, pull(clients, Reference(MODEL)).manifest)


def test_untrusted_text_cannot_end_a_cell_or_add_markup(clients: Clients, hub: HubService) -> None:
    hub.repository(NAME).commit({"README.md": b'---\nlicense: "a|b<script>\\n# own heading"\n---\n'})
    text = dossier.compose(clients, pull(clients, Reference(MODEL)).manifest)
    assert "| licence | a\\|b&lt;script> # own heading |" in text
    assert "\n# own heading" not in text


def test_it_is_written_to_the_reports_and_composed_from_them(clients: Clients, pulled: Manifest) -> None:
    validation = validate_snapshot(clients, pulled)
    assert validate.read_validation(clients, pulled) == validation
    written = dossier.write_dossier(clients, pulled)
    assert clients.volume.read_report(pulled.id, dossier.REPORT) == written.markdown
    assert "## Memory at 128 tokens of context" in written.markdown


def test_a_context_beyond_the_trained_one_is_reduced_to_it(clients: Clients, pulled: Manifest) -> None:
    found = validate.check_compatibility(clients, pulled, 1_000_000)
    assert found.preflight.plan.context_tokens == 256


def test_reports_of_another_variant_of_the_same_commit_are_not_shown(clients: Clients, pulled: Manifest) -> None:
    validate_snapshot(clients, pulled)
    assert "Not validated yet" in dossier.compose(clients, pull(clients, Reference.parse(f"{NAME}:Q4_K_M")).manifest)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"verdict": "accept"}', '{"files": {}, "report": 1}', "\x00"])
def test_a_report_that_cannot_be_parsed_is_ignored(clients: Clients, pulled: Manifest, damage: str) -> None:
    for name in (validate.VALIDATION_REPORT, benchmark.BENCHMARK):
        clients.volume.write_report(pulled.id, name, damage)
    text = dossier.compose(clients, pulled)
    assert "Not validated yet" in text
    assert "Not measured yet" in text


def test_a_report_of_another_version_is_ignored(clients: Clients, pulled: Manifest) -> None:
    validate_snapshot(clients, pulled)
    text = clients.volume.read_report(pulled.id, validate.VALIDATION_REPORT)
    assert text is not None
    clients.volume.write_report(pulled.id, validate.VALIDATION_REPORT, text.replace('"block_count"', '"of_tomorrow"'))
    assert validate.read_validation(clients, pulled) is None
