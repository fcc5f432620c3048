"""Errors of the command line: exit statuses, messages without secrets, and a stdout that cannot be written."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.ports import free_ports
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients
from tests.support.program import Paddock, paddock, program
from tests.support.tiny_hub import NAME, tiny_model, use_s3

__all__ = ["paddock"]
OTHER = "a" * 40


BAD = {
    "unknown repository": (["pull", "nobody/nothing"], 1, "model-not-found"),
    "gated repository": (["pull", "org/gated"], 1, "model-gated"),
    "unknown revision": (["pull", f"{NAME}@nosuch"], 1, "revision-not-found"),
    "unknown quantization": (["pull", NAME, "--quant", "Q3_K_S"], 1, "file-not-in-revision"),
    "unknown file": (["pull", NAME, "--file", "nosuch.gguf"], 1, "file-not-in-revision"),
    "no GGUF in it": (["pull", "org/weights"], 2, "no-gguf"),
    "unsafe name": (["pull", "../../etc"], 3, "unsafe-name"),
    "unsafe revision": (["pull", f"{NAME}@../x"], 3, "unsafe-name"),
    "missing local file": (["inspect", "./nosuch.gguf"], 3, "no-such-file"),
    "a NUL in a path": (["inspect", "a\0b"], 3, "unsafe-name"),
    "no such command": (["nosuch"], 3, "wrong-usage"),
    "no such option": (["pull", NAME, "--nosuch"], 3, "wrong-usage"),
    "no argument": (["pull"], 3, "wrong-usage"),
    "not a size": (["pull", NAME, "--limit-rate", "fast"], 3, "bad-setting"),
    "no rate at all": (["pull", NAME, "--limit-rate", "0"], 3, "bad-setting"),
    "an empty rate": (["pull", NAME, "--limit-rate", ""], 3, "bad-setting"),
    "an empty quantization": (["pull", NAME, "--quant", ""], 3, "wrong-usage"),
    "two ways to choose": (["pull", NAME, "--quant", "Q8_0", "--file", "tiny-Q4_K_M.gguf"], 3, "wrong-usage"),
    "a home of nobody": (["inspect", "~nosuchuser/x"], 3, "no-such-file"),
    "nothing to look at": (["inspect", ""], 3, "no-such-file"),
    "not on the volume": (["show", "org/other"], 1, "not-on-volume"),
    "nothing to roll back": (["rollback", NAME], 1, "not-on-volume"),
    "nothing to remove": (["rm", NAME], 1, "not-on-volume"),
    "nothing to promote": (["promote", f"{NAME}@{OTHER}"], 1, "not-on-volume"),
    "nothing of it to promote": (["promote", NAME], 1, "not-on-volume"),
    "a variant that is not there": (["show", f"{NAME}:Q4_K_M"], 1, "not-on-volume"),
    "a rollback to a revision that is not there": (["rollback", f"{NAME}@{OTHER}"], 1, "not-on-volume"),
    "the history of a revision that is not there": (["history", f"{NAME}@{OTHER}"], 1, "not-on-volume"),
    "an unsafe variant": (["pull", f"{NAME}:a--b"], 3, "unsafe-name"),
    "a reserved variant": (["pull", f"{NAME}:latest"], 3, "unsafe-name"),
    "two variants": (["pull", f"{NAME}:Q8_0:Q4_K_M"], 3, "unsafe-name"),
    "two revisions": (["pull", f"{NAME}@main@main"], 3, "unsafe-name"),
    "a variant and another quantization": (["pull", f"{NAME}:Q8_0", "--quant", "Q4_K_M"], 3, "bad-setting"),
    "a variant and a file": (["pull", f"{NAME}:Q8_0", "--file", "tiny-Q8_0.gguf"], 3, "wrong-usage"),
    "a file and a quantization": (["pull", f"{NAME}:tiny-Q8_0.gguf", "--quant", "Q8_0"], 3, "wrong-usage"),
    "the file of another to onboard": (["onboard", f"{NAME}:tiny-Q8_0.gguf", "--quant", "Q8_0"], 3, "wrong-usage"),
    "a pattern for several models": (["pull", NAME, "--file", "*"], 3, "bad-setting"),
    "a pattern for nothing": (["pull", NAME, "--file", "*Q2_K*"], 1, "file-not-in-revision"),
    "an address of another host": (["pull", f"https://example.com/{NAME}"], 3, "unsafe-name"),
    "an address of a dataset": (["plan", "https://huggingface.co/datasets/org/name"], 3, "unsafe-name"),
    "a path outside of the volume": (["show", "/etc/hostname"], 3, "unsafe-name"),
    "nothing to measure": (["bench", NAME], 1, "not-on-volume"),
    "no history": (["history", NAME], 1, "not-on-volume"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_its_exit_status(
    clients: Clients, hub: HubService, paddock: Paddock, case: str
) -> None:
    hub.repository("org/gated", gated=True).commit({"tiny-Q8_0.gguf": tiny_model()})
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    arguments, status, error = BAD[case]
    result = paddock(*arguments, "--json")
    assert (result.status, result.json["error"]) == (status, error), result
    assert set(result.json) == {"error", "message", "cure"}
    plain = paddock(*arguments)
    assert plain.status == status
    assert plain.stdout == ""
    assert plain.stderr.startswith("paddock: ")
    assert plain.stderr.count("\n") == 1
    assert "Traceback" not in plain.stderr


def test_a_repository_without_gguf_says_what_it_has_instead(
    clients: Clients, hub: HubService, paddock: Paddock
) -> None:
    hub.repository("org/weights").commit({"model.safetensors": b"x" * 64, "config.json": b"{}"})
    assert "SafeTensors" in paddock("pull", "org/weights").stderr


@pytest.mark.parametrize(
    ("variable", "value", "arguments", "status", "error"),
    [
        ("HF_ENDPOINT", "http://127.0.0.1:{port}", ["pull", NAME], 1, "hub-unavailable"),
        ("PADDOCK_S3_URI", "s3://models/none", ["pull", NAME], 1, "store-unavailable"),
        ("PADDOCK_S3_URI", "https://models/none", ["pull", NAME], 3, "bad-setting"),
        ("PADDOCK_VOLUME", "{home}/file/models", ["pull", NAME], 1, "no-permission"),
        ("PADDOCK_VOLUME", "relative", ["ls"], 3, "bad-setting"),
        ("PADDOCK_CONNECTIONS", "many", ["ls"], 3, "bad-setting"),
        ("HF_HUB_OFFLINE", "1", ["pull", NAME], 1, "hub-refused"),
    ],
    ids=[
        "a Hub that is not there",
        "an S3 that is not there",
        "an S3 address with another scheme",
        "a volume that cannot be made",
        "a relative volume",
        "a setting that is no number",
        "offline",
    ],
)
def test_a_missing_service_or_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch,
    clients: Clients,
    paddock: Paddock,
    tmp_path: Path,
    variable: str,
    value: str,
    arguments: list[str],
    status: int,
    error: str,
) -> None:
    (tmp_path / "file").write_text("in the way")
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv(variable, value.format(port=port, home=tmp_path))
    began = time.monotonic()
    result = paddock(*arguments, "--json")
    assert (result.status, result.json["error"]) == (status, error), result
    assert time.monotonic() - began < 20


def test_a_full_disk_is_reported_before_the_first_weight(clients: Clients, hub: HubService, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare: install util-linux")
    small = clients.settings.volume
    small.mkdir()
    script = f'mount -t tmpfs -o size=24k tmpfs {small} && exec "$@"'
    mounted = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount in a user namespace: allow unprivileged user namespaces")
    hub.reset_stats()
    result = program("pull", NAME, "--json", before=mounted)
    assert (result.status, result.json["error"]) == (1, "not-enough-disk"), result
    assert "missing" in result.json["message"]
    sent = hub.stats().bytes_sent
    assert sent[f"{NAME}/tiny-Q8_0.gguf"] == len(tiny_model()), "its header was looked at, and no byte fetched twice"
    assert all(path.endswith(".gguf") for path in sent), "nothing but headers"


def test_no_secret_is_ever_printed(monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_the_tests")
    use_s3(monkeypatch, s3, "secrets")
    for session in (None, "session_canary_of_the_tests"):  # the second is one that S3 refuses
        if session:
            monkeypatch.setenv("AWS_SESSION_TOKEN", session)
        for arguments in (["pull", NAME], ["-v", "pull", NAME], ["-v", "pull", "nobody/nothing", "--json"]):
            result = program(*arguments)
            for secret in ("canary", s3.secret_access_key, "X-Amz-", "Signature", "Authorization"):
                assert secret not in result.stdout + result.stderr, arguments


def test_verbose_logs_paddock_and_no_other_library() -> None:
    script = (
        "import logging, sys; sys.argv = ['paddock', '-v', 'inspect', '']\n"
        "from paddock.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "logging.getLogger('botocore').debug('of the vendor'); logging.getLogger('paddock.store').debug('of our own')"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "DEBUG paddock.store: of our own" in result.stderr
    assert "of the vendor" not in result.stderr


@pytest.mark.parametrize("arguments", ["ls --json", "ls", "show nobody/nothing --json"])
@pytest.mark.parametrize(("target", "words"), [(">&-", "stdout is closed"), (">/dev/full", "No space left on device")])
def test_a_stdout_that_cannot_be_written_is_a_failure_in_a_sentence(
    clients: Clients, target: str, words: str, arguments: str
) -> None:
    clients.settings.volume.mkdir()
    line = f'exec "$0" -m paddock {arguments} {target}'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("paddock: stdout ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["ls", "--json"], ["ls"], ["--help"]])
def test_a_closed_pipe_ends_it_without_a_message(clients: Clients, arguments: list[str]) -> None:
    clients.settings.volume.mkdir()
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "paddock", *arguments]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_is_quick_and_names_every_command() -> None:
    assert min(_processor_seconds("-m", "paddock", "--help") for _ in range(3)) < 0.5
    result = program("--help")
    assert result.status == 0
    for name in ("inspect", "pull", "onboard", "ls", "show", "rm", "promote", "rollback", "history", "bench", "serve"):
        assert re.search(rf"\b{name}\b", result.stdout)


def _processor_seconds(*arguments: str) -> float:
    """Of a program that waits for nothing: what a clock on the wall would show if the machine had no other work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
