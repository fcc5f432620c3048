"""Observe the answers that a revision gives: which of them failed, and how fast the engine gave the others.

The last answers are kept, with what a comparison of two revisions needs: what was computed, how many requests ran
meanwhile, and the engine's own times. Requests that were refused for their own faults (4xx), and those that a client
cancelled, are no answers. `paddock.serving.switch.watch` compares two revisions by them.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect

from paddock.serving.refusal import RequestRefused
from paddock.serving.usage import token_count

KEPT_ANSWERS = 4096
"""The last answers of a revision that are kept."""
_KEPT_SAMPLES = 7200
_CONSTRAINTS = ("grammar", "json_schema", "response_format", "tools")


@dataclass(frozen=True, slots=True)
class ObservedAnswer:
    """An answer, from when the engine got its request (`began`) to its end, both of `time.perf_counter`.

    `failure` says how it failed; empty for a sound answer. `request` identifies the prompt of one that failed, and
    `restart` is how often the engine had been restarted when it began; `died`: the answer was cut off.

    Of a sound answer, `kind` says what was computed, and `running` how many requests the engine answered meanwhile, on
    average. The engine computed `prompt_tokens`, without those that it had in its cache, and after `first_token_s`
    there was the first token, or all of an answer without text; then it generated `tokens` in `decode_s`.
    `context_tokens` is how long prompt and answer were. None and 0 stand for what is not known.
    """

    began: float
    ended: float
    failure: str = ""
    request: str = ""
    restart: int = 0
    died: bool = False
    kind: str = ""
    running: float = 1.0
    prompt_tokens: int = 0
    first_token_s: float | None = None
    context_tokens: int = 0
    tokens: int = 0
    decode_s: float | None = None


class RunningAnswer:
    """An answer that is being given. The proxy sets what it learns of it. Its request came at `arrived`."""

    def __init__(self, began: float, restart: int, arrived: float) -> None:
        self.began = began
        self.arrived = arrived
        self.restart = restart
        self.request = ""
        self.failure = ""
        self.died = False
        self._kind = ""
        self._number = 1
        self._first_token_s: float | None = None
        self._timings: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] = {}

    def sent(self, path: str, body: Mapping[str, Any], request: str) -> None:
        """The request goes to the engine. `request` identifies its prompt."""
        constrained = any(body.get(name) for name in _CONSTRAINTS)
        self._kind = f"{path}{' constrained' if constrained else ''}{' streamed' if body.get('stream') else ''}"
        self._number = body.get("n") or 1
        self.request = request

    def given(self, timings: Any, usage: Any, *, first_text: float | None = None) -> None:
        """The answer is complete. `timings` and `usage` are the engine's; `first_text` is when a stream's first text
        was sent."""
        self._timings = timings if isinstance(timings, dict) else {}
        self._usage = usage if isinstance(usage, dict) else {}
        if first_text is not None:
            self._first_token_s = first_text - self.began

    def failed(self, error: RequestRefused) -> None:
        """The answer is an error."""
        if is_failure(error):
            self.failure = error.code or str(error.status)
            self.died = error.code == "engine_died"

    def ended(self, at: float, running: float) -> ObservedAnswer:
        if self.failure:
            return ObservedAnswer(self.began, at, self.failure, self.request, self.restart, self.died)
        prompt, tokens = token_count(self._timings.get("prompt_n")), token_count(self._timings.get("predicted_n"))
        first_token_s = self._first_token_s
        if first_token_s is None:
            first_token_s = _seconds(self._timings.get("prompt_ms"))
        if not self._timings:  # of embeddings and scores
            prompt, first_token_s = token_count(self._usage.get("prompt_tokens")), at - self.began
        is_single = self._number == 1  # the timings of several answers are those of one of them
        return ObservedAnswer(
            self.began,
            at,
            restart=self.restart,
            kind=self._kind,
            running=running,
            prompt_tokens=prompt if is_single else 0,
            first_token_s=first_token_s,
            context_tokens=prompt + tokens + token_count(self._timings.get("cache_n")),
            tokens=tokens if is_single else 0,
            decode_s=_seconds(self._timings.get("predicted_ms")),
        )


class Observations:
    """The last answers of one revision. Not thread-safe: it belongs to the server's event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._answers: deque[ObservedAnswer] = deque(maxlen=KEPT_ANSWERS)
        self._running = 0
        self._running_s = 0.0
        self._changed = self.since = clock()

    @property
    def answers(self) -> tuple[ObservedAnswer, ...]:
        """The last answers, in the order in which they ended."""
        return tuple(self._answers)

    @contextmanager
    def answer(self, restart: int, arrived: float) -> Iterator[RunningAnswer]:
        """Observe an answer, as a context manager, from when its request has a slot of the engine."""
        before_s = self._count_running(1)
        answer = RunningAnswer(self._changed, restart, arrived)
        cancelled = False
        try:
            yield answer
        except RequestRefused as error:
            answer.failed(error)
            cancelled = not answer.failure
            raise
        except (ClientDisconnect, asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        except Exception:
            answer.failure = "server_error"
            raise
        finally:
            running_s = self._count_running(-1) - before_s
            if not cancelled:
                lasted_s = self._changed - answer.began
                self._answers.append(answer.ended(self._changed, running_s / lasted_s if lasted_s > 0 else 1.0))

    def refused(self, error: RequestRefused, request: str, restart: int) -> None:
        """Count a request that was refused, since requests like it had ended the engine."""
        now = self._clock()
        self._answers.append(ObservedAnswer(now, now, error.code or "", request, restart))

    def _count_running(self, change: int) -> float:
        """Change the number of running requests. Returns the sum of the seconds that requests ran up to now."""
        now = self._clock()
        self._running_s += self._running * (now - self._changed)
        self._changed = now
        self._running += change
        return self._running_s


@dataclass(frozen=True, slots=True)
class LoadSamples:
    """How many seconds of processor time other processes used up to each of these times, since the one before."""

    times: Sequence[float] = ()
    used_s: Sequence[float] = ()

    def cores(self, began: float, ended: float) -> float | None:
        """The cores that they used on average from the last sample before `began` to the first one after `ended`; None
        where there is none."""
        first, last = bisect_right(self.times, began) - 1, bisect_left(self.times, ended)
        if first < 0 or last >= len(self.times) or last <= first:
            return None
        return sum(self.used_s[first + 1 : last + 1]) / (self.times[last] - self.times[first])


class OtherLoad:
    """The processor time of other processes, sampled again and again for the last hours."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_KEPT_SAMPLES)
        self._used_s: deque[float] = deque(maxlen=_KEPT_SAMPLES)

    def add(self, at: float, used_s: float) -> None:
        self._times.append(at)
        self._used_s.append(used_s)

    @property
    def samples(self) -> LoadSamples:
        return LoadSamples(tuple(self._times), tuple(self._used_s))


def is_failure(error: RequestRefused) -> bool:
    """Whether an error answer is a fault of the engine or of the model, and not of its request: a 5xx, or a chat
    template that refuses the conversation, which a client gets as a 400."""
    return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.by_template


def _seconds(milliseconds: Any) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) and milliseconds > 0 else None
