"""Memory estimates of the engine for valid, sparse and hostile files."""

from __future__ import annotations

import resource
import struct
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine import process
from paddock.engine.oracle import Memory, measure_header, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration, EngineCrashed, IncompatibleModel, MalformedGguf
from tests.support.engine import HEADER_BYTES, first_bytes, hollow_copy, loaded_memory
from tests.support.gguf import tiny_llama, tiny_shards
from tests.support.tiny_mamba_gemma import tiny_gemma, tiny_mamba


def _context(tokens: int) -> Parameters:
    return Parameters(n_ctx=tokens, n_threads=1)


@pytest.fixture(scope="module")
def measured(model: Path) -> Memory:
    return measure_memory(model, context_tokens=2048)


def test_the_header_alone_gives_the_same_estimate_as_the_file(model: Path, measured: Memory) -> None:
    header = first_bytes(model)
    assert measure_header([(header, model.stat().st_size)], [_context(2048)]) == [measured]


def test_a_sparse_file_gives_the_same_estimate_as_the_file(model: Path, measured: Memory, tmp_path: Path) -> None:
    assert measure_memory(hollow_copy(model, tmp_path / "hollow.gguf"), context_tokens=2048) == measured


def test_the_kv_cache_has_the_size_of_the_architecture(measured: Memory) -> None:
    layers, heads_kv, head_size, bytes_each = 30, 3, 64, 2
    assert measured.kv_cache_bytes == 2 * layers * heads_kv * head_size * bytes_each * 2048
    assert measured.source == "engine"
    assert measured.devices == ("CPU",)


def test_a_quantized_kv_cache_and_a_small_batch_take_less(model: Path, measured: Memory) -> None:
    small = Parameters(n_ctx=1, n_threads=1, type_k="q8_0", type_v="q8_0", n_ubatch=64)
    less = measure_memory(model, context_tokens=2048, parameters=small)
    assert less.kv_cache_bytes == pytest.approx(measured.kv_cache_bytes * 34 / 64, abs=20_000)  # 34 bytes for 32 values
    assert less.compute_bytes < measured.compute_bytes / 2
    assert less.weights_bytes == measured.weights_bytes


def test_a_recurrent_model_s_state_is_counted_and_does_not_grow_with_the_context(tmp_path: Path) -> None:
    path = tiny_mamba(layers=2, width=32, state=16).write(tmp_path / "mamba.gguf")
    short, long = (measure_memory(path, context_tokens=tokens) for tokens in (64, 4096))
    assert short.kv_cache_bytes == long.kv_cache_bytes
    convolution, inner, bytes_each = 4, 64, 4
    state_bytes = 2 * bytes_each * ((convolution - 1) * inner + 16 * inner)
    assert short.kv_cache_bytes == pytest.approx(state_bytes, abs=2**20 / 100)
    assert short.kv_cache_bytes > 0


def test_both_caches_of_a_model_with_sliding_windows_are_counted(tmp_path: Path) -> None:
    path = tiny_gemma(layers=6, width=64, window=512).write(tmp_path / "gemma.gguf")
    whole = measure_memory(path, context_tokens=65_536)
    windowed = measure_memory(path, context_tokens=65_536, parameters=Parameters(n_ctx=1, n_threads=1, swa_full=False))
    each_token_bytes = 2 * 32 * 2  # K and V, one head of 32, f16
    assert whole.kv_cache_bytes == pytest.approx(6 * each_token_bytes * 65_536, abs=2**20 / 50)
    assert windowed.kv_cache_bytes == pytest.approx(each_token_bytes * (65_536 + 5 * 1024), abs=2**20 / 50)


