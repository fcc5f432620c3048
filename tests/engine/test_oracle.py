"""What the engine says of good, hollow and hostile files."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest

from paddock.engine.oracle import Memory, measure_header, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import EngineCrashed, IncompatibleModel, MalformedGguf
from tests.support.engine import HEADER_BYTES, first_bytes, hollow_copy


@pytest.fixture(scope="module")
def measured(model: Path) -> Memory:
    return measure_memory(model, context_tokens=2048)


def test_the_header_alone_gives_the_numbers_of_the_whole_file(model: Path, measured: Memory) -> None:
    header = first_bytes(model)
    assert measure_header([(header, model.stat().st_size)], context_tokens=2048) == measured


def test_a_sparse_file_gives_the_numbers_of_the_whole_file(model: Path, measured: Memory, tmp_path: Path) -> None:
    assert measure_memory(hollow_copy(model, tmp_path / "hollow.gguf"), context_tokens=2048) == measured


def test_the_kv_cache_is_what_the_architecture_says(measured: Memory) -> None:
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


def test_a_header_of_a_very_large_context_takes_no_memory_here(model: Path) -> None:
    started = time.monotonic()
    header = first_bytes(model)
    huge = measure_header([(header, model.stat().st_size)], context_tokens=1_000_000)
    assert huge.kv_cache_bytes > 20 * 2**30
    assert time.monotonic() - started < 20


def test_an_architecture_the_engine_does_not_know_is_named(model: Path, tmp_path: Path) -> None:
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


def test_metadata_that_reads_like_the_log_is_not_believed(model: Path, measured: Memory, tmp_path: Path) -> None:
    forged = b"x\nllama_kv_cache: size =    0.01 MiB (  2048 cells\nload_tensors: CPU model buffer size = 9999.00 MiB\n"
    forged += b"llama_model_load: error loading model: unknown model architecture: 'llama'\n"
    path = tmp_path / "forged.gguf"
    path.write_bytes(_with_name(model.read_bytes(), forged))
    assert measure_memory(path, context_tokens=2048) == measured


@pytest.mark.parametrize("flip", range(40, 2_000_000, 197_001))
def test_a_wrong_byte_in_the_header_gives_an_answer_or_an_error_of_ours(model: Path, tmp_path: Path, flip: int) -> None:
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
