"""Check that a template renders each message once, unchanged and in order, and adds no text of its own to them.

A rendering is split at the contents of its messages. The text between them is the template's own; its parts are called
*fragments*. A template is faithful if every content occurs once, complete and in order, and every fragment uses only
words that the template also adds to the shortest conversations (the baseline), independent of the conversation's
length, its contents, and the date.

`probes` defines the conversations; `audit` renders them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from paddock.chat.probes import TOOLS, Aspect, Probe
from paddock.chat.protocol import RenderResult, RenderStatus
from paddock.chat.text import DATE_WORDS, find_urls, invisible_characters, sentences, words
from paddock.model.finding import Finding, Severity

_CURE = "use the family's template instead"
_CURE_REVIEW = "review the template"
_MIN_HIDDEN_WORDS = 3
"""Conditional text with at least this many new words counts as an instruction, not as a marker."""

_MIN_TEXT_WORDS = 5
"""Added text with at least this many words (except for role names) counts as text of its own."""

_ROLE_WORDS = frozenset(
    words("""
    system user assistant model human bot gpt developer message role end start begin of turn inst sys
    """)
)
_TOOL_WORDS = frozenset(
    words("""
    tool tools function functions call calls calling called json xml argument arguments parameter parameters schema
    schemas api apis format formatted invoke invoked invoking invocation result results response output outputs python
    code query queries tag tags object name names environment notebook browser computer block namespace param params
    value values string strings responses narzędzi narzędzia herramientas outils werkzeuge 工 具
    """)
)
_IDENTITY = re.compile(r"you are [\w-]+, an? (?:helpful )?(?:ai )?assistant", re.IGNORECASE)
_TOOL_TEXT = frozenset(words(str(TOOLS)))


@dataclass(frozen=True, slots=True)
class SplitRendering:
    """A rendering, split at the contents of its messages.

    `fragments` is the template's own text, in order. `missing` and `repeated` are the roles of messages that do not
    occur completely, or occur more than once. `in_order` ignores system messages.
    """

    probe: Probe
    fragments: tuple[str, ...]
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    in_order: bool

    @property
    def is_complete(self) -> bool:
        """Whether every message occurs completely."""
        return not self.missing


def split_rendering(probe: Probe, text: str) -> SplitRendering:
    """Locate the content of every message in a rendering, and split it there."""
    if not probe.has_unique_contents:
        return SplitRendering(probe, (text,), (), (), in_order=True)
    missing, repeated, spans, order = [], [], [], []
    for role, content in probe.contents:
        offsets = _find_all(text, content)
        if not offsets:
            missing.append(role)
            continue
        spans += [(offset, offset + len(content)) for offset in offsets]
        if role != "system":
            order.append(offsets[0])
        if len(offsets) > 1:
            repeated.append(role)
    fragments, end = [], 0
    for start, stop in sorted(spans):
        fragments.append(text[end:start])
        end = max(end, stop)
    fragments.append(text[end:])
    return SplitRendering(probe, tuple(fragments), tuple(missing), tuple(repeated), order == sorted(order))


def _find_all(text: str, content: str) -> list[int]:
    offsets, offset = [], text.find(content)
    while offset >= 0:
        offsets.append(offset)
        offset = text.find(content, offset + len(content))
    return offsets


def check_fidelity(results: Sequence[tuple[Probe, RenderResult]]) -> list[Finding]:
    """Check all renderings of one template. Each rule is reported once per aspect of the probes."""
    found: dict[tuple[str, str], Finding] = {}
    renderings = [split_rendering(probe, result.text) for probe, result in results if result.ok]
    for probe, result in results:
        if not result.ok:
            finding = _failure(probe, result)
            found.setdefault((finding.rule, f"{probe.aspect} {finding.severity}"), finding)
    for rendering in renderings:
        for finding in _check_contents(rendering):
            found.setdefault((finding.rule, rendering.probe.aspect), finding)
    for finding in [*_check_added_text(renderings), *_check_roles(renderings), *_check_characters(renderings)]:
        found.setdefault((finding.rule, finding.message), finding)
    return list(found.values())


def _failure(probe: Probe, result: RenderResult) -> Finding:
    where = f"probe: {probe.name}"
    if result.status.is_limit:
        return Finding(
            "template.budget", Severity.REJECT, f"the template exceeds a resource limit: {result.text}", where, _CURE
        )
    if result.status is RenderStatus.UNSAFE:
        message = f"the sandbox refused an operation of the template: {result.text}"
        return Finding("template.unsafe", Severity.REJECT, message, where, _CURE)
    if probe.aspect is Aspect.SYSTEM or probe.has_system:
        severity = Severity.INFO if result.status is RenderStatus.RAISED else Severity.WARN
        return Finding(
            "template.no-system",
            severity,
            f"the template refuses system messages: {result.text}",
            where,
            "put the character card into the first user message",
        )
    if probe.aspect is Aspect.TOOLS:
        return Finding(
            "template.no-tools",
            Severity.WARN,
            f"the template fails with tools: {result.text}",
            where,
            "do not use tools with this template",
        )
    if result.status is RenderStatus.RAISED:
        return Finding(
            "template.refuses",
            # A template may refuse text that looks like its own markers: it prevents a user from faking other roles.
            Severity.INFO if probe.has_markers else Severity.WARN,
            f"the template refuses a conversation because of {probe.aspect}: {result.text}",
            where,
        )
    return Finding(
        "template.fails",
        Severity.REJECT,
        f"the template fails because of {probe.aspect}: {result.text}",
        where,
        _CURE,
    )


def _check_contents(rendering: SplitRendering) -> Iterator[Finding]:
    probe, where = rendering.probe, f"probe: {rendering.probe.name}"
    if "system" in rendering.missing:
        yield Finding(
            "template.drops-system",
            Severity.WARN,
            "the system message is not rendered completely",
            where,
            "put the character card into the first user message",
        )
    lost = [role for role in rendering.missing if role != "system"]
    if lost:
        special = probe.name.startswith(("markers", "the template's own words"))
        message = f"a message of the role {lost[0]} is not rendered completely"
        yield Finding(
            "template.alters" if special else "template.drops",
            Severity.WARN if special else Severity.REJECT,
            message,
            where,
            _CURE,
        )
    if rendering.repeated:
        yield Finding(
            "template.repeats",
            Severity.REJECT,
            f"a message of the role {rendering.repeated[0]} is rendered more than once",
            where,
            _CURE,
        )
    if not rendering.in_order:
        yield Finding("template.order", Severity.REJECT, "the messages are rendered in another order", where, _CURE)


def _check_added_text(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Check the text that the template adds: always, with a system message, with tools, and in the other probes, where
    it should add nothing new.
    """
    baseline = [rendering for rendering in renderings if rendering.probe.aspect is Aspect.BASELINE]
    with_system = [rendering for rendering in renderings if rendering.probe.aspect is Aspect.SYSTEM]
    baseline_text = _added_text(baseline)
    if len(baseline_text.vocabulary - _ROLE_WORDS) >= _MIN_TEXT_WORDS:
        quote = _quote(_longest_fragment(baseline))
        message = f"the template adds its own text to every conversation without a system message: {quote}"
        yield Finding("template.default-text", Severity.INFO, message)
    system_text = _added_text(with_system)
    if len(system_text.vocabulary - _ROLE_WORDS) >= _MIN_TEXT_WORDS:
        quote = _quote(_longest_fragment(with_system))
        message = f"the template adds its own text to a system message: {quote}"
        yield Finding("template.adds-text", Severity.INFO, message)
    second = [rendering for rendering in renderings if rendering.probe.aspect is Aspect.SECOND]
    for rendering in second:
        yield from _check_new_text(rendering, baseline_text)
    expected = baseline_text.union(system_text).union(_added_text(second))
    has_repeats = any(rendering.repeated for rendering in renderings)
    for rendering in renderings:
        aspect = rendering.probe.aspect
        if aspect is Aspect.TOOLS:
            yield from _check_tool_text(rendering, expected)
        elif aspect in {Aspect.LENGTH, Aspect.DATE, Aspect.CONTENT} and (
            rendering.probe.has_unique_contents or not has_repeats
        ):
            yield from _check_new_text(rendering, expected)


