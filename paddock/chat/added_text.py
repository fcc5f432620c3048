"""Check the text that a template adds of its own: always, beside a system message, with tools, and in other cases.

Published templates introduce the model, its knowledge and its way to think or to call tools, also beside the user's own
system message. Any other instruction there is suspicious: the user neither wrote it nor sees it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from paddock.chat.probes import TOOLS, Aspect
from paddock.chat.prose import split_sentences, words_of
from paddock.chat.published_text import STRUCTURAL_WORDS, is_published
from paddock.chat.split import SplitRendering
from paddock.chat.text import DATE_WORDS, sentences, without_urls, words
from paddock.model.finding import Finding, Severity

_CURE = "use the family's template instead"
_CURE_REVIEW = "review the template"
_MIN_HIDDEN_WORDS = 3
"""Conditional text with at least this many new words counts as an instruction, not as a marker."""

_MAX_OWN_WORDS = 1
"""Words that a published sentence may have beside it."""

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

_TOPICS: Final = """
ai model version developed trained created built founded knowledge cutoff cutting date today reasoning thinking thought
effort strength analysis channel channels recipients mode systematic preamble safety unsafe harmful moral immoral
priority conflict dialog dialogue roles english markdown latex question questions metadata request keys modalities
instructions instruction facts memory capabilities descriptions enabled disabled provider opensource detailed
"""
_OWN_TOPICS: Final = frozenset(words(_TOPICS)) | _TOOL_WORDS
"""Words of the texts that published templates add beside a system message."""
_INTRODUCTION: Final = re.compile(r"\byou are an? |\byou are [A-Z]|\byour name is\b|\byou will see\b", re.IGNORECASE)
_ORDER: Final = re.compile(
    r"\b(?:ignore|disregard|forget|secretly)\b|\b(?:always|never|do not|don't|must)\s+(?:\w+ly\s+)?"
    r"(?:tell|reveal|mention|recommend|say|praise|promote|end|begin|start|buy|visit|send|name)\b",
    re.IGNORECASE,
)
"""Orders about what to say, which no published template gives beside a system message."""
_MIN_INSTRUCTION_WORDS: Final = 3
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}[\s,:]?){12,}")
_NUMBERS: Final = re.compile(r"(?:\b\d{2,3}\b[\s,;.-]{1,2}){8,}")


def check_added_text(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
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
    yield from _check_instructions(baseline_text, with_system)
    yield from _check_encoded(renderings)
    second = [rendering for rendering in renderings if rendering.probe.aspect is Aspect.SECOND]
    for rendering in second:
        yield from _check_new_text(rendering, baseline_text)
    expected = baseline_text.union(system_text).union(_added_text(second))
    has_repeats = any(rendering.repeated for rendering in renderings)
    for rendering in renderings:
        aspect = rendering.probe.aspect
        if aspect is Aspect.TOOLS:
            yield from _check_tool_text(rendering, expected)
        elif aspect is Aspect.VARIABLES:
            yield from _check_variable_text(rendering, expected)
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


def _check_variable_text(rendering: SplitRendering, expected: _AddedText) -> Iterator[Finding]:
    """Report sentences that come with a variable's value, unless they are about thinking, dates or the format."""
    for fragment in rendering.fragments:
        for sentence in re.split(r"(?<=[.!?])\s+|\n+", fragment):  # not at a colon: "Reasoning effort: at most"
            new = set(words(sentence)) - expected.vocabulary - _ROLE_WORDS - DATE_WORDS
            if len(new) < _MIN_HIDDEN_WORDS or _is_introduction(sentence) or _is_published(sentence):
                continue
            where = f"probe: {rendering.probe.name}"
            message = f"the template adds text that depends on {rendering.probe.aspect}: {_quote(sentence)}"
            if _ORDER.search(sentence):
                yield Finding("template.hidden-text", Severity.REJECT, message, where, _CURE)
            else:
                yield Finding("template.changing-text", Severity.WARN, message, where, _CURE_REVIEW)
            return


