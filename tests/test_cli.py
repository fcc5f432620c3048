"""The command line for scripts: one JSON object on stdout, an exit status, one sentence for an error."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients
from paddock.model.derived_files import DERIVED_FILES
from paddock.model.names import Revision
from paddock.store.usage import Usage
from tests.support.gguf import STRING, tiny_llama
from tests.support.program import Paddock, paddock
from tests.support.stores import id_of
from tests.support.tiny_hub import MODEL, NAME, rejected_model, tiny_model, use_s3

__all__ = ["paddock"]


def test_pull_prints_the_origin_of_each_file(clients: Clients, paddock: Paddock) -> None:
    result = paddock("pull", NAME, "--json")
    assert result.status == 0
    assert result.json["path"] == str(clients.settings.volume / "org--tiny-GGUF")
    assert (result.json["variant"], result.json["quantization"]) == ("Q8_0", "Q8_0")
    assert re.fullmatch("[0-9a-f]{40}", result.json["revision"])
    assert {file["source"] for file in result.json["files"]} == {"hub"}
    assert all({"path", "size", "sha256", "source"} <= set(file) for file in result.json["files"])
    assert result.json["bytes_transferred"] == sum(file["size"] for file in result.json["files"])
    assert result.json["seconds"] > 0
    again = paddock("pull", NAME, "--json")
    assert again.json["bytes_transferred"] == 0


def test_pull_prints_a_line_for_people(clients: Clients, paddock: Paddock) -> None:
    result = paddock("pull", NAME, "--quant", "q4_k_m", "--limit-rate", "50MB")
    assert result.status == 0
    assert re.search(rf"{NAME}:Q4_K_M@[0-9a-f]{{8}} at .*: promoted; .* fetched", result.stdout)


def test_pull_takes_named_files_and_does_not_promote_when_told_not_to(clients: Clients, paddock: Paddock) -> None:
    result = paddock("pull", NAME, "--file", "tiny-Q4_K_M.gguf", "--no-promote", "--json")
    assert result.status == 0
    assert result.json["path"].startswith(str(clients.settings.volume / ".paddock" / "snapshots"))
    assert not clients.volume.model_path(MODEL).exists()


def test_ls_show_history_promote_rollback_and_rm_agree(clients: Clients, hub: HubService, paddock: Paddock) -> None:
    first = paddock("pull", NAME, "--json").json["revision"]
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(3)})
    second = paddock("pull", NAME, "--no-promote", "--json").json["revision"]

    listed = paddock("ls", "--json").json
    assert {(row["revision"], row["promoted"]) for row in listed["models"]} == {(first, True), (second, False)}
    assert set(listed["models"][0]) >= {
        "model",
        "revision",
        "variant",
        "promoted",
        "default",
        "quantization",
        "size_bytes",
        "last_used",
        "uses",
    }
    assert {(row["variant"], row["default"], row["promoted"]) for row in listed["models"]} == {
        ("Q8_0", True, True),
        ("Q8_0", False, False),
    }
    assert listed["apparent_bytes"] > listed["real_bytes"] > 0

    assert paddock("promote", f"{NAME}@{second}", "--force", "--reason", "a test", "--json").json == {
        "model": NAME,
        "revision": second,
        "variant": "Q8_0",
        "previous": first,
        "default": "Q8_0",
        "previous_default": "Q8_0",
        "forced": True,
        "removed": [],
        "freed_bytes": 0,
    }
    shown = paddock("show", NAME, "--json").json
    assert shown["served"] == Usage().to_json()
    assert (shown["revision"], shown["promoted"], shown["schema"]) == (second, True, 2)
    assert (shown["variant"], shown["default"]) == ("Q8_0", True)
    assert [one["revision"] for one in shown["history"]] == [first, second]
    assert (shown["chat"]["origin"], shown["chat"]["template_sha256"]) == ("the GGUF", shown["template_sha256"])
    roleplay = shown["profiles"]["roleplay"]
    assert (roleplay["n_keep"], roleplay["stop"]) == (-1, ["<|im_end|>", "<|im_start|>user"])
    assert roleplay["context_tokens"] > shown["profiles"]["chat"]["context_tokens"]
    assert paddock("show", f"{NAME}@{first}", "--json").json["promoted"] is False

    back = paddock("rollback", NAME, "--json").json
    assert (back["variant"], back["revision"], back["previous"]) == ("Q8_0", first, second)
    history = paddock("history", NAME, "--json").json
    assert (history["revision"], history["previous"]) == (first, second)
    assert [one["reason"] for one in history["history"]] == ["pulled", "a test", "rolled back by hand"]

    removed = paddock("rm", f"{NAME}@{second}", "--json").json
    (row,) = removed["removed"]
    assert row.pop("bytes") > len(tiny_model(3))
    assert row == {"model": NAME, "revision": second, "variant": "Q8_0", "reason": "asked for"}
    assert removed["freed_bytes"] == len(tiny_model(3))
    assert removed["kept"] == []
    assert paddock("rm", NAME, "--json").json["freed_bytes"] > len(tiny_model())
    assert paddock("ls", "--json").json["models"] == []


def test_cache_restore_pin_and_unpin_agree(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server, paddock: Paddock
) -> None:
    for command in ("cache", "restore", "ls --s3"):
        verb, *options = command.split()
        assert paddock(verb, *(options or [NAME]), "--json").status == 3, "there is no S3"
    use_s3(monkeypatch, s3, f"cli-{secrets.token_hex(4)}")
    pulled = paddock("pull", NAME, "--json").json
    cached = paddock("cache", NAME, "--json").json
    assert cached["revision"] == pulled["revision"]
    assert cached["bytes_transferred"] == sum(file["sent_bytes"] for file in cached["files"]) > 0
    assert "0 B sent to s3://" in paddock("cache", NAME).stdout
    stored = paddock("ls", "--s3", "--json").json
    assert [row["revision"] for row in stored["models"]] == [pulled["revision"]]
    assert stored["apparent_bytes"] == stored["real_bytes"] == cached["bytes_transferred"]
    assert "in s3://" in paddock("ls", "--s3").stdout

    assert paddock("pin", NAME, "--json").json["pinned"] is True
    assert [row["pinned"] for row in paddock("ls", "--json").json["models"]] == [True]
    refused = paddock("rm", NAME, "--json")
    assert (refused.status, refused.json["error"]) == (1, "in-use")
    assert "unpinned" in paddock("unpin", f"{NAME}@{pulled['revision']}").stdout
    assert paddock("rm", NAME).status == 0
    clients.volume.collect(older_than_s=0)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    restored = paddock("restore", f"{NAME}@{pulled['revision']}", "--json").json
    assert restored["promoted"] is True
    assert {file["source"] for file in restored["files"]} == {"s3"}
    # The chat template and settings are made anew.
    sent = {file["path"]: file["sent_bytes"] for file in cached["files"] if file["path"] not in DERIVED_FILES}
    assert restored["bytes_transferred"] == sum(sent.values())
    assert re.search(r"promoted; 0 B fetched", paddock("restore", f"{NAME}@{pulled['revision']}").stdout)


def test_plan_says_whether_a_model_fits_before_a_weight_is_fetched(clients: Clients, paddock: Paddock) -> None:
    fits = paddock("plan", NAME, "--ctx", "256", "--json")
    assert (fits.status, fits.json["fits"], fits.json["quantization"]) == (0, True, "Q8_0")
    assert fits.json["memory"]["source"] == "engine"
    assert fits.json["parameters"]["n_ctx"] == 256
    assert (fits.json["variant"], fits.json["file"]) == ("Q8_0", "tiny-Q8_0.gguf")
    assert {one["variant"] for one in fits.json["candidates"]} == {"Q8_0", "Q6_K", "Q4_K_M"}
    tight = paddock("plan", NAME, "--ctx", "256", "--ram", "1MiB", "--vram", "1MiB", "--json")
    assert (tight.status, tight.json["fits"]) == (2, False)
    assert "memory" in tight.json["advice"]
    assert "does not fit" in paddock("plan", NAME, "--ctx", "256", "--ram", "1MiB").stdout
    assert paddock("plan", NAME, "--kv-type", "nonsense").status == 3
    assert not clients.settings.volume.exists()


def test_every_command_prints_for_people_too(clients: Clients, paddock: Paddock) -> None:
    revision = paddock("pull", NAME, "--json").json["revision"]
    for arguments in (["ls"], ["show", NAME], ["history", NAME], ["promote", f"{NAME}@{revision}"], ["inspect", NAME]):
        result = paddock(*arguments)
        assert result.status == 0, result
        assert "tiny" in result.stdout or "pulled" in result.stdout
    assert paddock("ls").stdout.rstrip().splitlines()[-1].startswith("1 snapshot, ")
    assert re.search(r"1 snapshot: [0-9.]+ KiB freed\n", paddock("rm", NAME).stdout)


def test_a_damaged_snapshot_is_removed_by_its_commit(clients: Clients, paddock: Paddock) -> None:
    revision = paddock("pull", NAME, "--json").json["revision"]
    snapshot = clients.volume.snapshot_path(id_of(Revision(revision), model=MODEL))
    manifest = snapshot / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert paddock("promote", f"{NAME}@{revision}", "--json").json["error"] == "corrupt-file"
    result = paddock("rm", f"{NAME}@{revision}", "--json")
    gone = {"model": NAME, "revision": revision, "variant": "Q8_0", "bytes": None, "reason": "asked for"}
    assert (result.status, result.json["removed"]) == (0, [gone]), result
    assert not snapshot.exists()
    assert [path.name for path in clients.settings.volume.iterdir()] == [".paddock"]


def test_inspect_audits_a_file_a_directory_and_the_hub_alike(
    clients: Clients, hub: HubService, paddock: Paddock, tmp_path: Path
) -> None:
    local = tmp_path / "here" / "tiny-Q8_0.gguf"
    local.parent.mkdir()
    local.write_bytes(tiny_model())
    hub.reset_stats()
    remote = paddock("inspect", f"{NAME}@main:tiny-Q8_0.gguf", "--json")
    assert remote.status == 0
    assert set(hub.stats().bytes_sent) == {f"{NAME}/tiny-Q8_0.gguf"}
    for result in (remote, paddock("inspect", str(local), "--json"), paddock("inspect", str(local.parent), "--json")):
        assert result.json["verdict"] in {"accept", "warn"}
        assert result.json["model"] == {
            "kind": "text",
            "architecture": "llama",
            "parameters": result.json["model"]["parameters"],
            "quantization": "Q8_0",
            "context_length": 256,
            "vocab_size": 260,
            "block_count": 1,
            "size_bytes": len(tiny_model()),
            "shards": 1,
        }
        assert result.json["template"]["present"] is True
        assert result.json["bytes_read"] > 0
        assert result.json["seconds"] > 0


def test_inspect_reads_the_weights_when_told_to(clients: Clients, paddock: Paddock, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow-Q8_0.gguf"
    content = tiny_model()
    hollow.write_bytes(content[: len(content) // 2] + b"\xff" * (len(content) - len(content) // 2))
    assert paddock("inspect", str(hollow), "--json").status == 0
    assert paddock("inspect", str(hollow), "--deep", "--json").status == 2
    deep = paddock("inspect", f"{NAME}:tiny-Q8_0.gguf", "--deep", "--json")
    assert (deep.status, deep.json["bytes_read"]) == (0, len(content))


def test_inspect_reads_all_shards_of_a_split_model(clients: Clients, paddock: Paddock) -> None:
    result = paddock("inspect", f"{NAME}:big/tiny-Q6_K-00001-of-00002.gguf", "--json")
    assert result.json["model"]["shards"] == 2


def test_a_rejected_model_exits_with_2(clients: Clients, paddock: Paddock, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(rejected_model())
    result = paddock("inspect", str(bad), "--json")
    assert (result.status, result.json["verdict"]) == (2, "reject")
    finding = next(one for one in result.json["findings"] if one["severity"] == "reject")
    assert {"rule", "severity", "message"} <= set(finding)
    html = tmp_path / "page.gguf"
    html.write_text("<!doctype html><html></html>")
    assert paddock("inspect", str(html), "--json").status == 2


def test_bench_measures_the_promoted_snapshot(clients: Clients, hub: HubService, paddock: Paddock) -> None:
    roomy = tiny_llama().set("general.name", STRING, "roomy")
    for key in roomy.keys:
        if key.name == "llama.context_length":
            key.value = 1024
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy.to_bytes()})
    paddock("pull", NAME, "--json")
    result = paddock("bench", NAME, "--json")
    assert result.status == 0, result
    prefill, decode, *others = result.json["results"]
    assert (prefill["n_prompt"], decode["n_gen"]) == (256, 64)
    assert [(one["n_prompt"], one["n_gen"]) for one in others] == [(32, 0), (0, 16), (0, 256)]
    assert prefill["prefill_tok_per_s"] > 0
    assert decode["decode_tok_per_s"] > 0
    assert {"spread"} <= set(prefill)
    assert {"machine", "engine", "parameters", "schema", "features", "build"} <= set(result.json)
    assert (result.json["tuned"], result.json["tuning"], result.json["http"]) == (False, None, None)


def test_bench_tunes_first_when_it_is_told_to_and_says_what_ran(clients: Clients, paddock: Paddock) -> None:
    paddock("pull", NAME, "--json")
    shown = paddock("bench", NAME, "--tune", "--budget", "1")
    assert shown.status == 0, shown
    assert "the plan's own" in shown.stdout
    assert "tuned in " in shown.stdout
    assert len(list(Path(clients.settings.volume, ".paddock", "tuning").glob("*/*.json"))) == 1


def test_bench_names_a_server_that_does_not_answer(clients: Clients, paddock: Paddock) -> None:
    paddock("pull", NAME, "--json")
    result = paddock("bench", NAME, "--server", "http://127.0.0.1:9/v1", "--json")
    assert (result.status, result.json["error"]) == (1, "server-unavailable")
    assert "connection refused" in result.json["message"]
    assert paddock("bench", NAME, "--server", "http://user:hunter2@127.0.0.1:9/v1").status == 3
