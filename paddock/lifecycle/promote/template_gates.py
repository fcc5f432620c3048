"""Gates of the chat template: what it renders otherwise than the promoted one, and what it loses.

`template` is information and always passes. `system_message`, `tool_call` and `history` fail where the candidate's
template loses what the promoted one renders, or, where nothing is promoted, what it renders in the simplest
conversation of its kind.
"""

from __future__ import annotations

from typing import Final

from paddock.chat.comparison import TemplateComparison
from paddock.chat.comparison_probes import ConversationPart
from paddock.measure.gate_report import Gate

_GATES: Final = {
    "system_message": (ConversationPart.SYSTEM,),
    "tool_call": (ConversationPart.TOOLS, ConversationPart.CALL, ConversationPart.RESULT),
    "history": (ConversationPart.HISTORY, ConversationPart.ORDER),
}
_NAMES: Final = {"system_message": "system messages", "tool_call": "tools and their calls", "history": "the history"}


def template_gates(comparison: TemplateComparison) -> tuple[Gate, ...]:
    """Turn a comparison of chat templates into gates. `template` is left out where nothing is promoted."""
    same = (_renders_the_same(comparison),) if comparison.has_promoted else ()
    return (*same, *(_loses_nothing(name, parts, comparison) for name, parts in _GATES.items()))


def _renders_the_same(comparison: TemplateComparison) -> Gate:
    count, differ = comparison.rendered, len(comparison.differences)
    if comparison.is_same:
        reason = "the chat template is the promoted one's"
    elif not differ:
        reason = f"another chat template that renders all {count} conversations the same"
    else:
        first = comparison.differences[0]
        reason = f"{differ} of {count} conversations render differently, such as {first.conversation}: {first.text}"
    return Gate("template", "information", not differ, True, None, None, True, reason)


def _loses_nothing(name: str, parts: tuple[ConversationPart, ...], comparison: TemplateComparison) -> Gate:
    whose = (
        "the promoted template renders" if comparison.has_promoted else "the template renders in a short conversation"
    )
    bound = f"nothing lost of {_NAMES[name]} that {whose}"
    if comparison.is_same:
        return Gate(name, bound, None, None, None, None, True, "the chat template is the promoted one's")
    kept, before = (_count(counts, parts) for counts in (comparison.kept, comparison.promoted_kept))
    losses = comparison.lost(*parts)
    if not losses:
        nothing = f"the template renders no {_NAMES[name].removeprefix('the ')}" if not kept else "nothing is lost"
        return Gate(name, bound, kept, before, None, None, True, f"{nothing}, in {comparison.rendered} conversations")
    first = losses[0]
    lost_in = len({loss.conversation for loss in losses})
    reason = (
        f"{first.part} is lost in {lost_in} of {comparison.rendered} conversations, such as {first.conversation}:"
        f" {first.reason}"
    )
    return Gate(name, bound, kept, before, None, None, False, reason)


def _count(counts: dict[ConversationPart, int] | None, parts: tuple[ConversationPart, ...]) -> int | None:
    """In how many conversations the parts are kept, of the one that is kept most often."""
    return max(counts[part] for part in parts) if counts is not None else None
