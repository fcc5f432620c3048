"""The sandboxed subprocess that parses and renders one template.

`sandbox_server` forks it, without secrets in its environment. It sets its resource limits before it reads any input.

The protocol is JSON, one object per line. The process writes `{}` when it is ready. It reads `{"source": …}` and writes
the analysis of `ast_audit`. Then it reads one request per rendering, and writes `{"status": …, "text": …}` for each, in
order; `protocol.RenderStatus` lists the statuses. A limit that the process cannot handle kills it with a signal, which
the parent reports as `killed`.
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
from paddock.chat.protocol import (
    ADDRESS_SPACE_BYTES,
    BATCH_CPU_S,
    STEP_CPU_S,
    RenderResult,
    RenderStatus,
    TemplateAnalysis,
    output_limit,
)
from paddock.chat.published_text import published_digests
from paddock.chat.sandbox import TemplateRaised, date_variables, make_environment


def prepare() -> Environment:
    """Make the Jinja environment, and import all that a rendering needs."""
    environment = make_environment()
    _preload(environment)
    return environment


def run(environment: Environment) -> None:
    """Analyse and render the template that is read from standard input, until that ends."""
    responses = sys.stdout
    _apply_limits()
    _write(responses, {})
    source = json.loads(sys.stdin.readline())["source"]
    _start_cpu_timer()
    analysis, template = _analyse(environment, source)
    _write(responses, analysis.to_json())
    for line in sys.stdin:
        _start_cpu_timer()
        _write(responses, _render(template, json.loads(line), limit=output_limit(len(line))).to_json())


def _preload(environment: Environment) -> None:
    """Read what is read lazily, and trigger the lazy imports of Jinja and Python: no file can be opened later."""
    published_digests()
    environment.from_string("{{ strftime_now('%B') ~ [1]|tojson }}").render(
        date_variables(datetime.fromisoformat("2020-01-01"))
    )
    try:
        environment.from_string("{{ nothing.at.all }}").render()
    except UndefinedError:
        return


def _apply_limits() -> None:
    """Limit CPU time, memory and files. `_start_cpu_timer` limits the CPU time of each step: the signal of its timer
    kills the process even inside a long operation of the interpreter.
    """
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


def _start_cpu_timer() -> None:
    signal.setitimer(signal.ITIMER_PROF, STEP_CPU_S)


def _analyse(environment: Environment, source: str) -> tuple[TemplateAnalysis, Template | None]:
    try:
        tree = environment.parse(source)
        analysis = ast_audit.analyse(tree)
        return analysis, None if analysis.rejected else environment.from_string(tree)
    except TemplateSyntaxError as error:
        return ast_audit.unusable("template.syntax", f"syntax error: {error.message}", f"line {error.lineno}"), None
    except RecursionError:
        return ast_audit.unusable("template.depth", "it is nested too deeply"), None
    except MemoryError:
        return ast_audit.unusable("template.budget", "compiling it exceeds the memory limit"), None
    except Exception as error:  # untrusted code: any exception it causes in Jinja is a defect of the template
        return ast_audit.unusable("template.syntax", f"it does not compile: {_describe(error)}"), None


def _render(template: Template | None, request: dict[str, Any], *, limit: int) -> RenderResult:
    if template is None:
        return RenderResult(RenderStatus.ERROR, "the template was not compiled")
    size = 0
    pieces = []
    try:
        for piece in template.generate(**request["context"], **date_variables(datetime.fromisoformat(request["now"]))):
            size += len(piece)
            if size > limit:
                return RenderResult(RenderStatus.OUTPUT, f"the output has more than {limit} characters")
            if request["with_text"]:
                pieces.append(piece)
        return RenderResult(RenderStatus.OK, "".join(pieces))
    except TemplateRaised as error:
        return RenderResult(RenderStatus.RAISED, str(error)[:500])
    except SecurityError as error:
        return RenderResult(RenderStatus.UNSAFE, _describe(error))
    except MemoryError:
        pieces.clear()
        return RenderResult(RenderStatus.MEMORY, "out of memory")
    except RecursionError:
        return RenderResult(RenderStatus.DEPTH, "the recursion limit was exceeded")
    except OverflowError as error:
        return RenderResult(RenderStatus.RANGE, _describe(error))
    except Exception as error:  # untrusted code, as above
        return RenderResult(RenderStatus.ERROR, _describe(error))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _write(responses: TextIO, value: object) -> None:
    responses.write(json.dumps(value) + "\n")
    responses.flush()
