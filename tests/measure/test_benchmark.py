from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, DoesNotFit, ModelRejected
from paddock.measure.benchmark import Benchmark, benchmark
from paddock.model.hardware import Gpu, Machine, this_machine
from tests.support.engine import first_bytes, hollow_copy
from tests.support.gguf import tiny_llama, tiny_shards


@pytest.fixture(scope="session")
def measured(model: Path) -> Benchmark:
    return benchmark(model, threads=1, context_tokens=512, n_prompt=32, n_gen=8)


def test_a_real_model_is_measured(measured: Benchmark) -> None:
    prefill, decode = measured.results
    assert (prefill.n_prompt, prefill.n_gen, decode.n_prompt, decode.n_gen) == (32, 0, 0, 8)
    assert prefill.repetitions >= 3
    assert decode.repetitions >= 3
    assert measured.prefill_tok_per_s > 0
    assert measured.decode_tok_per_s > 0
    assert measured.time_to_first_token_s >= 32 / measured.prefill_tok_per_s * 0.99
    assert len(measured.canary) == 8
    assert measured.peak_rss_bytes > measured.memory.weights_bytes


def test_the_real_load_takes_what_the_oracle_said(model: Path, measured: Benchmark) -> None:
    said = measure_memory(model, context_tokens=512, parameters=Parameters(n_ctx=512, n_threads=1))
    assert measured.memory == said


def test_json_has_the_keys_that_the_command_line_promises(measured: Benchmark) -> None:
    document = json.loads(json.dumps(measured.to_json()))
    assert {"results", "machine", "engine", "parameters", "time_to_first_token_s", "memory", "peak_rss_bytes"} <= set(
        document
    )
    prefill, decode = document["results"]
    assert {"n_prompt", "n_gen", "prefill_tok_per_s", "spread"} <= set(prefill)
    assert {"n_prompt", "n_gen", "decode_tok_per_s", "spread"} <= set(decode)
    assert "decode_tok_per_s" not in prefill
    assert document["parameters"]["n_threads"] == 1
    assert document["engine"].startswith("llama-cpp-python ")


def test_a_benchmark_survives_json_and_pickling(measured: Benchmark) -> None:
    assert Benchmark.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    assert pickle.loads(pickle.dumps(measured)) == measured


def test_no_bandwidth_is_claimed_where_none_is_known(measured: Benchmark) -> None:
    without = replace(measured, machine=Machine("a cpu", 2, 8, 8))
    assert without.to_json()["bandwidth_bytes_per_s"] is None
    with_gpu = replace(measured, machine=Machine("a cpu", 2, 8, 8, (Gpu("a gpu", 1, 1, 3_352_320_000_000),)))
    assert with_gpu.to_json()["bandwidth_bytes_per_s"] == 3_352_320_000_000


def test_a_model_whose_weights_are_a_hole_is_rejected_after_the_load(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="the same logit to every token"):
        benchmark(hollow_copy(model, tmp_path / "hollow.gguf"), threads=1, context_tokens=128, n_prompt=8, n_gen=8)


def test_a_model_whose_weights_are_not_finite_is_rejected_after_the_load(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    header = first_bytes(model)
    path.write_bytes(header + b"\xff" * (model.stat().st_size - len(header)))
    with pytest.raises(ModelRejected, match="not finite"):
        benchmark(path, threads=1, context_tokens=128, n_prompt=8, n_gen=8)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(model: Path) -> None:
    small = replace(this_machine(), ram_available_bytes=MARGIN_BYTES + 100 * 2**20)
    with pytest.raises(
        DoesNotFit, match=r"needs .*weights 92\.1 MiB.*KV cache of 512 tokens.*356\.0 MiB is available"
    ) as caught:
        benchmark(model, machine=small, context_tokens=512)
    assert "smaller quantization" in caught.value.cure


def test_the_memory_of_a_gpu_counts_only_where_the_engine_uses_it(model: Path) -> None:
    machine = replace(this_machine(), ram_available_bytes=2**20, gpus=(Gpu("a gpu", 80 * 2**30, 80 * 2**30),))
    with pytest.raises(DoesNotFit):
        benchmark(model, machine=machine, context_tokens=512)


def test_a_split_model_runs_from_all_its_shards(tmp_path: Path) -> None:
    names = [tmp_path / f"tiny-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for shard, name in zip(tiny_shards(2), names, strict=True):
        shard.write(name)
    whole = benchmark(tiny_llama().write(tmp_path / "whole.gguf"), threads=1, context_tokens=64, n_prompt=8, n_gen=2)
    split = benchmark(names[0], threads=1, context_tokens=64, n_prompt=8, n_gen=2)
    assert split.canary == whole.canary
    assert split.memory.kv_cache_bytes == whole.memory.kv_cache_bytes


def test_a_prompt_longer_than_the_context_is_refused(model: Path) -> None:
    with pytest.raises(BadSetting, match="n_prompt 256"):
        benchmark(model, context_tokens=128)


def test_a_quantized_copy_of_the_real_model_is_measured_too(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.Q8_0.gguf"
    arguments = {"source": str(model), "target": str(target), "type": "Q8_0"}
    made = process.run("quantize", arguments, timeout_s=60).result
    assert made["size_bytes"] == target.stat().st_size
    assert benchmark(target, threads=1, context_tokens=128, n_prompt=16, n_gen=4).memory.weights_bytes == 143_025_408
