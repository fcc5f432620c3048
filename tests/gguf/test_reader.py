from __future__ import annotations

import math
import pickle
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf import rules
from paddock.gguf.format import ALIGNMENTS, ValueType
from paddock.gguf.reader import Array, read_header
from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, array, tiny_llama
from tests.support.hostile import BROKEN
from tests.support.memory import MemorySource
from tests.support.not_gguf import NOT_GGUF

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=63)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
RANGES = {
    g.U8: (0, 2**8 - 1),
    g.I8: (-(2**7), 2**7 - 1),
    g.U16: (0, 2**16 - 1),
    g.I16: (-(2**15), 2**15 - 1),
    g.U32: (0, 2**32 - 1),
    g.I32: (-(2**31), 2**31 - 1),
    g.U64: (0, 2**64 - 1),
    g.I64: (-(2**63), 2**63 - 1),
}


def items(kind: int) -> st.SearchStrategy[object]:
    if kind in RANGES:
        return st.integers(*RANGES[kind])
    if kind == g.BOOL:
        return st.booleans()
    if kind == g.STRING:
        return TEXT
    return st.floats(width=32 if kind == g.F32 else 64, allow_nan=False)


@st.composite
def values(draw: st.DrawFn) -> tuple[int, int | None, object]:
    """(type, element type, value)."""
    kind = draw(st.sampled_from(range(13)))
    if kind != g.ARRAY:
        return kind, None, draw(items(kind))
    element = draw(st.sampled_from([kind for kind in range(13) if kind != g.ARRAY]))
    return kind, element, draw(st.lists(items(element), max_size=20))


@st.composite
def files(draw: st.DrawFn) -> tuple[Gguf, dict[str, tuple[int, int | None, object]]]:
    metadata = draw(st.dictionaries(PRINTABLE.filter(lambda key: key != "general.alignment"), values(), max_size=8))
    file = Gguf(alignment=draw(st.sampled_from(ALIGNMENTS[:6])), version=draw(st.sampled_from([2, 3])))
    for key, (kind, element, value) in metadata.items():
        file.set(key, kind, value if element is None else array(element, value))  # type: ignore[arg-type]  # a list here
    if file.alignment != 32 or draw(st.booleans()):
        file.set("general.alignment", g.U32, file.alignment)
    names = draw(st.lists(PRINTABLE, unique=True, max_size=5))
    for name in names:
        shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        kind = draw(st.sampled_from([g.TYPE_F32, g.TYPE_F16, g.TYPE_Q8_0]))
        row = (shape[0] * 32, *shape[1:]) if kind == g.TYPE_Q8_0 else shape
        file.tensors.append(TensorRow(name, row, kind))
    return file, metadata


@settings(max_examples=150, deadline=None)
@given(files())
def test_a_written_header_reads_back_equal(drawn: tuple[Gguf, dict[str, tuple[int, int | None, object]]]) -> None:
    file, metadata = drawn
    header = read_header(MemorySource(file.to_bytes()))
    assert (header.version, header.alignment) == (file.version, file.alignment)
    assert {key for key in header.metadata if key != "general.alignment"} == set(metadata)
    for key, (kind, element, value) in metadata.items():
        found = header.metadata[key]
        assert header.types[key] == kind
        if isinstance(found, Array):
            assert found.type == element
            read = found.texts() if found.type is ValueType.STRING else list(found.numbers())
            assert read == value
        else:
            assert found == value
    assert [(tensor.name, tensor.shape, int(tensor.type)) for tensor in header.tensors] == [
        (row.name, row.shape, row.kind) for row in file.tensors
    ]
    assert all(
        tensor.size_bytes == len(row.content()) for tensor, row in zip(header.tensors, file.tensors, strict=True)
    )


def read_and_check(data: bytes) -> MalformedGguf | NotGguf | None:
    """The format error that the reader raises, or None. Any other exception propagates."""
    try:
        rules.check(read_header(MemorySource(data)))
    except (MalformedGguf, NotGguf) as error:
        return error
    return None


VALID = tiny_llama().to_bytes()


@settings(max_examples=300, deadline=2000)
@given(st.data())
def test_a_damaged_file_raises_only_the_documented_errors(data: st.DataObject) -> None:
    damaged = bytearray(VALID[: data.draw(st.integers(0, len(VALID)))] if data.draw(st.booleans()) else VALID)
    for _ in range(data.draw(st.integers(0, 6))):
        if damaged:
            damaged[data.draw(st.integers(0, min(len(damaged), 7000) - 1))] = data.draw(st.integers(0, 255))
    error = read_and_check(bytes(damaged))
    assert error is None or (error.rule and error.where and error.cure)


@settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic_raise_only_the_documented_errors(body: bytes) -> None:
    error = read_and_check(b"GGUF\3\0\0\0" + body)
    assert error is None or error.rule


def test_every_truncation_is_rejected() -> None:
    data = tiny_llama(template=None).to_bytes()
    for end in [*range(400), *range(400, len(data), 97), len(data) - 1]:
        with pytest.raises((MalformedGguf, NotGguf)):
            read_header(MemorySource(data[:end]))


@pytest.mark.parametrize("build", [build for _, build in BROKEN.values()], ids=BROKEN)
def test_no_hostile_file_takes_more_than_a_second_of_cpu_time(build: Callable[[], bytes]) -> None:
    data = build()
    start = time.process_time()
    read_and_check(data)
    assert time.process_time() - start < 1.0


def test_a_file_that_declares_too_many_tensors_is_not_read_beyond_the_first_mib() -> None:
    source = MemorySource(Gguf(tensor_count=2**60).to_bytes() + bytes(16 << 20))
    with pytest.raises(MalformedGguf, match="declares"):
        read_header(source)
    assert source.bytes_read <= 1 << 20


def test_only_the_header_of_a_large_file_is_read() -> None:
    file = tiny_llama()
    file.tensor("blk.0.ffn_down.weight").data = bytes(64 << 20)
    source = MemorySource(file.to_bytes())
    header = read_header(source)
    assert header.bytes_read == source.bytes_read
    assert source.bytes_read <= 1 << 20


def test_a_header_over_the_size_limit_is_rejected_before_all_of_it_is_read() -> None:
    class Endless:
        size = 2**40
        read = 0

        def read_at(self, offset: int, length: int) -> bytes:
            head = Gguf(key_count=2).to_bytes() + g.string("a") + struct.pack("<IIQ", g.ARRAY, g.STRING, 16_000_000)
            self.read += length
            return head[offset : offset + length].ljust(length, b"\0")

    source = Endless()
    start = time.process_time()
    with pytest.raises(MalformedGguf) as caught:
        read_header(source)
    assert caught.value.rule == "gguf.container.header-size"
    assert source.read <= 80 << 20
    assert time.process_time() - start < 10


def test_a_source_that_ends_before_its_size_is_rejected() -> None:
    source = MemorySource(VALID[:5000])
    source.size = len(VALID)
    with pytest.raises(MalformedGguf, match="ends at byte 5000") as caught:
        read_header(source)
    assert caught.value.rule == "gguf.container.truncated"


def test_an_error_has_the_byte_offset() -> None:
    file = Gguf().set("general.name", g.STRING, struct.pack("<Q", 1000))
    with pytest.raises(MalformedGguf) as caught:
        read_header(MemorySource(file.to_bytes()))
    # magic, version, counts, the key's length and text, the type, the wrong length
    assert caught.value.where == f"byte {4 + 4 + 16 + 8 + len('general.name') + 4 + 8}"


def test_the_error_for_an_overlong_string_in_an_array_has_the_offset_of_that_string() -> None:
    body = struct.pack("<IQ", g.STRING, 3) + g.string("one") + struct.pack("<Q", 2**62) + g.string("three")
    file = Gguf().set("x", g.ARRAY, body)
    data = file.to_bytes()
    with pytest.raises(MalformedGguf) as caught:
        read_header(MemorySource(data))
    assert caught.value.where == f"byte {data.index(b'one') + 3 + 8}"


def test_an_error_survives_pickling() -> None:
    with pytest.raises(NotGguf) as caught:
        read_header(MemorySource(NOT_GGUF["html"][0]))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.rule, again.where) == (str(caught.value), "gguf.container.magic", "byte 0")


def test_single_strings_of_an_array_are_read_by_index() -> None:
    texts = ["a", "", "ü" * 300, "last"]
    file = Gguf().set("x", g.ARRAY, array(g.STRING, texts))
    found = read_header(MemorySource(file.to_bytes())).array("x")
    assert found is not None
    assert [found.text(index) for index in range(4)] == texts
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            found.text(outside)


def test_non_finite_numbers_are_read_unchanged() -> None:
    file = Gguf().set("x", g.F32, math.inf).set("y", g.F64, math.nan)
    header = read_header(MemorySource(file.to_bytes()))
    assert header.metadata["x"] == math.inf
    assert isinstance(header.metadata["y"], float)
    assert math.isnan(header.metadata["y"])
