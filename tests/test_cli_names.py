"""Names, files, paths and addresses that commands print are accepted as arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.model.reference import Reference
from tests.support.program import Outcome, Paddock, paddock
from tests.support.tiny_hub import MODEL, NAME, tiny_model

__all__ = ["paddock"]

Q4, Q8 = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"


def fetched(result: Outcome) -> list[str]:
    assert result.status == 0, result
    return [file["path"] for file in result.json["files"] if file["path"].endswith(".gguf")]


def test_an_address_of_the_hub_is_a_model(clients: Clients, hub: HubService, paddock: Paddock) -> None:
    source = paddock("inspect", NAME, "--json").json["source"]
    for address in (f"{hub.address}/{NAME}/", f"https://huggingface.co/{NAME}/tree/main", f"hf.co/{NAME}?x=y"):
        assert paddock("inspect", address, "--json").json["source"] == source
    planned = paddock("plan", f"hf.co/{NAME}:q4_k_m", "--ctx", "256", "--json")
    assert planned.json["file"] == Q4


def test_an_address_of_a_file_is_that_file_at_that_revision(
    clients: Clients, hub: HubService, paddock: Paddock
) -> None:
    first = clients.hub.listing(MODEL).revision
    hub.repository(NAME).commit({Q4: tiny_model(3)})
    address = f"{hub.address}/{NAME}/resolve/{first}/{Q4}?download=true"
    printed = paddock("inspect", address, "--json").json["source"]
    assert printed == f"{NAME}@{first}:{Q4}"
    assert paddock("plan", printed, "--ctx", "256", "--json").json["file"] == Q4
    pulled = paddock("pull", printed, "--json")
    assert (fetched(pulled), pulled.json["revision"]) == ([Q4], first)
    for text in (printed, address, f"https://huggingface.co/{NAME}/blob/main/{Q4}"):
        shown = paddock("show", text, "--json").json
        assert (shown["variant"], shown["revision"]) == ("Q4_K_M", first)
    absent = paddock("show", f"https://huggingface.co/{NAME}/blob/main/{Q8}", "--json")
    assert (absent.status, absent.json["error"]) == (1, "not-on-volume")
    assert absent.json["cure"] == f"pull it first (`paddock pull {NAME} --file {Q8}`)"


def test_a_path_on_the_volume_names_its_snapshot(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, paddock: Paddock
) -> None:
    q4 = pull(clients, Reference(MODEL), files=["*Q4_K_M*"]).manifest.id
    pulled = pull(clients, Reference(MODEL), files=[Q8])
    volume = clients.settings.volume
    link = f"{volume}/org--tiny-GGUF--Q4_K_M"
    paths = {
        str(pulled.path): "Q8_0",
        f"{volume}/org--tiny-GGUF/": "Q8_0",
        link: "Q4_K_M",
        str(clients.volume.snapshot_path(q4)): "Q4_K_M",
        str(clients.volume.snapshot_path(q4) / Q4): "Q4_K_M",
        "./org--tiny-GGUF": "Q8_0",
    }
    monkeypatch.chdir(volume)
    for path, variant in paths.items():
        assert paddock("show", path, "--json").json["variant"] == variant, path
        assert paddock("inspect", path, "--json").json["model"]["quantization"] == variant, path
    assert paddock("plan", link, "--ctx", "256", "--json").json["quantization"] == "Q4_K_M"
    assert paddock("promote", link, "--json").json["default"] == "Q4_K_M"
    assert paddock("pin", link, "--json").json["variant"] == "Q4_K_M"
    assert paddock("unpin", link, "--json").json["pinned"] is False
    assert paddock("verify", link, "--json").json["ok"] is True
    assert {change["variant"] for change in paddock("history", link, "--json").json["history"]} == {"Q4_K_M"}
    assert "cannot go back to" in paddock("rollback", str(clients.volume.snapshot_path(q4)), "--json").json["message"]
    # A link to the default is one snapshot, and not the model with all of its variants.
    removed = paddock("rm", f"{volume}/org--tiny-GGUF", "--json").json["removed"]
    assert [row["variant"] for row in removed] == ["Q4_K_M"]
    gone = paddock("show", link, "--json")
    assert (gone.status, gone.json["error"]) == (1, "not-on-volume")
    assert gone.json["message"] == f"{link} is not a snapshot of the volume {volume}"


WITHOUT_A_VOLUME = [
    "ls",
    "verify",
    f"verify {NAME}",
    f"show {NAME}",
    f"history {NAME}",
    f"rm {NAME}",
    f"pin {NAME}",
    f"promote {NAME}",
    f"rollback {NAME}",
    f"bench {NAME}",
    f"serve {NAME}",
]


@pytest.mark.parametrize("line", WITHOUT_A_VOLUME)
def test_a_mistyped_volume_is_not_taken_for_an_empty_one(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, paddock: Paddock, line: str
) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", f"{tmp_path}/modls")
    result = paddock(*line.split(), "--json")
    assert (result.status, result.json["error"]) == (1, "not-on-volume"), result
    assert result.json["message"] == f"there is no {tmp_path}/modls"
    assert "PADDOCK_VOLUME" in result.json["cure"]
    assert not (tmp_path / "modls").exists()


def test_an_empty_volume_is_empty_and_a_file_is_none(clients: Clients, paddock: Paddock) -> None:
    clients.settings.volume.mkdir()
    assert paddock("ls", "--json").json["models"] == []
    assert paddock("verify", "--json").json["files"] == []
    clients.settings.volume.rmdir()
    clients.settings.volume.write_bytes(b"")
    assert paddock("ls").stderr.startswith(f"paddock: {clients.settings.volume} is not a directory: ")


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("download org/name", "use `paddock pull org/name`"),
        ("install org/name --quant Q4_K_M", "use `paddock pull org/name --quant Q4_K_M`"),
        ("get x", "use `paddock pull x`"),
        ("run org/name", "use `paddock serve org/name`"),
        ("list", "use `paddock ls`"),
        ("remove x", "use `paddock rm x`"),
        ("delete x", "use `paddock rm x`"),
        ("info x", "use `paddock show x`"),
        ("plul x", "use `paddock pull x`"),
        ("downlaod x", "use `paddock pull x`"),
        ("LS", "use `paddock ls`"),
        ("qwertz", "see `paddock --help`"),
        ("pull x --qunat Q8_0", "use --quant"),
        ("plan x --contxt 5", "use --ctx"),
        ("ls --verbose", "write it before the command: `paddock --verbose ls`"),
        ("pull", "see `paddock pull --help`"),
        ("serve x --port many", "see `paddock serve --help`"),
        ("", "see `paddock --help`"),
    ],
)
def test_a_mistyped_command_or_option_is_answered_with_the_right_one(paddock: Paddock, line: str, cure: str) -> None:
    result = paddock(*line.split())
    assert (result.status, result.stdout) == (3, "")
    assert result.stderr.endswith(f": {cure}\n")


def test_the_version_is_that_of_paddock_and_of_the_engine(paddock: Paddock) -> None:
    from paddock.engine.facts import engine_version
    from paddock.version import VERSION

    assert paddock("--version").stdout == f"paddock {VERSION}, llama-cpp-python {engine_version()}\n"
    for arguments in (["--version", "--json"], ["--json", "--version"]):
        assert paddock(*arguments).json == {"paddock": VERSION, "engine": engine_version()}


def test_json_is_taken_before_a_command_too(clients: Clients, paddock: Paddock) -> None:
    clients.settings.volume.mkdir()
    assert paddock("--json", "ls").json["models"] == []
