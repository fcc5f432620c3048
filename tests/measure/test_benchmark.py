from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, DoesNotFit, ModelRejected
from paddock.measure.benchmark import benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from tests.support.engine import first_bytes, hollow_copy
from tests.support.gguf import U32, tiny_llama, tiny_shards


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


def test_the_real_load_uses_the_estimated_memory(model: Path, measured: Benchmark) -> None:
    estimate = measure_memory(model, context_tokens=512, parameters=Parameters(n_ctx=512, n_threads=1))
    assert measured.memory == estimate


def test_json_has_the_documented_keys(measured: Benchmark) -> None:
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


def test_decode_is_shown_beside_the_measured_bandwidth(measured: Benchmark) -> None:
    assert measured.bandwidth_source == "measured"
    assert measured.bandwidth_bytes_per_s is not None
    # Not below it: the two are measured one after the other, and other processes read from the same memory meanwhile.
    assert 0 < measured.weights_read_bytes_per_s < 3 * measured.bandwidth_bytes_per_s


def test_a_machine_without_a_gpu_says_so_in_words_and_nulls(measured: Benchmark) -> None:
    if measured.machine.gpus:
        pytest.skip("this machine has a GPU")
    (row,) = [shown for name, shown, _ in measured.rows() if name == "GPU"]
    assert row == "none: " + measured.machine.why_no_gpu
    document = measured.to_json()
    assert document["vram_bytes"] is None
    assert [one["energy_j_per_token"] for one in document["results"]] == [None, None]


def test_the_engine_build_is_identified(measured: Benchmark) -> None:
    assert measured.features is not None
    assert measured.features.startswith("CPU : ")
    assert measured.uses_gpus is bool(measured.machine.gpus and "CUDA" in measured.features)
    assert re.fullmatch("[0-9a-f]{12}", measured.build or "")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model whose lengths take no time."""
    return tiny_llama().set("llama.context_length", U32, 512).write(tmp_path / "tiny.gguf")


def test_further_lengths_are_measured_and_those_beyond_the_context_left_out(tiny: Path) -> None:
    lengths, answers = (16, 32, 4096), (4, 8)
    several = benchmark(
        tiny, threads=1, context_tokens=512, n_prompt=32, n_gen=8, more_prompts=lengths, more_gens=answers
    )
    shown = [(one.n_prompt, one.n_gen) for one in several.results]
    assert shown == [(32, 0), (0, 8), (16, 0), (0, 4)]
    assert all(one.tok_per_s for one in several.results)
    assert all((one.time_to_first_token_s is None) == (one.n_prompt == 0) for one in several.results)


def test_a_length_without_time_left_is_null(tiny: Path) -> None:
    short = benchmark(tiny, threads=1, context_tokens=512, n_prompt=8, n_gen=2, more_prompts=(256,), limit_s=0)
    assert [one.tok_per_s is None for one in short.results] == [False, False, True]
    document = short.to_json()["results"][2]
    assert (document["n_prompt"], document["repetitions"]) == (256, 0)
    assert {document[key] for key in ("prefill_tok_per_s", "time_to_first_token_s", "spread")} == {None}
    assert ("prefill of 256 tokens", "not measured", "") in short.rows()
    assert Benchmark.from_json(short.to_json()) == short


def test_a_report_of_schema_1_can_be_read() -> None:
    old = json.loads((Path(__file__).parent / "benchmark-schema-1.json").read_text())
    read = Benchmark.from_json(old)
    assert (read.schema, read.decode_tok_per_s, read.bandwidth_bytes_per_s, read.tuned) == (1, 98.4, None, None)
    assert read.machine.gpus == ()
    assert read.rows()
    assert Benchmark.from_json(read.to_json()) == read


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


def test_gpu_memory_counts_only_if_the_engine_uses_the_gpu(model: Path) -> None:
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


@pytest.mark.torture  # of the same kind as the real model itself
def test_a_quantized_copy_of_the_real_model_is_measured_too(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.Q8_0.gguf"
    arguments = {"source": str(model), "target": str(target), "type": "Q8_0"}
    made = process.run("quantize", arguments, timeout_s=60, reads=[model], writes=[tmp_path]).result
    assert made["size_bytes"] == target.stat().st_size
    assert benchmark(target, threads=1, context_tokens=128, n_prompt=16, n_gen=4).memory.weights_bytes == 143_025_408
