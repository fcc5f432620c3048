"""The gate of roleplay decides by pairs of answers, and not by two scores."""

from __future__ import annotations

from random import Random

import pytest

from paddock.lifecycle.promote.roleplay_gate import roleplay_gate
from paddock.measure.roleplay import Roleplay, Trait


def played(items: str) -> Roleplay:
    """A run of the suite: `+` is an answer that keeps every trait."""
    kept = tuple(item == "+" for item in items)
    return Roleplay("0" * 64, (), Trait("whole", sum(kept), len(kept)), kept)


@pytest.mark.parametrize(
    ("candidate", "promoted", "passed", "reason"),
    [
        ("+" * 18, "+" * 18, True, "lost 0 and gained 0, p = 1: not fewer"),
        ("+" * 9 + "-" * 9, "-" * 9 + "+" * 9, True, "lost 9 and gained 9, p = 0.59: not fewer"),
        ("+" * 18, "-" * 18, True, "lost 0 and gained 18"),
        ("-" * 7 + "+" * 11, "+" * 18, False, "lost 7 and gained 0, p = 0.0078: worse than chance explains"),
        ("-" * 6 + "+" * 12, "+" * 18, None, "lost 6 and gained 0, p = 0.016: which may be chance"),
        ("-" * 10 + "+" * 8, "+" * 14 + "-" * 4, None, "lost 10 and gained 4, p = 0.09: which may be chance"),
        ("-" * 18, "-" * 18, True, "0 of its 18 answers keep every trait, and 0 of 18 of the promoted one's"),
        ("+" * 18, "+" * 12, None, "the suites differ: 18 answers, and 12 of the promoted one"),
    ],
)
def test_the_gate_fails_where_chance_does_not_explain_the_loss(
    candidate: str, promoted: str, passed: bool | None, reason: str
) -> None:
    gate = roleplay_gate(played(candidate), played(promoted))
    assert (gate.name, gate.passed) == ("roleplay", passed)
    assert reason in gate.reason


def test_results_without_single_answers_are_not_compared() -> None:
    older = Roleplay("0" * 64, (), Trait("whole", 9, 18))
    assert roleplay_gate(older, older).passed is None


def test_equal_models_whose_answers_vary_fail_for_at_most_one_of_a_hundred() -> None:
    """Two scores of such models differ by several answers; the paired test keeps its promise."""
    draw = Random(3)
    runs = [["".join(draw.choice("+-") for _ in range(18)) for _ in range(2)] for _ in range(2000)]
    failed = sum(roleplay_gate(played(one), played(other)).passed is False for one, other in runs)
    assert failed <= 20