def _longest_fragment(renderings: Iterable[SplitRendering]) -> str:
    fragments = (fragment for rendering in renderings for fragment in rendering.fragments)
    return max(fragments, key=lambda fragment: len(words(fragment)))


@dataclass(frozen=True, slots=True)
class _AddedText:
    """The words of fragments: `phrases` has the words of each fragment in order, `vocabulary` all words."""

    phrases: frozenset[tuple[str, ...]]
    vocabulary: frozenset[str]

    def union(self, other: _AddedText) -> _AddedText:
        return _AddedText(self.phrases | other.phrases, self.vocabulary | other.vocabulary)


def _added_text(renderings: Iterable[SplitRendering]) -> _AddedText:
    phrases = frozenset(_phrase(fragment) for rendering in renderings for fragment in rendering.fragments)
    return _AddedText(phrases, frozenset(word for phrase in phrases for word in phrase))


def _phrase(fragment: str) -> tuple[str, ...]:
    return tuple(word for word in words(fragment) if word not in DATE_WORDS)


def _check_new_text(rendering: SplitRendering, expected: _AddedText) -> Iterator[Finding]:
    """Report fragments with text that does not occur in the shortest conversations."""
    probe, where = rendering.probe, f"probe: {rendering.probe.name}"
    exact = probe.has_unique_contents and rendering.is_complete
    from_messages = set() if exact else {word for _, content in probe.contents for word in words(content, markers=True)}
    for fragment in rendering.fragments:
        phrase = _phrase(fragment)
        if phrase in expected.phrases:
            continue
        new = set(phrase) - expected.vocabulary - from_messages - _ROLE_WORDS
        is_reworded = exact and len(set(phrase) - _ROLE_WORDS) >= _MIN_TEXT_WORDS
        if len(new) >= _MIN_HIDDEN_WORDS:
            message = f"the template adds hidden text that depends on {probe.aspect}: {_quote(fragment, new)}"
            yield Finding("template.hidden-text", Severity.REJECT, message, where, _CURE)
        elif probe.aspect is not Aspect.SECOND and (new or is_reworded):
            message = f"the text that the template adds depends on {probe.aspect}: {_quote(fragment, new)}"
            yield Finding("template.changing-text", Severity.WARN, message, where, _CURE_REVIEW)


