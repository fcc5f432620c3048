"""The files of infra/observe/ name metrics that are exported, and Prometheus loads them and scrapes a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from infra.local.ports import free_ports
from infra.local.state import CHECKOUT
from paddock.errors import PaddockError
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.worker_metrics import read_worker_metrics
from paddock.serving.metrics import Metrics
from paddock.serving.spec import ServeSpec
from paddock.settings import Settings
from paddock.store.volume.counters import labels_of
from tests.support.pages import rows, section, text_of
from tests.support.prometheus_text import read_metrics
from tests.support.serving import ask, running, serve_spec
from tests.support.waiting import wait_for

__all__ = ["serve_spec"]

OBSERVE = CHECKOUT / "infra" / "observe"
DASHBOARD, ALERTS, EXAMPLE = (OBSERVE / name for name in ("dashboard.json", "alerts.yaml", "prometheus.yaml"))
_HISTOGRAM = ("_bucket", "_sum", "_count")


def names_of(page: str) -> set[str]:
    """The names of a page's metrics, as queries write them: counters with `_total`, histograms without a suffix. The
    time at which prometheus_client made a metric is left out."""
    families = {name: one for name, one in read_metrics(page).items() if not name.endswith("_created")}
    return {f"{name}_total" if one.type == "counter" else name for name, one in families.items()}


@pytest.fixture(scope="module")
def of_worker(tmp_path_factory: pytest.TempPathFactory) -> str:
    clients = connect(Settings(volume=tmp_path_factory.mktemp("models")))
    return read_worker_metrics(clients).text


@pytest.fixture(scope="module")
def of_server() -> str:
    return Metrics(model="org/name", server="1").text()


def expressions() -> Iterator[tuple[str, str]]:
    """(what has it, the query) of every panel and rule."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("name", "query"), list(expressions()))
def test_each_query_is_of_metrics_that_are_exported(of_worker: str, of_server: str, name: str, query: str) -> None:
    families = {**read_metrics(of_worker), **read_metrics(of_server)}
    exported = names_of(of_worker) | names_of(of_server)
    exported |= {name + end for name, one in families.items() if one.type == "histogram" for end in _HISTOGRAM}
    named = set(re.findall(r"\bpaddock_\w+", query))
    assert named or query.startswith(("up{", "time() - node_textfile_mtime_seconds"))
    assert named <= exported


def test_the_labels_that_queries_compare_have_values_that_occur() -> None:
    queries = " ".join(query for _, query in expressions())
    kinds = {kind for found in re.findall(r'kind[=!~]+"([^"]+)"', queries) for kind in found.split("|")}
    assert kinds
    assert kinds <= set(labels_of("failures"))
    assert set(re.findall(r'result="([^"]+)"', queries)) == {"rolled-back", "failed"}
    assert set(re.findall(r'store="([^"]+)"', queries)) == {"volume"}
    jobs = {job["job_name"] for job in yaml.safe_load(EXAMPLE.read_text())["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', queries)) <= jobs


def test_every_metric_of_a_worker_is_on_the_dashboard_or_in_a_rule(of_worker: str) -> None:
    named = {name for _, query in expressions() for name in re.findall(r"\bpaddock_\w+", query)}
    details = {"paddock_scrub_duration_seconds", "paddock_scrub_read_bytes", "paddock_scrub_complete"}
    assert names_of(of_worker) - named == details | {"paddock_evicted_snapshots_total"}


def test_the_documented_metrics_are_those_that_are_exported(of_worker: str, of_server: str) -> None:
    for page, exported in (("observe.md", of_worker), ("serving.md", of_server)):
        cells = [cells[0] for cells in rows(section(text_of(page), "## Metrics"))]
        documented = [name for cell in cells for name in re.findall(r"`(paddock_\w+)`", cell)]
        assert sorted(documented) == sorted(names_of(exported)), page


def test_the_documented_alerts_are_those_of_the_file() -> None:
    documented = re.findall(r"`(Paddock\w+)`", section(text_of("observe.md"), "## Alerts"))
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert sorted(documented) == sorted(rule["alert"] for rule in rules)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


def test_failures_have_the_names_of_the_errors() -> None:
    def leaves(kind: type[PaddockError]) -> set[str]:
        below = [one for one in kind.__subclasses__() if one.__module__ == PaddockError.__module__]
        return {name for one in below for name in leaves(one)} if below else {kind.__name__}

    assert set(labels_of("failures")) == leaves(PaddockError)


def test_panels_lie_beside_each_other_and_have_ids_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


# With Prometheus


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: apt-get install prometheus")
    return found


@pytest.mark.torture
def test_promtool_accepts_the_rules_the_example_and_the_exported_text(of_worker: str, of_server: str) -> None:
    promtool = program("promtool")
    for arguments in (["check", "rules", str(ALERTS)], ["check", "config", str(EXAMPLE)]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "15 rules found" in done.stdout
    for page in (of_worker, of_server):
        done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@contextmanager
def prometheus(home: Path, targets: dict[str, str]) -> Iterator[httpx.Client]:
    """Run Prometheus with the alert rules, scraping each target (by its job) every second; yields a client of it."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
        ],
    }
    home.mkdir()
    (home / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    options = [f"--config.file={home / 'prometheus.yaml'}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [program("prometheus"), *options, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1") as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """The result of a query; empty while Prometheus does not answer."""
    try:
        answer = client.get("/query", params={"query": expression})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:  # it is starting
        return []
    value = answer.json()
    assert value["status"] == "success", value
    result: list[dict[str, Any]] = value["data"]["result"]
    return result


@pytest.mark.torture
def test_prometheus_scrapes_a_server_and_evaluates_the_rules_and_every_query(
    serve_spec: ServeSpec, tmp_path: Path
) -> None:
    with running(serve_spec) as served:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            assert ask(client, stream=True).complete
        targets = {"paddock-serve": served.url.removeprefix("http://")}
        with prometheus(tmp_path / "prometheus", targets) as client:
            wait_for(lambda: bool(query(client, "paddock_generation_tokens_total > 0")), limit_s=60)
            (up,) = query(client, "paddock_engine_up")
            assert up["value"][1] == "1"
            wait_for(lambda: bool(query(client, "paddock_info")), limit_s=30)
            for _, expression in expressions():
                if not expression.startswith("label_values"):
                    query(client, expression.replace("$instance", ".*"))
            groups = client.get("/rules").json()["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(rules) == 15
            wait_for(lambda: all_evaluated(client), limit_s=30)
            alerts = client.get("/alerts").json()["data"]["alerts"]
            assert [one["labels"]["alertname"] for one in alerts] == []


def all_evaluated(client: httpx.Client) -> bool:
    """Whether every rule was evaluated without an error."""
    groups = client.get("/rules").json()["data"]["groups"]
    return all(rule["health"] == "ok" for group in groups for rule in group["rules"])
