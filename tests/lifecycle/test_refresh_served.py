"""A refresh promotes what `paddock serve` serves meanwhile: both in processes of their own, by the command with all
measurements. It takes minutes, and is behind `make torture`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import connect
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.gguf import STRING, TYPE_Q8_0, U32, tiny_llama
from tests.support.program import Outcome
from tests.support.refreshed import UNBOUNDED_GATES, catalog_of
from tests.support.serving import ServeProgram, ask
from tests.support.switching import StreamResult, stream
from tests.support.tiny_hub import use_hub
from tests.support.waiting import wait_for

NAME = "org/served-GGUF"
MODEL = ModelName.parse(NAME)
FILE = "tiny-Q8_0.gguf"
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
REFUSING = "{% for m in messages %}{% if 'zebra' in m.content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
"""A template that refuses a word. The gates find it, so the nights of this one measure and compare nothing."""
ZEBRA = "Draw a zebra."
BRIEF = ("tests.support.brief_refresh",)
MINUTE_S = 60.0

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]


def model_bytes(layers: int, template: str = TURNS) -> bytes:
    file = tiny_llama(layers=layers, kind=TYPE_Q8_0)
    file.set("llama.context_length", U32, 2048).set("general.name", STRING, f"tiny {layers}")
    return file.set("tokenizer.chat_template", STRING, template).to_bytes()


@pytest.fixture
def hub_of_served(hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubService:
    """A Hub with the model, which is promoted, and a catalog whose gates let everything sound through."""
    use_hub(monkeypatch, hub, tmp_path)
    monkeypatch.setenv("PADDOCK_CATALOG", str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv("PREFECT_API_URL", "")
    lines = f"model: {NAME}, variant: Q8_0, context_tokens: 512, gates: {UNBOUNDED_GATES}"
    (tmp_path / "catalog.yaml").write_bytes(catalog_of(lines))
    hub.repository(NAME).commit({FILE: model_bytes(1)})
    pull(connect(), Reference(MODEL))
    return hub


def refresh(program: Sequence[str] = ("paddock", "refresh", "--json")) -> dict[str, Any]:
    command = [sys.executable, "-m", *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, env=dict(os.environ))
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert outcome.status == 0, outcome
    return outcome.json


def health(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/health").json()
    return found


@contextmanager
def asking(url: str) -> Iterator[list[StreamResult]]:
    """Two clients that stream completions, and one that asks for whole ones, at a pace that leaves the cores some
    time."""
    stop, results, lock = threading.Event(), list[StreamResult](), threading.Lock()

    def note(result: StreamResult) -> None:
        with lock:
            results.append(result)

    def work(streamed: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, timeout=120, limits=limits) as client:
            while not stop.wait(0.05):
                note(stream(client, max_tokens=16) if streamed else complete(client))

    threads = [threading.Thread(target=work, args=[streamed]) for streamed in (True, True, False)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)


def complete(client: httpx.Client) -> StreamResult:
    body = {"prompt": "Once", "max_tokens": 16, "temperature": 0}
    try:
        answer = client.post("/v1/completions", json=body)
        text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
        problem = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
    except (httpx.HTTPError, ValueError) as error:
        return StreamResult("", "", repr(error))
    return StreamResult(answer.headers.get("x-paddock-revision", ""), text, problem)


def test_a_sound_revision_reaches_a_running_server_without_a_dropped_answer(hub_of_served: HubService) -> None:
    with ServeProgram(NAME) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        before = health(client)["revision"]
        sound = hub_of_served.repository(NAME).commit({FILE: model_bytes(2)})
        with asking(server.url) as results:
            wait_for(lambda: results)
            refreshed = refresh()
            wait_for(lambda: health(client)["revision"] == sound, limit_s=MINUTE_S)
            count = len(results)
            wait_for(lambda: len(results) > count + 20, limit_s=MINUTE_S)
        server.end()
    (entry,) = refreshed["entries"]
    texts = {(one.revision, one.text) for one in results}
    problems = [one for one in results if one.problem]
    print(f"{len(results)} answers, {len(problems)} with a problem, {len(texts)} texts; {entry['outcome']}")
    assert (entry["outcome"], entry["revision"]) == ("promoted", sound)
    assert problems == []
    assert {revision for revision, _ in texts} == {f"Q8_0@{before}", f"Q8_0@{sound}"}
    assert len(texts) == 2, "each answer is whole, and from one revision"
    assert f"| `{NAME}:Q8_0` |" in Path(refreshed["report"]).read_text()


def test_a_revision_that_answers_with_errors_is_rolled_back_within_a_minute_and_the_next_report_says_so(
    hub_of_served: HubService,
) -> None:
    with ServeProgram(NAME) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        before = health(client)["revision"]
        failing = hub_of_served.repository(NAME).commit({FILE: model_bytes(2, REFUSING + TURNS)})
        (entry,) = refresh(BRIEF)["entries"]
        print("the night:", entry["outcome"], entry["reason"])
        assert (entry["outcome"], entry["revision"]) == ("promoted", failing)
        wait_for(lambda: health(client)["revision"] == failing, limit_s=MINUTE_S)
        began, failed = time.monotonic(), 0
        while health(client)["revision"] == failing:
            failed += not ask(client, stream=False, max_tokens=4, content=ZEBRA).complete
            assert time.monotonic() - began < MINUTE_S
        print(f"rolled back after {time.monotonic() - began:.1f} s and {failed} failed answers")
        assert health(client)["revision"] == before
        assert ask(client, stream=False, max_tokens=4, content=ZEBRA).complete
        last = connect().volume.history(MODEL)[-1]
        assert (last.rollback, last.revision) == (True, before)
        refreshed = refresh(BRIEF)
        (entry,) = refreshed["entries"]
        print("the next night:", entry["outcome"], entry["reason"])
        assert entry["outcome"] == "held back"
        assert "rolled back by its server: " in entry["reason"]
        assert Path(refreshed["report"]).read_text().count("rolled back by its server: ") == 2
        server.end()
