"""The Data Docs of a snapshot: their tables, location, replacement and removal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.data_docs import write_data_docs
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.gate_reports import record_gates
from paddock.lifecycle.inventory import delete_model_from_volume
from paddock.measure.gate_report import Gate, GateLimit, GateReport
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.tiny_hub import MODEL, NAME, tiny_model


def test_a_pulled_model_meets_every_expectation_and_has_pages(clients: Clients, pulled: Manifest) -> None:
    found = write_data_docs(clients, pulled)
    assert found.findings == ()
    assert [one.table.name for one in found.tables] == ["files", "tensors", "metadata", "inventory"]
    files = found.tables[0].table
    assert {row[0]: row[2] for row in files.rows} == {
        "chat.paddock.json": "Paddock",
        "chat_template.jinja": "Paddock",
        "config.json": "the Hub",
        "tiny-Q8_0.gguf": "the Hub",
        "tokenizer_config.json": "the Hub",
    }
    pages = clients.volume.docs.path / MODEL.slug / pulled.revision / pulled.variant
    assert found.location == str(pages / "index.html")
    assert len(list(pages.glob("validations/*/*/*/*.html"))) == 4
    assert NAME in (pages / "index.html").read_text()


def test_pages_are_replaced_and_are_removed_with_the_snapshot(clients: Clients, pulled: Manifest) -> None:
    pages = clients.volume.docs.path / MODEL.slug / pulled.revision / pulled.variant
    write_data_docs(clients, pulled)
    first = set(pages.rglob("*.html"))
    write_data_docs(clients, pulled)
    second = set(pages.rglob("*.html"))
    assert len(first) == len(second)
    assert first != second, "they carry the time of their run"
    assert [path.name for path in pages.parent.iterdir()] == [pulled.variant]
    delete_model_from_volume(NAME, pulled.revision)
    assert not pages.exists()


def test_the_tables_of_a_split_model_have_all_of_its_shards(clients: Clients) -> None:
    manifest = pull(clients, Reference.parse(f"{NAME}:Q6_K")).manifest
    found = write_data_docs(clients, manifest)
    assert found.findings == ()
    assert {row[0] for row in found.tables[1].table.rows} == {
        "tiny-Q6_K-00001-of-00002.gguf",
        "tiny-Q6_K-00002-of-00002.gguf",
    }


def test_the_gates_are_a_table_of_their_own(clients: Clients, pulled: Manifest) -> None:
    gates = (
        Gate("decode", "at least 0.9 of the promoted one's", 30.0, 60.0, 0.5, (0.49, 0.51), False, "too slow"),
        Gate("audit", "not rejected", "accept", "accept", None, None, True, "its verdict is accept"),
        Gate("prefill", "at least 0.8 of the promoted one's", None, None, None, None, None, "disturbed"),
        Gate("<b>", "made by somebody else", None, None, None, None, False, "bad"),
    )
    limits = (GateLimit("decode", 0.51, least=0.9),)
    report = GateReport(str(pulled.id), "org/other:Q8_0", None, gates, False, "engine", "now", 1.0, limits=limits)
    record_gates(clients, pulled, report)
    found = write_data_docs(clients, pulled)
    table = found.tables[-1].table
    assert (table.name, table.columns) == ("gates", ("decode", "audit", "prefill"))
    assert table.rows == [(0.51, "passed", "not decided")]
    (finding,) = found.findings
    assert (finding.rule, str(finding.severity)) == ("expectations.gates", "info")
    assert "decode: at least 0.9 of the promoted one's" in finding.message
    assert len(list((clients.volume.docs.path).glob("*/*/*/validations/gates/**/*.html"))) == 1


def test_without_the_hub_the_pages_say_that_files_were_not_compared(
    clients: Clients, pulled: Manifest, hub: HubService, caplog: pytest.LogCaptureFixture
) -> None:
    hub.inject("status", "*", where="hub", status=404, times=None)
    found = write_data_docs(clients, pulled)
    assert found.findings == ()
    assert {row[2] for row in found.tables[0].table.rows} == {"Paddock", "not compared"}
    assert "not compared with the Hub's list" in caplog.text


def test_another_models_missing_file_warns(clients: Clients, hub: HubService) -> None:
    other = ModelName.parse("org/other-GGUF")
    hub.repository(str(other)).commit({"other-Q8_0.gguf": tiny_model(name="other")})
    gone = pull(clients, Reference(other)).manifest
    (clients.volume.snapshot_path(gone.id) / "other-Q8_0.gguf").unlink()
    (finding,) = write_data_docs(clients, pull(clients, Reference(MODEL)).manifest).findings
    assert (finding.rule, str(finding.severity)) == ("expectations.inventory", "warn")
    assert "1 of" in finding.message


def test_the_location_is_a_url_if_one_is_set(clients: Clients, pulled: Manifest) -> None:
    shown = replace(clients, settings=replace(clients.settings, docs_url="http://docs.example"))
    assert (
        write_data_docs(shown, pulled).location
        == f"http://docs.example/org--tiny-GGUF/{pulled.revision}/Q8_0/index.html"
    )
