"""Find a chat template's stop sequences: the texts after an answer that end an assistant's turn.

The engine itself ends an answer at the model's end-of-generation tokens. A *stop sequence* is needed where a turn is
closed by plain text: the template's marker at its end, and the start of the user's next turn, which the model would
otherwise generate itself. So a turn that a control token of the vocabulary closes has none: the engine's own list of
end tokens decides. And what also stands inside a turn, between a thought, a call of a tool and an answer, ends none: of
models such as gpt-oss each part is closed by the same marker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

from paddock.chat.probes import TOOLS
from paddock.chat.render import RenderRequest, TemplateProcess

_QUESTION, _NEXT_QUESTION = "Probe otter begins.", "Probe badger begins."
_ANSWER, _THOUGHT, _RESULT = "Probe heron begins.", "Probe marten begins.", "Probe stoat begins."
_CALLED: Final = ("sorrel7731", "dunlin4242")
"""An argument of each of two calls."""
_MARKER: Final = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
_MAX_CHARS: Final = 60


@lru_cache(maxsize=16)  # the variants of a model, and its revisions, mostly have one template
def find_stop_sequences(source: str, *, bos: str, eos: str, control: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the stop sequences of a template, the end marker first. Starts one subprocess, once for each template.

    `bos` and `eos` are the texts of the begin and end tokens, `control` those of all control tokens. The result is
    empty if the template is unsafe, fails, or has no recognizable markers.
    """
    user, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    after = {"role": "user", "content": _NEXT_QUESTION}
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        if process.analyse().rejected:
            return ()
        result = process.render(RenderRequest([user, answer, after]))
        between = _between(result.text, _ANSWER, _NEXT_QUESTION) if result.ok else None
        stops = list(dict.fromkeys(_closing(between, control | {bos, eos}))) if between else []
        if not stops:
            return ()
        inside = [
            text
            for turn in _turns()
            for rest in ([], [after])
            for text in _inside(process, [user, *turn, *rest], is_last=not rest)
        ]
    return tuple(stop for stop in stops if not any(stop.strip() in text for text in inside))


def _between(text: str, before: str, after: str) -> str | None:
    _, found, rest = text.partition(before)
    between, also_found, _ = rest.partition(after)
    return between if found and also_found else None


def _closing(between: str, control: frozenset[str]) -> Iterator[str]:
    """Yield the text that ends the answer's turn, and the start of the next one, unless a token ends it."""
    positions = [position for token in control if token and (position := between.find(token)) >= 0]
    rest = between[: min(positions, default=len(between))]
    start = rest.lstrip()
    if marker := _MARKER.match(start):
        yield marker[0]
        rest = start[marker.end() :]
    if positions:
        return
    opening = rest.strip().rpartition("\n\n")[2].strip()
    if len(opening) > _MAX_CHARS or not any(character.isalpha() for character in opening):  # a dash is in any answer
        return
    starts_line = rest[: rest.rfind(opening)].endswith("\n")
    # A name may also stand in the middle of a sentence, unlike a marker.
    yield f"\n{opening}" if starts_line and opening[0].isalpha() else opening


def _turns() -> Iterator[list[Mapping[str, object]]]:
    """Yield turns of the assistant that have a thought, or calls of tools, in each form that templates read."""
    parts = [{"type": "thinking", "thinking": _THOUGHT}, {"type": "text", "text": _ANSWER}]
    named: list[dict[str, object]] = [{name: _THOUGHT} for name in ("reasoning_content", "thinking", "reasoning")]
    thoughts: list[dict[str, object]] = [*named, {"content": parts}]
    for thought in thoughts:
        yield [{"role": "assistant", "content": _ANSWER, **thought}]
    for as_text in (False, True):
        calls = [_call(number, value, as_text=as_text) for number, value in enumerate(_CALLED)]
        for count in (1, 2):
            results = [
                {"role": "tool", "tool_call_id": call["id"], "name": "paddock_lookup", "content": _RESULT}
                for call in calls[:count]
            ]
            for text, thought in ((_ANSWER, {}), *(("", thought) for thought in named)):
                yield [{"role": "assistant", "content": text, "tool_calls": calls[:count], **thought}, *results]


def _call(number: int, value: str, *, as_text: bool) -> Mapping[str, object]:
    arguments = {"horse": value}
    function = {"name": "paddock_lookup", "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _inside(process: TemplateProcess, messages: Sequence[Mapping[str, object]], *, is_last: bool) -> Iterator[str]:
    """Yield the texts between the parts of the assistant's turn in a conversation; none if it cannot be rendered."""
    has_calls = any("tool_calls" in message for message in messages)
    result = process.render(
        RenderRequest(messages, tools=TOOLS if has_calls else None, add_generation_prompt=not is_last)
    )
    if not result.ok:
        return
    text = result.text
    parts = sorted((text.find(part), part) for part in (_THOUGHT, _ANSWER, *_CALLED) if part in text)
    for (start, part), (end, _) in pairwise(parts):
        yield text[start + len(part) : end]
