"""Models that embed or rank, and models with a projector: planned, served, and answered as llama.cpp itself answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest

from infra.local.hub import LocalHub, serve_hub
from paddock.engine.oracle import measure_memory
from paddock.engine.projector import measure_projector
from paddock.errors import ConflictingConfiguration, EngineCrashed, MalformedGguf, ModelRejected
from paddock.gguf.kind import ModelKind
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.locate import locate
from paddock.lifecycle.run.servable import SERVED, added_pooling, computes_whole_images, require_servable
from paddock.lifecycle.run.serve import ServeRequest, make_spec
from paddock.model.hardware import this_machine
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.serving.spec import ServeSpec
from paddock.settings import Settings
from tests.support.engine import run_engine
from tests.support.gguf import ARRAY, STRING, array
from tests.support.other_kinds import bert, pooled_llama, reranker
from tests.support.serving import RunningServer, running
from tests.support.vision import data_url, llava_projector, png, vision_llama
from tests.support.waiting import wait_for

TEXTS = ["w5 w6 w7", "w9", "w200 w201 w5 w130 w131"]
RED, STRIPES = png((255, 0, 0)), png((0, 0, 255), (0, 255, 0))
_OWN_EMBEDDINGS = """
import json, sys
from llama_cpp import Llama

model = Llama(sys.argv[1], embedding=True, n_ctx=128, n_batch=128, n_ubatch=128, n_threads=1, verbose=False)
print(json.dumps([model.create_embedding(text)["data"][0]["embedding"] for text in json.loads(sys.argv[2])]))
"""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """The clients of a volume with an embedding model, a reranker, and a model with its projector."""
    home = tmp_path_factory.mktemp("kinds")
    vision = {"tiny-F32.gguf": vision_llama(), "mmproj-tiny-F32.gguf": llava_projector()}
    with serve_hub(LocalHub(home / "hub")) as service:
        clients = connect(Settings(volume=home / "models", hub_endpoint=service.address))
        for name, files in {
            "org/bert": {"bert-F32.gguf": bert()},
            "org/reranker": {"reranker-F32.gguf": reranker()},
            "org/vision": vision,
        }.items():
            card = {"README.md": b"---\nlicense: mit\n---\n"}
            service.repository(name).commit(card | {path: file.to_bytes() for path, file in files.items()})
            pull(clients, Reference(ModelName.parse(name)), projector=name == "org/vision")
    return clients


def spec_of(clients: Clients, name: str, request: ServeRequest | None = None) -> ServeSpec:
    """The specification that `paddock serve` makes."""
    manifest = locate(clients, Reference(ModelName.parse(name)))
    snapshot = clients.volume.snapshot_path(manifest.id).resolve()
    return make_spec(clients, manifest, snapshot, request or ServeRequest(), machine=this_machine())


@pytest.fixture(scope="module")
def vision_spec(volume: Clients) -> ServeSpec:
    return spec_of(volume, "org/vision", ServeRequest(parallel=1))


@contextmanager
def client_of(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def assert_own_embeddings(client: openai.OpenAI, spec: ServeSpec) -> None:
    """Embeddings through OpenAI's package point where those of llama.cpp do, without any server."""
    answer = client.embeddings.create(model=spec.name, input=TEXTS)
    own = run_engine(_OWN_EMBEDDINGS, spec.file, json.dumps(TEXTS))
    assert min(cosine(one.embedding, other) for one, other in zip(answer.data, own, strict=True)) >= 0.9999
    assert cosine(own[0], own[1]) < 0.999
    assert (answer.model, answer.usage.prompt_tokens > 0) == (spec.name, True)


def test_an_encoder_embeds_as_llama_cpp_does_and_does_nothing_else(volume: Clients) -> None:
    spec = spec_of(volume, "org/bert")
    assert (spec.kind, spec.pooling, spec.has_vision) == (ModelKind.EMBEDDING, None, False)
    assert (spec.parameters.n_ctx, spec.parameters.n_batch, spec.parameters.n_ubatch) == (512, 128, 128)
    with running(spec) as server, client_of(server) as client:
        assert_own_embeddings(client, spec)
        full = client.embeddings.create(model=spec.name, input=" ".join(["w5"] * 126))  # and two special tokens
        assert full.usage.prompt_tokens == 128
        with pytest.raises(openai.BadRequestError) as long:
            client.embeddings.create(model=spec.name, input=" ".join(["w5"] * 127))
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError, match="is an embedding model, which does not answer"):
            client.chat.completions.create(model=spec.name, messages=[{"role": "user", "content": "Hello"}])
    assert sum(usage.requests for usage in server.used) == 2