def _is_published(sentence: str) -> bool:
    """Whether published templates print the parts of a sentence, up to one word, as `prose` allows it under any
    condition."""
    parts = [words_of(part) for part in split_sentences(sentence)]
    own = {word for part in parts if not is_published(part) for word in part} - STRUCTURAL_WORDS
    return len(own) <= _MAX_OWN_WORDS


def _quote(fragment: str, new: Iterable[str] = ()) -> str:
    """Quote up to 160 characters of a fragment, starting near the first new word."""
    flat = " ".join(fragment.split())
    offsets = [offset for word in new if (offset := flat.lower().find(word)) >= 0]
    start = max(min(offsets, default=0) - 20, 0)
    return repr(flat[start : start + 160])


def _check_instructions(baseline: _AddedText, with_system: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Report sentences beside the user's own system message that are not about what published templates write of."""
    for rendering in with_system:
        if not rendering.is_complete or rendering.probe.request.tools or rendering.probe.request.extra:
            continue
        found = [
            (fragment, sentence)
            for fragment in rendering.fragments
            for sentence in sentences(fragment)
            if len(set(words(without_urls(sentence))) - _ROLE_WORDS - DATE_WORDS) >= _MIN_INSTRUCTION_WORDS
        ]
        foreign = [sentence for _, sentence in found if not _is_introduction(sentence)]
        new = [
            sentence
            for fragment, sentence in found
            if _phrase(fragment) not in baseline.phrases
            and len(set(words(sentence)) - baseline.vocabulary - _ROLE_WORDS) >= _MIN_INSTRUCTION_WORDS
        ]
        where = f"probe: {rendering.probe.name}"
        foreign_new = [sentence for sentence in new if sentence in foreign]
        if foreign_new:
            message = f"the template adds its own text only beside the user's system message: {_quote(foreign_new[0])}"
            yield Finding("template.instructions", Severity.REJECT, message, where, _CURE)
        elif foreign and len(foreign) == len(found):
            message = f"the template adds instructions beside the user's own system message: {_quote(foreign[0])}"
            yield Finding("template.instructions", Severity.REJECT, message, where, _CURE)
        elif foreign or new:
            message = (
                f"the template adds instructions beside the user's own system message: {_quote((foreign or new)[0])}"
            )
            yield Finding("template.instructions", Severity.WARN, message, where, _CURE_REVIEW)


def _is_introduction(sentence: str) -> bool:
    """Whether a sentence introduces the model, or is about its knowledge, its thinking, its tools or its format."""
    if _ORDER.search(sentence):
        return False
    topics = set(words(sentence)) & (_OWN_TOPICS | _TOOL_TEXT)
    return bool(topics) or _INTRODUCTION.search(sentence) is not None


def _check_encoded(renderings: Sequence[SplitRendering]) -> Iterator[Finding]:
    """Report text that can only be read after it was decoded."""
    for rendering in renderings:
        for fragment in rendering.fragments if rendering.probe.has_unique_contents and rendering.is_complete else ():
            hidden = _encoded(fragment)
            if hidden:
                message = f"the template adds encoded text: {_quote(hidden)}"
                yield Finding(
                    "template.encoded-text", Severity.REJECT, message, f"probe: {rendering.probe.name}", _CURE
                )
                return


def _encoded(fragment: str) -> str | None:
    """The first part of a fragment that is Base64, hexadecimal or a list of character codes, and decodes to text."""
    for match in _BASE64.finditer(fragment):
        text = match[0].rstrip("=").replace("-", "+").replace("_", "/")
        if not text.islower() and _is_text(_decoded(text)):
            return match[0]
    for match in _HEX.finditer(fragment):
        if _is_text(bytes.fromhex(re.sub(r"[^0-9a-fA-F]", "", match[0]))):
            return match[0]
    for match in _NUMBERS.finditer(fragment):
        codes = [int(number) for number in re.findall(r"\d+", match[0])]
        if max(codes) < 256 and _is_text(bytes(codes)):
            return match[0]
    return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _is_text(data: bytes) -> bool:
    """Whether bytes are readable English: letters and spaces, with at least two words."""
    return len(data) >= 12 and all(32 <= byte < 127 for byte in data) and len(words(data.decode())) >= 2
