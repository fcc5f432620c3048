"""What is judged beside the file itself: the repository's configuration, the memory, the licence."""

from __future__ import annotations

import pytest

from infra.local.hub import Service
from paddock.errors import DoesNotFit
from paddock.lifecycle import judgement
from paddock.lifecycle.dossier import compose
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.pull import pull
from paddock.model.finding import Verdict
from paddock.model.reference import Reference
from paddock.planning.placement import Target
from tests.support.house import CARD, CONFIG, MODEL, NAME, judged_of


def test_a_sound_model_that_fits_has_no_finding(parts: Parts) -> None:
    found = judged_of(parts, pull(parts, Reference(MODEL)).manifest)
    assert (found.verdict, found.findings) == (Verdict.ACCEPT, ())


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"config.json": b'{"model_type": "llama", "vocab_size": 32000}'}, "configuration.conflict"),
        ({"config.json": b'{"model_type": "llama", "max_position_embeddings": 8192}'}, "configuration.conflict"),
        ({"config.json": b'{"model_type": "stablelm_epoch"}'}, "compatibility.configuration"),
        ({"README.md": None}, "licence.stated"),
    ],
    ids=["another vocabulary", "another context", "a model that the engine does not run", "no licence"],
)
def test_what_stands_beside_the_file_can_warn_and_no_more(
    parts: Parts, hub: Service, files: dict[str, bytes | None], rule: str
) -> None:
    hub.repository(NAME).commit({"config.json": CONFIG, "README.md": CARD, **files})
    manifest = pull(parts, Reference(MODEL)).manifest
    found = judged_of(parts, manifest)
    assert [finding.rule for finding in found.findings] == [rule]
    assert found.verdict is Verdict.WARN
    assert found.findings[0].cure
    judgement.require_sound(manifest, found)


def test_a_model_that_is_only_too_large_does_not_fit(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    found = judged_of(parts, manifest, target=Target(1024))
    assert [finding.rule for finding in found.findings] == ["compatibility.memory"]
    with pytest.raises(DoesNotFit, match=r"at 128 tokens of context, and 256\.\d MiB are missing"):
        judgement.require_sound(manifest, found)


def test_a_bit_that_rotted_on_the_volume_is_found(parts: Parts) -> None:
    manifest = pull(parts, Reference(MODEL)).manifest
    (file,) = [file for file in manifest.files if file.path.endswith(".gguf")]
    blob = parts.volume.blob_path(file.sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as data:
        data.seek(file.size - 5)
        byte = data.read(1)
        data.seek(file.size - 5)
        data.write(bytes([byte[0] ^ 1]))
    (finding,) = judgement.check_integrity(parts, manifest)
    assert (finding.rule, finding.where) == ("integrity.sha256", file.path)


def test_a_judgement_for_another_target_never_replaces_what_stands(parts: Parts) -> None:
    manifest = pull(parts, Reference.parse(NAME)).manifest
    elsewhere = judged_of(parts, manifest, written="rtx-4090")
    assert judgement.read_judgement(parts, manifest) == elsewhere, "nothing stands yet"
    assert "judged for rtx-4090" in compose(parts, manifest)
    here = judged_of(parts, manifest)
    judged_of(parts, manifest, written="rtx-4090")
    assert judgement.read_judgement(parts, manifest) == here
    assert "judged for" not in compose(parts, manifest)
