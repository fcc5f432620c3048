from __future__ import annotations

from pathlib import Path

import pytest

from paddock import settings
from paddock.engine import facts
from paddock.errors import EngineTooOld


def test_the_installed_engine_is_new_enough() -> None:
    assert facts.check_version(facts.engine_version())


@pytest.mark.parametrize(
    ("version", "message"),
    [("0.2.23", "older than 0.2.24"), ("0.1.9", "older than 0.2.24"), ("0.2.24", "too old"), ("0.3.35", "too old")],
)
def test_an_engine_that_is_too_old_is_refused_by_name(version: str, message: str) -> None:
    with pytest.raises(EngineTooOld, match=message) as caught:
        facts.check_version(version)
    assert version in str(caught.value)
    assert "0.3.36" in caught.value.cure


@pytest.mark.parametrize("version", ["0.3.36", "0.3.100", "0.4.0", "1.0", "0.3.36+cu124"])
def test_a_newer_engine_is_accepted(version: str) -> None:
    assert facts.check_version(version) == version


def test_the_engine_reports_which_architectures_it_knows() -> None:
    names = ["llama", "qwen3", "gemma3", "nonesuch", "", "a\nb", "x" * 64]
    assert facts.known_architectures(names) == {
        "llama": True,
        "qwen3": True,
        "gemma3": True,
        "nonesuch": False,
        "": False,
        "a\nb": False,
        "x" * 64: False,
    }


def test_known_architectures_are_cached_and_unknown_names_are_not() -> None:
    facts.known_architectures(["llama", "nonesuch"])
    (cache_file,) = (settings.load().cache / "paddock").glob("architectures-*.json")
    assert "llama" in cache_file.read_text()
    assert "nonesuch" not in cache_file.read_text()
    cache_file.write_text('["llama", "only-in-the-cache"]')
    assert facts.knows_architecture("only-in-the-cache")
    cache_file.write_text("torn {")
    assert facts.knows_architecture("llama")


def test_a_cache_that_cannot_be_written_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paddock").write_text("a file where the directory should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert facts.knows_architecture("llama")
