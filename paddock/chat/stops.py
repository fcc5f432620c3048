"""What ends an answer: the marks that a template puts behind it, found by rendering two questions and an answer.

An engine stops by itself at the model's own end token. A *stop sequence* is text, for what the vocabulary does not end:
the end mark of a turn, and how the next turn of a user begins, which a model without end marks writes in the user's
place.
"""

from __future__ import annotations

import re
from typing import Final

from paddock.chat.render import Request, TemplateProcess

_QUESTION, _ANSWER, _AGAIN = "Probe otter begins.", "Probe heron begins.", "Probe badger begins."
_MARK: Final = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
_LONGEST = 60


def stops_of(source: str, *, bos: str, eos: str) -> tuple[str, ...]:
    """The stop sequences of a sound template, the end mark first; none where nothing tells. Runs one process."""
    messages = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _AGAIN},
    ]
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        if process.analyse().rejected:
            return ()
        rendered = process.render(Request(messages))
    _, found, rest = rendered.text.partition(_ANSWER)
    between, also_found, _ = rest.partition(_AGAIN)
    if not (rendered.ok and found and also_found):
        return ()
    return tuple(dict.fromkeys(_stops(between, eos=eos)))


def _stops(between: str, *, eos: str) -> list[str]:
    """What stands between an answer and the next question: the end of the one, and the beginning of the other."""
    stops, rest = [], between.strip()
    if eos and rest.startswith(eos):
        stops.append(eos)
        rest = rest.removeprefix(eos)
    elif mark := _MARK.match(rest):
        stops.append(mark[0])
        rest = rest[mark.end() :]
    opening = rest.strip().rsplit("\n\n", 1)[-1].strip()
    if len(opening) <= _LONGEST and any(character.isalpha() for character in opening):  # a dash is in any answer
        stops.append(opening)
    return stops
