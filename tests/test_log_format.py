"""With PADDOCK_LOG_FORMAT=json each line on stderr is one JSON object, whatever it quotes, and holds no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import Step, step
from paddock.log_fields import current_fields, log_fields, process_fields
from paddock.model.artifact import Listing, Manifest
from paddock.model.reference import Reference, SnapshotId
from tests.support.program import program
from tests.support.tiny_hub import MODEL, NAME

TOKEN = "hf_canary_of_the_tests"
HOSTILE = "a\x1b[31m\nb\u202e\x00" + "\u2028c\ud800"


@pytest.fixture(autouse=True)
def _json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_LOG_FORMAT", "json")


def objects(text: str) -> list[dict[str, Any]]:
    """The object on each line, all of which must be ones, with a time of now."""
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    for one in found:
        assert list(one)[:4] == ["time", "level", "logger", "message"]
        time = datetime.fromisoformat(one["time"])
        assert abs(datetime.now(UTC) - time) < timedelta(minutes=5)
        assert all(isinstance(value, str) for value in one.values())
    return found


def run_python(script: str) -> str:
    """The standard error of a script that has set logging up as the command line does."""
    start = (
        "import logging\n"
        "from paddock.cli import logs\n"
        "logs.log_to_stderr(logging.getLogger('paddock'), verbose=False)\n"
        "logs.convert_other_handlers()\n"
    )
    return subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True, check=True).stderr


def test_a_pull_logs_objects_that_name_the_model(clients: Clients) -> None:
    done = program("--verbose", "pull", NAME)
    assert done.status == 0, done.stderr
    found = objects(done.stderr)
    assert {one["level"] for one in found} >= {"INFO", "WARNING"}
    (short,) = [one for one in found if "256 tokens" in one["message"]]
    assert (short["logger"], short["model"]) == ("paddock.lifecycle.steps", NAME)
    assert len(short["revision"]) == 40
    assert any("GiB" in one["message"] or "MiB" in one["message"] or "KiB" in one["message"] for one in found)


def test_a_token_is_in_no_line(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = program("--verbose", "pull", NAME)
    assert objects(done.stderr)[-1]["error"] == "hub-refused"
    assert TOKEN not in done.stdout + done.stderr


def test_what_a_command_prints_on_stdout_is_as_before(clients: Clients) -> None:
    clients.volume.prepare()
    done = program("ls", "--json")
    assert (done.json["models"], done.stderr) == ([], "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["show", "org/none"], "not-on-volume"), (["show"], "wrong-usage"), (["pull", "org/none"], "model-not-found")],
)
def test_an_error_is_an_object_with_its_cure(clients: Clients, arguments: list[str], error: str) -> None:
    clients.volume.prepare()
    done = program(*arguments)
    *_, last = objects(done.stderr)
    assert (last["level"], last["error"]) == ("ERROR", error)
    assert last["message"]
    assert last["cure"]


def test_a_setting_that_is_not_known_is_an_error_in_text(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_LOG_FORMAT", "xml")
    done = program("ls")
    assert done.status == 3
    assert done.stderr.startswith("paddock: the setting PADDOCK_LOG_FORMAT is not usable")


def test_an_exception_and_hostile_text_are_on_one_line() -> None:
    (record,) = objects(
        run_python(
            f"try: raise ValueError({HOSTILE!r})\n"
            f"except ValueError: logging.getLogger('paddock.x').warning('of %s', {HOSTILE!r}, exc_info=True)\n"
        )
    )
    assert record["message"] == r"of a\x1b[31m\nb\u202e\x00\u2028c\ud800"
    assert "Traceback" in record["exception"]
    assert record["exception"].splitlines()[-1].strip().startswith("b")
    assert "\x1b" not in record["exception"]


def test_other_libraries_log_objects_and_each_record_once() -> None:
    found = objects(
        run_python(
            "logging.getLogger('botocore').warning('of a library'); logging.getLogger('botocore').info('not shown')\n"
            "logging.getLogger('paddock.x').warning('of Paddock')\n"
        )
    )
    assert [(one["logger"], one["message"]) for one in found] == [
        ("botocore", "of a library"),
        ("paddock.x", "of Paddock"),
    ]


def test_fields_are_those_of_the_blocks_around() -> None:
    assert current_fields() == {}
    with log_fields(run="r", model="org/a"), log_fields(model="org/b", variant="Q8_0"):
        assert current_fields() == {"run": "r", "model": "org/b", "variant": "Q8_0"}
    assert current_fields() == {}
    with pytest.raises(ValueError, match="token"), log_fields(token="x"):
        pass


def test_fields_of_the_process_are_known_in_each_of_its_threads_until_the_block_ends() -> None:
    with process_fields(model="org/a", revision="1") as change, ThreadPoolExecutor(1) as pool:
        change({"revision": "2"})
        assert pool.submit(current_fields).result() == {"model": "org/a", "revision": "2"}
        with log_fields(model="org/b"):
            assert current_fields()["model"] == "org/b"
    assert current_fields() == {}


@step(Kind.LOCAL, "of-a-reference")
def of_reference(clients: Clients, wanted: Reference) -> None: ...


@step(Kind.LOCAL, "of-a-manifest")
def of_manifest(clients: Clients, manifest: Manifest) -> None: ...


@step(Kind.LOCAL, "of-an-id")
def of_id(clients: Clients, id: SnapshotId) -> None: ...


@step(Kind.LOCAL, "of-a-listing")
def of_listing(clients: Clients, listing: Listing) -> None: ...


def fields(step: Step[..., None], argument: object) -> dict[str, str]:
    return step.log_fields(argument)


def test_a_step_is_about_what_its_arguments_name(clients: Clients, pulled: Manifest) -> None:
    whole = {"model": str(MODEL), "revision": pulled.revision, "variant": pulled.variant}
    assert fields(of_manifest, pulled) == fields(of_id, pulled.id) == whole
    assert fields(of_reference, Reference(MODEL)) == {"model": str(MODEL)}
    listing = Listing(MODEL, pulled.revision, (), licence=None)
    assert fields(of_listing, listing) == {"model": str(MODEL), "revision": pulled.revision}
