"""The Jinja environment for chat templates: Jinja's immutable sandbox with the conventions of Transformers.

Block lines leave no white space (`trim_blocks`, `lstrip_blocks`), loops support `break` and `continue`, the text in
`{% generation %}` blocks is rendered unchanged, `tojson` does not escape HTML, and `raise_exception` and `strftime_now`
are defined. See https://huggingface.co/docs/transformers/chat_templating_writing. llama-cpp-python renders the same
way; a test compares the two. Beyond that, only data is printed: the description of an object would hold addresses.

The environment has no resource limits: `sandbox_process` sets them for its process.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRaised(Exception):
    """Raised by the template itself with `raise_exception`, to refuse a conversation."""


class _Generation(Extension):
    """Support `{% generation %} … {% endgeneration %}`, which marks the model's own text for training. The text inside
    is rendered unchanged.
    """

    tags = {"generation"}  # noqa: RUF012 - declared like this in the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_printable
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def date_variables(now: datetime) -> dict[str, Any]:
    """Return the only template variable that depends on the time, `strftime_now`, fixed at `now` so that a rendering is
    reproducible.
    """
    return {"strftime_now": now.strftime}


def _printable(value: object) -> object:
    """Return a value that is about to be printed. Raises SecurityError for an object: its description has addresses."""
    if value is None or isinstance(value, str | int | float | Undefined):
        return value
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, Undefined):
                raise SecurityError("a template may not print a list with an undefined item")
            _printable(item)
        return value
    raise SecurityError(f"a template may not print a {type(value).__name__}")


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRaised(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
