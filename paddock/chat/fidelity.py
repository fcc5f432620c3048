"""Whether a template says what the messages say, and nothing more that depends on them.

A rendering is cut at the contents of its messages. What is left are *segments*: the template's own text. In a
faithful template each content is there once, whole and in order, and the words of every segment are those that it
also adds to the shortest conversations (the baseline), however long the conversation is, whatever it holds, and on
whatever day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from paddock.chat.probes import TOOLS, About, Probe
from paddock.chat.protocol import Rendered, Status
from paddock.chat.text import DATE_WORDS, invisible, sentences, urls, words
from paddock.model.finding import Finding, Severity

_CURE = "use the family's template instead"
_HIDDEN_WORDS = 3
"""From this many new words on, text that comes and goes is taken for an instruction, and not for a mark."""

_REMARK_WORDS = 5
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
class Reading:
    """A rendering cut at its contents. `missing` and `repeated` are roles; `segments` the template's own text, in
    order.
    """

    probe: Probe
    text: str
    segments: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    in_order: bool

    @property
    def whole(self) -> bool:
        return not self.missing


def read(probe: Probe, text: str) -> Reading:
    """Find every content in a rendering."""
    if not probe.findable:
        return Reading(probe, text, (text,), (), (), (), in_order=True)
    missing, repeated, spans, order = [], [], [], []
    for role, content in probe.contents:
        places = _places(text, content)
        if not places:
            missing.append(role)
            continue
        spans += [(at, at + len(content)) for at in places]
        if role != "system":
            order.append(places[0])
        if len(places) > 1:
            repeated.append(role)
    segments, end = [], 0
    for start, stop in sorted(spans):
        segments.append(text[end:start])
        end = max(end, stop)
    segments.append(text[end:])
    return Reading(probe, text, tuple(segments), tuple(spans), tuple(missing), tuple(repeated), order == sorted(order))


def _places(text: str, content: str) -> list[int]:
    places, at = [], text.find(content)
    while at >= 0:
        places.append(at)
        at = text.find(content, at + len(content))
    return places


def judge(results: Sequence[tuple[Probe, Rendered]]) -> list[Finding]:
    """The findings of all renderings of one template, each rule once for what the probes are about."""
    found: dict[tuple[str, str], Finding] = {}
    readings = [read(probe, rendered.text) for probe, rendered in results if rendered.ok]
    for probe, rendered in results:
        if not rendered.ok:
            finding = _failure(probe, rendered)
            found.setdefault((finding.rule, f"{probe.about} {finding.severity}"), finding)
    for reading in readings:
        for finding in _contents(reading):
            found.setdefault((finding.rule, reading.probe.about), finding)
    for finding in [*_additions(readings), *_roles(readings), *_seen(readings)]:
        found.setdefault((finding.rule, finding.message), finding)
    return list(found.values())


def _failure(probe: Probe, rendered: Rendered) -> Finding:
    where = f"probe: {probe.name}"
    if rendered.status.is_limit:
        return Finding(
            "template.budget", Severity.REJECT, f"it takes more than a template may have: {rendered.text}", where, _CURE
        )
    if rendered.status is Status.UNSAFE:
        return Finding("template.unsafe", Severity.REJECT, f"the sandbox stopped it: {rendered.text}", where, _CURE)
    if probe.about is About.SYSTEM or probe.has_system:
        severity = Severity.INFO if rendered.status is Status.RAISED else Severity.WARN
        return Finding(
            "template.no-system",
            severity,
            f"it refuses system messages: {rendered.text}",
            where,
            "put the card into the first user message",
        )
    if probe.about is About.TOOLS:
        return Finding(
            "template.no-tools",
            Severity.WARN,
            f"it fails when tools are given: {rendered.text}",
            where,
            "do not offer it tools",
        )
    if rendered.status is Status.RAISED:
        return Finding(
            "template.refuses",
            # To refuse what looks like its own marks is a template's right, and keeps a user from speaking as another.
            Severity.INFO if probe.marks else Severity.WARN,
            f"it refuses a conversation because of {probe.about}: {rendered.text}",
            where,
        )
    return Finding(
        "template.fails", Severity.REJECT, f"it fails because of {probe.about}: {rendered.text}", where, _CURE
    )


def _contents(reading: Reading) -> Iterator[Finding]:
    probe, where = reading.probe, f"probe: {reading.probe.name}"
    if "system" in reading.missing:
        yield Finding(
            "template.drops-system",
            Severity.WARN,
            "the system message does not reach the model whole",
            where,
            "put the card into the first user message",
        )
    lost = [role for role in reading.missing if role != "system"]
    if lost:
        special = probe.name.startswith(("markers", "the template's own words"))
        message = f"a content of the role {lost[0]} does not reach the model whole"
        yield Finding(
            "template.alters" if special else "template.drops",
            Severity.WARN if special else Severity.REJECT,
            message,
            where,
            _CURE,
        )
    if reading.repeated:
        yield Finding(
            "template.repeats",
            Severity.REJECT,
            f"a content of the role {reading.repeated[0]} reaches the model more than once",
            where,
            _CURE,
        )
    if not reading.in_order:
        yield Finding("template.order", Severity.REJECT, "the contents reach the model in another order", where, _CURE)


def _additions(readings: Sequence[Reading]) -> Iterator[Finding]:
    """What the template adds: always, with a system message, with tools, and where it should add nothing new."""
    baseline = [reading for reading in readings if reading.probe.about is About.BASELINE]
    with_system = [reading for reading in readings if reading.probe.about is About.SYSTEM]
    always = _said(baseline)
    if len(always.vocabulary - _ROLE_WORDS) >= _REMARK_WORDS:
        text = max(
            (segment for reading in baseline for segment in reading.segments), key=lambda segment: len(words(segment))
        )
        message = f"it adds text of its own to every conversation without a system message: {_quote(text)}"
        yield Finding("template.default-text", Severity.INFO, message)
    beside = _said(with_system)
    if len(beside.vocabulary - _ROLE_WORDS) >= _REMARK_WORDS:
        text = max(
            (segment for reading in with_system for segment in reading.segments),
            key=lambda segment: len(words(segment)),
        )
        yield Finding(
            "template.adds-text", Severity.INFO, f"it adds text of its own beside a system message: {_quote(text)}"
        )
    second = [reading for reading in readings if reading.probe.about is About.SECOND]
    for reading in second:
        yield from _unknown(reading, always)
    known = always.joined(beside).joined(_said(second))
    doubles = any(reading.repeated for reading in readings)
    for reading in readings:
        about = reading.probe.about
        if about is About.TOOLS:
            yield from _tool_text(reading, known)
        elif about in {About.LENGTH, About.DATE, About.CONTENT} and not (doubles and not reading.probe.findable):
            yield from _unknown(reading, known)


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What segments say: each one's words in order, and all words."""

    phrases: frozenset[tuple[str, ...]]
    vocabulary: frozenset[str]

    def joined(self, other: _Conversation) -> _Conversation:
        return _Conversation(self.phrases | other.phrases, self.vocabulary | other.vocabulary)


