"""Find a chat template's stop sequences, by rendering two user messages with an answer between them.

The engine stops at the model's own end token. A *stop sequence* is text that also ends an answer: the template's marker
at the end of a turn, and the start of the user's next turn, which a model without end markers would otherwise generate
itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from paddock.chat.render import RenderRequest, TemplateProcess

_FIRST_QUESTION, _ANSWER, _SECOND_QUESTION = "Probe otter begins.", "Probe heron begins.", "Probe badger begins."
_MARKER: Final = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
_MAX_CHARS = 60


@lru_cache(maxsize=16)  # the variants of a model, and its revisions, mostly have one template
def find_stop_sequences(source: str, *, bos: str, eos: str) -> tuple[str, ...]:
    """Return the stop sequences of a template, the end marker first. Starts one subprocess, once for each template.

    `bos` and `eos` are the texts of the begin and end tokens. The result is empty if the template is unsafe, fails, or
    has no recognizable markers.
    """
    messages = [
        {"role": "user", "content": _FIRST_QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _SECOND_QUESTION},
    ]
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        if process.analyse().rejected:
            return ()
        result = process.render(RenderRequest(messages))
    _, answer, rest = result.text.partition(_ANSWER)
    between, question, _ = rest.partition(_SECOND_QUESTION)
    if not (result.ok and answer and question):
        return ()
    return tuple(dict.fromkeys(_stops(between, eos=eos)))


def _stops(between: str, *, eos: str) -> list[str]:
    """Extract the end of the answer's turn and the start of the next one from the text between their contents."""
    stops, rest = [], between.strip()
    if eos and rest.startswith(eos):
        stops.append(eos)
        rest = rest.removeprefix(eos)
    elif marker := _MARKER.match(rest):
        stops.append(marker[0])
        rest = rest[marker.end() :]
    opening = rest.strip().rsplit("\n\n", 1)[-1].strip()
    if len(opening) <= _MAX_CHARS and any(character.isalpha() for character in opening):  # a dash occurs in any answer
        stops.append(opening)
    return stops
