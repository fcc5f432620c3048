"""Observations of the answers of a revision: answers that count, and requests that do not."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from starlette.requests import ClientDisconnect

from paddock.serving.observations import LoadSamples, Observations, ObservedAnswer
from paddock.serving.refusal import RequestRefused, bad_request
from tests.support.clock import FakeClock

TIMINGS = {"cache_n": 7, "prompt_n": 40, "prompt_ms": 80.0, "predicted_n": 16, "predicted_ms": 320.0}
CHAT, EMBEDDING = "/v1/chat/completions", "/v1/embeddings"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def observations(clock: FakeClock) -> Observations:
    return Observations(clock=clock)


def give(
    observations: Observations, clock: FakeClock, body: dict[str, object], *, stream: bool = False
) -> ObservedAnswer:
    with observations.answer(2, arrived=clock()) as answer:
        answer.sent(CHAT, {**body, "stream": stream}, "prompt")
        clock.now_s += 0.5
        answer.given(TIMINGS, None, first_text=clock() - 0.4 if stream else None)
    return observations.answers[-1]


def test_a_whole_answer_has_the_times_of_the_engine(observations: Observations, clock: FakeClock) -> None:
    answer = give(observations, clock, {})
    assert (answer.failure, answer.request, answer.kind) == ("", "", CHAT)
    assert (answer.prompt_tokens, answer.tokens, answer.context_tokens) == (40, 16, 63)
    assert (answer.first_token_s, answer.decode_s) == (0.08, 0.32)
    assert answer.ended - answer.began == pytest.approx(0.5)


def test_a_stream_has_the_time_to_its_first_text(observations: Observations, clock: FakeClock) -> None:
    answer = give(observations, clock, {"response_format": {"type": "json_object"}}, stream=True)
    assert answer.first_token_s == pytest.approx(0.1)
    assert answer.kind == f"{CHAT} constrained streamed"


def test_of_several_answers_at_once_no_speed_is_known(observations: Observations, clock: FakeClock) -> None:
    answer = give(observations, clock, {"n": 2})
    assert (answer.tokens, answer.prompt_tokens) == (0, 0)


def test_an_embedding_has_the_time_of_the_whole_answer(observations: Observations, clock: FakeClock) -> None:
    with observations.answer(0, arrived=clock()) as answer:
        answer.sent(EMBEDDING, {"input": "text"}, "prompt")
        clock.now_s += 0.25
        answer.given(None, {"prompt_tokens": 9})
    (found,) = observations.answers
    assert (found.prompt_tokens, found.first_token_s, found.tokens) == (9, 0.25, 0)


@pytest.mark.parametrize("timings", [None, [], {"prompt_n": "x", "prompt_ms": None, "predicted_ms": -1}, {"a": 1}])
def test_timings_that_are_no_numbers_are_not_known(
    observations: Observations, clock: FakeClock, timings: object
) -> None:
    with observations.answer(0, arrived=clock()) as answer:
        answer.given(timings, None)
    (found,) = observations.answers
    assert (found.prompt_tokens, found.tokens, found.decode_s) == (0, 0, None)


@pytest.mark.parametrize(
    ("error", "failure", "died"),
    [
        pytest.param(RequestRefused(502, "died", code="engine_died"), "engine_died", True, id="engine-died"),
        pytest.param(RequestRefused(502, "failed", code="engine_error"), "engine_error", False, id="engine-failed"),
        pytest.param(RequestRefused(503, "loading"), "503", False, id="not-ready"),
        pytest.param(
            RequestRefused(400, "no", code="invalid_value", by_template=True), "invalid_value", False, id="template"
        ),
        pytest.param(ValueError("a fault of this server"), "server_error", False, id="own-fault"),
    ],
)
def test_a_failure_is_an_answer(
    observations: Observations, clock: FakeClock, error: Exception, failure: str, died: bool
) -> None:
    with suppress(type(error)), observations.answer(3, arrived=clock()) as answer:
        answer.sent(CHAT, {}, "prompt")
        raise error
    (found,) = observations.answers
    assert (found.failure, found.died, found.request, found.restart) == (failure, died, "prompt", 3)


def test_a_stream_that_ends_with_an_error_failed(observations: Observations, clock: FakeClock) -> None:
    with observations.answer(0, arrived=clock()) as answer:
        answer.failed(RequestRefused(502, "died", code="engine_died"))
    assert [one.failure for one in observations.answers] == ["engine_died"]


@pytest.mark.parametrize(
    "error",
    [bad_request("no"), RequestRefused(404, "another model"), ClientDisconnect(), asyncio.CancelledError()],
    ids=["400", "404", "disconnect", "cancelled"],
)
def test_a_refusal_and_a_cancelled_request_are_no_answers(
    observations: Observations, clock: FakeClock, error: BaseException
) -> None:
    with pytest.raises(type(error)), observations.answer(0, arrived=clock()):
        raise error
    assert observations.answers == ()


def test_a_request_that_is_refused_since_it_ended_the_engine_is_a_failure(observations: Observations) -> None:
    observations.refused(RequestRefused(400, "twice", code="ended_engine"), "prompt", 2)
    (found,) = observations.answers
    assert (found.failure, found.request, found.died) == ("ended_engine", "prompt", False)


def test_the_mean_number_of_requests_at_once(observations: Observations, clock: FakeClock) -> None:
    """One of four seconds, of which another ran for two."""
    with observations.answer(0, arrived=clock()):
        clock.now_s += 1
        with observations.answer(0, arrived=clock()):
            clock.now_s += 2
        clock.now_s += 1
    inner, outer = observations.answers
    assert (inner.running, outer.running) == (2.0, 1.5)


SAMPLES = LoadSamples((10.0, 11.0, 12.0, 14.0), (9.0, 0.5, 1.5, 0.0))


@pytest.mark.parametrize(
    ("began", "ended", "cores"),
    [
        pytest.param(10.2, 10.9, 0.5, id="within-a-sample"),
        pytest.param(10.5, 11.5, 1.0, id="two-samples"),
        pytest.param(11.0, 14.0, 0.5, id="from-one-to-another"),
        pytest.param(9.0, 10.5, None, id="before-the-first"),
        pytest.param(13.0, 14.5, None, id="after-the-last"),
    ],
)
def test_the_load_by_other_processes(began: float, ended: float, cores: float | None) -> None:
    assert SAMPLES.cores(began, ended) == cores
