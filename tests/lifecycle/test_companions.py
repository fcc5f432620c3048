"""The small files beside a GGUF, broken or with odd names: only the GGUF decides, and each is named in a warning."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock import download_model_to_path, get_model_config
from paddock.errors import CorruptFile, PaddockError
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.model.finding import Severity, Verdict
from paddock.model.reference import Reference
from paddock.planning.plan import PlanRequest
from tests.support.program import Paddock, paddock
from tests.support.tiny_hub import tiny_model, validate_snapshot

__all__ = ["paddock"]

ODD = "org/odd-GGUF"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 6731\n"
BROKEN = {
    "config.json": (b"", "config.json is ignored: it is empty"),
    "tokenizer_config.json": (b'{"bos_token": "<s', "tokenizer_config.json is ignored: it is not JSON"),
    "generation_config.json": (POINTER, "generation_config.json is ignored: it is a Git LFS pointer"),
    "tokenizer.json": (b"[1", "tokenizer.json is ignored: it is not JSON"),
    "tokenizer.model": (b"", "tokenizer.model is ignored: it is empty"),
}
UNSAFE = {
    "Config.json": "'Config.json' is left out: some file systems take its name for config.json",
    "eval: mmlu.json": "'eval: mmlu.json' is left out: its name is not safe",
    "-notes.json": "'-notes.json' is left out: its name is not safe",
    "nul.json": "'nul.json' is left out: its name is not safe",
    "manifest.json": "'manifest.json' is left out: Paddock writes a file of its own",
}
WARNINGS = [*UNSAFE.values(), *(warning for _, warning in BROKEN.values())]


@pytest.fixture
def odd(clients: Clients, hub: HubService) -> Clients:
    """The clients of a Hub with a sound model among small files that are all broken or unsafe."""
    files = {"tiny-Q8_0.gguf": tiny_model(), **dict.fromkeys(UNSAFE, b"{}")}
    hub.repository(ODD).commit(files | {name: data for name, (data, _) in BROKEN.items()})
    return clients


def named(warnings: list[str], messages: list[str]) -> None:
    """Assert that each of these warnings begins one of the messages, and that none names a temporary file."""
    for warning in warnings:
        assert any(message.startswith(warning) for message in messages), (warning, messages)
    assert not any(f"{tempfile.gettempdir()}/paddock-" in message for message in messages)


def test_a_pull_keeps_the_broken_files_leaves_out_the_unsafe_ones_and_warns_of_all(
    odd: Clients, paddock: Paddock, caplog: pytest.LogCaptureFixture
) -> None:
    result = paddock("pull", ODD, "--json")
    assert result.status == 0, result
    assert {file["path"] for file in result.json["files"]} == {"tiny-Q8_0.gguf", *BROKEN}
    named(WARNINGS, result.json["notes"])
    named(WARNINGS, caplog.messages)
    (manifest,) = odd.volume.snapshots()
    assert ("configuration.unreadable", Severity.WARN) in {
        (finding.rule, finding.severity) for finding in manifest.findings
    }
    again = paddock("pull", ODD, "--json")
    assert (again.status, again.json["bytes_transferred"]) == (0, 0)
    assert get_model_config(odd.volume.snapshot_path(manifest.id))["hidden_size"] == 32
    validation = validate_snapshot(odd, manifest)
    assert validation.verdict is Verdict.WARN
    named([warning for _, warning in BROKEN.values()], [finding.message for finding in validation.findings])


def test_a_plan_and_an_inspection_are_not_disturbed(odd: Clients) -> None:
    assert inspect(odd, ODD).verdict is not Verdict.REJECT
    assert preflight(odd, ODD, PlanRequest(256)).plan.fits


def test_a_download_into_a_directory_warns_and_succeeds(
    odd: Clients, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = download_model_to_path(ODD, tmp_path / "plain")
    written = {path.name for path in target.iterdir()}
    assert written == {"tiny-Q8_0.gguf", "chat_template.jinja", *BROKEN}
    named([warning.replace("tokenizer_config", f"{target}/tokenizer_config") for warning in WARNINGS], caplog.messages)
    caplog.clear()
    assert get_model_config(target)["vocab_size"] == 260
    named([f"{target}/config.json is ignored: it is empty"], caplog.messages)


def test_a_config_that_contradicts_the_gguf_is_a_warning(clients: Clients, hub: HubService) -> None:
    config = b'{"model_type": "stablelm_epoch", "vocab_size": 7, "auto_map": {"a": "b"}, "architectures": "x"}'
    hub.repository(ODD).commit({"tiny-Q8_0.gguf": tiny_model(), "config.json": config})
    validation = validate_snapshot(clients, pull(clients, Reference.parse(ODD)).manifest)
    assert validation.verdict is Verdict.WARN
    assert {"configuration.conflict", "compatibility.configuration"} <= {one.rule for one in validation.findings}


def test_a_small_file_whose_bytes_are_wrong_is_still_an_error_of_the_transfer(
    clients: Clients, hub: HubService
) -> None:
    hub.repository(ODD).commit({"tiny-Q8_0.gguf": tiny_model(), "config.json": b'{"model_type": "llama"}'})
    hub.inject("flip", f"{ODD}/config.json", times=None)
    with pytest.raises(PaddockError) as caught:
        pull(clients, Reference.parse(ODD))
    assert "config.json" in str(caught.value)
    assert isinstance(caught.value, CorruptFile), caught.value
