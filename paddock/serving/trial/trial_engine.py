"""A second llama-server that compiles what a request asks the engine to compile, with limits, and may die of it.

It has the served model's vocabulary and chat template, no weights (`trial_model`), one thread, and limited memory. It
is started at its first request, and again after a request that killed it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum, auto
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx

from paddock.engine.parameters import Parameters
from paddock.serving.engine.llama_server import LlamaServer, LlamaServerProgram, engine_client
from paddock.serving.engine.process import EngineProcess
from paddock.serving.spec import ServeSpec, open_model
from paddock.serving.trial.trial_model import write_trial_model

_MEMORY_BYTES: Final = 256 * 2**20
_MEMORY_BYTES_PER_TOKEN: Final = 1024
"""Limits of its private memory, including what it reserves and never touches; the second is for each token of the
vocabulary."""
_BATCH: Final = 64
"""Few tokens at once, since buffers grow with batch times context."""
_WATCH_S: Final = 0.05
_LOG_S: Final = 0.02
"""Time for the last lines of its log to arrive."""
_NO_REASON: Final = "failed to parse grammar"
_NO_MEMORY: Final = "bad_alloc"
_REASON: Final = re.compile(
    r"(?:error parsing grammar: |(?=grammar does not contain)|unsupported grammar, )([^\n]{1,160})"
)


class Outcome(Enum):
    """`GENERATED` tokens; `REFUSED` with an error; `DIED`; used up its processor time (`SLOW`); no answer in time
    though it did not compute (`LATE`)."""

    GENERATED = auto()
    REFUSED = auto()
    DIED = auto()
    SLOW = auto()
    LATE = auto()


@dataclass(frozen=True, slots=True)
class TrialAnswer:
    """How an attempt ended. `message` is that of the error for `REFUSED`, and `kind` its type."""

    outcome: Outcome
    message: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLimits:
    """Limits of one attempt, in seconds.

    `processor_s`  processor time to compile and to generate the tokens
    `wall_s`       time in all, on a machine that is busy with other work
    `start_s`      for a start of the process
    """

    processor_s: float = 12.0
    wall_s: float = 60.0
    start_s: float = 60.0


class _ProgramWithoutGpu(LlamaServerProgram):
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CUDA_VISIBLE_DEVICES": ""}


class _TrialServer(LlamaServer):
    def __init__(self, spec: ServeSpec, program: LlamaServerProgram, *, memory_bytes: int) -> None:
        super().__init__(spec, _ProgramWithoutGpu(program.path, is_own=program.is_own))
        self._memory_bytes = memory_bytes

    def start_request(self, home: Path, model: Path, projector: Path | None = None) -> dict[str, Any]:
        request = super().start_request(home, model, projector)
        arguments = [*request["arguments"], "--device", "none", "--threads-http", "2"]
        return {**request, "arguments": arguments, "memory_limit_bytes": self._memory_bytes}

    async def check_canary(self, client: httpx.AsyncClient) -> None:
        """Without weights there is nothing to check."""


class TrialEngine:
    """The process, started when it is needed. Its files are in the directory `home`, which is made."""

    def __init__(self, spec: ServeSpec, program: LlamaServerProgram, home: Path, limits: TrialLimits) -> None:
        self._spec = spec
        self._program = program
        self._home = home
        self._limits = limits
        self._open = ExitStack()
        self._memory_bytes = 0
        self._process: EngineProcess | None = None
        self._client: httpx.AsyncClient | None = None

    @property
    def process(self) -> EngineProcess | None:
        return self._process

    async def attempt(self, path: str, body: Mapping[str, Any]) -> TrialAnswer:
        """Send a streamed request, and wait for its first tokens. One at a time.

        If the process dies that answered others before, the request is sent to a new one: memory may have been lost to
        them. Raises PaddockError if the process cannot be started.
        """
        was_running = self._process is not None
        answer = await self._attempt(path, body)
        return await self._attempt(path, body) if answer.outcome is Outcome.DIED and was_running else answer

    async def _attempt(self, path: str, body: Mapping[str, Any]) -> TrialAnswer:
        process = await self._running()
        began, used_before_s = time.monotonic(), process.processor_s()
        sending = asyncio.create_task(self._send(path, body))
        try:
            while not sending.done():
                await asyncio.wait({sending}, timeout=_WATCH_S)
                used_s = process.processor_s() - used_before_s
                if sending.done():
                    break
                if used_s > self._limits.processor_s:
                    await self.stop()
                    return TrialAnswer(Outcome.SLOW)
                if time.monotonic() - began > self._limits.wall_s:
                    await self.stop()
                    return TrialAnswer(Outcome.LATE)
            return await self._result(sending.result(), process)
        except httpx.TransportError:
            await self.stop()
            return TrialAnswer(Outcome.DIED)
        except asyncio.CancelledError:
            await self.stop()  # it may be stuck in this request
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        client, self._client = self._client, None
        if process is not None:
            await process.stop(now=True)
        if client is not None:
            await client.aclose()

    async def close(self) -> None:
        await self.stop()
        self._open.close()

    async def _result(self, answer: TrialAnswer, process: EngineProcess) -> TrialAnswer:
        """Complete an answer with the reason for it, and end a process that ran out of memory, or keeps too much."""
        if _NO_REASON in answer.message:
            await asyncio.sleep(_LOG_S)
            found = _REASON.findall(process.log_text())
            answer = replace(answer, message=found[-1].strip() if found else answer.message)
        if _NO_MEMORY in answer.message:
            answer = TrialAnswer(Outcome.DIED)
        if answer.outcome is Outcome.DIED or process.resident_bytes()[1] > self._memory_bytes / 2:
            await self.stop()
        return answer

    async def _running(self) -> EngineProcess:
        if self._process is not None and self._process.is_running:
            return self._process
        await self.stop()
        model = self._home / "model" / "trial.gguf"
        model.parent.mkdir(parents=True, exist_ok=True)
        tokens = await asyncio.to_thread(write_trial_model, self._spec.file, model)
        context = max(self._spec.parameters.n_ctx // self._spec.parameters.n_seq_max, 1)
        parameters = Parameters(n_ctx=context, n_threads=1, n_batch=_BATCH, n_ubatch=_BATCH, n_gpu_layers=0)
        spec = replace(self._spec, file=model, parameters=parameters, projector=None)
        self._memory_bytes = _MEMORY_BYTES + tokens * _MEMORY_BYTES_PER_TOKEN
        server = _TrialServer(spec, self._program, memory_bytes=self._memory_bytes)
        self._open.close()
        process = EngineProcess(server, self._open.enter_context(open_model(spec)), self._home)
        await process.start(timeout_s=self._limits.start_s)
        self._client = engine_client(self._home, self._limits.wall_s + 10)  # `_attempt` ends it before
        self._process = process
        return process

    async def _send(self, path: str, body: Mapping[str, Any]) -> TrialAnswer:
        assert self._client is not None  # noqa: S101 - set together with the process
        has_begun = False
        async with self._client.stream("POST", path, json={**body, "stream": True}) as answer:
            if answer.status_code != HTTPStatus.OK:
                return _refused(await answer.aread())
            async for line in answer.aiter_lines():
                content = line.removeprefix("data:").strip()
                if content.startswith('{"error"'):
                    return _refused(content)
                has_begun = has_begun or bool(content)
        if not has_begun:
            raise httpx.RemoteProtocolError("the answer ended before it began")
        return TrialAnswer(Outcome.GENERATED)


def _refused(content: bytes | str) -> TrialAnswer:
    try:
        error = json.loads(content)["error"]
        return TrialAnswer(Outcome.REFUSED, str(error["message"]), str(error.get("type", "")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return TrialAnswer(Outcome.REFUSED)
