"""Quantizations of one commit beside each other, as somebody at a terminal has them: the command line, for one whole
sequence in processes of its own, the local Hub and a real S3."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients
from tests.support.program import Paddock, paddock, program
from tests.support.tiny_hub import NAME, Q4_K_M, tiny_model, use_s3

__all__ = ["paddock"]
LINK = "org--tiny-GGUF"
FILES = {"Q8_0": "tiny-Q8_0.gguf", "Q4_K_M": "tiny-Q4_K_M.gguf"}
COMPANIONS = ("config.json", "tokenizer_config.json")
CUT = "context: 256 tokens, which is all that it was trained for, instead of 4096"


def done(*arguments: str) -> dict[str, Any]:
    """What a command printed that could be done."""
    result = program(*arguments, "--json")
    assert result.status == 0, result
    return result.json


def variants(listed: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """Whether each variant that `ls` names is promoted, and the default."""
    rows = listed["models"]
    assert len({row["revision"] for row in rows}) == len({row["model"] for row in rows}) == 1
    return {row["variant"]: (row["promoted"], row["default"]) for row in rows}


def whole(volume: Path, variant: str) -> list[dict[str, Any]]:
    """The files that the variant's link shows: all that its manifest names, each with its digest."""
    home = volume / f"{LINK}--{variant}"
    files: list[dict[str, Any]] = json.loads((home / "manifest.json").read_bytes())["files"]
    assert {FILES[variant], *COMPANIONS} <= {file["path"] for file in files}
    for file in files:
        assert hashlib.sha256((home / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    return files


def sizes(files: list[dict[str, Any]]) -> dict[str, int]:
    """What `ls` says of snapshots with these files: one that several have is stored once."""
    apparent, real = sum(file["size"] for file in files), sum({file["sha256"]: file["size"] for file in files}.values())
    assert apparent > real
    return {"apparent_bytes": apparent, "real_bytes": real}


def test_two_quantizations_of_a_commit_exist_until_one_is_removed(clients: Clients) -> None:
    volume = clients.settings.volume
    first = done("pull", f"{NAME}:Q8_0")
    assert (first["path"], first["variant"], first["promoted"]) == (str(volume / LINK), "Q8_0", True)
    assert first["notes"] == [CUT]
    second = done("pull", f"{NAME}:Q4_K_M")
    assert (second["path"], second["revision"]) == (str(volume / LINK), first["revision"])
    assert {file["source"] for file in second["files"] if file["path"] in COMPANIONS} == {"volume"}

    listed = done("ls")
    assert variants(listed) == {"Q8_0": (True, False), "Q4_K_M": (True, True)}
    assert (volume / LINK).readlink() == Path(f"{LINK}--Q4_K_M")
    for variant in FILES:
        snapshot = Path(".paddock/snapshots", LINK, first["revision"], variant)
        assert (volume / f"{LINK}--{variant}").readlink() == snapshot
    assert sizes([file for variant in FILES for file in whole(volume, variant)]).items() <= listed.items()
    for name in COMPANIONS:
        assert (volume / f"{LINK}--Q8_0" / name).samefile(volume / f"{LINK}--Q4_K_M" / name)

    back = done("rollback", NAME)
    assert (back["default"], back["previous_default"], back["revision"]) == ("Q8_0", "Q4_K_M", first["revision"])
    assert variants(done("ls")) == {"Q8_0": (True, True), "Q4_K_M": (True, False)}
    assert (volume / LINK).readlink() == Path(f"{LINK}--Q8_0")
    history = done("history", NAME)
    assert history["promoted"] == dict.fromkeys(("Q4_K_M", "Q8_0"), first["revision"])
    assert [(line["variant"], line["default"]) for line in history["history"]] == [
        ("Q8_0", "Q8_0"),
        ("Q4_K_M", "Q4_K_M"),
        ("Q8_0", "Q8_0"),
    ]

    removed = done("rm", f"{NAME}:Q4_K_M")
    assert [row["variant"] for row in removed["removed"]] == ["Q4_K_M"]
    assert removed["freed_bytes"] >= len(tiny_model(file_type=15))
    assert variants(done("ls")) == {"Q8_0": (True, True)}
    assert whole(volume, "Q8_0")
    assert sorted(path.name for path in volume.iterdir()) == [".paddock", LINK, f"{LINK}--Q8_0"]


def test_two_quantizations_of_a_commit_are_cached_and_restored_to_an_empty_volume(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server, tmp_path: Path, paddock: Paddock
) -> None:
    def done(*arguments: str) -> dict[str, Any]:
        result = paddock(*arguments, "--json")
        assert result.status == 0, result
        return result.json

    prefix = f"variants-{secrets.token_hex(4)}"
    use_s3(monkeypatch, s3, prefix)
    for variant in FILES:
        done("pull", f"{NAME}:{variant}")
    first, second = (done("cache", f"{NAME}:{variant}") for variant in FILES)
    assert {file["sent_bytes"] for file in second["files"] if file["path"] in COMPANIONS} == {0}
    listed = done("ls", "--s3")
    assert variants(listed) == {"Q8_0": (True, False), "Q4_K_M": (True, True)}
    files = [file for variant in FILES for file in whole(clients.settings.volume, variant)]
    assert sizes(files).items() <= listed.items()
    assert listed["real_bytes"] == first["bytes_transferred"] + second["bytes_transferred"]
    keys = {one["Key"].removeprefix(f"{prefix}/") for one in objects(s3, prefix)}
    assert {key for key in keys if key.startswith("snapshots/")} == {
        f"snapshots/{LINK}/{first['revision']}/{variant}.json" for variant in FILES
    }
    done("rollback", NAME)
    assert variants(done("ls", "--s3")) == {"Q8_0": (True, True), "Q4_K_M": (True, False)}

    volume = tmp_path / "another"
    monkeypatch.setenv("PADDOCK_VOLUME", str(volume))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    restored = done("restore", NAME)
    assert (restored["variant"], restored["path"]) == ("Q8_0", str(volume / LINK)), "what is the default in S3"
    restored = done("restore", f"{NAME}:q4_k_m")
    assert (restored["variant"], restored["revision"], restored["promoted"]) == ("Q4_K_M", first["revision"], True)
    assert {file["source"] for file in restored["files"] if file["path"] in COMPANIONS} == {"volume"}
    listed = done("ls")
    assert variants(listed) == {"Q8_0": (True, True), "Q4_K_M": (True, False)}
    assert sizes([file for variant in FILES for file in whole(volume, variant)]).items() <= listed.items()


def test_a_variant_that_is_restored_alone_does_not_change_the_default(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server, tmp_path: Path, paddock: Paddock
) -> None:
    use_s3(monkeypatch, s3, f"variants-{secrets.token_hex(4)}")
    for variant in FILES:
        assert paddock("pull", f"{NAME}:{variant}").status == 0
        assert paddock("cache", NAME).status == 0
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "another"))
    restored = paddock("restore", f"{NAME}:Q8_0", "--json").json
    assert Path(restored["path"]) == tmp_path / "another" / f"{LINK}--Q8_0"
    assert variants(paddock("ls", "--json").json) == {"Q8_0": (True, False)}
    assert paddock("show", NAME, "--json").json["variant"] == "Q8_0", "the only one that is there"
    assert variants(paddock("ls", "--s3", "--json").json) == {"Q8_0": (True, False), "Q4_K_M": (True, True)}


