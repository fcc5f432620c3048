"""Every picture of the real model, in the artifacts of a benchmark and of a dossier, is drawn by a real browser in both
of Prefect's user interfaces. With `--screenshots DIR`, what it shows is written there for the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows.benchmark import benchmark_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from infra.local.quantize import quantize
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.validate import validate
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.dossier import write_dossier
from paddock.lifecycle.run.benchmark import benchmark, measure_server
from paddock.lifecycle.run.pictures import read_pictures
from paddock.lifecycle.run.quality import measure_quality
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference, artifact_key
from tasks.runner import PrefectRunner
from tests.support.browser import image_widths, open_browser, save_screenshot, show_image
from tests.support.serving import make_serve_spec, running

NAME = "paddock-demo/SmolLM2-135M-Instruct-GGUF"
CONTEXT_TOKENS = 2048
SUBJECT = "Q4_K_M"
VARIANTS = ("Q8_0", "Q5_K_M", "Q4_K_M")
INTERFACES = ("", "/v2")
OF_BENCHMARK = ["memory", "throughput", "latency", "runs"]
OF_DOSSIER = ["memory", "throughput", "latency", "quality", "pareto", "runs"]


@flow
def write_the_dossier(model: str) -> None:
    runner = PrefectRunner()
    (manifest,) = (one for one in runner.clients.volume.snapshots() if one.id.name == model)
    runner.run(write_dossier, manifest)


@pytest.fixture
def measured(hub: HubService, clients: Clients, monkeypatch: pytest.MonkeyPatch, demo_cache: Path) -> Manifest:
    """The subject among its variants, all of them measured, and the subject also over HTTP."""
    monkeypatch.setenv("PADDOCK_PRICE_PER_HOUR", "0.12")
    clients = connect()
    models = quantize(demo_cache)
    files = {models[name].name: models[name] for name in VARIANTS}
    hub.repository(NAME).commit({**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})
    variants = {name: pull(clients, Reference.parse(f"{NAME}:{name}")).manifest for name in VARIANTS}
    subject = variants[SUBJECT]
    validate(PlainRunner(clients), subject.id.reference, CONTEXT_TOKENS, target="8GiB")
    for name, manifest in variants.items():
        result = benchmark(clients, manifest, CONTEXT_TOKENS)
        if name != "Q8_0":
            measure_quality(clients, manifest, variants["Q8_0"])
        if manifest == subject:
            spec = make_serve_spec(get_gguf_file_path(clients.volume.snapshot_path(subject.id)), parallel=4)
            with running(spec) as server:
                measure_server(clients, subject, result, f"{server.url}/v1", api_key=None)
    return subject


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_a_browser_draws_every_picture_of_the_real_model_in_both_interfaces(
    measured: Manifest, client: SyncPrefectClient, prefect_server: PrefectServer, pytestconfig: pytest.Config
) -> None:
    model = measured.id.name
    run_local(benchmark_model, model=model, context_tokens=CONTEXT_TOKENS)
    run_local(write_the_dossier, model=model)
    directory: Path | None = pytestconfig.getoption("--screenshots")
    for kind, pictures in (("benchmark", OF_BENCHMARK), ("dossier", OF_DOSSIER)):
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(kind, measured.model, model)])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
        for interface in INTERFACES:
            with open_browser(width=1440, height=1250) as page:
                widths = image_widths(page, f"{prefect_server.ui}{interface}/artifacts/artifact/{artifact.id}")
                assert widths == [680] * len(pictures)
                if directory and interface == INTERFACES[-1]:
                    save_screenshot(page, directory / f"{kind}.png")
                    if kind == "dossier":
                        show_image(page, 1)
                        save_screenshot(page, directory / "dossier-pictures.png")
    kept = read_pictures(connect(), measured)
    assert [picture.name for picture in kept] == OF_DOSSIER
    if directory:
        for picture in kept:
            if picture.name in {"quality", "pareto"}:  # which are further down the page
                (directory / picture.svg_file).write_text(picture.svg)
