"""Compare a candidate's chat template with the promoted one's: what it renders differently, and what it loses.

Both render the conversations of `comparison_probes`, as serving hands them to the engine: a template that knows no
system messages gets them folded into the user's. A part of a conversation is *lost* where the promoted template renders
its whole text and the candidate's does not. Where nothing is promoted, a template is compared with itself: it has to
render in every plain conversation what it renders in the simplest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from paddock.chat.card import detect_capabilities
from paddock.chat.comparison_probes import Conversation, ConversationPart, TemplateFeature, conversations
from paddock.chat.folding import fold_system_messages
from paddock.chat.protocol import RenderResult, RenderStatus, TemplateAnalysis
from paddock.chat.render import RenderRequest, TemplateProcess
from paddock.chat.template import ChatFormat
from paddock.errors import ModelRejected

_PER_PROCESS: Final = 300
"""Conversations that one process renders at most: its CPU time is limited."""
_ATTEMPTS: Final = 2
_MAX_KILLED: Final = 3
"""After as many conversations that exceed the limits the others are not tried."""
_NOT_TRIED: Final = RenderResult(RenderStatus.KILLED, "other conversations exceeded the time or memory limit")


@dataclass(frozen=True, slots=True)
class Difference:
    """A conversation that the templates render differently, and the first difference."""

    conversation: str
    text: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A part that the candidate's template loses in a conversation, and how."""

    part: ConversationPart
    conversation: str
    reason: str


@dataclass(frozen=True, slots=True)
class TemplateComparison:
    """The result of comparing two templates, or one with itself where nothing is promoted (`has_promoted` false).

    `is_same` says that the templates are equal, so that nothing was rendered. `rendered` counts the conversations.
    `kept` and `promoted_kept` count, for each part, the conversations in which each template renders all of it that
    the conversation has. Conversations of one length that grow are in ascending order in `losses`.
    """

    has_promoted: bool
    is_same: bool
    rendered: int = 0
    differences: tuple[Difference, ...] = ()
    losses: tuple[Loss, ...] = ()
    kept: dict[ConversationPart, int] | None = None
    promoted_kept: dict[ConversationPart, int] | None = None

    def lost(self, *parts: ConversationPart) -> tuple[Loss, ...]:
        return tuple(loss for loss in self.losses if loss.part in parts)


@dataclass(frozen=True, slots=True)
class _Rendering:
    """One conversation as one template renders it: the first form that it renders, and the parts kept in any form."""

    result: RenderResult
    kept: frozenset[tuple[ConversationPart, str]]

    def keeps(self, part: ConversationPart, conversation: Conversation) -> bool:
        """Whether all of a part is kept; False for a conversation without it."""
        wanted = _items(part, conversation)
        return bool(wanted) and wanted <= self.kept


def compare_templates(candidate: ChatFormat, promoted: ChatFormat | None) -> TemplateComparison:
    """Compare the template of a candidate with the promoted one.

    Templates are rendered in sandboxed processes with limits; one that exceeds a limit loses what it should have
    rendered. Raises EngineCrashed if such a process does not start.
    """
    if promoted is not None and _key(candidate) == _key(promoted):
        return TemplateComparison(has_promoted=True, is_same=True)
    formats = [candidate, *([promoted] if promoted else [])]
    chats = conversations([_analyse(chat) for chat in formats])
    with ThreadPoolExecutor(len(formats)) as threads:
        ours, *others = threads.map(lambda chat: _render(chat, chats), formats)
    theirs = others[0] if others else None
    expected = theirs or _own_standard(chats, ours)
    return TemplateComparison(
        has_promoted=promoted is not None,
        is_same=False,
        rendered=len(chats),
        differences=tuple(_differences(chats, ours, theirs)) if theirs else (),
        losses=tuple(_losses(chats, ours, expected)),
        kept=_counts(chats, ours),
        promoted_kept=_counts(chats, theirs) if theirs else None,
    )


def _items(part: ConversationPart, conversation: Conversation) -> set[tuple[ConversationPart, str]]:
    if part is ConversationPart.ORDER:
        return {(part, "")} if any(kind is ConversationPart.HISTORY for kind, _ in conversation.parts) else set()
    return {item for item in conversation.parts if item[0] is part}


def _key(chat: ChatFormat) -> tuple[str, str, str]:
    return chat.template, chat.bos, chat.eos


def _analyse(chat: ChatFormat) -> TemplateAnalysis:
    with TemplateProcess(chat.template, bos=chat.bos, eos=chat.eos) as process:
        return process.analyse()


def _render(chat: ChatFormat, chats: Sequence[Conversation]) -> list[_Rendering]:
    folds = not _knows_system_messages(chat)
    requests = [(_folded(form) if folds else form) for conversation in chats for form in conversation.forms]
    results = iter(_render_all(chat, requests))
    return [_rendering(conversation, [next(results) for _ in conversation.forms]) for conversation in chats]


def _knows_system_messages(chat: ChatFormat) -> bool:
    try:
        return detect_capabilities(chat.template, bos=chat.bos, eos=chat.eos).system
    except ModelRejected:
        return True  # it renders nothing anyway


