"""The process that a template is parsed and rendered in. It is started by `render`, holds no secret, and limits
itself before it reads a byte.

It speaks lines of JSON: `{}` when it is ready; the source comes in, and what `static` says goes out; then one line
for each rendering, in order. A rendering's answer is `{"status": …, "text": …}`, where the status is `ok`, `raised`
(the template refused on purpose), `error`, `unsafe` (the sandbox stepped in), or a limit. A limit that it cannot
survive ends the process with a signal, and the parent draws its own conclusion.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any, TextIO

from jinja2 import Environment, Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError

from paddock.chat import ast_audit
from paddock.chat.protocol import ADDRESS_SPACE_BYTES, BATCH_CPU_S, STEP_CPU_S, Analysis, Rendered, Status, output_limit
from paddock.chat.sandbox import TemplateRaised, clock, environment


def main() -> None:
    answers = sys.stdout
    engine = environment()
    _warm(engine)
    _limit()
    _say(answers, {})
    source = json.loads(sys.stdin.readline())["source"]
    _start_clock()
    analysis, template = _analyse(engine, source)
    _say(answers, analysis.to_json())
    for line in sys.stdin:
        _start_clock()
        _say(answers, _render(template, json.loads(line), limit=output_limit(len(line))).to_json())


def _warm(engine: Environment) -> None:
    """Load what Jinja and Python load late: soon no file can be opened."""
    engine.from_string("{{ strftime_now('%B') ~ [1]|tojson }}").render(clock(datetime.fromisoformat("2020-01-01")))
    try:
        engine.from_string("{{ nothing.at.all }}").render()
    except UndefinedError:
        return


def _limit() -> None:
    """CPU time is counted by a timer whose signal ends the process, also inside a long operation of the interpreter."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + BATCH_CPU_S + 1
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _start_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, STEP_CPU_S)


def _analyse(engine: Environment, source: str) -> tuple[Analysis, Template | None]:
    try:
        tree = engine.parse(source)
        analysis = ast_audit.analyse(tree)
        return analysis, None if analysis.rejected else engine.from_string(tree)
    except TemplateSyntaxError as error:
        return ast_audit.unusable(
            "template.syntax", f"it does not parse: {error.message}", f"line {error.lineno}"
        ), None
    except RecursionError:
        return ast_audit.unusable("template.depth", "it is nested too deeply"), None
    except MemoryError:
        return ast_audit.unusable("template.budget", "it takes more memory to compile than a template may have"), None
    except Exception as error:  # a stranger's program: whatever it raises in Jinja is its own fault
        return ast_audit.unusable("template.syntax", f"it does not compile: {_words(error)}"), None


def _render(template: Template | None, request: dict[str, Any], *, limit: int) -> Rendered:
    if template is None:
        return Rendered(Status.ERROR, "the template was not compiled")
    size = 0
    pieces = []
    try:
        for piece in template.generate(**request["context"], **clock(datetime.fromisoformat(request["now"]))):
            size += len(piece)
            if size > limit:
                return Rendered(Status.OUTPUT, f"more than {limit} characters")
            pieces.append(piece)
        return Rendered(Status.OK, "".join(pieces))
    except TemplateRaised as error:
        return Rendered(Status.RAISED, str(error)[:500])
    except SecurityError as error:
        return Rendered(Status.UNSAFE, _words(error))
    except MemoryError:
        pieces.clear()
        return Rendered(Status.MEMORY, "out of memory")
    except RecursionError:
        return Rendered(Status.DEPTH, "recursion without end")
    except OverflowError as error:
        return Rendered(Status.RANGE, _words(error))
    except Exception as error:  # as above
        return Rendered(Status.ERROR, _words(error))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _say(answers: TextIO, value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