def _check_tool_text(rendering: SplitRendering, expected: _AddedText) -> Iterator[Finding]:
    for fragment in rendering.fragments:
        for sentence in sentences(fragment):
            if _IDENTITY.fullmatch(sentence.strip(" .\n")):
                continue
            new = set(words(sentence)) - expected.vocabulary - _TOOL_TEXT
            if len(new) >= _MIN_TEXT_WORDS and not _TOOL_WORDS & set(words(sentence)):
                message = f"with tools, the template adds text that is not about tools: {_quote(sentence)}"
                where = f"probe: {rendering.probe.name}"
                yield Finding("template.tools-text", Severity.WARN, message, where, _CURE_REVIEW)
                return


def _check_roles(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Check that the text before a user's message never occurs before an assistant's message, and vice versa."""
    probes = [
        rendering.probe
        for rendering in renderings
        if rendering.probe.has_unique_contents
        and rendering.is_complete
        and not rendering.repeated
        and rendering.in_order
        and _has_indistinct_roles(rendering)
    ]
    if any(probe.aspect is Aspect.SECOND for probe in probes):
        message = "the template marks the user's and the assistant's messages in the same way"
        yield Finding("template.roles", Severity.WARN, message, cure="do not use it for roleplay")
    elif probes:
        message = f"a message is rendered with the other role's marker, depending on {probes[0].aspect}"
        yield Finding("template.role-swap", Severity.REJECT, message, f"probe: {probes[0].name}", _CURE)


def _has_indistinct_roles(rendering: SplitRendering) -> bool:
    """The first message is ignored, because the text before it includes the start of the conversation."""
    before: dict[str, set[str]] = {"user": set(), "assistant": set()}
    for (role, _), fragment in list(zip(rendering.probe.contents, rendering.fragments, strict=False))[1:]:
        if role in before:
            before[role].add(fragment)
    return bool(before["user"] & before["assistant"])


def _check_characters(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Report URLs and invisible characters that appear only in the rendered text."""
    for rendering in renderings:
        if not (rendering.probe.has_unique_contents and rendering.is_complete):
            continue
        for fragment in rendering.fragments:
            invisible, urls = invisible_characters(fragment), find_urls(fragment)
            if invisible:
                message = f"the template renders invisible characters: {', '.join(invisible)}"
                yield Finding("template.invisible", Severity.WARN, message, "rendered", _CURE_REVIEW)
            if urls:
                message = f"the template renders the URL {urls[0]}"
                cure = "check whether the model should see this URL"
                yield Finding("template.url", Severity.WARN, message, "rendered", cure)


def _quote(fragment: str, new: Iterable[str] = ()) -> str:
    """Quote up to 160 characters of a fragment, starting near the first new word."""
    flat = " ".join(fragment.split())
    offsets = [offset for word in new if (offset := flat.lower().find(word)) >= 0]
    start = max(min(offsets, default=0) - 20, 0)
    return repr(flat[start : start + 160])
