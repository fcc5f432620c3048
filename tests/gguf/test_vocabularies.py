"""Real vocabularies, which no rule may find fault with: the GGUFs without weights in the engine's source package."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from paddock.gguf import tokenizer
from paddock.gguf.reader import read_header
from paddock.gguf.rules import check
from paddock.model.finding import Severity
from tests.support.memory import Memory

SMALL_BYTES = 4 << 20  # the larger ones take a second each, and show nothing that these do not


@dataclass(frozen=True)
class Sources:
    """What tests need of the package: the small vocabularies by name, and the text of llama-vocab.cpp."""

    vocabularies: dict[str, bytes]
    code: str


@pytest.fixture(scope="module")
def sources() -> Sources:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    package = next(iter(sorted(cache.glob("paddock/engine/*/llama_cpp_python-*.tar.gz"))), None)
    if package is None:
        pytest.skip(
            "no source package in ~/.cache/paddock/engine: pip download --no-binary :all: llama-cpp-python there"
        )
    vocabularies, code = {}, ""
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            small = path.suffix == ".gguf" and path.parent.name == "models" and member.size < SMALL_BYTES
            file = archive.extractfile(member) if small or path.name == "llama-vocab.cpp" else None
            if file is not None and small:
                vocabularies[path.name] = file.read()
            elif file is not None:
                code = file.read().decode()
    return Sources(vocabularies, code)


@pytest.mark.timeout(120)
def test_real_vocabularies_are_sound_and_no_models(sources: Sources) -> None:
    assert len(sources.vocabularies) >= 10
    for name, data in sources.vocabularies.items():
        findings = check(read_header(Memory(data)))
        rejected = [finding.rule for finding in findings if finding.severity is Severity.REJECT]
        assert rejected == ["gguf.model.is-vocabulary"], name


def test_the_tables_of_tokenizers_are_those_of_the_engine(sources: Sources) -> None:
    for key, ours in (("tokenizer_pre", tokenizer.PRE_TOKENIZERS), ("tokenizer_model", tokenizer.KINDS)):
        theirs = {part.split('"')[1] for part in sources.code.split(f"{key} == ")[1:] if part.startswith('"')}
        assert theirs == ours
