"""Judging a promoted revision on given answers: what is worse, what is not, and what cannot be said."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from paddock.lifecycle.promote.bounds import BOUNDS, Bounds, bounds_with
from paddock.lifecycle.watch.judge import PromotionJudge
from paddock.measure.paired_answers import BLOCK_S, MIN_BLOCKS
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.serving.observations import LoadSamples, ObservedAnswer
from paddock.serving.switch.guard import Observed

ID = SnapshotId(ModelName.parse("org/name"), Revision("a" * 40), Variant("Q8_0"))
QUIET = LoadSamples(tuple(map(float, range(1000))), (0.0,) * 1000)
BUSY = LoadSamples(QUIET.times, (1.0,) * 1000)


def answers(*, decode: float = 1.0, first: float = 1.0, blocks: int = 20, seed: int = 1) -> Observed:
    """An answer in each half of a block; `decode` and `first` are how many times as long it takes. 5 % noise."""
    chance = random.Random(seed)

    def answer(at: float) -> ObservedAnswer:
        prompt, tokens = chance.randint(100, 240), chance.randint(20, 80)
        first_s = 0.001 * prompt * first * chance.lognormvariate(0, 0.05)
        decode_s = 0.01 * tokens * decode * chance.lognormvariate(0, 0.05)
        return ObservedAnswer(
            at,
            at + first_s + decode_s,
            kind="chat",
            prompt_tokens=prompt,
            first_token_s=first_s,
            context_tokens=prompt + tokens,
            tokens=tokens,
            decode_s=decode_s,
        )

    given = tuple(answer(1 + half * BLOCK_S / 2) for half in range(2 * blocks))
    return Observed(ID, given, served_s=blocks * BLOCK_S, load=QUIET, cores=2)


BEFORE = answers(blocks=60, seed=2)


def looks(after: Observed, *, before: Observed = BEFORE, bounds: Bounds | None = BOUNDS) -> tuple[str, int]:
    """Look after each answer. Returns why the revision is worse, and after how many answers that was found."""
    judge = PromotionJudge(bounds)
    for number in range(1, len(after.answers) + 1):
        served_s = max(after.answers[number - 1].ended, after.served_s if after.strikes else 0.0)
        judgement = judge.look(before, replace(after, answers=after.answers[:number], served_s=served_s))
        if judgement.worse:
            return judgement.worse, number
    return "", number


@pytest.mark.parametrize(
    ("after", "begins"),
    [
        pytest.param(answers(decode=1.5), "its decode is 0.6", id="slow-decode"),
        pytest.param(answers(first=2.0), "its time to the first token is", id="slow-first-token"),
        pytest.param(answers(decode=0.7, first=0.7), "", id="faster"),
        pytest.param(answers(), "", id="as-fast"),
        pytest.param(answers(decode=1.05, first=1.1), "", id="a-little-slower"),
        pytest.param(replace(answers(decode=3.0), load=BUSY), "", id="slower-under-other-load"),
        pytest.param(answers(decode=3.0, blocks=MIN_BLOCKS - 1), "", id="slower-on-few-answers"),
        pytest.param(replace(answers(decode=3.0), undisturbed_from=150.0), "", id="slower-beside-another-engine"),
    ],
)
def test_a_speed_is_worse_where_it_does_not_keep_the_bound_of_the_gates(after: Observed, begins: str) -> None:
    found, number = looks(after)
    assert found.startswith(begins)
    assert bool(found) is bool(begins)
    if found:
        assert number >= 2 * MIN_BLOCKS * 1.5 - 1, "two looks have found it"


def test_the_reason_has_both_figures_and_the_bound() -> None:
    reason, _ = looks(answers(decode=2.0))
    assert reason.startswith("its decode is 0.5")
    assert " times the one before (" in reason
    assert reason.endswith("tokens/s), and the bound is 0.9")


def test_the_bounds_of_the_catalog_count() -> None:
    assert looks(answers(decode=1.5), bounds=bounds_with({"decode": 0.5}))[0] == ""


def test_without_bounds_speed_does_not_count() -> None:
    assert looks(answers(decode=3.0, first=3.0), bounds=None)[0] == ""


def test_a_slow_revision_is_not_found_by_chance() -> None:
    """Revisions that are as fast: none of them is found slower in sixty blocks, with a look after each answer."""
    found = [looks(answers(blocks=25, seed=seed), before=answers(blocks=25, seed=1000 + seed))[0] for seed in range(15)]
    assert found == [""] * 15


FAILED = ObservedAnswer(1.0, 2.0, "engine_died", died=True)


def failing(*, every: int, failure: str = "engine_error") -> Observed:
    """Every so many answers fail, each of another request."""
    sound = answers().answers
    given = (
        replace(FAILED, failure=failure, request=str(number), died=False) if number % every == every - 1 else answer
        for number, answer in enumerate(sound)
    )
    return replace(answers(), answers=tuple(given))


@pytest.mark.parametrize(
    ("after", "reason", "most"),
    [
        pytest.param(failing(every=1), "3 of 3 answers failed, and 0 of 120 before (engine_error)", 3, id="all"),
        pytest.param(failing(every=2), "3 of 6 answers failed, and 0 of 120 before (engine_error)", 6, id="half"),
        pytest.param(failing(every=30), "", 40, id="one-of-thirty"),
        pytest.param(
            replace(answers(), answers=(FAILED,) * 8 + answers().answers, restarts=1), "", 48, id="one-lost-engine"
        ),
    ],
)
def test_errors_are_worse_where_chance_does_not_explain_them(after: Observed, reason: str, most: int) -> None:
    assert looks(after) == (reason, most)


def test_an_engine_that_is_lost_twice_without_a_request_is_worse() -> None:
    after = Observed(ID, (), restarts=2, strikes=2, served_s=20.0)
    judgement = PromotionJudge(BOUNDS).look(BEFORE, after)
    assert judgement.worse == "its engine was lost 2 times in 20 s, which no request explains"


def test_the_summary_has_the_figures_of_the_last_look() -> None:
    judge = PromotionJudge(BOUNDS)
    few = judge.look(BEFORE, answers(blocks=2))
    assert few.summary == "0 of 4 answers failed, and 0 of 120 before; too few answers are alike to compare the speed"
    judgement = judge.look(BEFORE, answers())
    assert "its decode is " in judgement.summary
    assert "its time to the first token is " in judgement.summary
    assert judgement.ratios.keys() == {"decode", "time_to_first_token"}
    assert judgement.ratios["decode"] == pytest.approx(1, abs=0.1)