def _folded(request: RenderRequest) -> RenderRequest:
    messages = cast("list[dict[str, Any]]", list(request.messages))
    return replace(request, messages=fold_system_messages(messages))


def _render_all(chat: ChatFormat, requests: Sequence[RenderRequest]) -> list[RenderResult]:
    """Render each request. One that exceeds the limits is tried again: they hold for all that a process renders."""
    results: list[RenderResult] = []
    killed: list[int] = []
    while len(results) < len(requests) and len(killed) < _ATTEMPTS * _MAX_KILLED:
        with TemplateProcess(chat.template, bos=chat.bos, eos=chat.eos) as process:
            process.analyse()
            for request in requests[len(results) :][:_PER_PROCESS]:
                result = process.render(request)
                if result.status is RenderStatus.KILLED:
                    killed.append(len(results))
                    if killed.count(len(results)) == _ATTEMPTS:
                        results.append(result)
                    break
                results.append(result)
    return results + [_NOT_TRIED] * (len(requests) - len(results))


def _rendering(conversation: Conversation, results: Sequence[RenderResult]) -> _Rendering:
    kept: set[tuple[ConversationPart, str]] = set()
    for result in results:
        if result.ok:
            kept.update(_kept(conversation, result.text))
    return _Rendering(next((result for result in results if result.ok), results[0]), frozenset(kept))


def _kept(conversation: Conversation, text: str) -> Iterator[tuple[ConversationPart, str]]:
    order = []
    for part, content in conversation.parts:
        offset = text.find(content)
        if offset >= 0:
            yield part, content
        if part is ConversationPart.HISTORY:
            order.append(offset)
    if order and order == sorted(order) and order[0] >= 0:
        yield ConversationPart.ORDER, ""


def _own_standard(chats: Sequence[Conversation], ours: Sequence[_Rendering]) -> list[_Rendering]:
    """The parts that one template should render in each plain conversation.

    Without tools: what it renders in any of them. With tools the same, unless it refuses tools. With tool calls: what
    it renders in the first such conversation, since published templates leave out the system message after a call.
    """
    known: dict[tuple[TemplateFeature, ConversationPart], bool] = {}
    for chat, rendering in zip(chats, ours, strict=True):
        for part in ConversationPart:
            key = chat.feature, part
            if chat.is_plain and _items(part, chat) and (key not in known or chat.feature is TemplateFeature.NONE):
                known[key] = known.get(key, False) or rendering.keeps(part, chat)
                if chat.feature is TemplateFeature.TOOLS and rendering.result.ok:
                    known[key] |= known.get((TemplateFeature.NONE, part), False)
    return [
        _Rendering(
            rendering.result,
            frozenset(
                item
                for item in (*chat.parts, (ConversationPart.ORDER, ""))
                if chat.is_plain and known.get((chat.feature, item[0])) and not rendering.result.status.is_limit
            ),
        )
        for chat, rendering in zip(chats, ours, strict=True)
    ]


def _losses(
    chats: Sequence[Conversation], ours: Sequence[_Rendering], expected: Sequence[_Rendering]
) -> Iterator[Loss]:
    for conversation, rendering, other in zip(chats, ours, expected, strict=True):
        missing = other.kept - rendering.kept
        for part in ConversationPart:
            lost = sorted(_items(part, conversation) & missing)
            if lost:
                yield Loss(part, conversation.name, _how(rendering.result, lost[0][1]))


def _how(result: RenderResult, content: str) -> str:
    if not result.ok:
        return f"it renders nothing: {result.text[:160]}"
    begin, end = content[:12] in result.text, content[-12:] in result.text
    if len(content) > 48 and (begin or end):
        return f"of {len(content):,} characters {'the end' if begin and not end else 'a piece'} is missing"
    return "it is left out"


def _differences(
    chats: Sequence[Conversation], ours: Sequence[_Rendering], theirs: Sequence[_Rendering]
) -> Iterator[Difference]:
    for conversation, rendering, other in zip(chats, ours, theirs, strict=True):
        new, old = rendering.result, other.result
        if new.ok != old.ok:
            fails, whose = (old, "the promoted one") if new.ok else (new, "the candidate")
            yield Difference(conversation.name, f"{whose} renders nothing: {fails.text[:160]}")
        elif new.ok and new.text != old.text:
            yield Difference(conversation.name, _first_difference(old.text, new.text))


def _first_difference(old: str, new: str) -> str:
    shorter = min(len(old), len(new))
    at = next((index for index, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), shorter)
    before, after = (text[max(at - 12, 0) : at + 28] for text in (old, new))
    return f"at character {at:,}: {before!r} became {after!r}"


def _counts(chats: Sequence[Conversation], renderings: Sequence[_Rendering]) -> dict[ConversationPart, int]:
    pairs = list(zip(chats, renderings, strict=True))
    return {part: sum(rendering.keeps(part, chat) for chat, rendering in pairs) for part in ConversationPart}
