"""Check that a chat template renders turns faithfully: none is made up, no answer begun, no role changed.

A *marker* is the text by which a template opens the turn of a role, such as `<|im_start|>user`. It is found by
comparing the text before two messages of one role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from paddock.chat.probes import Aspect
from paddock.chat.split import SplitRendering
from paddock.chat.text import DATE_WORDS, words
from paddock.model.finding import Finding, Severity

_CURE: Final = "use the family's template instead"
_ROLES: Final = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "model", "bot", "gpt", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer", "sys"), "system"),
}
_BEFORE_ANSWER: Final = frozenset(
    words("""
    user assistant model human bot gpt chatbot ai inst end of turn start begin beginning role header message response
    answer output text token sentence name all think thinking thought thoughts reasoning reason reflection analysis
    analyze final channel self steps step no low medium high none enabled disabled on off detailed mode effort here are
    my the is to
    """)
)
"""Words that templates of reasoning models put before an answer: a switch, or the start of a thought."""
_MARKER: Final = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")


def check_turns(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    plain = [rendering for rendering in renderings if _is_regular(rendering)]
    yield from _check_made_up_turns(plain)
    yield from _check_answers(plain)
    yield from _check_role_changes(plain)


def _is_regular(rendering: SplitRendering) -> bool:
    """Whether each message occurs once and in order, so that each fragment is the text before a known message."""
    return (
        rendering.probe.has_unique_contents
        and rendering.is_complete
        and rendering.in_order
        and not rendering.repeated
        and rendering.probe.aspect is not Aspect.TOOLS
        and len(rendering.fragments) == len(rendering.probe.contents) + 1
    )


def _check_made_up_turns(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Count the turns of each role. A system message may be rendered as a turn of the user, and one more turn of the
    assistant is the one to be answered."""
    second = next((rendering for rendering in renderings if rendering.probe.aspect is Aspect.SECOND), None)
    five = next((rendering for rendering in renderings if len(rendering.probe.contents) == 5), None)
    if second is None or five is None:
        return
    user = _opening(second.fragments[0], second.fragments[2])
    assistant = _opening(five.fragments[1], five.fragments[3])
    if user is None or assistant is None or user == assistant:
        return
    for role, opening in (("user", user), ("assistant", assistant)):
        for rendering in renderings:
            allowed = sum(one == role for one, _ in rendering.probe.contents)
            allowed += 1 if role == "assistant" or rendering.probe.has_system else 0
            count = sum(fragment.count(opening) for fragment in rendering.fragments)
            if count > allowed:
                message = f"the template makes up a turn of the {role}: {opening[:60]!r} occurs {count} times"
                yield Finding(
                    "template.made-up-turn", Severity.REJECT, message, f"probe: {rendering.probe.name}", _CURE
                )
                return


def _opening(one: str, other: str) -> str | None:
    """The marker of a role in the common end of the fragments before its messages; None if there is none."""
    common = _common_end(one, other)
    roles = [match for match in re.finditer(r"[^\W\d_]+", common) if match[0].lower() in _ROLES]
    if roles:
        start = max(common.rfind(character, 0, roles[-1].start()) for character in "<[\n")
        return common[max(start, 0) :].strip() or None
    markers = _MARKER.findall(common)
    return markers[-1] if markers else None


def _common_end(one: str, other: str) -> str:
    length = 0
    for ours, theirs in zip(reversed(one), reversed(other), strict=False):
        if ours != theirs:
            break
        length += 1
    return one[len(one) - length :]


def _check_answers(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Check that nothing is said between the user's message and the assistant's answer to it."""
    for rendering in renderings:
        contents = rendering.probe.contents
        if rendering.probe.request.tools or rendering.probe.request.extra:
            continue  # a template that needs tools explains them where it likes
        for position, fragment in enumerate(rendering.fragments[1:]):
            if contents[position][0] != "user":
                continue
            said = [word for word in words(fragment) if word not in DATE_WORDS]
            new = [word for word in said if word not in _BEFORE_ANSWER]
            if new:
                quote = " ".join(fragment.split())[-120:]
                message = f"the template adds text between a question and its answer: {quote!r}"
                yield Finding(
                    "template.forced-answer", Severity.REJECT, message, f"probe: {rendering.probe.name}", _CURE
                )
                return


def _check_role_changes(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Check that the role named last before each message is the same for all messages of one role, and is its own.

    The first question is ignored, because the text before it includes the start of the conversation.
    """
    for rendering in renderings:
        first = 2 if rendering.probe.has_system else 1
        named: dict[str, set[str]] = {"user": set(), "assistant": set()}
        for (role, _), fragment in list(zip(rendering.probe.contents, rendering.fragments, strict=False))[first:]:
            found = [_ROLES[word] for word in words(fragment, markers=True) if word in _ROLES]
            if role in named and found:
                named[role].add(found[-1])
        for role, others in named.items():
            wrong = others - {role}
            if wrong and (role in others or "system" in wrong):
                message = f"a message of the {role} is rendered as one of the {min(wrong)}"
                yield Finding("template.role-swap", Severity.REJECT, message, f"probe: {rendering.probe.name}", _CURE)
                return
