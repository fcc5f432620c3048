"""Models that generate no text: what is done with them, and what is refused by name before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from infra.local.hub import HubService
from paddock.errors import ConflictingConfiguration
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import InProcess, Onboarded, OnboardRequest, onboard
from paddock.lifecycle.run import benchmark
from paddock.lifecycle.run.benchmark import read_benchmark
from paddock.lifecycle.run.serve import ServeRequest, serve_snapshot
from paddock.lifecycle.steps import PlainRunner
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.plan import PlanRequest
from tests.support.gguf import CHATML, STRING, Gguf
from tests.support.other_kinds import EMBEDDING_KINDS, bert, diffusion, reranker, t5

NAME = "org/other-GGUF"


def put(hub: HubService, file: Gguf) -> Reference:
    hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\n", "other-F32.gguf": file.to_bytes()})
    return Reference(ModelName.parse(NAME))


def onboarded(clients: Clients, wanted: Reference, **options: str) -> Onboarded:
    request = OnboardRequest(wanted, context_tokens=128, **options)  # type: ignore[arg-type]  # a profile's name
    return onboard(clients, InProcess(PlainRunner(clients)), request)


def manifest_of(clients: Clients, wanted: Reference) -> Manifest:
    return pull(clients, wanted).manifest


@pytest.mark.parametrize("kind", EMBEDDING_KINDS)
def test_a_model_that_embeds_is_benchmarked_with_prefill_alone(clients: Clients, hub: HubService, kind: str) -> None:
    manifest = manifest_of(clients, put(hub, EMBEDDING_KINDS[kind]()))
    assert (manifest.verdict, manifest.template_sha256) == (Verdict.ACCEPT, None)
    measured = benchmark.benchmark(clients, manifest, 128)
    assert measured.kind == kind.split(" of ", maxsplit=1)[0]
    assert all(length.n_prompt and length.prefill_tok_per_s for length in measured.results)
    assert measured.canary == ()
    assert "decode" not in measured.line
    assert "decode" not in str(measured.rows())
    document = json.loads(json.dumps(measured.to_json()))
    assert (document["kind"], document["weights_read_bytes_per_s"]) == (measured.kind, None)
    assert read_benchmark(clients, manifest) == Benchmark.from_json(document) == measured


def test_an_embedding_model_is_onboarded_without_roleplay(clients: Clients, hub: HubService) -> None:
    result = onboarded(clients, put(hub, bert()), profile="roleplay")
    assert result.promoted
    assert result.notes[-1] == "its roleplay was not measured, since it is an embedding model"


def test_a_diffusion_model_is_onboarded_without_a_benchmark(clients: Clients, hub: HubService) -> None:
    wanted = put(hub, diffusion())
    result = onboarded(clients, wanted)
    assert result.promoted
    assert result.notes[-1] == "it was not benchmarked, since it is a diffusion language model"
    manifest = manifest_of(clients, wanted)
    assert read_benchmark(clients, manifest) is None
    with pytest.raises(ConflictingConfiguration, match="is a diffusion language model, and there is no benchmark"):
        benchmark.benchmark(clients, manifest, 128)
    with pytest.raises(ConflictingConfiguration, match="is a diffusion language model, which is not served") as serve:
        serve_snapshot(clients, manifest, ServeRequest(), on_ready=lambda _: None)
    assert serve.value.cure == "serve a language model, an embedding model or a reranker"


@pytest.mark.parametrize(
    ("build", "kind"),
    [(bert, "embedding"), (reranker, "reranker"), (t5, "encoder-decoder"), (diffusion, "diffusion")],
)
def test_inspect_and_plan_tell_the_kind(
    clients: Clients, hub: HubService, build: Callable[[], Gguf], kind: str
) -> None:
    put(hub, build())
    document = inspect(clients, NAME).to_json()
    assert (document["model"]["kind"], document["verdict"]) == (kind, "accept")
    assert preflight(clients, NAME, PlanRequest(128, at_most_trained=True)).to_json()["kind"] == kind


def test_what_cannot_be_done_with_a_kind_is_refused_by_name(clients: Clients, hub: HubService) -> None:
    manifest = manifest_of(clients, put(hub, bert()))
    with pytest.raises(ConflictingConfiguration, match="is an embedding model: it plays no character") as roleplay:
        benchmark.benchmark(clients, manifest, 128, roleplay=True)
    assert roleplay.value.cure == "benchmark it without --roleplay"
    with pytest.raises(ConflictingConfiguration, match="is an embedding model: it is not tuned"):
        benchmark.tune(clients, manifest, 128)


def test_the_template_of_an_embedding_model_is_neither_checked_nor_published(clients: Clients, hub: HubService) -> None:
    file = bert().set("tokenizer.chat_template", STRING, "{{ ''.__class__ }}" + CHATML)
    manifest = manifest_of(clients, put(hub, file))
    assert [(finding.rule, finding.severity) for finding in manifest.findings] == [("template.unused", "info")]
    assert {file.path for file in manifest.files} == {"other-F32.gguf"}
