"""`/metrics` is a page that Prometheus accepts, whatever the engine's own page is."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from paddock.serving.metrics import CONTENT_TYPE, Metrics
from paddock.serving.spec import ServeSpec
from tests.support.llama_server import llama_server_with
from tests.support.prometheus_text import read_metrics
from tests.support.serving import has_restarted, running
from tests.support.waiting import wait_for

SOUND = "# HELP llamacpp:prompt_tokens_total Tokens.\n# TYPE llamacpp:prompt_tokens_total counter\n"


def page_with(serve_spec: ServeSpec, tmp_path: Path, *, status: int, content_type: str, body: str) -> str:
    program = llama_server_with(tmp_path / "llama-server", status=status, content_type=content_type, body=body)
    with running(serve_spec, program=program) as served:
        answer = httpx.get(f"{served.url}/metrics", timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    return answer.text


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        pytest.param(501, "application/json", '{"error": {"code": 501, "message": "not supported"}}', id="501"),
        pytest.param(503, "application/json", '{"error": {"code": 503, "message": "Loading model"}}', id="503"),
        pytest.param(503, "text/plain", f"{SOUND}llamacpp:prompt_tokens_total 4\n", id="503-that-parses"),
        pytest.param(200, "text/html", "<html><body>a proxy</body></html>\n", id="html"),
        pytest.param(200, "text/plain", "# TYPE paddock_engine_up gauge\npaddock_engine_up 1\n", id="a-metric-of-ours"),
        pytest.param(200, "text/plain", "llamacpp:x 1\nllamacpp:x 1\n", id="a-duplicate-sample"),
    ],
)
def test_an_engine_page_that_is_not_valid_metrics_is_omitted(
    serve_spec: ServeSpec, tmp_path: Path, status: int, content_type: str, body: str
) -> None:
    page = page_with(serve_spec, tmp_path, status=status, content_type=content_type, body=body)
    found = read_metrics(page)
    assert found["paddock_engine_up"].samples[0].value == 1
    assert [name for name in found if not name.startswith("paddock_")] == []


def test_the_engines_metrics_follow_ours(serve_spec: ServeSpec, tmp_path: Path) -> None:
    body = f"{SOUND}llamacpp:prompt_tokens_total 4"  # no line end
    found = read_metrics(page_with(serve_spec, tmp_path, status=200, content_type="text/plain", body=body))
    assert found["llamacpp:prompt_tokens"].samples[0].value == 4
    assert list(found)[-1] == "llamacpp:prompt_tokens"


def test_restarts_are_a_counter(serve_spec: ServeSpec, tmp_path: Path) -> None:
    program = llama_server_with(tmp_path / "llama-server", status=501, content_type="text/plain", body="")
    with running(serve_spec, program=program) as served:
        before = read_metrics(httpx.get(f"{served.url}/metrics").text)["paddock_engine_restarts"]
        served.engine.kill()
        wait_for(lambda: has_restarted(served.url, 1))
        for _ in range(2):  # a second scrape does not count it again
            after = read_metrics(httpx.get(f"{served.url}/metrics").text)["paddock_engine_restarts"]
    values = [{sample.name: sample.value for sample in family.samples} for family in (before, after)]
    assert (before.type, after.type) == ("counter", "counter")
    assert [value["paddock_engine_restarts_total"] for value in values] == [0, 1]


def test_names_and_labels_of_a_model_cannot_break_the_page() -> None:
    metrics = Metrics(model='org/"name"\n\\x', server="0.5.0")
    metrics.set_revision("Q8_0", "a" * 40)
    assert read_metrics(metrics.text())["paddock_info"].samples[0].labels["model"] == 'org/"name"\n\\x'
