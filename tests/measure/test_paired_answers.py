"""The ratio of two revisions' speeds by real requests, which differ in length and in the load around them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from paddock.measure.paired_answers import BLOCK_S, MIN_BLOCKS, compare_answers
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.serving.observations import LoadSamples, ObservedAnswer
from paddock.serving.switch.guard import Observed

ID = SnapshotId(ModelName.parse("org/name"), Revision("a" * 40), Variant("Q8_0"))
QUIET = LoadSamples(tuple(map(float, range(4000))), (0.0,) * 4000)
Make = Callable[[random.Random, float, float], ObservedAnswer]
"""An answer at a time, of an engine that takes so many times as long."""


def chat(
    chance: random.Random, at: float, slow: float, *, prompt: int | None = None, running: float = 1
) -> ObservedAnswer:
    """A chat of 20 ms, 1 ms for each token of the prompt and 10 ms for each token of the answer, or longer under
    load; 5 % noise."""
    prompt = prompt or chance.randint(20, 900)
    tokens = chance.randint(10, 200)
    noise = slow * running**0.7 * chance.lognormvariate(0, 0.05)
    first, decode = (0.02 + 0.001 * prompt) * noise, tokens * (0.01 + 2e-6 * prompt) * noise
    return ObservedAnswer(
        at,
        at + first + decode,
        kind="/v1/chat/completions",
        running=running,
        prompt_tokens=prompt,
        first_token_s=first,
        context_tokens=prompt + tokens,
        tokens=tokens,
        decode_s=decode,
    )


def observed(make: Make, *, seed: int, blocks: int = 30, slow: float = 1.0, load: LoadSamples = QUIET) -> Observed:
    """Two answers in each block of time."""
    chance = random.Random(seed)
    times = [1 + block * BLOCK_S + half * 2 for block in range(blocks) for half in (0, 1)]
    return Observed(ID, tuple(make(chance, at, slow) for at in times), load=load, cores=2)


def test_the_ratio_of_equal_revisions_holds_one() -> None:
    speed = compare_answers(observed(chat, seed=1), observed(chat, seed=2))
    assert speed.decode is not None
    assert speed.time_to_first_token is not None
    for ratio in (speed.decode.ratio, speed.time_to_first_token.ratio):
        assert ratio.low < 1 < ratio.high
        assert ratio.high / ratio.low < 1.2


def test_a_slower_revision_is_found_slower() -> None:
    speed = compare_answers(observed(chat, seed=1, slow=1.5), observed(chat, seed=2))
    assert speed.decode is not None
    assert speed.time_to_first_token is not None
    assert speed.decode.ratio.low < 1 / 1.5 < speed.decode.ratio.high < 0.75
    assert 1.35 < speed.time_to_first_token.ratio.low < 1.5 < speed.time_to_first_token.ratio.high
    assert speed.decode.candidate < speed.decode.promoted


def test_longer_prompts_are_not_taken_for_a_slower_revision() -> None:
    """The prompts of one are nearly three times as long as those of the other."""

    def short(chance: random.Random, at: float, slow: float) -> ObservedAnswer:
        return chat(chance, at, slow, prompt=int(chance.triangular(100, 400, 120)))

    def long(chance: random.Random, at: float, slow: float) -> ObservedAnswer:
        return chat(chance, at, slow, prompt=int(chance.triangular(100, 400, 380)))

    speed = compare_answers(observed(long, seed=1, blocks=100), observed(short, seed=2, blocks=100))
    assert speed.time_to_first_token is not None
    assert 0.92 < speed.time_to_first_token.ratio.value < 1.08


def test_more_requests_at_once_are_not_taken_for_a_slower_revision() -> None:
    """One or two requests at once before, and two to four now, each three times as slow as alone then."""

    def few(chance: random.Random, at: float, slow: float) -> ObservedAnswer:
        return chat(chance, at, slow, running=chance.choice((1.0, 1.9, 2.3)))

    def many(chance: random.Random, at: float, slow: float) -> ObservedAnswer:
        return chat(chance, at, slow, running=chance.choice((2.0, 2.4, 4.0)))

    speed = compare_answers(observed(many, seed=1, blocks=60), observed(few, seed=2, blocks=60))
    assert speed.decode is not None
    assert 0.92 < speed.decode.ratio.value < 1.08


def busy(cores: float) -> LoadSamples:
    return LoadSamples(QUIET.times, (cores,) * 4000)


@pytest.mark.parametrize(
    ("candidate", "promoted"),
    [
        pytest.param(observed(chat, seed=1), observed(chat, seed=2, load=busy(1.0)), id="other-load-before"),
        pytest.param(observed(chat, seed=1, load=busy(1.0)), observed(chat, seed=2), id="other-load-now"),
        pytest.param(observed(chat, seed=1, load=LoadSamples()), observed(chat, seed=2), id="load-not-known"),
        pytest.param(observed(chat, seed=1, blocks=MIN_BLOCKS - 1), observed(chat, seed=2), id="few-blocks"),
        pytest.param(observed(chat, seed=1), Observed(ID, (), load=QUIET), id="nothing-before"),
        pytest.param(
            replace(observed(chat, seed=1), undisturbed_from=260.0), observed(chat, seed=2), id="during-the-switch"
        ),
        pytest.param(
            observed(lambda *one: replace(chat(*one), kind="/v1/completions"), seed=1),
            observed(chat, seed=2),
            id="other-requests",
        ),
        pytest.param(
            observed(lambda *one: chat(*one, running=8.0), seed=1), observed(chat, seed=2), id="many-more-at-once"
        ),
        pytest.param(
            observed(lambda *one: replace(chat(*one), failure="engine_error"), seed=1),
            observed(chat, seed=2),
            id="errors",
        ),
    ],
)
def test_what_cannot_be_compared_has_no_ratio(candidate: Observed, promoted: Observed) -> None:
    speed = compare_answers(candidate, promoted)
    assert (speed.decode, speed.time_to_first_token) == (None, None)


def test_answers_of_one_time_do_not_count_as_many() -> None:
    """Answers of a block share a disturbance of 20 %. Ten in each are hardly more than one."""

    def disturbed(seed: int, at_once: int) -> Observed:
        chance = random.Random(seed)
        answers = []
        for block in range(12):
            slow = chance.lognormvariate(0, 0.2)
            at = block * BLOCK_S + (3 if block else 1)  # the first answer's end is where the first block begins
            answers += [chat(chance, at, slow, prompt=100) for _ in range(at_once)]
        return Observed(ID, tuple(sorted(answers, key=lambda one: one.ended)), load=QUIET, cores=2)

    covered = 0
    for seed in range(30):
        speed = compare_answers(disturbed(seed, 10), disturbed(1000 + seed, 10))
        assert speed.decode is not None
        covered += speed.decode.ratio.low < 1 < speed.decode.ratio.high
    assert covered >= 26