def _said(readings: Iterable[Reading]) -> _Conversation:
    phrases = frozenset(_phrase(segment) for reading in readings for segment in reading.segments)
    return _Conversation(phrases, frozenset(word for phrase in phrases for word in phrase))


def _phrase(segment: str) -> tuple[str, ...]:
    return tuple(word for word in words(segment) if word not in DATE_WORDS)


def _unknown(reading: Reading, known: _Conversation) -> Iterator[Finding]:
    """Segments that say what no segment of the shortest conversations says."""
    probe, where = reading.probe, f"probe: {reading.probe.name}"
    exact = probe.findable and reading.whole
    spoken = set() if exact else {word for _, content in probe.contents for word in words(content, markers=True)}
    for segment in reading.segments:
        phrase = _phrase(segment)
        if phrase in known.phrases:
            continue
        new = set(phrase) - known.vocabulary - spoken - _ROLE_WORDS
        told_anew = exact and len(set(phrase) - _ROLE_WORDS) >= _REMARK_WORDS
        if len(new) >= _HIDDEN_WORDS:
            message = f"text that no message holds comes and goes with {probe.about}: {_quote(segment, new)}"
            yield Finding("template.hidden-text", Severity.REJECT, message, where, _CURE)
        elif probe.about is not About.SECOND and (new or told_anew):
            message = f"what it adds changes with {probe.about}: {_quote(segment, new)}"
            yield Finding("template.changing-text", Severity.WARN, message, where, "read the template with care")


def _tool_text(reading: Reading, known: _Conversation) -> Iterator[Finding]:
    for segment in reading.segments:
        for sentence in sentences(segment):
            if _IDENTITY.fullmatch(sentence.strip(" .\n")):
                continue
            said = set(words(sentence)) - known.vocabulary - _TOOL_TEXT
            if len(said) >= _REMARK_WORDS and not _TOOL_WORDS & set(words(sentence)):
                message = f"with tools it adds text that does not speak of tools: {_quote(sentence)}"
                yield Finding(
                    "template.tools-text",
                    Severity.WARN,
                    message,
                    f"probe: {reading.probe.name}",
                    "read the template with care",
                )
                return


def _roles(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Whether user and assistant can be told apart: what stands before the one never stands before the other."""
    talks = [reading for reading in readings if reading.probe.findable and reading.whole and not reading.repeated]
    alike = [reading.probe for reading in talks if reading.in_order and _are_alike(reading)]
    if any(probe.about is About.SECOND for probe in alike):
        message = "what stands before the user's and before the assistant's messages is the same"
        yield Finding("template.roles", Severity.WARN, message, cure="do not use it for roleplay")
    elif alike:
        message = f"a message stands under the other's role, and that hangs on {alike[0].about}"
        yield Finding("template.role-swap", Severity.REJECT, message, f"probe: {alike[0].name}", _CURE)


def _are_alike(reading: Reading) -> bool:
    """The first message is left out: before it stands what begins every conversation."""
    before: dict[str, set[str]] = {"user": set(), "assistant": set()}
    for (role, _), segment in list(zip(reading.probe.contents, reading.segments, strict=False))[1:]:
        if role in before:
            before[role].add(segment)
    return bool(before["user"] & before["assistant"])


def _seen(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Addresses and invisible characters that only come to light when it is rendered."""
    for reading in readings:
        if not (reading.probe.findable and reading.whole):
            continue
        for segment in reading.segments:
            hidden, addresses = invisible(segment), urls(segment)
            if hidden:
                yield Finding(
                    "template.invisible",
                    Severity.WARN,
                    f"it writes invisible characters: {', '.join(hidden)}",
                    "rendered",
                    "read the template with care",
                )
            if addresses:
                yield Finding(
                    "template.url",
                    Severity.WARN,
                    f"it writes the address {addresses[0]}",
                    "rendered",
                    "check that the model should see it",
                )


def _quote(segment: str, new: Iterable[str] = ()) -> str:
    """The part of a segment that holds the new words, short enough for a sentence."""
    flat = " ".join(segment.split())
    places = [place for word in new if (place := flat.lower().find(word)) >= 0]
    start = max(min(places, default=0) - 20, 0)
    return repr(flat[start : start + 160])
