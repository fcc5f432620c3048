"""Check the tokenizer rules against real vocabularies: the GGUFs without weights in the engine's source package."""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from paddock.gguf import tensor_names, tokenizer
from paddock.gguf.reader import read_header
from paddock.gguf.rules import check
from paddock.model.finding import Severity
from tests.support.memory import MemorySource

SMALL_BYTES = 4 << 20  # the checks take a second for each larger one, and cover nothing new there
MIB = 1 << 20
CODE = ("llama-vocab.cpp", "llama-arch.cpp")


@dataclass(frozen=True)
class Sources:
    """Extracts of the source package: the vocabularies by name, and the texts of llama-vocab.cpp and llama-arch.cpp."""

    vocabularies: dict[str, bytes]
    code: str
    architectures: str


@pytest.fixture(scope="module")
def sources() -> Sources:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    package = next(iter(sorted(cache.glob("paddock/engine/*/llama_cpp_python-*.tar.gz"))), None)
    if package is None:
        pytest.skip(
            "no source package in ~/.cache/paddock/engine: pip download --no-binary :all: llama-cpp-python there"
        )
    vocabularies, code = {}, {}
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            wanted = path.suffix == ".gguf" and path.parent.name == "models"
            file = archive.extractfile(member) if wanted or path.name in CODE else None
            if file is not None and wanted:
                vocabularies[path.name] = file.read()
            elif file is not None:
                code[path.name] = file.read().decode()
    return Sources(vocabularies, *(code[name] for name in CODE))


@pytest.mark.timeout(120)
def test_real_vocabularies_have_no_finding_except_for_the_missing_weights(sources: Sources) -> None:
    small = {name: data for name, data in sources.vocabularies.items() if len(data) < SMALL_BYTES}
    assert len(small) >= 10
    for name, data in small.items():
        findings = check(read_header(MemorySource(data)))
        rejected = [finding.rule for finding in findings if finding.severity is Severity.REJECT]
        assert rejected == ["gguf.model.is-vocabulary"], name


def test_the_supported_tokenizers_match_the_engine(sources: Sources) -> None:
    for key, ours in (("tokenizer_pre", tokenizer.PRE_TOKENIZERS), ("tokenizer_model", tokenizer.KINDS)):
        theirs = {part.split('"')[1] for part in sources.code.split(f"{key} == ")[1:] if part.startswith('"')}
        assert theirs == ours


def test_the_known_tensor_names_are_those_of_the_engine(sources: Sources) -> None:
    table = sources.architectures.split("LLM_TENSOR_NAMES = {")[1].split("\n};")[0]
    theirs = set(re.findall(r'"([^"]+)"', table))
    of_experts = {f"blk.%d.ffn_{part}.%d" for part in ("gate", "up", "down")}
    assert theirs - of_experts == tensor_names.KNOWN


class Remote:
    """A vocabulary followed by a gigabyte of zeros, with counters for the reads and the bytes read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data) + (1 << 30)
        self.reads = self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.bytes_read += length
        return self._data[offset : offset + length] + bytes(max(0, offset + length - max(len(self._data), offset)))


def test_reading_a_real_header_takes_at_most_four_reads_and_1_mib_more_than_its_size(sources: Sources) -> None:
    assert max(map(len, sources.vocabularies.values())) > 12 * MIB
    for name, data in sources.vocabularies.items():
        source = Remote(data)
        read_header(source)
        # With the two Hub requests for the commit and the file's URL, that is six requests in all.
        assert source.reads <= 4, name
        assert source.bytes_read <= len(data) + MIB, name