def test_a_split_model_is_measured_from_all_its_shards(tmp_path: Path) -> None:
    names = [tmp_path / f"tiny-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for shard, name in zip(tiny_shards(2), names, strict=True):
        shard.write(name)
    whole = tiny_llama().write(tmp_path / "whole.gguf")
    assert measure_memory(names[0], context_tokens=64) == measure_memory(whole, context_tokens=64)
    headers = [(name.read_bytes(), name.stat().st_size) for name in names]
    assert measure_header(headers, [_context(64)]) == [measure_memory(whole, context_tokens=64)]


def test_memory_survives_json(measured: Memory) -> None:
    assert Memory.from_json(measured.to_json()) == measured
    assert set(measured.to_json()) == {
        "weights_bytes",
        "kv_cache_bytes",
        "compute_bytes",
        "output_bytes",
        "total_bytes",
        "source",
    }


def test_an_estimate_for_a_very_large_context_takes_little_memory(model: Path) -> None:
    header = first_bytes(model)
    (huge,) = measure_header([(header, model.stat().st_size)], [_context(1_000_000)])
    assert huge.kv_cache_bytes > 20 * 2**30
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak_bytes < huge.kv_cache_bytes / 4


def test_an_unknown_architecture_is_an_error_that_names_it(model: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.gguf"
    key = b"general.architecture"
    value = b"nonesuch"
    text = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    strange.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text)
    with pytest.raises(IncompatibleModel, match="unknown model architecture: 'nonesuch'"):
        measure_memory(strange, context_tokens=64)


@pytest.mark.parametrize("size", [0, 4, 24, 1000, 100_000, HEADER_BYTES])
def test_a_truncated_file_is_refused_with_the_engine_s_reason(model: Path, tmp_path: Path, size: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(first_bytes(model, size))
    with pytest.raises(MalformedGguf, match=r"the engine refuses the file: (?!it gives no reason)"):
        measure_memory(cut, context_tokens=64)


def test_a_file_of_zeros_is_refused(tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.gguf"
    zeros.write_bytes(bytes(65536))
    with pytest.raises(MalformedGguf, match="magic"):
        measure_memory(zeros, context_tokens=64)


def test_metadata_that_looks_like_a_log_line_is_ignored(model: Path, measured: Memory, tmp_path: Path) -> None:
    forged = b"x\nllama_kv_cache: size =    0.01 MiB (  2048 cells\nload_tensors: CPU model buffer size = 9999.00 MiB\n"
    forged += b"llama_model_load: error loading model: unknown model architecture: 'llama'\n"
    path = tmp_path / "forged.gguf"
    path.write_bytes(_with_name(model.read_bytes(), forged))
    assert measure_memory(path, context_tokens=2048) == measured


FLIPS = range(40, 2_000_000, 197_001)


@pytest.mark.parametrize(
    "flip", [pytest.param(flip, marks=[pytest.mark.torture] if index % 3 else []) for index, flip in enumerate(FLIPS)]
)
def test_a_wrong_byte_in_the_header_gives_an_estimate_or_a_paddock_error(
    model: Path, tmp_path: Path, flip: int
) -> None:
    path = hollow_copy(model, tmp_path / "flipped.gguf")
    with path.open("r+b") as file:
        file.seek(flip)
        byte = file.read(1)[0]
        file.seek(flip)
        file.write(bytes([byte ^ 0xFF]))
    with suppress(MalformedGguf, IncompatibleModel, EngineCrashed):
        assert measure_memory(path, context_tokens=64).weights_bytes > 0


def _with_name(data: bytes, name: bytes) -> bytes:
    """A GGUF with another `general.name`, longer by a multiple of the alignment: the tensor data stays aligned."""
    key = b"general.name" + struct.pack("<I", 8)
    at = data.index(key) + len(key)
    (length,) = struct.unpack_from("<Q", data, at)
    longer = name.ljust(length + 32 * (1 + max(len(name) - length, 0) // 32))
    return data[:at] + struct.pack("<Q", len(longer)) + longer + data[at + 8 + length :]


@pytest.mark.parametrize(
    "kind", ["Q4_0", *(pytest.param(kind, marks=pytest.mark.torture) for kind in ("Q4_1", "Q4_K_M"))]
)
def test_repacked_weights_are_estimated_as_the_real_load_counts_them(model: Path, tmp_path: Path, kind: str) -> None:
    path = model
    if kind != "Q4_1":
        path = tmp_path / f"{kind}.gguf"
        arguments = {"source": str(model), "target": str(path), "type": kind}
        process.run("quantize", arguments, timeout_s=120, reads=[model], writes=[tmp_path])
    for use_mmap in (True, False):
        parameters = Parameters(n_ctx=512, n_threads=2, use_mmap=use_mmap)
        planned = measure_memory(path, context_tokens=512, parameters=parameters)
        loaded = loaded_memory(path, parameters)
        assert planned.weights_bytes == pytest.approx(loaded.weights_bytes, rel=0.01)
        without = measure_memory(path, context_tokens=512, parameters=replace(parameters, use_extra_bufts=False))
        assert (planned.weights_bytes > 1.05 * without.weights_bytes) == (use_mmap and kind != "Q4_1")


def test_parameters_that_the_engine_refuses_are_a_conflict(tmp_path: Path) -> None:
    path = tiny_llama(width=32, heads=2).write(tmp_path / "narrow.gguf")  # heads of 16, and blocks of 32
    parameters = Parameters(n_ctx=64, n_threads=1, type_k="q8_0")
    with pytest.raises(ConflictingConfiguration, match=r"K cache type q8_0 with block size 32 does not divide"):
        measure_memory(path, context_tokens=64, parameters=parameters)


def test_many_parameters_share_one_load(model: Path) -> None:
    header = [(first_bytes(model), model.stat().st_size)]
    requested = [
        Parameters(n_ctx=tokens, n_threads=1, type_k=kind, type_v=kind, n_ubatch=batch, use_mmap=mapped)
        for tokens in (512, 2048, 8192)
        for kind in ("f16", "q8_0")
        for batch in (128, 512)
        for mapped in (True, False)
    ]
    one_by_one = [measure_header(header, [parameters])[0] for parameters in requested[::9]]
    started = time.monotonic()
    together = measure_header(header, requested)
    spent_s = time.monotonic() - started
    assert together[::9] == one_by_one
    started = time.monotonic()
    measure_header(header, requested[:1])
    assert spent_s < 5 * (time.monotonic() - started)
