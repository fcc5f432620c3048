"""Check that a template renders each message once, unchanged and in order, and adds no text of its own to them.

A rendering is split at the contents of its messages. The text between them is the template's own; its parts are called
*fragments*. A template is faithful if every content occurs once, complete and in order, and every fragment uses only
words that the template also adds to the shortest conversations (the baseline), independent of the conversation's
length, its contents, and the date.

`probes` defines the conversations; `audit` renders them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from paddock.chat.added_text import check_added_text
from paddock.chat.probes import Aspect, Probe
from paddock.chat.protocol import RenderResult, RenderStatus
from paddock.chat.split import SplitRendering, split_rendering
from paddock.chat.text import find_markers, find_urls, invisible_characters
from paddock.chat.turns import check_turns
from paddock.gguf.imitation import imitated_marker
from paddock.model.finding import Finding, Severity

_CURE = "use the family's template instead"
_CURE_REVIEW = "review the template"
_DESCRIPTION = re.compile(
    r"<[^<>\n]{1,80} at 0x[0-9a-f]{4,}>|<class '[\w.]+'>|<built-in \w+ |<(?:Macro|Namespace|LoopContext) "
)
"""Texts that Python prints for objects that are no data."""


def check_fidelity(results: Sequence[tuple[Probe, RenderResult]]) -> list[Finding]:
    """Check all renderings of one template. Each rule is reported once per aspect of the probes."""
    found: dict[tuple[str, str], Finding] = {}
    renderings = [split_rendering(probe, result.text) for probe, result in results if result.ok]
    for probe, result in results:
        needs_unset = bool(probe.request.unset) and not result.status.is_limit  # llama-server always sets them
        if not result.ok and not needs_unset:
            finding = _failure(probe, result)
            found.setdefault((finding.rule, f"{probe.aspect} {finding.severity}"), finding)
    for rendering in renderings:
        for finding in _check_contents(rendering):
            found.setdefault((finding.rule, rendering.probe.aspect), finding)
    for finding in [
        *check_added_text(renderings),
        *check_turns(renderings),
        *_check_roles(renderings),
        *_check_characters(renderings),
    ]:
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
    if result.status is RenderStatus.RAISED or probe.aspect is Aspect.VARIABLES:
        return Finding(
            "template.refuses",
            # A template may refuse text that looks like its own markers: it prevents a user from faking other roles.
            # It may also refuse a value that a client has set.
            Severity.INFO
            if probe.has_markers or (probe.aspect is Aspect.VARIABLES and result.status is RenderStatus.RAISED)
            else Severity.WARN,
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
        word = _dropped_word(rendering)
        special = word is None and probe.name.startswith(("markers", "the template's own words"))
        message = f"a message of the role {lost[0]} is not rendered completely"
        if word is not None:
            message += f": the word {word[:40]!r} is missing"
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


def _dropped_word(rendering: SplitRendering) -> str | None:
    """An ordinary word of a message that is not in the rendering as often as in the messages. Switches and markers,
    such as `/think`, are no ordinary words."""
    text = "".join(rendering.fragments)
    missing = [content for role, content in rendering.probe.contents if role in rendering.missing]
    counts = Counter(word for content in missing for word in content.split() if word.isalpha())
    return next((word for word, count in counts.items() if text.count(word) < count), None)


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
    """Report URLs, invisible characters and descriptions of objects that appear only in the rendered text."""
    for rendering in renderings:
        if not (rendering.probe.has_unique_contents and rendering.is_complete):
            continue
        for fragment in rendering.fragments:
            description = _DESCRIPTION.search(fragment)
            if description:
                message = f"the template prints Python's description of an object, not text: {description[0]!r}"
                yield Finding("template.prints-object", Severity.REJECT, message, "rendered", _CURE)
            invisible, urls = invisible_characters(fragment), find_urls(fragment)
            imitation = next((marker for marker in find_markers(fragment) if imitated_marker(marker)), None)
            if imitation:
                message = f"the template's marker {imitation!a} imitates {imitated_marker(imitation)!r}"
                yield Finding("template.imitation", Severity.REJECT, message, "rendered", _CURE)
            if invisible:
                message = f"the template renders invisible characters: {', '.join(invisible)}"
                yield Finding("template.invisible", Severity.WARN, message, "rendered", _CURE_REVIEW)
            if urls:
                message = f"the template renders the URL {urls[0]}"
                cure = "check whether the model should see this URL"
                yield Finding("template.url", Severity.WARN, message, "rendered", cure)
