"""The Hub limits requests, or is down, in the middle of a refresh: what can be done is done, and the rest is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from paddock.engine.facts import engine_version
from paddock.errors import RefreshFailed
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.model.names import ModelName
from tests.support.brief_refresh import refresh_briefly
from tests.support.gguf import CHATML, STRING, tiny_llama
from tests.support.refreshed import CARD, catalog_of, promoted_model
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, segmented_model
from tests.support.tiny_hub import tiny_model, use_hub

MINUTE_S = 60.0
RATE = 512 * 1024
"""Bytes a second of the transfers in the long tests: slow enough that the outage finds several of them."""


class Outage:
    """A local Hub that can be out for a while, at one address."""

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._stack = ExitStack()
        self.service: HubService = self._stack.enter_context(serve_hub(hub))
        self._port = urlsplit(self.service.address).port or 0

    def limit(self, retry_after_s: int | None = None) -> None:
        self._answer(429, {"Retry-After": str(retry_after_s)} if retry_after_s else {})

    def fail(self) -> None:
        self._answer(503, {})

    def stop(self) -> None:
        """Connections are refused."""
        self._stack.close()

    def end(self) -> None:
        self.close()
        self.service = self._stack.enter_context(serve_hub(self._hub, port=self._port))

    def close(self) -> None:
        self._stack.close()

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.service.inject("status", "*", where="hub", times=None, status=status, headers=headers)
        self.service.inject("status", "*", where="file", times=None, status=status, headers=headers)


OUTAGES: dict[str, Callable[[Outage], None]] = {
    "429": Outage.limit,
    "429-with-Retry-After": lambda outage: outage.limit(int(MINUTE_S)),
    "503": Outage.fail,
    "connections-refused": Outage.stop,
}


SAMPLE = frozenset({"429", "connections-refused"})


@contextmanager
def hub_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    hub = Outage(LocalHub(home / "hub"))
    use_hub(monkeypatch, hub.service, home)
    monkeypatch.setenv("PADDOCK_CATALOG", str(home / "catalog.yaml"))
    try:
        yield hub
    finally:
        hub.close()


def states(entries: tuple[EntryOutcome, ...]) -> dict[str, str]:
    return {one.model.partition("/")[2]: one.outcome.value for one in entries}


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(begin, id=name, marks=[] if name in SAMPLE else [pytest.mark.torture])
        for name, begin in OUTAGES.items()
    ],
)
def test_a_hub_that_is_out_after_the_plan_blocks_what_needs_it_and_the_next_refresh_finishes(
    memory: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Outage], None]
) -> None:
    with hub_in(memory, monkeypatch) as hub:
        clients = connect()
        clients.volume.prepare()
        same, changed, new = "org/same", "org/changed", "org/new"
        local = hub.service.hub
        for name in (same, changed):
            promoted_model(local, clients.volume, name, {"m-Q8_0.gguf": tiny_model()}, engine="0.3.1")
        template = tiny_llama().set("tokenizer.chat_template", STRING, CHATML + "{# another #}").to_bytes()
        local.repository(changed).commit({"m-Q8_0.gguf": template})
        local.repository(new).commit({**CARD, "m-Q8_0.gguf": tiny_model(2)})
        (memory / "catalog.yaml").write_bytes(
            catalog_of(f"model: {same}", f"model: {changed}", f"model: {new}, required: true")
        )
        with pytest.raises(RefreshFailed) as raised:
            refresh_briefly(clients, on_plan=lambda _: begin(hub))
        night = raised.value.refreshed
        assert states(night.entries) == {"same": "measured", "changed": "blocked", "new": "blocked"}
        assert raised.value.message.startswith("1 of 3 entries failed that the catalog requires")
        assert "| `org/new:Q8_0` |" in str(raised.value)
        assert night.markdown.count("**blocked**: ") == 2, "and the report says so"
        for outcome in night.entries[1:]:
            assert any(word in outcome.reason for word in ("429", "503", "refused")), outcome.reason
        assert clients.volume.promoted(ModelName.parse(changed)).default_id is not None
        hub.end()
        assert states(refresh_briefly(clients).entries) == {
            "same": "unchanged",
            "changed": "promoted",
            "new": "promoted",
        }


def test_an_entry_that_the_hub_blocked_is_carried_out_once_more_when_it_answers_again(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_in(memory, monkeypatch) as hub:
        hub.service.repository("org/new").commit({**CARD, "m-Q8_0.gguf": tiny_model()})
        (memory / "catalog.yaml").write_bytes(catalog_of("model: org/new, required: true"))
        paused: list[float] = []

        def sleep(seconds: float) -> None:
            paused.append(seconds)
            if len(paused) == 3:
                hub.end()

        clients = connect()
        clients.volume.prepare()
        night = refresh_briefly(clients, on_plan=lambda _: hub.stop(), sleep=sleep)
        assert states(night.entries) == {"new": "promoted"}
        assert len(paused) == 3


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("program", "begin"),
    [
        *(pytest.param("tests.support.brief_refresh", begin, id=name) for name, begin in OUTAGES.items()),
        pytest.param("paddock", OUTAGES["429"], id="429, by the command"),  # its measurements take minutes
    ],
)
def test_a_minute_without_the_hub_in_the_middle_of_a_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Outage], None], program: str
) -> None:
    """Of seven models one is promoted already, four are in transit, and two are not begun."""
    with hub_in(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
        monkeypatch.setenv("PREFECT_API_URL", "")
        clients = connect()
        clients.volume.prepare()
        promoted_model(
            hub.service.hub, clients.volume, "org/kept", {"m-Q8_0.gguf": tiny_model()}, engine=engine_version()
        )
        names = [f"org/larger-{number}" for number in range(6)]
        contents = {name: segmented_model(number, layers=1) for number, name in enumerate(names)}
        for name, content in contents.items():
            hub.service.repository(name).commit({"larger-F32.gguf": content})
        lines = [f"model: {name}, context_tokens: 512, required: true" for name in ("org/kept", *names)]
        (tmp_path / "catalog.yaml").write_bytes(catalog_of(*lines))

        first = refresh_by(program, limit_rate=RATE)
        # The plan reads each header; then the files are fetched.
        headers = hub.service.wait_until(lambda stats: len(stats.bytes_sent) == len(names), timeout_s=300)
        hub.service.wait_until(
            lambda stats: stats.total_bytes_sent > headers.total_bytes_sent + 4 * RATE, timeout_s=300
        )
        began = time.monotonic()
        begin(hub)
        time.sleep(MINUTE_S)
        hub.end()
        status, night = finished(first)
        outcomes = {entry["model"]: entry["outcome"] for entry in night["entries"]}
        print(f"{program}: status {status} after {time.monotonic() - began:.0f} s from the outage on: {outcomes}")
        for entry in night["entries"]:
            if entry["outcome"] == "blocked":
                print(f"  {entry['model']}: {entry['reason']}")
        assert outcomes["org/kept"] == "unchanged"
        assert set(outcomes.values()) <= {"unchanged", "promoted", "blocked"}
        assert "promoted" in outcomes.values()
        assert status == (1 if "blocked" in outcomes.values() else 0)

        status, night = finished(refresh_by(program))
        print("the next one:", status, [entry["outcome"] for entry in night["entries"]])
        assert {entry["outcome"] for entry in night["entries"]} <= {"unchanged", RefreshOutcome.PROMOTED.value}
        assert status == 0
        for name, content in contents.items():
            assert_volume_consistent(clients, ModelName.parse(name))
            assert (clients.volume.model_path(ModelName.parse(name)) / "larger-F32.gguf").read_bytes() == content


def refresh_by(program: str, *, limit_rate: int = 0) -> subprocess.Popen[str]:
    arguments = ["refresh", "--json"] if program == "paddock" else []
    rate = {"PADDOCK_LIMIT_RATE": str(limit_rate)} if limit_rate else {}
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        env={**os.environ, **rate},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """(the exit status of a refresh, the object that it printed)."""
    with process:
        output, _ = process.communicate(timeout=1800)
    return process.returncode, json.loads(output)
