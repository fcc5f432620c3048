"""Sound files are accepted: models of many architectures and tensor types that the engine runs, and real templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.engine.facts import knows_architecture
from paddock.model.finding import Severity, Verdict
from paddock.validation.audit import Audit, audit_file
from tests.support.architectures import ARCHITECTURES, TYPES, of_type, sound
from tests.support.canary import Canary, canary
from tests.support.gguf import Gguf, tiny_llama
from tests.support.memory import MemorySource
from tests.support.templates import real_templates


@pytest.fixture(scope="module")
def engine() -> Iterator[Canary]:
    with canary() as one:
        yield one


def audit(file: Gguf) -> Audit:
    return audit_file(MemorySource(file.to_bytes()), name="m.gguf", knows_architecture=knows_architecture, deep=True)


def test_enough_architectures_and_types_are_covered() -> None:
    assert len(ARCHITECTURES) >= 16
    assert len(TYPES) >= 17


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sound_model_of_any_architecture_is_accepted_and_runs(engine: Canary, tmp_path: Path, name: str) -> None:
    file = sound(name)
    found = audit(file)
    assert (found.verdict, found.findings) == (Verdict.ACCEPT, ())
    assert engine.check(file.write(tmp_path / "m.gguf")) == "ok"


@pytest.mark.parametrize("name", TYPES)
def test_a_sound_model_of_any_tensor_type_is_accepted_and_runs(engine: Canary, tmp_path: Path, name: str) -> None:
    file = of_type(name)
    found = audit(file)
    assert (found.verdict, found.findings) == (Verdict.ACCEPT, ())
    assert engine.check(file.write(tmp_path / "m.gguf")) == "ok"


EXPLAINED = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja": (
        {"template.tools-text", "template.instructions"},
        "with tools it asks for a plan in steps, in a sentence that does not speak of tools; rules of style for all",
    ),
    "NVIDIA-Nemotron-Nano-v2.jinja": (
        {"template.alters"},
        "it takes its own switches out of what a user says",
    ),
    "Bielik-11B-v3.0-Instruct.jinja": (
        {"template.changing-text"},
        "with `enable_thinking` it asks in Polish to think in the language of the question",
    ),
    "Kimi-K3.jinja": (
        {"template.assembled-text"},
        "it takes names and values of attributes by their positions from what a loop goes through",
    ),
    "LFM2.5-8B-A1B.jinja": (
        {"template.assembled-text"},
        "it cuts a tag of its own off of a message to be continued, by its length",
    ),
    "llama-cpp-deepseek-r1.jinja": (
        {"template.no-tools"},
        "it writes a generator as JSON, which Jinja in Python cannot: with tools nothing is rendered",
    ),
}
"""The real templates with a warning: its rules, and the reason."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.torture)])
def test_no_real_template_is_rejected_inside_a_sound_file_and_each_warning_is_explained(step: int) -> None:
    every = real_templates()
    assert len(every) >= 60
    assert len(EXPLAINED) <= 0.09 * len(every), "a warning that many models carry warns of nothing"
    templates = {name: every[name] for name in {*sorted(every)[step // 2 :: step], *EXPLAINED} & set(every)}
    found = {name: audit(tiny_llama(template=text)) for name, text in templates.items()}
    assert [name for name, one in found.items() if Verdict.REJECT in {one.verdict, one.template.verdict}] == []
    warned = {
        name: {finding.rule for finding in one.findings if finding.severity is Severity.WARN}
        for name, one in found.items()
        if one.verdict is Verdict.WARN
    }
    assert warned == {name: rules for name, (rules, _) in EXPLAINED.items() if name in found}