def test_a_decoder_embeds_as_llama_cpp_does(vision_spec: ServeSpec, tmp_path: Path) -> None:
    spec = other_spec(vision_spec, pooled_llama().write(tmp_path / "model-F32.gguf"), ModelKind.EMBEDDING)
    with running(spec) as server, client_of(server) as client:
        assert_own_embeddings(client, spec)


def other_spec(spec: ServeSpec, file: Path, kind: ModelKind) -> ServeSpec:
    """A specification without a volume, with the memory of another small model."""
    parameters = replace(spec.parameters, n_ctx=128, n_batch=128, n_ubatch=128)
    return replace(spec, name="org/model", file=file, kind=kind, projector=None, parameters=parameters)


def test_an_embedding_model_that_states_no_pooling_gives_means(vision_spec: ServeSpec, tmp_path: Path) -> None:
    found = []
    for file in (bert(), bert().drop("bert.pooling_type")):
        path = file.write(tmp_path / "model-F32.gguf")
        with FileSource(path) as source:
            pooling = added_pooling(read_header(source), ModelKind.EMBEDDING)
        spec = replace(other_spec(vision_spec, path, ModelKind.EMBEDDING), pooling=pooling)
        with running(spec) as server, client_of(server) as client:
            found.append([one.embedding for one in client.embeddings.create(model=spec.name, input=TEXTS).data])
    assert pooling == "mean"
    assert found[0] == found[1]


def test_the_memory_of_a_full_batch_is_planned(vision_spec: ServeSpec, tmp_path: Path) -> None:
    file, count = bert(), 60_000
    file.set("tokenizer.ggml.tokens", ARRAY, array(STRING, [*(f"▁w{number}" for number in range(count))]))
    embedding = file.tensor("token_embd.weight")
    embedding.shape = (32, count)
    embedding.data = np.random.default_rng(1).random((count, 32), dtype=np.float32).tobytes()
    spec = other_spec(vision_spec, file.write(tmp_path / "model-F32.gguf"), ModelKind.EMBEDDING)
    parameters = replace(spec.parameters, n_threads=1, n_gpu_layers=0)
    memory = measure_memory(spec.file, context_tokens=128, parameters=parameters)
    assert memory.output_bytes == 128 * (count + 32) * 4  # the engine reserves logits for each token of the batch
    with running(replace(spec, parameters=parameters, memory=memory)) as server, client_of(server) as client:
        client.embeddings.create(model=spec.name, input=" ".join(["w5"] * 126))
        held = psutil.Process(server.engine.pid).memory_info()
    assert held.rss - held.shared < memory.total_bytes + 32 * 2**20


def test_a_reranker_ranks_and_does_nothing_else(volume: Clients) -> None:
    spec = spec_of(volume, "org/reranker")
    assert spec.kind is ModelKind.RERANKER
    body = {"model": spec.name, "query": "What?", "documents": ["a b c", "d", "e f"]}
    with running(spec) as server, httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
        ranked = client.post("/v1/rerank", json=body).json()
        assert sorted(one["index"] for one in ranked["results"]) == [0, 1, 2]
        scores = [one["relevance_score"] for one in ranked["results"]]
        assert scores == sorted(set(scores), reverse=True)
        for path in ("/v1/embeddings", "/v1/chat/completions"):  # llama-server would read beyond the scores
            assert client.post(path, json={"input": "a", "messages": []}).status_code == 404


