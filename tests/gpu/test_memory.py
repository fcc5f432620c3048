"""Planned memory on a GPU equals what the engine takes and what the GPU's driver counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine.oracle import Memory, measure_memory
from paddock.engine.parameters import Parameters
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.measure.benchmark import benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.model.hardware import Machine
from paddock.planning.placement import GPU_MARGIN_BYTES, Target
from paddock.planning.plan import PlanRequest

pytestmark = pytest.mark.gpu

MIB, GIB = 2**20, 2**30
ROUNDED = 8 * MIB / 100
"""The engine logs hundredths of a MiB, of a few buffers each."""


def assert_same_but_weights(planned: Memory, real: Memory) -> None:
    assert planned.kv_cache_bytes == pytest.approx(real.kv_cache_bytes, abs=ROUNDED)
    assert planned.compute_bytes == pytest.approx(real.compute_bytes, abs=ROUNDED)
    assert planned.output_bytes == pytest.approx(real.output_bytes, abs=ROUNDED)


def report(path: Path, found: Benchmark, planned: Memory) -> None:
    """Print what the driver counts beside the plan."""
    assert found.uses_gpus
    assert found.vram_bytes is not None
    print(
        f"{path.name}: planned {planned.total_bytes / MIB:.1f} MiB, the engine {found.memory.total_bytes / MIB:.1f}, "
        f"the GPU {found.vram_bytes / MIB:.1f}; {found.decode_tok_per_s:.1f} tokens/s"
    )


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("tokens", [512, 8192, 65_536])
def test_a_model_entirely_on_the_gpu_takes_the_planned_memory(
    machine: Machine, clients: Clients, llama: Path, tokens: int, kv_type: str
) -> None:
    plan = preflight(clients, str(llama), PlanRequest(tokens, kv_type=kv_type), machine=machine).plan
    assert plan.fits
    assert plan.given_up == ()
    assert plan.parameters.n_gpu_layers == -1
    found = benchmark(llama, parameters=plan.parameters, n_prompt=32, n_gen=8, machine=machine)
    assert_same_but_weights(plan.memory, found.memory)
    assert plan.memory.weights_bytes == pytest.approx(found.memory.weights_bytes, rel=0.01)
    report(llama, found, plan.memory)
    assert found.vram_bytes is not None
    assert found.vram_bytes <= plan.memory.total_bytes + GPU_MARGIN_BYTES


@pytest.mark.parametrize("use_mmap", [True, False], ids=["mapped", "read"])
@pytest.mark.parametrize("layers", [-1, 12, 0])
def test_the_estimate_is_right_with_part_of_the_model_on_the_gpu(
    machine: Machine, llama: Path, tied: Path, layers: int, use_mmap: bool
) -> None:
    for path in (llama, tied):
        plain = Parameters(n_ctx=4096, n_threads=machine.cores, n_gpu_layers=layers, use_mmap=use_mmap)
        planned = measure_memory(path, context_tokens=plain.n_ctx, parameters=plain)
        found = benchmark(path, parameters=plain, n_prompt=32, n_gen=2, machine=machine)
        assert_same_but_weights(planned, found.memory)
        assert planned.weights_bytes == pytest.approx(found.memory.weights_bytes, rel=0.01)


@pytest.mark.parametrize("room", [2 * GIB, 3 * GIB, 4 * GIB])
def test_a_model_too_large_for_the_gpu_is_offloaded_as_far_as_it_fits(
    machine: Machine, clients: Clients, llama: Path, room: int
) -> None:
    target = Target(machine.ram_available_bytes, (room,))
    plan = preflight(clients, str(llama), PlanRequest(8192), target=target).plan
    assert plan.fits
    assert 0 < plan.parameters.n_gpu_layers < 33
    found = benchmark(llama, parameters=plan.parameters, n_prompt=32, n_gen=8, machine=machine)
    report(llama, found, plan.memory)
    assert found.vram_bytes is not None
    layer = 117 * MIB + 32 * MIB  # its weights, and its cache of 8,192 tokens
    assert room - 2 * layer - GPU_MARGIN_BYTES / 2 < found.vram_bytes <= room


def test_a_model_that_does_not_fit_is_refused_with_a_context_that_would_fit(
    machine: Machine, clients: Clients, llama: Path
) -> None:
    cards = tuple(replace(gpu, vram_available_bytes=min(gpu.vram_available_bytes, 8 * GIB)) for gpu in machine.gpus[:1])
    small = replace(machine, gpus=cards, ram_available_bytes=4 * GIB)
    found = preflight(clients, str(llama), PlanRequest(131_072), machine=small)
    assert not found.plan.fits
    tokens = int(found.advice.split()[1])
    assert 8192 < tokens < 40_000
    assert preflight(clients, str(llama), PlanRequest(tokens), machine=small).plan.fits