def objects(s3: S3Server, prefix: str) -> list[Any]:
    return list(s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["Contents"])


def test_every_printed_name_of_a_snapshot_is_accepted_in_any_case(
    clients: Clients, hub: HubService, paddock: Paddock
) -> None:
    old = paddock("pull", f"{NAME}:Q4_K_M", "--json").json["revision"]
    hub.repository(NAME).commit({FILES["Q4_K_M"]: tiny_model(3, file_type=Q4_K_M)})
    new = paddock("pull", f"{NAME}@main:q4_k_m", "--json").json
    assert (new["variant"], new["revision"] != old) == ("Q4_K_M", True)
    shown = next(line for line in paddock("ls").stdout.splitlines() if old[:8] in line)
    name, variant, short = shown.split()[:3]
    assert (name, variant, short) == (NAME, "Q4_K_M", old[:8])
    small = variant.lower()
    for spelled in (f"{name}:{variant}@{short}", f"{name}@{short}:{small}", f"{name}:{small}@{old}", f"{name}@{short}"):
        pulled = paddock("pull", spelled, "--no-promote", "--json").json
        assert (pulled["revision"], pulled["variant"], pulled["bytes_transferred"]) == (old, "Q4_K_M", 0), spelled
        assert Path(pulled["path"]) == clients.settings.volume / ".paddock" / "snapshots" / LINK / old / "Q4_K_M"
    promoted = paddock("promote", f"{name}@{short}:{small}", "--force", "--reason", "a test", "--json").json
    assert promoted["previous"] == new["revision"]
    assert len(list(clients.settings.volume.glob(f"{LINK}*"))) == 2, "the variant has one spelling"


def test_another_quantization_of_a_promoted_commit_is_pulled_by_its_option_too(
    clients: Clients, paddock: Paddock
) -> None:
    first = paddock("pull", NAME, "--json").json
    assert first["variant"] == "Q8_0"
    second = paddock("pull", NAME, "--quant", "q4_k_m", "--json").json
    assert (second["revision"], second["variant"]) == (first["revision"], "Q4_K_M")
    assert paddock("pull", f"{NAME}:Q4_K_M", "--quant", "q4_k_m", "--json").json["bytes_transferred"] == 0
    assert paddock("pull", NAME, "--json").json["variant"] == "Q4_K_M", "the default's variant is kept"
    assert paddock("pull", NAME, "--quant", "best", "--json").json["variant"] == "Q8_0"
    refused = paddock("pull", f"{NAME}:Q4_K_M", "--quant", "Q8_0", "--json")
    assert (refused.status, refused.json["error"]) == (3, "bad-setting")
    assert variants(paddock("ls", "--json").json) == {"Q8_0": (True, True), "Q4_K_M": (True, False)}
