"""Render untrusted chat templates, each in a sandboxed subprocess.

The subprocess has an empty environment (no tokens), limits its own memory, CPU time and output, cannot open files, and
is killed when its time is up; `protocol` defines the limits, `sandbox_process` applies them, and `sandbox_start` starts
it. All renderings of one template use the same process, so an audit starts only one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import IO, Any

from paddock.chat.protocol import MAX_SOURCE_BYTES, WALL_S, RenderResult, RenderStatus, TemplateAnalysis, output_limit
from paddock.chat.sandbox_start import SandboxedProcess, start
from paddock.chat.variables import server_variables
from paddock.errors import EngineCrashed, ModelRejected
from paddock.model.finding import Finding, Severity

_MAX_ANALYSIS_BYTES = 8 * 1024 * 1024
_INVALID_RESPONSE = (KeyError, TypeError, ValueError, AttributeError)
"""Raised when parsing a response that `sandbox_process` did not produce: the template has corrupted the process or
taken it over.
"""


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """The input of one rendering. `tools` has the format of OpenAI's API, `now` is the time for dates, `extra` are more
    variables, or other values of them, and those in `unset` are not defined (see `variables`).
    """

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]] | None = None
    add_generation_prompt: bool = True
    now: datetime = field(default_factory=datetime.now)
    extra: Mapping[str, object] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def to_json(self, *, bos: str, eos: str, with_text: bool = True) -> bytes:
        context = {
            "messages": self.messages,
            "tools": self.tools,
            "add_generation_prompt": self.add_generation_prompt,
            **server_variables(self.now, bos=bos, eos=eos),
            **self.extra,
        }
        for name in self.unset:
            context.pop(name, None)
        return json.dumps({"context": context, "now": self.now.isoformat(), "with_text": with_text}).encode()

    def as_served(self) -> RenderRequest:
        """Return the request with exactly the variables that llama-server sets, and `enable_thinking` if it is not
        given."""
        unset = [*([] if self.tools else ["tools"]), *([] if self.add_generation_prompt else ["add_generation_prompt"])]
        return replace(self, extra={"enable_thinking": True, **self.extra}, unset=(*self.unset, *unset))


class TemplateProcess:
    """A sandboxed subprocess for one template. Call `analyse` once, then `render` any number of times.

    A context manager: the subprocess starts on entry and is killed on exit. Entering raises EngineCrashed if it does
    not start. It is killed after `wall_s` seconds; with None, whoever uses it has to `kill` it in time.
    """

    def __init__(self, source: str, *, bos: str, eos: str, wall_s: float | None = WALL_S) -> None:
        self._source = source
        self._bos, self._eos = bos, eos
        self._wall_s = wall_s
        self._process: SandboxedProcess | None = None
        self._watchdog: threading.Timer | None = None

    def __enter__(self) -> TemplateProcess:
        self._process = start()
        if self._wall_s is not None:
            self._watchdog = threading.Timer(self._wall_s, self._process.kill)
            self._watchdog.daemon = True
            self._watchdog.start()
        if self._read_response(1024) is None:
            self.__exit__(None, None, None)
            raise EngineCrashed(
                "the subprocess for chat templates does not start", cure="check that jinja2 is installed"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, watchdog = self._process, self._watchdog
        if watchdog is not None:
            watchdog.cancel()
        if process is not None:
            process.close()
        self._process = None

    def kill(self) -> None:
        """End a rendering that is in progress in another thread, and any that follows."""
        process = self._process
        if process is not None:
            process.kill()

    def analyse(self) -> TemplateAnalysis:
        """Parse the template, check its syntax tree, and compile it if it is not rejected."""
        response = self._send(json.dumps({"source": self._source}).encode(), _MAX_ANALYSIS_BYTES)
        if response is not None:
            with suppress(*_INVALID_RESPONSE):
                return TemplateAnalysis.from_json(response)
        message = "the template cannot be compiled within the time and memory limits"
        return TemplateAnalysis(
            (Finding("template.budget", Severity.REJECT, message, cure="use the family's template instead"),)
        )

    def render(self, request: RenderRequest, *, with_text: bool = True) -> RenderResult:
        """Render one conversation. Never raises for the template's own failures: they are in the result's status.
        Without `with_text`, the result of a success has no text."""
        line = request.to_json(bos=self._bos, eos=self._eos, with_text=with_text)
        response = self._send(line, 12 * output_limit(len(line)) + 4096)  # a character takes at most 12 bytes of JSON
        if response is not None:
            with suppress(*_INVALID_RESPONSE):
                return RenderResult.from_json(response)
        return RenderResult(RenderStatus.KILLED, "rendering exceeded the time or memory limit")

    def _send(self, line: bytes, max_response_bytes: int) -> dict[str, Any] | None:
        requests, _ = self._pipes()
        try:
            requests.write(line)
            requests.write(b"\n")
            requests.flush()
        except BrokenPipeError:
            return None
        return self._read_response(max_response_bytes)

    def _read_response(self, max_bytes: int) -> dict[str, Any] | None:
        _, responses = self._pipes()
        line = responses.readline(max_bytes)
        if not line.endswith(b"\n"):
            return None
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        process = self._process
        if process is None:
            raise RuntimeError("a TemplateProcess can be used only inside its `with` block")
        return process.stdin, process.stdout


def render_messages(
    source: str,
    messages: Sequence[Mapping[str, object]],
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    tools: Sequence[Mapping[str, object]] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """Render a conversation with a template and return the prompt.

    Raises ModelRejected if the static check rejects the template, or if the rendering fails.
    """
    if len(source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES:
        raise ModelRejected(
            f"the chat template is larger than {MAX_SOURCE_BYTES} bytes", cure="use the family's template"
        )
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        analysis = process.analyse()
        if analysis.rejected:
            worst = next(finding for finding in analysis.findings if finding.severity is Severity.REJECT)
            raise ModelRejected(f"the chat template is unsafe: {worst.message}", cure=worst.cure)
        result = process.render(RenderRequest(messages, tools=tools, add_generation_prompt=add_generation_prompt))
    if not result.ok:
        raise ModelRejected(
            f"the chat template cannot render this conversation: {result.text}", cure="use the family's template"
        )
    return result.text