@pytest.mark.parametrize(
    ("kind", "tensor", "problem"),
    [
        (ModelKind.TEXT, "output_norm.weight", "gives log-probabilities that are not finite"),
        (ModelKind.EMBEDDING, "token_embd_norm.weight", "gives embeddings that are not finite"),
        (ModelKind.RERANKER, "cls.output.weight", "gives scores that are not finite"),
    ],
)
def test_a_model_that_computes_no_numbers_is_not_served(
    vision_spec: ServeSpec, tmp_path: Path, kind: ModelKind, tensor: str, problem: str
) -> None:
    file = {ModelKind.TEXT: vision_llama, ModelKind.EMBEDDING: bert, ModelKind.RERANKER: reranker}[kind]()
    row = file.tensor(tensor)
    row.data = b"\x00\x00\xc0\x7f" * (len(row.content()) // 4)
    spec = other_spec(vision_spec, file.write(tmp_path / "model-F32.gguf"), kind)
    with pytest.raises(ModelRejected, match=problem), running(spec):
        pass


def image_message(image: bytes) -> list[object]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": data_url(image)}}]
    return [{"role": "user", "content": parts}]


def test_another_image_gives_another_answer_and_a_restarted_engine_the_same(vision_spec: ServeSpec) -> None:
    assert (vision_spec.variant, vision_spec.has_vision) == ("F32-mmproj", True)
    assert vision_spec.projector is not None
    assert vision_spec.memory.projector_bytes > vision_spec.projector.stat().st_size * 0.9
    kept = vision_spec.projector.read_bytes()
    spec = replace(vision_spec, image_max_tokens=vision_spec.parameters.n_ubatch)  # more than these images have
    with running(spec) as server, client_of(server) as client:

        def answer(image: bytes) -> tuple[str | None, int]:
            made = client.chat.completions.create(
                model=vision_spec.name,
                messages=image_message(image),  # type: ignore[arg-type]  # plain dicts
                temperature=0,
                max_tokens=8,
            )
            assert made.usage is not None
            return made.choices[0].message.content, made.usage.prompt_tokens

        of_red, of_stripes = answer(RED), answer(STRIPES)
        assert of_red[0] != of_stripes[0]
        assert of_red[1] == of_stripes[1] > 16  # 16 tokens of the image, and the text's
        vision_spec.projector.unlink()  # the projector is held open like the model
        try:
            server.engine.kill()
            wait_for(lambda: httpx.get(f"{server.url}/health", verify=False).json()["restarts"] == 1)
            wait_for(lambda: httpx.get(f"{server.url}/health", verify=False).json()["status"] == "ok")
            assert answer(RED) == of_red
        finally:
            vision_spec.projector.write_bytes(kept)


def test_a_model_without_a_projector_refuses_images_by_name(vision_spec: ServeSpec) -> None:
    with running(replace(vision_spec, projector=None)) as server, client_of(server) as client:
        with pytest.raises(openai.BadRequestError, match="image") as refused:
            client.chat.completions.create(model=vision_spec.name, messages=image_message(RED))  # type: ignore[arg-type]  # plain dicts
        assert str(refused.value.param).startswith("messages.0.content")


@pytest.mark.parametrize(("kind", "expected"), [("gemma4v", True), ("mlp", False)])
def test_images_that_are_computed_whole_are_bounded_by_the_batch(tmp_path: Path, kind: str, expected: bool) -> None:
    projector = llava_projector().set("clip.projector_type", STRING, kind).write(tmp_path / "mmproj.gguf")
    assert computes_whole_images(projector) == expected


def test_a_projector_that_the_engine_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    broken = llava_projector().drop("v.blk.0.attn_out.weight").write(tmp_path / "mmproj.gguf")
    with pytest.raises(MalformedGguf, match=r"refuses the projector: .*v\.blk\.0\.attn_out") as refused:
        measure_projector(broken, threads=1, use_gpu=False)
    assert refused.value.cure == "pull it again, or serve the model without it"


def test_a_projector_for_another_model_is_an_error_with_its_reason(vision_spec: ServeSpec, tmp_path: Path) -> None:
    other = llava_projector(width=64).write(tmp_path / "mmproj.gguf")
    with (
        pytest.raises(EngineCrashed, match="mismatch between text model") as refused,
        running(replace(vision_spec, projector=other)),
    ):
        pass
    assert refused.value.cure == "serve the model's variant without a projector, or pull it with its own one"


def test_a_kind_that_nobody_can_serve_is_refused_by_name(volume: Clients) -> None:
    manifest = locate(volume, Reference(ModelName.parse("org/bert")))
    for kind in set(ModelKind) - SERVED:
        with pytest.raises(
            ConflictingConfiguration, match=f"bert:F32 is {kind.noun}, which is not served: "
        ) as refused:
            require_servable(manifest, kind)
        assert refused.value.cure == "serve a language model, an embedding model or a reranker"
