"""Split a rendering at the contents of its messages: the text between them is the template's own."""

from __future__ import annotations

from dataclasses import dataclass

from paddock.chat.probes import Probe


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
