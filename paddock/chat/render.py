"""Renders templates that nobody trusts, each in a process of its own.

The process has no token and nothing else in its environment, limits its own memory, processor time and output
(`limits`), can open no file, and is killed when the time is up. All renderings of one template go to one process: an
audit costs one start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from paddock.chat.protocol import SOURCE_BYTES, WALL_S, Analysis, Rendered, Status, output_limit
from paddock.errors import EngineCrashed, ModelRejected
from paddock.model.finding import Finding, Severity

_ROOT = str(Path(__file__).resolve().parents[2])
_START = f"import sys; sys.path.insert(0, {_ROOT!r}); from paddock.chat.sandbox_process import main; main()"
_ANSWER_BYTES = 8 * 1024 * 1024
_NO_ANSWER = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that our own code did not give: the template has broken the process, or taken it
over.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One rendering that is wanted. `tools` are in the form of OpenAI's API; `now` is what `strftime_now` will say;
    `extra` are further names.
    """

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]] | None = None
    add_generation_prompt: bool = True
    now: datetime = field(default_factory=datetime.now)
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_json(self, *, bos: str, eos: str) -> str:
        context = {
            "messages": self.messages,
            "tools": self.tools,
            "add_generation_prompt": self.add_generation_prompt,
            "bos_token": bos,
            "eos_token": eos,
            "functions": None,  # llama-cpp-python always defines these three
            "function_call": None,
            "tool_choice": None,
            **self.extra,
        }
        return json.dumps({"context": context, "now": self.now.isoformat()})


class TemplateProcess:
    """A process for one template: `analyse` first, then any number of `render`. A context manager; nothing starts
    before it is entered.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._source = source
        self._bos, self._eos = bos, eos
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: threading.Timer | None = None

    def __enter__(self) -> TemplateProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C"},
            cwd="/",
        )
        self._watchdog = threading.Timer(WALL_S, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        if self._answer(1024) is None:
            self.__exit__(None, None, None)
            raise EngineCrashed(
                "the process that renders chat templates does not start", cure="check that jinja2 is installed"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, watchdog = self._process, self._watchdog
        if process is None or watchdog is None:
            return
        process.kill()
        process.wait()
        watchdog.cancel()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not yet written is lost with the process
                if stream:
                    stream.close()
        self._process = None

    def analyse(self) -> Analysis:
        """Parse, judge the syntax tree, and compile what is not rejected by it."""
        answer = self._ask(json.dumps({"source": self._source}), _ANSWER_BYTES)
        if answer is not None:
            with suppress(*_NO_ANSWER):
                return Analysis.from_json(answer)
        message = "it cannot be compiled within the time and memory that a template may have"
        return Analysis(
            (Finding("template.budget", Severity.REJECT, message, cure="use the family's template instead"),)
        )

    def render(self, request: Request) -> Rendered:
        line = request.to_json(bos=self._bos, eos=self._eos)
        answer = self._ask(line, 12 * output_limit(len(line)) + 4096)  # a character is at most 12 bytes of JSON
        if answer is not None:
            with suppress(*_NO_ANSWER):
                return Rendered.from_json(answer)
        return Rendered(Status.KILLED, "it did not end within the time and memory that a template may have")

    def _ask(self, line: str, answer_bytes: int) -> dict[str, Any] | None:
        requests, _ = self._pipes()
        try:
            requests.write(line.encode() + b"\n")
            requests.flush()
        except BrokenPipeError:
            return None
        return self._answer(answer_bytes)

    def _answer(self, at_most: int) -> dict[str, Any] | None:
        _, answers = self._pipes()
        line = answers.readline(at_most)
        if not line.endswith(b"\n"):
            return None
        try:
            value = json.loads(line)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("a TemplateProcess answers inside its `with` block only")
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
    """The prompt that a template makes of a conversation. Raises ModelRejected when it may not be rendered, or does
    not render.
    """
    if len(source.encode(errors="surrogatepass")) > SOURCE_BYTES:
        raise ModelRejected(f"the chat template is larger than {SOURCE_BYTES} bytes", cure="use the family's template")
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        analysis = process.analyse()
        if analysis.rejected:
            worst = next(finding for finding in analysis.findings if finding.severity is Severity.REJECT)
            raise ModelRejected(f"the chat template may not be rendered: {worst.message}", cure=worst.cure)
        rendered = process.render(Request(messages, tools=tools, add_generation_prompt=add_generation_prompt))
    if not rendered.ok:
        raise ModelRejected(
            f"the chat template does not render this conversation: {rendered.text}", cure="use the family's template"
        )
    return rendered.text
