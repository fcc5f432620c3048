"""The Jinja environment that a chat template is parsed and rendered in: the conventions of Transformers, in Jinja's
immutable sandbox.

Block lines leave no white space (`trim_blocks`, `lstrip_blocks`), loops know `break` and `continue`, `{% generation
%}` marks are passed through, `tojson` escapes nothing, and `raise_exception` and `strftime_now` are there.
llama-cpp-python renders the same way, and a test holds the two together. See
https://huggingface.co/docs/transformers/chat_templating_writing.

It sets no limits: that is for the process it runs in (`child`).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRaised(Exception):
    """The template called `raise_exception`: it refuses this conversation on purpose."""


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what the model wrote, for training. The text inside is rendered
    as it stands.
    """

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    return made


def clock(now: datetime) -> dict[str, Any]:
    """The one name of a template that knows the date, stopped at `now`, so that a rendering can be repeated."""
    return {"strftime_now": now.strftime}


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
