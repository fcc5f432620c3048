"""Mutants of sound models: those that the audit accepts load without a crash and give finite logits.

The audit itself neither dies nor takes long, whatever it is given.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from paddock.engine.facts import knows_architecture
from paddock.model.finding import Verdict
from paddock.validation.audit import audit_file
from tests.support.canary import canary
from tests.support.hostile import BROKEN
from tests.support.memory import MemorySource
from tests.support.mutants import mutant

AUDIT_CPU_S = 1.0

# on these llama-cpp-python 0.3.36 aborts or faults
DEADLY = (
    *("block-count-0", "block-count-513", "type-i32", "type-q8_1", "epsilon-nan", "rope-scaling-unknown"),
    *("experts-more-used", "token-twice"),
)


@pytest.mark.parametrize("name", DEADLY)
def test_the_canary_detects_that_the_engine_crashes_on_a_file_that_the_audit_rejects(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BROKEN[name][1]())
    with canary() as engine:
        assert engine.check(path).startswith("died with SIG")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [50, pytest.param(10_000, marks=pytest.mark.torture)])
def test_no_accepted_mutant_crashes_the_engine_or_gives_logits_that_are_not_finite(tmp_path: Path, count: int) -> None:
    path = tmp_path / "mutant.gguf"
    verdicts: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    slowest_s = 0.0
    with canary() as engine:
        for number in range(count):
            data = mutant(number)
            started = time.process_time()
            audit = audit_file(MemorySource(data), name="m.gguf", knows_architecture=knows_architecture, deep=True)
            slowest_s = max(slowest_s, time.process_time() - started)
            verdicts[str(audit.verdict)] += 1
            if audit.verdict is not Verdict.REJECT:
                path.write_bytes(data)
                answer = engine.check(path)
                answers[answer] += 1
                if answer not in {"ok", "refused"}:
                    wrong.append((number, answer))
    print(
        f"{count} mutants: {dict(verdicts)}; of the accepted the engine says {dict(answers)}; {slowest_s:.2f} s at most"
    )
    assert wrong == []
    assert slowest_s < AUDIT_CPU_S
    assert answers["ok"] > count / 20, "mutants that are all rejected show nothing"
