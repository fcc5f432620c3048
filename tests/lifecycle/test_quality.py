"""The quality of a snapshot against another one of the volume, and the report on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import BadSetting, NotOnVolume
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.quality import best_reference, measure_quality, read_quality
from paddock.measure.quality_text import KINDS
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from tests.support.tiny_hub import NAME, Q4_K_M, tiny_model


@pytest.fixture
def variants(clients: Clients, hub: HubService) -> tuple[Manifest, Manifest]:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(2), "tiny-Q4_K_M.gguf": tiny_model(file_type=Q4_K_M)})
    first, second = (
        pull(clients, Reference.parse(f"{NAME}:{name}"), target=UNBOUNDED).manifest for name in ("Q8_0", "Q4_K_M")
    )
    return first, second


def test_a_variant_is_compared_with_the_best_other_and_the_result_is_stored(
    clients: Clients, variants: tuple[Manifest, Manifest]
) -> None:
    best, other = variants
    assert best_reference(clients, other).id == best.id
    measured = measure_quality(clients, other, best)
    assert (measured.model, measured.reference) == (str(other.id), str(best.id))
    assert measured.tokens >= 8000
    assert [text.name for text in measured.texts] == list(KINDS)
    assert measured.answers is not None
    assert (measured.answers.asked, measured.answers.match) == (4, None), "other weights may answer otherwise"
    assert measured.roleplay is None
    assert read_quality(clients, other) == measured


def test_a_result_on_a_text_of_the_users_is_not_stored(
    clients: Clients, variants: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    text = tmp_path / "chapters.txt"
    text.write_text("It was a long way down to the river. " * 40)
    measured = measure_quality(clients, variants[1], variants[0], text=text)
    assert [one.name for one in measured.texts] == ["chapters.txt"]
    assert read_quality(clients, variants[1]) is None


def test_what_cannot_be_compared_is_named_with_a_cure(clients: Clients, variants: tuple[Manifest, Manifest]) -> None:
    best, other = variants
    with pytest.raises(BadSetting, match="cannot be compared with itself"):
        measure_quality(clients, best, best)
    clients.volume.remove(other.model, variant=other.variant)
    with pytest.raises(NotOnVolume, match="has no other variant") as caught:
        best_reference(clients, best)
    assert f"paddock pull {NAME}" in caught.value.cure
