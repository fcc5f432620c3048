"""Try the grammar, JSON schemas and tools of a request in the trial engine, before the real engine sees them.

A request without them is not tried. What was found is remembered by digest, so that clients that repeat their tools
with every request pay once. Where the trial engine dies, needs too long or too much memory, the real engine would have
done so too, and with it every other request: the client gets a 400 that names the field.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from paddock.errors import PaddockError
from paddock.serving.engine.llama_server import LlamaServerProgram
from paddock.serving.engine.process import EngineProcess
from paddock.serving.requests.parse import EngineRequest, RequestRefused
from paddock.serving.spec import ServeSpec
from paddock.serving.trial.schema_bounds import check_constraints
from paddock.serving.trial.trial_engine import Outcome, TrialAnswer, TrialEngine, TrialLimits

_LOG = logging.getLogger(__name__)
_CONSTRAINTS: Final = ("grammar", "json_schema", "response_format", "tools")
_MODIFIERS: Final = ("tool_choice", "parallel_tool_calls", "chat_template_kwargs")
_NOTHING: Final[tuple[Any, ...]] = ("", [], {"type": "text"})
"""Values of these fields that ask for nothing."""
_TOKENS: Final = 8
_ANY_TOKEN: Final = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
"""Without weights all tokens are equally likely, and the usual sampling keeps the first forty, some of which end a
text."""
_ATTEMPTS: Final = 3
"""Of a grammar in which random tokens led nowhere."""
_DEAD_END: Final = "empty grammar stack"
_NOT_FINISHED: Final = "does not match the expected"
"""In llama-server's errors: no token can follow; what was generated so far is not the complete answer yet."""
_CACHED: Final = 1024
_SIMPLE_CHARACTERS: Final = 64
_RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialQueue:
    """How many requests may wait for the trial engine, and for how many seconds each."""

    waiting: int = 32
    timeout_s: float = 60.0


class RequestTrial:
    """Checks requests one after the other. The process is started at the first request that needs it."""

    def __init__(
        self,
        spec: ServeSpec,
        program: LlamaServerProgram,
        home: Path,
        *,
        limits: TrialLimits | None = None,
        queue: TrialQueue | None = None,
    ) -> None:
        self._engine = TrialEngine(spec, program, home, limits or TrialLimits())
        self._queue = queue or TrialQueue()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._results: OrderedDict[str, RequestRefused | None] = OrderedDict()

    @property
    def process(self) -> EngineProcess | None:
        """The trial engine's process, while there is one."""
        return self._engine.process

    async def check(self, request: EngineRequest) -> None:
        """Return if the engine can compile what the request has. Raises RequestRefused, with the field's name."""
        tried = _tried_fields(request.body)
        if not tried:
            return
        digest = hashlib.sha256(json.dumps([request.path, tried]).encode()).hexdigest()
        if digest not in self._results:
            await self._wait_and_try(digest, request.path, tried)
        self._results.move_to_end(digest)
        refusal = self._results[digest]
        if refusal is not None:
            raise refusal.with_traceback(None)

    async def close(self) -> None:
        """End the process."""
        await self._engine.close()

    async def _wait_and_try(self, digest: str, path: str, tried: Mapping[str, Any]) -> None:
        if self._waiting >= self._queue.waiting:
            raise _unavailable(f"{self._waiting} requests with a grammar, schema or tools wait to be checked")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._queue.timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise _unavailable("the request's grammar, schema or tools could not be checked in time") from None
        finally:
            self._waiting -= 1
        try:
            if digest not in self._results:  # another request may have had the same
                self._results[digest] = await self._try(path, tried)
                if len(self._results) > _CACHED:
                    self._results.popitem(last=False)
        finally:
            self._turn.release()

    async def _try(self, path: str, tried: Mapping[str, Any]) -> RequestRefused | None:
        try:
            await asyncio.to_thread(check_constraints, tried)
        except RequestRefused as refused:
            return refused
        refusal = await self._attempt(path, tried)
        if refusal is None and tried.get("tools") and tried.get("tool_choice") in (None, "auto"):
            # The grammar of tools that a model may call begins with the first call: so let it begin at once.
            answer = await self._send(path, {**tried, "tool_choice": "required"})
            if answer.outcome in {Outcome.DIED, Outcome.SLOW}:
                refusal = _refusal(answer, tried)
        return refusal

    async def _attempt(self, path: str, tried: Mapping[str, Any]) -> RequestRefused | None:
        for _ in range(_ATTEMPTS):
            answer = await self._send(path, tried)
            if answer.outcome is Outcome.LATE:
                raise _unavailable("the machine is too busy to check the request's grammar, schema or tools")
            if answer.outcome is Outcome.GENERATED or _NOT_FINISHED in answer.message:
                return None
            if _DEAD_END not in answer.message:
                break
        return _refusal(answer, tried)

    async def _send(self, path: str, tried: Mapping[str, Any]) -> TrialAnswer:
        try:
            return await self._engine.attempt(path, _body(path, tried))
        except (PaddockError, OSError) as error:
            _LOG.warning("requests with a grammar, schema or tools cannot be checked: %s", error)
            raise _unavailable("requests with a grammar, schema or tools cannot be checked at the moment") from None


