"""Variables that llama-server defines for a chat template, and the other values that each of them may have.

| variable | llama-server sets it |
|---|---|
| `messages`, `bos_token`, `eos_token` | always |
| `enable_thinking` | always, to a boolean |
| `datetime`, `date_string` | always, to the date of the request |
| `tools` | if the request has some |
| `add_generation_prompt` | if it is true |
| `reasoning_effort`, `reasoning_strength` | if the request has `reasoning_effort` |
| `preserve_thinking`, `clear_thinking`, `truncate_history_thinking`, `drop_thinking` | if the request asks for it |
| `response_format` | for some templates, to the JSON schema of the answer |

The source is `common_chat_template_direct_apply_impl` and its callers in llama.cpp's `common/chat.cpp`. A request may
set any other variable with `chat_template_kwargs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

_THINKING: Final = "enable_thinking"
_SCHEMA: Final = {"type": "object", "properties": {"horse": {"type": "string"}}}


def server_variables(now: datetime, *, bos: str, eos: str) -> dict[str, object]:
    """Return the variables that llama-server sets for every conversation, except for `messages`, and without
    `enable_thinking`, whose value depends on the template."""
    return {
        "bos_token": bos,
        "eos_token": eos,
        "datetime": now.strftime("%b %d %Y"),
        "date_string": now.strftime("%d %b %Y"),
    }


@dataclass(frozen=True, slots=True)
class Alternative:
    """Other values of some variables: `values`, and the variables in `unset` are not defined."""

    name: str
    values: Mapping[str, object] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def concerns(self, source: str) -> bool:
        """Whether a template names one of the variables. A template cannot compute the name of a variable."""
        names = {*self.values, *self.unset}
        return any(name in source for name in (names - {_THINKING} or names))


def kept_thoughts(*, keep: bool) -> dict[str, object]:
    """Return the variables that `preserve_reasoning` sets: whether earlier thoughts stay in the prompt."""
    return {
        "preserve_thinking": keep,
        "clear_thinking": not keep,
        "truncate_history_thinking": not keep,
        "drop_thinking": not keep,
    }


def effort_variables(effort: str) -> dict[str, object]:
    """Return the variables that the field `reasoning_effort` of a request sets."""
    return {"reasoning_effort": effort, "reasoning_strength": effort}


ALTERNATIVES: Final = (
    Alternative("with thinking", {_THINKING: True}),
    Alternative("without thinking", {_THINKING: False}),
    Alternative("tools not defined", unset=("tools",)),
    Alternative("a generation prompt not defined", unset=("add_generation_prompt",)),
    Alternative("no date", unset=("datetime", "date_string")),
    Alternative("no begin and end tokens", {"bos_token": "", "eos_token": ""}),
    *(
        Alternative(f"{effort} effort", {_THINKING: True, **effort_variables(effort)})
        for effort in ("minimal", "low", "medium", "high", "xhigh")
    ),
    Alternative("thoughts kept", {_THINKING: True, **kept_thoughts(keep=True)}),
    Alternative("thoughts dropped", {_THINKING: True, **kept_thoughts(keep=False)}),
    Alternative("a response format", {"response_format": _SCHEMA}),
)
"""Each is rendered with the variables that it does not name as Transformers sets them, which other engines imitate:
`tools` is None where there are none, `add_generation_prompt` is false, and no other is defined beside the date."""
