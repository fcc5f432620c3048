"""Validation of the parts other than the bytes: configuration, memory, licence."""

from __future__ import annotations

import pytest

from infra.local.hub import HubService
from paddock.errors import DoesNotFit
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import markdown, read_dossier
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.reference import Reference
from paddock.planning.placement import Target
from tests.support.tiny_hub import CARD, CONFIG, MODEL, NAME, validate_snapshot


def test_a_sound_model_that_fits_has_no_finding(clients: Clients, pulled: Manifest) -> None:
    found = validate_snapshot(clients, pulled)
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
def test_other_files_of_the_repository_can_only_warn(
    clients: Clients, hub: HubService, files: dict[str, bytes | None], rule: str
) -> None:
    hub.repository(NAME).commit({"config.json": CONFIG, "README.md": CARD, **files})
    manifest = pull(clients, Reference(MODEL)).manifest
    found = validate_snapshot(clients, manifest)
    assert [finding.rule for finding in found.findings] == [rule]
    assert found.verdict is Verdict.WARN
    assert found.findings[0].cure
    validate.require_sound(manifest, found)


def test_a_model_that_is_only_too_large_does_not_fit(clients: Clients, pulled: Manifest) -> None:
    found = validate_snapshot(clients, pulled, target=Target(1024))
    assert [finding.rule for finding in found.findings] == ["compatibility.memory"]
    with pytest.raises(DoesNotFit, match=r"at 128 tokens of context, and 256\.\d MiB are missing"):
        validate.require_sound(pulled, found)


def test_a_flipped_bit_on_the_volume_is_found(clients: Clients, pulled: Manifest) -> None:
    (file,) = [file for file in pulled.files if file.path.endswith(".gguf")]
    blob = clients.volume.blob_path(file.sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as data:
        data.seek(file.size - 5)
        byte = data.read(1)
        data.seek(file.size - 5)
        data.write(bytes([byte[0] ^ 1]))
    (finding,) = validate.check_integrity(clients, pulled)
    assert (finding.rule, finding.where) == ("integrity.sha256", file.path)


def test_a_validation_for_another_target_never_replaces_that_for_this_machine(
    clients: Clients, pulled: Manifest
) -> None:
    elsewhere = validate_snapshot(clients, pulled, target_name="rtx-4090")
    assert validate.read_validation(clients, pulled) == elsewhere, "nothing stands yet"
    assert "validated for rtx-4090" in markdown(read_dossier(clients, pulled))
    here = validate_snapshot(clients, pulled)
    validate_snapshot(clients, pulled, target_name="rtx-4090")
    assert validate.read_validation(clients, pulled) == here
    assert "validated for" not in markdown(read_dossier(clients, pulled))