def _refusal(answer: TrialAnswer, tried: Mapping[str, Any]) -> RequestRefused:
    field = _field(answer.message, tried)
    if answer.kind == "exceed_context_size_error":
        return RequestRefused(HTTPStatus.BAD_REQUEST, answer.message[:500], code="context_length_exceeded", param=field)
    explanation = {
        Outcome.DIED: "the engine cannot compile it: it would run out of memory or of stack",
        Outcome.SLOW: "the engine cannot compile it in time: it has too many alternatives or repetitions",
    }.get(answer.outcome)
    if explanation is None and _DEAD_END in answer.message:
        explanation = "the grammar leads to a point where no token of the model can follow"
    elif explanation is None:
        explanation = f"the engine refuses it: {_shortened(answer.message)}"
    return RequestRefused(HTTPStatus.BAD_REQUEST, f"{field}: {explanation}", code="invalid_value", param=field)


def _tried_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that the engine compiles, with those that change how; none if there are none."""
    found = {name: body[name] for name in (*_CONSTRAINTS, *_MODIFIERS) if body.get(name) is not None}
    found = {name: value for name, value in found.items() if value not in _NOTHING}
    is_constrained = any(name in found for name in _CONSTRAINTS)
    return found if is_constrained or not _is_simple(found.get("chat_template_kwargs", {})) else {}


def _is_simple(arguments: object) -> bool:
    """Whether the template's arguments are switches and words only, such as `enable_thinking`."""
    return isinstance(arguments, dict) and all(
        value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) <= _SIMPLE_CHARACTERS)
        for value in arguments.values()
    )


def _body(path: str, tried: Mapping[str, Any]) -> dict[str, Any]:
    """Build the request for the trial engine: the tried fields, and as little else as possible."""
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
    if path == "/v1/completions":
        prompt = {"prompt": "Hello"}
    return {**prompt, **tried, "max_tokens": _TOKENS, **_ANY_TOKEN}


def _field(message: str, tried: Mapping[str, Any]) -> str:
    """Return which field an error of the engine is about."""
    for word, field in (
        ("Field 'json_schema'", "json_schema"),
        ("tool_choice", "tool_choice"),
        ("parse tools", "tools"),
        ("enable_thinking", "chat_template_kwargs"),
    ):
        if word in message and field in tried:
            return field
    # Where a request has several, the engine compiles the tools' grammar, and with it the response format.
    present = (name for name in ("tools", *_CONSTRAINTS, *_MODIFIERS) if tried.get(name))
    return next(present, next(iter(tried)))


def _shortened(message: str) -> str:
    first = message.removeprefix("Failed to initialize samplers: ").split("; tools = ")[0]
    first = first.removeprefix("Unable to generate parser for this template. Automatic parser generation failed: ")
    if first == "std::exception":  # it begins with the answer's first words, which the vocabulary spells otherwise
        return "it cannot be combined with this model's chat template"
    return " ".join(first.split())[:300] or "without a reason"


def _unavailable(reason: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason, code="not_ready", retry_after_s=_RETRY_AFTER_S)
