"""A plan from the header alone: the engine's own numbers, for a file that is not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.hub import Service
from paddock.engine.oracle import MARGIN_BYTES
from paddock.engine.parameters import Parameters
from paddock.errors import FileNotInRevision, ModelRejected, NoGguf
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.preflight import preflight
from paddock.measure.benchmark import benchmark
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.planning.plan import Target, Wish
from tests.support.engine import real_model
from tests.support.house import NAME, unsound
from tests.support.seventy import seventy

MIB, GIB = 2**20, 2**30
BUSY = 3
"""How many times as long something may take where other tests run beside it."""


@pytest.fixture
def remote(hub: Service) -> Path:
    """The real model on the Hub, and the file that is there."""
    path = real_model()
    hub.repository("org/smollm2-GGUF").commit({"smollm2-Q4_1.gguf": path})
    return path


@pytest.mark.parametrize(("context", "kv_type"), [(512, "f16"), (4096, "q8_0"), (8192, "q4_0")])
def test_the_header_of_a_remote_model_gives_the_numbers_of_the_real_load(
    parts: Parts, hub: Service, remote: Path, context: int, kv_type: str
) -> None:
    with FileSource(remote) as source:
        header_bytes = read_header(source).data_offset
    hub.reset_stats()
    found = preflight(parts, "org/smollm2-GGUF", Wish(context, 1, kv_type))
    assert hub.stats().total_bytes_sent == found.bytes_read <= header_bytes + MIB
    parameters = Parameters(n_ctx=context, n_threads=2, type_k=kv_type, type_v=kv_type)
    loaded = benchmark(remote, parameters=parameters, n_prompt=16, n_gen=4).memory
    planned = found.plan.memory
    assert found.plan.fits
    assert planned.kv_cache_bytes == loaded.kv_cache_bytes
    assert planned.compute_bytes == loaded.compute_bytes
    assert planned.output_bytes == loaded.output_bytes
    assert planned.weights_bytes > 90 * MIB


def test_the_first_quantization_that_fits_is_chosen_and_the_others_have_their_reasons(
    parts: Parts, hub: Service
) -> None:
    everything = preflight(parts, NAME, Wish(256))
    assert (everything.quantization, everything.plan.fits) == ("Q8_0", True)
    by_name = {one.quantization: one for one in everything.candidates}
    assert set(by_name) == {"Q8_0", "Q6_K", "Q4_K_M"}
    assert by_name["Q8_0"].reason == "chosen: the first that fits, in the order of preference"
    assert by_name["Q4_K_M"].reason == "fits with 256 tokens of context"
    asked = preflight(parts, NAME, Wish(256), quantization="q4_k_m")
    assert asked.quantization == "Q4_K_M"
    assert [one.reason for one in asked.candidates if one.quantization == "Q4_K_M"] == ["chosen: asked for by name"]


def test_a_gpu_that_this_engine_does_not_use_makes_no_room(parts: Parts) -> None:
    if this_machine().gpus:
        pytest.skip("there is a GPU here, which the engine may use: run it on a machine without one")
    gpu = Gpu("one that a build for the processor does not see", 80 * GIB, 80 * GIB)
    machine = replace(this_machine(), ram_available_bytes=MIB, gpus=(gpu,))
    found = preflight(parts, NAME, Wish(256), machine=machine)
    assert not found.plan.fits
    assert preflight(parts, NAME, Wish(256), machine=machine, target=Target(MIB, (80 * GIB,))).plan.fits


def test_what_does_not_fit_says_what_is_missing_and_what_would_do(parts: Parts, remote: Path) -> None:
    small = Target(MARGIN_BYTES + 250 * MIB)
    found = preflight(parts, "org/smollm2-GGUF", Wish(8192), target=small)
    assert not found.plan.fits
    assert found.advice.startswith("with ")
    tokens = int(found.advice.split()[1])
    assert preflight(parts, "org/smollm2-GGUF", Wish(tokens), target=small).plan.fits
    none = preflight(parts, "org/smollm2-GGUF", Wish(8192), target=Target(MIB))
    assert "a machine with" in none.advice


def test_a_directory_and_a_file_are_planned_as_well(parts: Parts, tmp_path: Path) -> None:
    model = real_model()
    (tmp_path / model.name).symlink_to(model)
    one, other = (preflight(parts, str(path), Wish(512)) for path in (tmp_path, model))
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


def test_what_cannot_be_planned_is_refused_by_its_reason(parts: Parts, hub: Service, tmp_path: Path) -> None:
    with pytest.raises(FileNotInRevision, match=r"has no Q2_K: use one of Q4_K_M, Q6_K, Q8_0"):
        preflight(parts, NAME, Wish(256), quantization="Q2_K")
    with pytest.raises(NoGguf):
        preflight(parts, str(tmp_path), Wish(256))
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": unsound()})
    with pytest.raises(ModelRejected):
        preflight(parts, NAME, Wish(256))


def test_seventy_billion_weights_cost_a_header_and_a_second(parts: Parts, hub: Service, tmp_path: Path) -> None:
    path = seventy(tmp_path / "seventy-Q4_K_M.gguf")
    with FileSource(path) as source:
        header_bytes = read_header(source).data_offset
    found = preflight(parts, str(path), Wish(131_072), target=Target(120 * GIB))
    assert found.plan.fits
    memory = found.plan.memory
    assert memory.kv_cache_bytes == 40 * GIB
    assert memory.weights_bytes == path.stat().st_size - header_bytes
    assert found.seconds < 1.5 * BUSY
    short = preflight(parts, str(path), Wish(None), target=Target(64 * GIB))
    assert 40_000 < short.plan.parameters.n_ctx < 131_072
    assert short.plan.memory.total_bytes + MARGIN_BYTES <= 64 * GIB
