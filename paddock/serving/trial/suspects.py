"""Remember the requests that were running when the engine died, and refuse those that ended it twice.

A request has two fingerprints: of what native code parses or compiles, such as grammars, tools and images, and of its
prompt. When the engine is lost, those of all requests that had reached it become suspects. A suspect that is answered
is cleared; a second loss makes it refused for an hour. Suspects run one at a time, so that a request which merely ran
beside the cause is cleared before it could be there again.

A loss is explained by its requests, and is no strike against the model, if one of them is refused from now on, or if
the engine had answered others since it started: so different requests that end it cannot end the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx

from paddock.serving.requests.parse import EngineRequest, RequestRefused

_LOSSES: Final = 2
_EXPIRES_S: Final = 3600.0
_REMEMBERED: Final = 1024
_UNANSWERED: Final = 256
_COMPILED: Final = ("grammar", "json_schema", "response_format", "tools")
_TEXT: Final = {"type": "text"}
"""The response format of every answer that has none."""
_COMPILED_WITH: Final = ("tool_choice", "parallel_tool_calls")
_PARSED: Final = ("chat_template_kwargs", "logit_bias", "samplers", "dry_sequence_breakers")
_PROMPTS: Final = ("messages", "prompt", "input", "query", "documents")


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A request that is sent to the engine. `answered` is set once the engine has answered it, in full or by refusing
    it; `reached` is whether the engine was there at all."""

    fingerprints: tuple[str, ...]
    answered: bool = False
    reached: bool = True

    @property
    def prompt(self) -> str:
        """The fingerprint of its prompt, or of what else it has."""
        return self.fingerprints[-1] if self.fingerprints else ""


class Suspects:
    """The suspects of one engine. `usual_stops` are the stop sequences that every chat has."""

    def __init__(self, *, usual_stops: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._usual_stops = frozenset(usual_stops)
        self._clock = clock
        self._losses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._running: list[RunningRequest] = []
        self._unanswered: list[RunningRequest] = []
        self._alone = asyncio.Lock()
        self._has_answered = False

    def __len__(self) -> int:
        """Number of fingerprints that are remembered."""
        return len(self._losses)

    def check(self, request: EngineRequest) -> None:
        """Raise RequestRefused if requests like this have ended the engine twice."""
        self._check(fingerprints(request.body, self._usual_stops))

    def prompt_of(self, request: EngineRequest) -> str:
        """The fingerprint of a request's prompt, or of what else it has."""
        return RunningRequest(fingerprints(request.body, self._usual_stops)).prompt

    @asynccontextmanager
    async def running(self, request: EngineRequest) -> AsyncIterator[RunningRequest]:
        """Watch a request while the engine has it, as a context manager. Raises RequestRefused, as `check`."""
        run = RunningRequest(fingerprints(request.body, self._usual_stops))
        if not any(self._losses_of(one) for one in run.fingerprints):
            async with self._watch(run):
                yield run
            return
        async with self._alone:
            self._check(run.fingerprints)  # it may have become refused while it waited
            async with self._watch(run):
                yield run

    def engine_lost(self) -> bool:
        """Make suspects of the requests that the lost engine had. Returns whether they explain the loss."""
        involved = {one for run in (*self._running, *self._unanswered) for one in run.fingerprints if not run.answered}
        self._running, self._unanswered = [], []
        now = self._clock()
        for one in involved:
            self._losses[one] = (self._losses_of(one) + 1, now)
            self._losses.move_to_end(one)
        while len(self._losses) > _REMEMBERED:
            self._losses.popitem(last=False)
        had_answered, self._has_answered = self._has_answered, False
        refused = any(self._losses[one][0] >= _LOSSES for one in involved if one in self._losses)
        return refused or (had_answered and bool(involved))

    @asynccontextmanager
    async def _watch(self, run: RunningRequest) -> AsyncIterator[None]:
        self._running.append(run)
        try:
            yield
        except httpx.ConnectError:
            run.reached = False
            raise
        finally:
            was_there = run in self._running
            if was_there:
                self._running.remove(run)
            if run.answered:
                self._clear(run)
            elif was_there and run.reached and len(self._unanswered) < _UNANSWERED:
                # The engine died of something, or its client has left, and the engine may be about to die of it.
                self._unanswered.append(run)

    def _clear(self, run: RunningRequest) -> None:
        self._has_answered = True
        for one in run.fingerprints:
            self._losses.pop(one, None)
        self._unanswered.clear()  # the engine has gone on since they ended

    def _check(self, prints: Collection[str]) -> None:
        if any(self._losses_of(one) >= _LOSSES for one in prints):
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST,
                f"requests like this one have ended the engine {_LOSSES} times, and are refused for an hour",
                code="ended_engine",
            )

    def _losses_of(self, one: str) -> int:
        count, when = self._losses.get(one, (0, 0.0))
        return count if self._clock() - when < _EXPIRES_S else 0


def fingerprints(body: Mapping[str, Any], usual_stops: Collection[str] = ()) -> tuple[str, ...]:
    """Return the fingerprints of a request: of what native code parses, if there is anything, and of its prompt."""
    parsed = {name: body[name] for name in (*_COMPILED, *_PARSED) if body.get(name) and body[name] != _TEXT}
    if any(name in parsed for name in _COMPILED):
        parsed |= {name: body[name] for name in _COMPILED_WITH if body.get(name) is not None}
    stops = body.get("stop") or []
    own_stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop not in usual_stops]
    if own_stops:
        parsed["stop"] = own_stops
    media = [part for part in _parts(body.get("messages")) if part.get("type") != "text"]
    if media:
        parsed["media"] = media
    prompt = {name: body[name] for name in _PROMPTS if body.get(name)}
    return tuple(_digest(kind, value) for kind, value in (("parsed", parsed), ("prompt", prompt)) if value)


def _parts(messages: object) -> list[dict[str, Any]]:
    items = messages if isinstance(messages, list) else []
    contents = [message.get("content") for message in items if isinstance(message, dict)]
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]


def _digest(kind: str, value: object) -> str:
    return hashlib.sha256(json.dumps([kind, value]).encode()).hexdigest()
