"""`download_model_to_path`: plain files in any directory, or a pull to the model's path on the volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock import download_model_to_path, get_gguf_file_path, get_model_path_from_name
from paddock.errors import CorruptFile, NoPermission, UnsafeName
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.model.reference import Reference
from tests.support.gguf import CHATML, tiny_llama
from tests.support.tiny_hub import MODEL, NAME, Q4_K_M, tiny_model


def test_a_plain_directory_gets_verified_files_and_a_chat_template(clients: Clients, tmp_path: Path) -> None:
    target = tmp_path / "somewhere" / "else"
    assert download_model_to_path(NAME, target) == target
    assert get_gguf_file_path(target).read_bytes() == tiny_model()
    assert (target / "chat_template.jinja").read_text().startswith("{%")
    assert not (target / ".paddock-partial").exists()
    assert not clients.volume.root.exists()


def test_a_second_download_fetches_nothing(clients: Clients, hub: HubService, tmp_path: Path) -> None:
    download_model_to_path(NAME, tmp_path / "plain")
    hub.reset_stats()
    download_model_to_path(NAME, tmp_path / "plain")
    assert hub.stats().total_bytes_sent == 0


def test_a_damaged_file_in_a_plain_directory_is_fetched_again_and_no_other(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    target = download_model_to_path(NAME, tmp_path / "plain")
    damaged = get_gguf_file_path(target)
    content = bytearray(damaged.read_bytes())
    content[9_999] ^= 1
    damaged.write_bytes(content)
    hub.reset_stats()
    download_model_to_path(NAME, target)
    assert damaged.read_bytes() == tiny_model()
    assert set(hub.stats().bytes_sent) == {f"{NAME}/tiny-Q8_0.gguf"}


def test_the_models_path_on_the_volume_is_pulled_and_promoted(clients: Clients) -> None:
    own = get_model_path_from_name(NAME)
    assert download_model_to_path(NAME, own) == own
    assert own.is_symlink()
    default = clients.volume.promoted(MODEL).default_id
    assert default is not None
    assert own.resolve() == clients.volume.snapshot_path(default).resolve()


def test_a_variants_path_on_the_volume_is_pulled_and_promoted(clients: Clients) -> None:
    name = f"{NAME}:Q4_K_M"
    own = get_model_path_from_name(name)
    assert own.name == "org--tiny-GGUF--Q4_K_M"
    download_model_to_path(name, own)
    assert get_gguf_file_path(own).read_bytes() == tiny_model(file_type=Q4_K_M)
    assert clients.volume.promoted(MODEL).default == "Q4_K_M"
    with pytest.raises(NoPermission, match="is inside the volume"):
        download_model_to_path(f"{NAME}:Q8_0", own)


def test_a_plain_directory_gets_the_named_variant(clients: Clients, tmp_path: Path) -> None:
    target = download_model_to_path(f"{NAME}:q4_k_m", tmp_path / "plain")
    assert get_gguf_file_path(target).read_bytes() == tiny_model(file_type=Q4_K_M)


def test_an_alias_of_the_models_path_is_pulled_and_promoted(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, tmp_path: Path
) -> None:
    clients.volume.prepare()
    (tmp_path / "alias").symlink_to(clients.volume.root)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "alias"))
    own = clients.volume.model_path(MODEL)
    download_model_to_path(NAME, own)
    download_model_to_path(NAME, own)
    assert own.is_symlink()
    assert (own / "tiny-Q8_0.gguf").stat().st_mode & 0o777 == 0o444


def test_no_other_directory_of_the_volume_is_written(clients: Clients, hub: HubService) -> None:
    hub.repository("org/other").commit({"other-Q8_0.gguf": tiny_model(3)})
    snapshot = pull(clients, Reference(MODEL)).path
    for place in (snapshot, snapshot.resolve(), clients.volume.root / "elsewhere"):
        with pytest.raises(NoPermission, match="is inside the volume"):
            download_model_to_path("org/other", place)
    assert not (snapshot / "other-Q8_0.gguf").exists()


def test_a_template_follows_the_model_that_it_was_written_for(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    target = download_model_to_path(NAME, tmp_path / "plain")
    before = (target / "chat_template.jinja").read_text()
    changed = CHATML.replace("assistant", "ASSISTANT")
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_llama(template=changed).to_bytes()})
    download_model_to_path(NAME, target)
    assert (target / "chat_template.jinja").read_text() == changed != before


def test_a_file_with_wrong_bytes_is_never_given_its_name(clients: Clients, hub: HubService, tmp_path: Path) -> None:
    hub.inject("flip", f"{NAME}/tiny-Q8_0.gguf", offset=5_000, times=None)
    with pytest.raises(CorruptFile):
        download_model_to_path(NAME, tmp_path / "plain")
    assert list((tmp_path / "plain").glob("*.gguf")) == []


@pytest.mark.parametrize(
    "name", ["../etc", "a/b/c", "", "a--b", "org/.hidden", "org/name:", "org/name:../x", "org/name:a--b"]
)
def test_a_hostile_name_is_refused_before_anything_is_made(clients: Clients, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeName):
        download_model_to_path(name, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_a_directory_that_cannot_be_made_is_named(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NoPermission, match="file"):
        download_model_to_path(NAME, tmp_path / "file" / "plain")
