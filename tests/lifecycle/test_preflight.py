"""A preflight predicts from the header alone the memory that the engine takes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.engine.oracle import MARGIN_BYTES
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit, FileNotInRevision, ModelRejected, NoGguf
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.model.reference import Reference
from paddock.planning.placement import Target
from paddock.planning.plan import PlanRequest
from paddock.planning.targets import parse_target
from tests.support.engine import let_the_engine_segfault, loaded_memory, real_model
from tests.support.gguf import STRING, U32, tiny_llama, tiny_shards
from tests.support.llama_70b import write_llama_70b
from tests.support.tiny_hub import MODEL, NAME, rejected_model, tiny_model

MIB, GIB = 2**20, 2**30


@pytest.fixture
def remote(hub: HubService) -> Path:
    """The real model on the Hub, and the file that is there."""
    path = real_model()
    hub.repository("org/smollm2-GGUF").commit({"smollm2-Q4_1.gguf": path})
    return path


IN_CI = {(512, "f16"), (2048, "q4_0"), (8192, "q8_0")}


@pytest.mark.parametrize(
    ("context", "kv_type"),
    [
        pytest.param(context, kv_type, marks=[] if (context, kv_type) in IN_CI else [pytest.mark.torture])
        for context in (512, 2048, 8192)
        for kv_type in ("f16", "q8_0", "q4_0")
    ],
)
def test_the_header_of_a_remote_model_gives_the_numbers_of_the_real_load(
    clients: Clients, hub: HubService, remote: Path, context: int, kv_type: str
) -> None:
    with FileSource(remote) as source:
        header_bytes = read_header(source).data_offset
    hub.reset_stats()
    found = preflight(clients, "org/smollm2-GGUF", PlanRequest(context, 1, kv_type))
    assert hub.stats().total_bytes_sent == found.bytes_read <= header_bytes + MIB
    parameters = Parameters(n_ctx=context, n_threads=2, type_k=kv_type, type_v=kv_type)
    loaded = loaded_memory(remote, parameters)
    planned = found.plan.memory
    assert found.plan.fits
    assert planned.kv_cache_bytes == loaded.kv_cache_bytes
    assert planned.compute_bytes == loaded.compute_bytes
    assert planned.output_bytes == loaded.output_bytes
    assert planned.weights_bytes == pytest.approx(loaded.weights_bytes, rel=0.01)


def test_the_first_quantization_that_fits_is_chosen_and_the_others_have_their_reasons(
    clients: Clients, hub: HubService
) -> None:
    everything = preflight(clients, NAME, PlanRequest(256))
    assert (everything.quantization, everything.plan.fits) == ("Q8_0", True)
    by_name = {one.quantization: one for one in everything.candidates}
    assert set(by_name) == {"Q8_0", "Q6_K", "Q4_K_M"}
    assert by_name["Q8_0"].reason == "chosen: the first that fits, in the order of preference"
    assert by_name["Q4_K_M"].reason == "fits with 256 tokens of context"
    asked = preflight(clients, NAME, PlanRequest(256), quantization="q4_k_m")
    assert asked.quantization == "Q4_K_M"
    assert [one.reason for one in asked.candidates if one.quantization == "Q4_K_M"] == ["chosen: requested by name"]


def test_a_file_whose_name_states_a_wrong_quantization_is_ranked_by_its_header(
    clients: Clients, hub: HubService
) -> None:
    liar = tiny_llama().set("general.file_type", U32, 2).to_bytes()  # Q4_0
    honest = tiny_llama().set("general.file_type", U32, 18).to_bytes()
    hub.repository("org/liar-GGUF").commit({"m-Q8_0.gguf": liar, "m-Q6_K.gguf": honest})
    found = preflight(clients, "org/liar-GGUF", PlanRequest(256))
    assert (found.quantization, found.file) == ("Q6_K", "m-Q6_K.gguf")
    reasons = {one.file: (one.quantization, one.reason) for one in found.candidates}
    assert reasons["m-Q8_0.gguf"] == (
        "Q4_0",
        "fits with 256 tokens of context; its name says Q8_0, and its header Q4_0",
    )


def test_the_memory_of_a_gpu_that_the_engine_does_not_use_does_not_count(clients: Clients) -> None:
    if this_machine().gpus:
        pytest.skip("there is a GPU here, which the engine may use: run it on a machine without one")
    gpu = Gpu("one that a build for the processor does not see", 80 * GIB, 80 * GIB)
    machine = replace(this_machine(), ram_available_bytes=MIB, gpus=(gpu,))
    found = preflight(clients, NAME, PlanRequest(256), machine=machine)
    assert not found.plan.fits
    assert preflight(clients, NAME, PlanRequest(256), machine=machine, target=Target(GIB, (80 * GIB,))).plan.fits


def test_a_model_that_does_not_fit_states_the_missing_memory_and_a_remedy(clients: Clients, remote: Path) -> None:
    small = Target(MARGIN_BYTES + 250 * MIB)
    found = preflight(clients, "org/smollm2-GGUF", PlanRequest(8192), target=small)
    assert not found.plan.fits
    assert found.advice.startswith("with ")
    tokens = int(found.advice.split()[1])
    assert preflight(clients, "org/smollm2-GGUF", PlanRequest(tokens), target=small).plan.fits
    none = preflight(clients, "org/smollm2-GGUF", PlanRequest(8192), target=Target(MIB))
    assert "a machine with" in none.advice


def test_a_local_directory_and_a_local_file_are_planned(clients: Clients, tmp_path: Path) -> None:
    model = real_model()
    (tmp_path / model.name).symlink_to(model)
    one, other = (preflight(clients, str(path), PlanRequest(512)) for path in (tmp_path, model))
    assert one.plan == other.plan
    assert one.to_json().keys() >= {
        "fits",
        "quantization",
        "file",
        "memory",
        "parameters",
        "candidates",
        "bytes_read",
        "seconds",
    }


def test_a_source_that_cannot_be_planned_is_refused_with_the_reason(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    with pytest.raises(FileNotInRevision, match=r"has no Q2_K: use one of Q4_K_M, Q6_K, Q8_0"):
        preflight(clients, NAME, PlanRequest(256), quantization="Q2_K")
    with pytest.raises(NoGguf):
        preflight(clients, str(tmp_path), PlanRequest(256))
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": rejected_model()})
    with pytest.raises(ModelRejected):
        preflight(clients, NAME, PlanRequest(256), quantization="Q8_0")


def test_an_engine_that_segfaults_on_a_model_is_a_finding_that_names_the_signal(
    clients: Clients, hub: HubService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest = pull(clients, Reference(MODEL)).manifest
    hub.repository("org/other-GGUF").commit({"other-Q8_0.gguf": tiny_model(3)})
    finding = r"is rejected by compatibility\.engine: the engine was ended by SIGSEGV"
    with monkeypatch.context() as here:
        let_the_engine_segfault(here, tmp_path)
        with pytest.raises(ModelRejected, match=finding) as raised:
            pull(clients, Reference.parse("org/other-GGUF"))
        with pytest.raises(ModelRejected, match=finding):
            validate.check_compatibility(clients, manifest, 128)
    assert [one.rule for one in raised.value.findings] == ["compatibility.engine"]
    assert [one.repository for one in clients.volume.snapshots()] == [NAME]
    assert list(clients.volume.partial.iterdir()) == []
    assert validate.check_compatibility(clients, manifest, 128).findings == ()


def test_a_pull_of_a_model_that_does_not_fit_fetches_no_weight(clients: Clients, hub: HubService) -> None:
    small = Target(MARGIN_BYTES + 200 * 1024)
    with pytest.raises(
        DoesNotFit, match=r"does not fit with 256 tokens of context \(Q8_0 takes .* are missing"
    ) as raised:
        pull(clients, Reference(MODEL), target=small)
    assert raised.value.exit_status == 2
    assert "more memory, or a smaller model, is needed" in raised.value.cure
    assert list(clients.volume.snapshots()) == []
    assert not list((clients.settings.volume / ".paddock").glob("blobs/sha256/*/*"))
    tight = Target(MARGIN_BYTES + 900 * 1024)
    assert pull(clients, Reference(MODEL), target=tight).manifest.quantization == "Q8_0"


def test_an_architecture_that_the_engine_does_not_know_is_refused_from_the_header(
    clients: Clients, hub: HubService
) -> None:
    strange = tiny_llama().set("general.architecture", STRING, "nonesuch").to_bytes()
    hub.repository("org/strange-GGUF").commit({"m-Q8_0.gguf": strange})
    with pytest.raises(ModelRejected, match=r"nonesuch"):
        pull(clients, Reference.parse("org/strange-GGUF"))
    assert list(clients.volume.snapshots()) == []
    assert list(clients.volume.partial.glob("*")) == []
    # Its commit, the list of its files, and the header: the file's address, and its bytes.
    asked = {path: number for path, number in hub.stats().requests.items() if "strange" in path}
    assert sum(asked.values()) <= 6, asked


def test_seventy_billion_weights_cost_their_header(clients: Clients, hub: HubService, tmp_path: Path) -> None:
    path = write_llama_70b(tmp_path / "seventy-Q4_K_M.gguf")
    with FileSource(path) as source:
        header_bytes = read_header(source).data_offset
    found = preflight(clients, str(path), PlanRequest(131_072), target=Target(120 * GIB))
    assert found.plan.fits
    memory = found.plan.memory
    weights = path.stat().st_size - header_bytes
    assert memory.kv_cache_bytes == 40 * GIB
    assert memory.weights_bytes > 1.5 * weights  # this build repacks Q4_K beside the mapped file
    assert found.bytes_read <= header_bytes + MIB
    tight = preflight(clients, str(path), PlanRequest(131_072), target=Target(88 * GIB))
    assert (tight.plan.fits, tight.plan.parameters.use_mmap) == (True, False)
    assert tight.plan.memory.weights_bytes == weights
    on_cards = preflight(clients, str(path), PlanRequest(8192), target=parse_target("2x-rtx-4090"))
    assert (on_cards.plan.fits, on_cards.plan.parameters.n_gpu_layers) == (True, -1)
    assert sum(on_cards.plan.parameters.tensor_split) == 81  # the output counts as one


@pytest.mark.torture
def test_seventy_billion_weights_are_cut_to_what_fits(clients: Clients, tmp_path: Path) -> None:
    path = write_llama_70b(tmp_path / "seventy-Q4_K_M.gguf")
    short = preflight(clients, str(path), PlanRequest(None), target=Target(64 * GIB))
    assert 40_000 < short.plan.parameters.n_ctx < 131_072
    assert short.plan.memory.total_bytes + MARGIN_BYTES <= 64 * GIB
    on_one = preflight(clients, str(path), PlanRequest(8192), target=parse_target("rtx-4090+64GiB")).plan
    assert on_one.fits
    assert 30 < on_one.parameters.n_gpu_layers < 60
    assert on_one.given_up[-1].startswith(f"n_gpu_layers: {on_one.parameters.n_gpu_layers} of 81 fit on the GPU")


@pytest.mark.torture  # the Hub hashes 42 GB of zeros first
@pytest.mark.timeout(900)
def test_seventy_billion_weights_on_the_hub_cost_their_header(
    clients: Clients, hub: HubService, tmp_path: Path
) -> None:
    path = write_llama_70b(tmp_path / "seventy-Q4_K_M.gguf")
    with FileSource(path) as source:
        header_bytes = read_header(source).data_offset
    hub.repository("org/seventy-GGUF").commit({path.name: path})
    here = preflight(clients, str(path), PlanRequest(131_072), target=Target(120 * GIB)).plan
    hub.reset_stats()
    found = preflight(clients, "org/seventy-GGUF", PlanRequest(131_072), target=Target(120 * GIB))
    sent = hub.stats().total_bytes_sent
    print(f"70B on the Hub: header {header_bytes} bytes, sent {sent} bytes, {found.seconds:.2f} s, {found.plan.memory}")
    assert found.plan == here
    assert sent == found.bytes_read <= header_bytes + MIB


@pytest.mark.parametrize("connections", [16, 1])
def test_the_headers_of_shards_are_requested_at_once_within_the_connections(
    clients: Clients, hub: HubService, connections: int
) -> None:
    shards = [shard.to_bytes() for shard in tiny_shards(6)]
    names = [f"tiny-Q8_0-{number + 1:05}-of-{len(shards):05}.gguf" for number in range(len(shards))]
    hub.repository("org/split-GGUF").commit(dict(zip(names, shards, strict=True)))
    each_s = 1.0
    for name, shard in zip(names, shards, strict=True):
        hub.inject("slow", f"org/split-GGUF/{name}", times=None, bytes_per_s=min(len(shard), 64 * 1024) / each_s)
    clients = replace(clients, settings=replace(clients.settings, connections=connections))
    began = time.monotonic()
    found = preflight(clients, "org/split-GGUF", PlanRequest(256))
    seconds, one_after_the_other_s = time.monotonic() - began, len(shards) * each_s
    assert seconds > one_after_the_other_s if connections == 1 else seconds < one_after_the_other_s / 2
    assert found.file == names[0]
