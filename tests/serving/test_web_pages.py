"""Pages of a real browser: one of another origin, and one whose host name leads to this machine, can use no model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from paddock.serving.spec import ServeSpec
from tests.support.browser import open_browser
from tests.support.llama_server import llama_server_with
from tests.support.serving import RunningServer, running

pytestmark = pytest.mark.torture

PAGE, REBOUND = "page.example", "rebound.example"
CHAT = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
_FETCH = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return answer.type === "opaque" ? "opaque" : [answer.status, await answer.text()];
  } catch (error) { return String(error); }
}"""
_FORM = """([url, text]) => {
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, {method: "post", action: url, enctype: "text/plain"});
  form.appendChild(Object.assign(document.createElement("input"), {name: text, value: ""}));
  form.submit();
}"""


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A page</title><body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """A page of another site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as other:
        threading.Thread(target=other.serve_forever).start()
        yield f"http://{PAGE}:{other.server_port}"
        other.shutdown()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser(names="*.example") as opened:
        yield opened


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    return llama_server_with(folder / "llama-server", status=501, content_type="text/plain", body="")


@pytest.fixture(scope="module")
def server(serve_spec: ServeSpec, program: Path) -> Iterator[RunningServer]:
    with running(serve_spec, program=program) as now:
        yield now


def statuses(page: Page, server: RunningServer) -> list[int]:
    """A list that gets the status of each answer of the server, also of those that the page may not see."""
    seen: list[int] = []
    page.on("response", lambda answer: seen.append(answer.status) if answer.url.startswith(server.url) else None)
    return seen


def fetch(page: Page, url: str, **options: Any) -> Any:
    return page.evaluate(_FETCH, [url, options])


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models"])
def test_a_page_of_another_origin_reads_nothing(page: Page, page_url: str, server: RunningServer, path: str) -> None:
    page.goto(page_url)
    seen = statuses(page, server)
    assert "TypeError" in fetch(page, f"{server.url}{path}")
    assert fetch(page, f"{server.url}{path}", mode="no-cors") == "opaque"
    assert seen == [403]  # the browser does not tell the first


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}], ids=str
)
def test_a_page_of_another_origin_starts_no_chat(
    page: Page, page_url: str, server: RunningServer, headers: dict[str, str]
) -> None:
    page.goto(page_url)
    seen = statuses(page, server)
    url = f"{server.url}/v1/chat/completions"
    assert fetch(page, url, method="POST", body=CHAT, headers=headers, mode="no-cors") == "opaque"
    assert "TypeError" in fetch(page, url, method="POST", body=CHAT, headers={"content-type": "application/json"})
    assert set(seen) == {403}


def test_a_form_of_another_origin_starts_no_chat(page: Page, page_url: str, server: RunningServer) -> None:
    page.goto(page_url)
    with page.expect_navigation() as navigation:
        page.evaluate(_FORM, [f"{server.url}/v1/chat/completions", CHAT[:-1] + ', "a": "'])
    assert navigation.value.status == 403


def test_a_page_under_a_rebound_name_reads_nothing(page: Page, server: RunningServer) -> None:
    rebound = server.url.replace("127.0.0.1", REBOUND)
    opened = page.goto(f"{rebound}/health")
    assert opened is not None
    assert (opened.status, opened.json()["error"]["code"]) == (403, "host_not_allowed")
    answer = fetch(
        page,
        f"{rebound}/v1/chat/completions",
        method="POST",
        body=CHAT,
        headers={"content-type": "application/json"},
    )
    assert answer[0] == 403


def test_a_page_of_an_origin_of_the_setting_uses_the_model(
    page: Page, page_url: str, serve_spec: ServeSpec, program: Path
) -> None:
    with running(serve_spec, program=program, cors_origins=(page_url,)) as server:
        page.goto(page_url)
        headers = {"content-type": "application/json", "authorization": "Bearer unused"}
        answer = fetch(page, f"{server.url}/v1/chat/completions", method="POST", body=CHAT, headers=headers)
        assert answer[0] == 200


def test_the_server_is_opened_by_its_address(page: Page, server: RunningServer) -> None:
    opened = page.goto(f"{server.url}/health")
    assert opened is not None
    assert opened.status == 200
    assert fetch(page, f"{server.url}/v1/models")[0] == 200
