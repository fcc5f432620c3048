"""Check requests in a trial engine of the real model's vocabulary, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddock.serving.engine.llama_server import find_program
from paddock.serving.requests.parse import EngineRequest, RequestRefused
from paddock.serving.spec import ServeSpec
from paddock.serving.trial.request_trial import RequestTrial, TrialQueue
from paddock.serving.trial.trial_engine import TrialLimits

TOOL_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A template with a format for tool calls that llama.cpp recognises."""


@dataclass(frozen=True)
class TrialThread:
    """A trial whose event loop runs in a thread of its own."""

    trial: RequestTrial
    loop: asyncio.AbstractEventLoop

    def check(self, body: dict[str, Any], *, path: str = "/v1/chat/completions") -> RequestRefused | None:
        """Return how a request is refused, or None."""
        return self.begin(body, path=path).result(120)

    def begin(self, body: dict[str, Any], *, path: str = "/v1/chat/completions") -> Future[RequestRefused | None]:
        """Check a request without waiting for the result."""
        request = EngineRequest(path, body, stream=False, include_usage=False)

        async def check() -> RequestRefused | None:
            try:
                await self.trial.check(request)
            except RequestRefused as refused:
                return refused
            return None

        return asyncio.run_coroutine_threadsafe(check(), self.loop)

    @property
    def pid(self) -> int | None:
        return self.trial.process.pid if self.trial.process else None


@contextmanager
def trial_thread(
    spec: ServeSpec,
    home: Path,
    *,
    template: str | None = None,
    processor_s: float = 12.0,
    queue: TrialQueue | None = None,
) -> Iterator[TrialThread]:
    """A trial for a spec, with another chat template if one is given."""
    if template is not None:
        spec = replace(spec, chat=replace(spec.chat, template=template))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    limits = TrialLimits(processor_s=processor_s)
    trial = RequestTrial(spec, find_program(None), home, limits=limits, queue=queue)
    try:
        yield TrialThread(trial, loop)
    finally:
        asyncio.run_coroutine_threadsafe(trial.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
