"""Good files pass: models of many architectures and tensor types that the engine answers with, and real templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.engine.facts import knows_architecture
from paddock.model.finding import Verdict
from paddock.validation.audit import Audit, audit_file
from tests.support.architectures import ARCHITECTURES, TYPES, of_type, sound
from tests.support.canary import Canary, canary
from tests.support.gguf import Gguf, tiny_llama
from tests.support.memory import Memory
from tests.support.templates import real_templates


@pytest.fixture(scope="module")
def engine() -> Iterator[Canary]:
    with canary() as one:
        yield one


def audit(file: Gguf) -> Audit:
    return audit_file(Memory(file.to_bytes()), name="m.gguf", knows_architecture=knows_architecture, deep=True)


def test_there_are_enough_of_them() -> None:
    assert len(ARCHITECTURES) >= 16
    assert len(TYPES) >= 17


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sound_model_of_any_architecture_is_accepted_and_the_engine_answers(
    engine: Canary, tmp_path: Path, name: str
) -> None:
    file = sound(name)
    found = audit(file)
    assert (found.verdict, found.findings) == (Verdict.ACCEPT, ())
    assert engine.ask(file.write(tmp_path / "m.gguf")) == "ok"


@pytest.mark.parametrize("name", TYPES)
def test_a_sound_model_of_any_tensor_type_is_accepted_and_the_engine_answers(
    engine: Canary, tmp_path: Path, name: str
) -> None:
    file = of_type(name)
    found = audit(file)
    assert (found.verdict, found.findings) == (Verdict.ACCEPT, ())
    assert engine.ask(file.write(tmp_path / "m.gguf")) == "ok"


@pytest.mark.timeout(600)
def test_no_real_template_is_rejected_inside_a_sound_file() -> None:
    templates = real_templates()
    assert len(templates) >= 60
    files = {name: tiny_llama(template=text) for name, text in templates.items()}
    assert [name for name, file in files.items() if audit(file).verdict is Verdict.REJECT] == []
