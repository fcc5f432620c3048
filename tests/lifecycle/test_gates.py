"""Decisions of the gates on given figures, each with a reason that a person understands."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import BadSetting
from paddock.lifecycle.catalog.entry import GATES as CATALOG_GATES
from paddock.lifecycle.promote.bounds import BOUND_NAMES, BOUNDS, Bounds, bounds_with
from paddock.lifecycle.promote.evidence import (
    AuditVerdict,
    Evidence,
    MemoryUse,
    Missing,
    PairedPredictions,
    PairedRoleplay,
)
from paddock.lifecycle.promote.gates import decide, fewer_kept_p, limits_of, speed_is_decided
from paddock.measure.gate_report import Gate, GateReport
from paddock.measure.paired import PairedQuality
from paddock.measure.paired_speed import PairedSpeed, Round, summarise
from paddock.measure.quality import Estimate
from paddock.measure.roleplay import Roleplay, Trait
from paddock.model.finding import Verdict
from tests.support.stores import A, id_of

ACCEPTED = AuditVerdict(Verdict.ACCEPT, promoted=Verdict.ACCEPT)
SAME = Estimate(1, 1, 1)
QUALITY = PairedQuality(
    predicted=5610,
    kl=0.03,
    promoted_kl=0.03,
    kl_ratio=SAME,
    top1=0.92,
    promoted_top1=0.92,
    lost=10,
    gained=10,
    worse_p=0.59,
    perplexity=20.0,
    promoted_perplexity=20.0,
    perplexity_ratio=SAME,
)


def gate(name: str, evidence: Evidence, bounds: Bounds = BOUNDS) -> Gate:
    return next(one for one in decide(evidence, bounds) if one.name == name)


def predictions(*, coarser: bool = False, **figures: object) -> Evidence:
    quality = replace(QUALITY, **figures)  # type: ignore[arg-type]  # fields of one table
    return Evidence(predictions=PairedPredictions(quality, id_of(A), reference_is_coarser=coarser))


@pytest.mark.parametrize(
    ("ratio", "passed"),
    [
        (Estimate(1.0, 0.9, 1.1), True),
        (Estimate(1.4, 1.3, 1.5), True),
        (Estimate(1.6, 1.4, 1.8), None),
        (Estimate(1.4, 1.2, 1.6), None),
        (Estimate(1.6, 1.51, 1.8), False),
        (Estimate(20, 18, 22), False),
    ],
    ids=str,
)
def test_the_kl_ratio_fails_where_its_whole_interval_is_above_the_bound(ratio: Estimate, passed: bool | None) -> None:
    found = gate("kl_ratio", predictions(kl_ratio=ratio))
    assert found.passed is passed
    assert (found.ratio, found.ci95) == (ratio.value, ratio.ci95)
    assert f"{ratio.low:.2f} to {ratio.high:.2f}" in found.reason


def test_a_reason_names_the_reference_and_the_figures() -> None:
    found = gate("kl_ratio", predictions(kl=0.2, promoted_kl=0.0, kl_ratio=Estimate(100, 90, 110)))
    assert found.reason == (
        "its KL divergence from org/name:Q8_0@aaaaaaaa is 0.2000, and the promoted one's 0.0000: 100.00 times"
        " (95 % interval 90.00 to 110.00), each counted from 0.002 on, and the bound is 1.5"
    )
    noise = gate("kl_ratio", predictions(kl=0.0015, promoted_kl=0.0))
    assert noise.passed
    assert noise.reason.endswith("below 0.002 it is rounding noise")


@pytest.mark.parametrize(("p", "passed"), [(1.0, True), (0.01, True), (0.0099, False), (0.0, False)], ids=str)
def test_the_agreement_fails_for_a_small_p(p: float, passed: bool) -> None:
    found = gate("agreement", predictions(worse_p=p, lost=200, gained=100))
    assert found.passed is passed
    assert "it lost 200 and gained 100 tokens" in found.reason


@pytest.mark.parametrize(
    ("perplexity", "passed"),
    [(Estimate(0.98, 0.97, 0.99), True), (Estimate(1.0, 0.99, 1.01), None), (Estimate(3, 2, 4), False)],
    ids=str,
)
def test_a_finer_candidate_is_judged_by_perplexity_if_the_coarser_promoted_one_is_the_reference(
    perplexity: Estimate, passed: bool | None
) -> None:
    evidence = predictions(
        coarser=True, kl_ratio=Estimate(15, 14, 16), worse_p=0.0, top1=0.9, perplexity_ratio=perplexity
    )
    for name in ("kl_ratio", "agreement"):
        found = gate(name, evidence)
        assert found.passed is passed
        assert "fewer bits per weight" in found.reason
        assert "its perplexity is" in found.reason
    same = predictions(coarser=True, perplexity_ratio=Estimate(3, 2, 4))
    assert gate("kl_ratio", same).passed, "it predicts as the promoted one does"


def speed(*ratios: float, doubts: tuple[str, ...] = (), decodes: bool = True) -> PairedSpeed:
    """Rounds in which the candidate is so many times as fast."""
    return summarise(
        [
            Round((0.5 / ratio, 0.5), (0.6 / ratio, 0.6), (1 / ratio, 1.0) if decodes else None, doubts)
            for ratio in ratios
        ],
        n_prompt=256,
        n_gen=64,
    )


@pytest.mark.parametrize(
    ("ratios", "decode", "prefill", "first"),
    [
        ((1.0, 1.01, 0.99), True, True, True),
        ((0.5, 0.51, 0.5), False, False, False),
        ((0.85, 0.851, 0.849), False, True, True),
        ((0.7, 1.0, 1.3), None, None, None),
        ((1.0, 1.0), None, None, None),
    ],
    ids=str,
)
def test_speeds_fail_where_the_whole_interval_is_beyond_the_bound(
    ratios: tuple[float, ...], decode: bool | None, prefill: bool | None, first: bool | None
) -> None:
    evidence = Evidence(speed=speed(*ratios))
    assert gate("decode", evidence).passed is decode
    assert gate("prefill", evidence).passed is prefill
    assert gate("time_to_first_token", evidence).passed is first
    assert speed_is_decided(speed(*ratios), BOUNDS) is (None not in {decode, prefill, first})


def test_reasons_of_speeds_have_the_figures() -> None:
    evidence = Evidence(speed=speed(0.5, 0.5, 0.5))
    assert gate("decode", evidence).reason == (
        "its decode is 0.50 times (95 % interval 0.50 to 0.50) the promoted one's (32.0 against 64.0 tokens/s), and the"
        " bound is 0.9"
    )
    assert "(1200 against 600 ms)" in gate("time_to_first_token", evidence).reason


def test_a_disturbed_round_never_decides() -> None:
    busy = "other processes used 1.9 of 2 cores"
    found = Evidence(speed=speed(0.1, 0.1, 0.1, 0.1, doubts=(busy,)))
    for name in ("decode", "prefill", "time_to_first_token"):
        one = gate(name, found)
        assert one.passed is None
        assert one.reason == f"0 of 4 rounds are reliable, and 3 are needed: {busy}"
        assert one.ratio is None


def test_a_model_that_embeds_has_no_gate_for_decode() -> None:
    found = speed(1.0, 1.0, 1.0, decodes=False)
    assert [one.name for one in decide(Evidence(speed=found), BOUNDS)] == ["prefill", "time_to_first_token"]
    assert speed_is_decided(found, BOUNDS)


def test_an_interval_of_few_rounds_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = random.Random(1)
    covered = 0
    for _ in range(1000):
        found = speed(*(0.8 * exp(generator.gauss(0, 0.05)) for _ in range(generator.randint(3, 6)))).decode
        assert found is not None
        covered += found.ratio.low <= 0.8 <= found.ratio.high
    assert 925 <= covered <= 975


@given(st.lists(st.floats(0.2, 5), min_size=3, max_size=30))
def test_the_ratio_of_the_promoted_one_to_the_candidate_is_the_inverse(ratios: list[float]) -> None:
    there, back = speed(*ratios).decode, speed(*(1 / ratio for ratio in ratios)).decode
    assert there is not None
    assert back is not None
    assert there.ratio.value * back.ratio.value == pytest.approx(1)
    assert there.ratio.low * back.ratio.high == pytest.approx(1)


@pytest.mark.parametrize(("measured", "passed"), [(1_000_000, True), (1_019_000, True), (1_021_000, False)], ids=str)
def test_memory_above_the_plan_fails(measured: int, passed: bool) -> None:
    found = gate("memory", Evidence(memory=MemoryUse(measured, 1_000_000)))
    assert found.passed is passed
    assert "the engine took" in found.reason


@pytest.mark.parametrize(
    ("evidence", "name", "passed", "reason"),
    [
        (Evidence(audit=ACCEPTED), "audit", True, "accept"),
        (Evidence(audit=AuditVerdict(Verdict.REJECT, "a rule rejects it")), "audit", False, "a rule rejects it"),
        (Evidence(finite=True), "finite", True, "finite"),
        (Evidence(finite=Missing("NaN", by_candidate=True)), "finite", False, "NaN"),
        (Evidence(finite=Missing("timed out")), "finite", None, "timed out"),
        (Evidence(memory=Missing("too large", by_candidate=True)), "memory", False, "too large"),
        (Evidence(predictions=Missing("other words", by_candidate=True)), "kl_ratio", False, "other words"),
        (Evidence(predictions=Missing("no memory")), "agreement", None, "no memory"),
        (Evidence(speed=Missing("no memory")), "decode", None, "no memory"),
        (Evidence(roleplay=Missing("no template")), "roleplay", None, "no template"),
        (Evidence(same_weights="its files are those"), "weights", True, "its files are those"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_was_not_measured_fails_only_if_the_candidate_is_the_reason(
    evidence: Evidence, name: str, passed: bool | None, reason: str
) -> None:
    found = gate(name, evidence)
    assert found.passed is passed
    assert reason in found.reason


def roleplay(kept: int, asked: int = 18) -> Roleplay:
    return Roleplay("0" * 64, (), Trait("whole", kept, asked))


@given(st.floats(0.1, 3), st.floats(0, 1), st.floats(0.3, 2), st.integers(1, 30), st.floats(0.001, 0.5), st.booleans())
def test_a_number_is_beyond_its_limit_exactly_if_its_gate_fails(
    ratio: float, p: float, faster: float, kept: int, spread: float, coarser: bool
) -> None:
    """What great-expectations checks again is what the gates decided."""
    quality = predictions(
        coarser=coarser, kl_ratio=Estimate(ratio, ratio * (1 - spread), ratio * (1 + spread)), worse_p=p
    )
    evidence = replace(
        quality,
        speed=speed(faster, faster * (1 + spread), faster),
        memory=MemoryUse(round(1000 * ratio), 1000),
        roleplay=PairedRoleplay(roleplay(kept, 30), roleplay(20, 30)),
    )
    limits = {limit.gate: limit for limit in limits_of(evidence, BOUNDS)}
    for found in decide(evidence, BOUNDS):
        if coarser and found.name in {"kl_ratio", "agreement"}:
            assert found.name not in limits
            continue
        limit = limits[found.name]
        beyond = (limit.least is not None and limit.figure < limit.least) or (
            limit.most is not None and limit.figure > limit.most
        )
        assert beyond is (found.passed is False)


@pytest.mark.parametrize(
    ("kept", "other", "passed"), [(10, 10, True), (18, 10, True), (8, 10, True), (1, 10, False), (0, 12, False)]
)
def test_roleplay_fails_for_far_fewer_good_answers(kept: int, other: int, passed: bool) -> None:
    found = gate("roleplay", Evidence(roleplay=PairedRoleplay(roleplay(kept), roleplay(other))))
    assert found.passed is passed
    assert f"{kept} of its 18 answers keep every trait, and {other} of 18" in found.reason


def test_fishers_test_is_that_of_the_literature() -> None:
    """R. A. Fisher's tea (The Design of Experiments, 1935): 3 of 4 cups are right, p = 17/70."""
    assert fewer_kept_p(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert fewer_kept_p(0, 18, 0, 18) == 1


def test_bounds_are_replaced_by_the_name_of_the_gate() -> None:
    assert bounds_with(None) == bounds_with({}) == BOUNDS
    assert bounds_with({"decode": 0.5, "kl_ratio": 3}) == replace(BOUNDS, decode=0.5, kl_ratio=3.0)
    assert gate("decode", Evidence(speed=speed(0.6, 0.6, 0.6)), bounds_with({"decode": 0.5})).passed
    assert set(CATALOG_GATES) <= set(BOUND_NAMES)
    with pytest.raises(BadSetting, match="there is no bound of a gate 'speed'") as caught:
        bounds_with({"speed": 1})
    assert "decode" in caught.value.cure


def test_every_gate_of_a_report_survives_json() -> None:
    evidence = Evidence(
        audit=ACCEPTED,
        finite=True,
        predictions=PairedPredictions(QUALITY, id_of(A)),
        speed=speed(1.0, 1.1, 0.9),
        memory=MemoryUse(10, 10),
        roleplay=PairedRoleplay(roleplay(3), roleplay(3)),
    )
    gates = decide(evidence, BOUNDS)
    report = GateReport("a", "b", "c", gates, False, "engine", "now", 1.0, limits=limits_of(evidence, BOUNDS))
    assert GateReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert [one.name for one in gates] == [
        "audit",
        "finite",
        "kl_ratio",
        "agreement",
        "decode",
        "prefill",
        "time_to_first_token",
        "memory",
        "roleplay",
    ]
