"""The dossier says what is known, what is not, and never what a stranger wrote as if it were its own."""

from __future__ import annotations

import pytest

from infra.local.hub import Service
from paddock.lifecycle import dossier, judgement, measuring
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.pull import pull
from paddock.model.reference import Reference
from tests.support.house import MODEL, NAME, judged_of


def test_before_anything_was_measured_it_says_that(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    text = dossier.compose(parts, manifest)
    assert "Not judged yet" in text
    assert "Not measured yet" in text
    assert f"`{manifest.revision}`" in text
    assert "| licence | mit |" in text


def test_a_model_without_a_licence_is_marked(parts: Parts, hub: Service) -> None:
    hub.repository(NAME).commit({"README.md": None})
    assert "**not stated**" in dossier.compose(parts, pull(parts, Reference(MODEL)).manifest)


def test_what_a_stranger_wrote_cannot_end_a_cell_or_bring_markup(parts: Parts, hub: Service) -> None:
    hub.repository(NAME).commit({"README.md": b'---\nlicense: "a|b<script>\\n# own heading"\n---\n'})
    text = dossier.compose(parts, pull(parts, Reference(MODEL)).manifest)
    assert "| licence | a\\|b&lt;script> # own heading |" in text
    assert "\n# own heading" not in text


def test_it_is_kept_with_the_reports_and_made_of_what_was_kept(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    judged = judged_of(parts, manifest)
    assert judgement.read_judgement(parts, manifest) == judged
    written = dossier.write(parts, manifest)
    assert parts.volume.read_report(manifest.id, dossier.REPORT) == written.markdown
    assert "## Memory at 128 tokens of context" in written.markdown


def test_a_context_beyond_the_models_own_is_asked_as_its_own(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    found = judgement.check_compatibility(parts, manifest, 1_000_000)
    assert found.preflight.plan.context_tokens == 256


def test_reports_of_another_variant_of_the_same_commit_are_not_shown(parts: Parts) -> None:
    judged_of(parts, pull(parts, Reference(MODEL)).manifest)
    assert "Not judged yet" in dossier.compose(parts, pull(parts, Reference.parse(f"{NAME}:Q4_K_M")).manifest)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"verdict": "accept"}', '{"files": {}, "report": 1}', "\x00"])
def test_a_report_that_cannot_be_read_is_none(parts: Parts, damage: str) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    for name in (judgement.JUDGEMENT, measuring.BENCHMARK):
        parts.volume.write_report(manifest.id, name, damage)
    text = dossier.compose(parts, manifest)
    assert "Not judged yet" in text
    assert "Not measured yet" in text


def test_a_report_from_another_version_is_none(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    judged_of(parts, manifest)
    text = parts.volume.read_report(manifest.id, judgement.JUDGEMENT)
    assert text is not None
    parts.volume.write_report(manifest.id, judgement.JUDGEMENT, text.replace('"block_count"', '"of_tomorrow"'))
    assert judgement.read_judgement(parts, manifest) is None
