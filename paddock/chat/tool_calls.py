"""Check that a template renders the calls of tools as they were made.

The probes are conversations with one tool call and its result. Many templates render no calls, which is no defect; one
that renders the call's name has to render its arguments, whatever they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from paddock.chat.probes import TOOLS, Probe
from paddock.chat.protocol import RenderResult
from paddock.model.finding import Finding, Severity

_NAME: Final = "paddock_lookup"
_VALUE: Final = "sorrel7731"
_MAX_NAMES: Final = 8


def tool_call_probes(first: Probe, texts: Sequence[str]) -> list[tuple[str, str, Probe]]:
    """Return (function's name, value of its argument, probe) of conversations with a tool call. `first` is a
    conversation of one question. Triggers among `texts` that may be names are called, and are in the arguments."""
    names = [text for text in texts if text.isidentifier() and text.isascii() and len(text) > 2]
    value = " ".join([_VALUE, *(text for text in texts if text.isalpha() and text.isascii())][:16])
    probes = []
    for name in (_NAME, *names[:_MAX_NAMES]):
        for arguments in ({"horse": value}, json.dumps({"horse": value})):
            call = {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}
            messages = [
                *first.request.messages,
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call00001", "name": "stable", "content": "The stall is empty."},
            ]
            probes.append((name, value, replace(first, request=replace(first.request, messages=messages, tools=TOOLS))))
    return probes


def check_tool_calls(
    question: RenderResult, results: Sequence[tuple[str, str, Probe, RenderResult]]
) -> Iterator[Finding]:
    """Check the renderings of `tool_call_probes`. `question` is the rendering without a call. Arguments may be rendered
    in one of their two forms alone."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, value, _, result in results:
        if result.ok:
            by_name.setdefault(name, []).append((value, result.text))
    if not any(text.count(_NAME) > question.text.count(_NAME) for _, text in by_name.get(_NAME, ())):
        return
    for name, renderings in by_name.items():
        if not any(value in text for value, text in renderings):
            message = f"the template renders a call of the tool {name[:40]!r} without its arguments as they are"
            where, cure = "probe: a tool call", "use the family's template instead"
            yield Finding("template.rewrites-tool-calls", Severity.REJECT, message, where, cure)
            return
