"""Conversations that show what a chat template loses: of the system message, the history, tools and their calls.

A template may lose text under a condition: in long messages, in long conversations, beside tools, for a certain role
or word. The conversations vary one of these at a time, and some of them together. Lengths and numbers grow by a
constant factor up to the context, and the lengths, numbers and words that the templates compare values with are tried
as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from paddock.chat.probes import NOW
from paddock.chat.protocol import TemplateAnalysis
from paddock.chat.render import RenderRequest
from paddock.chat.text import has_marker

Message = dict[str, Any]
_MAX_CHARS = 2**20
"""Length of the longest message: more than fits into a context of 200,000 tokens."""
_LADDER_CHARS = 2**18
"""Up to here the length of the system message grows by a factor of 1.5; beyond is the longest message alone."""
_TOGETHER_CHARS = 2**16
"""Length of the longest message in a conversation where something else varies too; beyond is the longest alone."""
_MAX_MESSAGES = 601
_EXPENSIVE_MESSAGES = 200
"""Longer conversations come last: the time that some templates take grows with the square of the messages."""
_TRIGGER_MESSAGES = 2050
_MAX_TOOLS = 64
_MAX_WORDS = 64
_SHORT = "Card card999 begins: you are Mara, keeper of the paddock, and ends card999."
_SENTENCE = "The gate stands open and the field is wide. "
_LANGUAGES = {
    "Chinese": "\u4f60\u597d\uff0c\u9a6c\u5728\u8349\u5730\u4e0a\u3002",
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643 \u0641\u064a \u0627\u0644\u0645\u0631\u0639\u0649.",
    "Russian": "\u041b\u043e\u0448\u0430\u0434\u044c \u0443 \u0432\u043e\u0440\u043e\u0442.",
    "Hindi": "\u0918\u094b\u0921\u093c\u093e \u0926\u094c\u0921\u093c\u0924\u093e \u0939\u0948\u0964",
    "emoji": "\U0001f40e\U0001f469\u200d\U0001f33e\u2728 na\u00efve \u1e9e e\u0301",
}


class ConversationPart(StrEnum):
    """A part of a conversation that a rendering may lose, as messages name it."""

    SYSTEM = "the system message"
    HISTORY = "a message of the history"
    ORDER = "the order of the messages"
    TOOLS = "the definition of a tool"
    CALL = "a tool call"
    RESULT = "a tool's result"


class TemplateFeature(StrEnum):
    """A feature of templates that a conversation needs, besides messages."""

    NONE = "none"
    TOOLS = "tools"
    CALLS = "tool calls"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, and the texts of its parts that a faithful rendering holds.

    `forms` are requests that mean the same; an engine chooses the one that suits the template. `is_plain` says that
    every template which renders the simplest conversation with this feature is expected to render this one.
    """

    name: str
    forms: tuple[RenderRequest, ...]
    parts: tuple[tuple[ConversationPart, str], ...]
    feature: TemplateFeature = TemplateFeature.NONE
    is_plain: bool = True


def conversations(analyses: Sequence[TemplateAnalysis]) -> list[Conversation]:
    """Return the conversations for some templates, those that vary a length in ascending order."""
    numbers = sorted({near for analysis in analyses for number in analysis.numbers for near in _around(number)})
    texts = list(dict.fromkeys(text for analysis in analyses for text in analysis.texts))
    histories = list(_histories(numbers))
    return [
        *_simple(),
        *_system_lengths(numbers),
        *(chat for chat in histories if len(chat.forms[0].messages) <= _EXPENSIVE_MESSAGES),
        *_message_lengths(),
        *_tool_numbers(numbers),
        *_tool_calls(),
        *_together(),
        *_roles(),
        *_variables(),
        *_languages(),
        *_words(texts),
        *(chat for chat in histories if len(chat.forms[0].messages) > _EXPENSIVE_MESSAGES),
    ]


def _simple() -> Iterator[Conversation]:
    yield _chat("a question", _talk(1))
    yield _chat("a system message and a question", [_system(), *_talk(1)])
    yield _chat("a question and a tool", _talk(1), tools=1)
    yield _chat("three messages", _talk(3))
    yield _chat("a system message and three messages", [_system(), *_talk(3)])
    yield _chat("a system message, a question and a tool", [_system(), *_talk(1)], tools=1)
    yield _chat("nothing to answer", [_system(), *_talk(3)], generate=False)


def _system_lengths(numbers: Sequence[int]) -> Iterator[Conversation]:
    lengths = {
        *_ladder(3, _LADDER_CHARS, 1.5),
        *range(97, 131),
        *(number for number in numbers if number >= 3),
        _MAX_CHARS,
    }
    for length in sorted(lengths):
        yield _chat(f"a system message of {length:,} characters", [_system(_text("card999", length)), *_talk(1)])
    for length in _ladder(256, _TOGETHER_CHARS, 4):
        system = _system(_text("card999", length))
        yield _chat(f"a system message of {length:,} characters and five messages", [system, *_talk(5)])
        yield _chat(f"a system message of {length:,} characters and a tool", [system, *_talk(1)], tools=1)


def _histories(numbers: Sequence[int]) -> Iterator[Conversation]:
    counts = {count | 1 for count in (*_ladder(1, _MAX_MESSAGES, 1.4), *range(1, 18)) if count > 1}
    counts |= {number | 1 for number in numbers if number <= _TRIGGER_MESSAGES}
    for count in sorted(counts):
        yield _chat(f"{count:,} messages after a system message", [_system(), *_talk(count)])
    for count in _ladder(2, _MAX_MESSAGES, 4):
        yield _chat(f"{count | 1:,} messages", _talk(count | 1))
        yield _chat(f"{count | 1:,} messages with tools", [_system(), *_talk(count | 1)], tools=2)


def _message_lengths() -> Iterator[Conversation]:
    for length in _ladder(256, _TOGETHER_CHARS, 4):
        for role, index in (("a question", 0), ("an answer", 1), ("a last question", 2)):
            talk = _talk(3)
            talk[index]["content"] = _text(f"long{index}", length)
            yield _chat(f"{role} of {length:,} characters", [_system(), *talk])


def _tool_numbers(numbers: Sequence[int]) -> Iterator[Conversation]:
    counts = {*_ladder(1, _MAX_TOOLS, 2), *range(1, 6), *(number for number in numbers if number <= 2 * _MAX_TOOLS)}
    for count in sorted(counts):
        yield _chat(f"{count} tools", [_system(), *_talk(1)], tools=count)
        yield _chat(f"{count} tools without a system message", _talk(1), tools=count)


def _tool_calls() -> Iterator[Conversation]:
    one = [_call(0), _result(0)]
    asked = _talk(1)
    yield _chat("a call of a tool and its result", [*asked, *one], tools=1)
    yield _chat("a call of another tool", [*asked, _call(0, name="stable_visit"), _result(0)], tools=1)
    yield _chat("a call after a system message", [_system(), *asked, *one], tools=1)
    yield _chat(
        "a call and an answer to it", [_system(), *asked, *one, _said("answer", "The stall77 is free.")], tools=1
    )
    yield _chat("a call in the history", [_system(), *asked, *one, _said("answer", "It is free77."), *_next()], tools=1)
    remark = [_system(), *asked, _call(0, content="Wait wait77 a moment."), _result(0)]
    yield replace(_chat("a call with a remark", remark, tools=1), is_plain=False)
    undeclared = [_system(), *asked, *one, _said("answer", "It is free77."), *_next()]
    yield replace(_chat("a call where no tool is declared", undeclared), is_plain=False)
    for count in (2, 4, 8):
        calls = _call(*range(count))
        results = [_result(number) for number in range(count)]
        yield replace(_chat(f"{count} calls at once", [_system(), *asked, calls, *results], tools=2), is_plain=False)
    for count in (2, 5, 12, 30, 60):
        rounds = [message for number in range(count) for message in (_call(number), _result(number))]
        yield _chat(f"{count} calls in turn", [_system(), *asked, *rounds], tools=2)
    for length in _ladder(256, _TOGETHER_CHARS, 4):
        result = {**_result(0), "content": _line("result0", length)}
        yield _chat(f"a tool's result of {length:,} characters", [_system(), *asked, _call(0), result], tools=1)
        call = _call(0, value=_line("value0", length))
        yield _chat(f"a tool call of {length:,} characters", [_system(), *asked, call, _result(0)], tools=1)


def _together() -> Iterator[Conversation]:
    called = [_call(0), _result(0), _said("answer", "It is free77.")]
    for length in (*_ladder(1024, _TOGETHER_CHARS, 8), _MAX_CHARS):
        system = _system(_text("card999", length))
        for count in (17, 65, 257) if length < _MAX_CHARS else ():
            yield _chat(f"a system message of {length:,} characters, {count} messages", [system, *_talk(count)])
        everything = [system, *_talk(33), *called, *_next()]
        yield _chat(f"a system message of {length:,} characters, 36 messages, a call, tools", everything, tools=4)


def _roles() -> Iterator[Conversation]:
    talk = _talk(3)
    named = [{**message, "name": "Tom" if message["role"] == "user" else "Mara"} for message in talk]
    greeting = _said("answer", "Greeting greet55: this is my gate.")
    for name, messages in {
        "messages with names": [_system(), *named],
        "a named system message": [{**_system(), "name": "narrator"}, *talk],
        "a greeting": [_system(), greeting, *talk],
        "a greeting with names": [_system(), {**greeting, "name": "Mara"}, *named],
        "a greeting without a system message": [greeting, *talk],
        "two questions in a row": [_system(), *_talk(1), *_next()],
        "two system messages": [_system(), _system("Second card888 rule ends."), *talk],
        "a system message in the middle": [_system(), *talk[:2], _system("Middle card888 rule ends."), *talk[2:]],
        "a system message at the end": [_system(), *talk, _system("Last card888 rule ends.")],
        "a developer message": [{**_system(), "role": "developer"}, *talk],
        "a system message alone": [_system()],
        "contents in parts": [{**message, "content": [_piece(message)]} for message in (_system(), *talk)],
        "a system message in two parts": [
            {"role": "system", "content": [_piece(_system()), _piece(_system(" Second card888 rule ends."))]},
            *talk,
        ],
        "an empty question": [_system(), *talk, _said("answer", "So so66."), {"role": "user", "content": ""}],
        "an answer to continue": [_system(), *talk, _said("answer", "Answer begun66 so far")],
    }.items():
        for tools in (0, 1):
            yield replace(_chat(name + (" and a tool" if tools else ""), messages, tools=tools), is_plain=False)


def _variables() -> Iterator[Conversation]:
    for variables in (
        {"enable_thinking": True},
        {"enable_thinking": False},
        {"reasoning_effort": "high"},
        {"tool_choice": "required"},
        {"parallel_tool_calls": True},
    ):
        ((name, value),) = variables.items()
        for tools in (0, 1):
            chat = _chat(f"{name} {value}" + (" and a tool" if tools else ""), [_system(), *_talk(3)], tools=tools)
            forms = tuple(replace(form, extra=variables) for form in chat.forms)
            yield replace(chat, forms=forms, is_plain=False)


def _languages() -> Iterator[Conversation]:
    for language, text in _LANGUAGES.items():
        for times in (1, 40, 1000):
            talk = _talk(3)
            talk[0]["content"] = f"Question {text * times} ends."
            talk[1]["content"] = f"Answer {text * times} over."
            name = f"{len(text) * times:,} characters of {language}"
            yield _chat(name, [_system(f"Card {text * times} ends card999."), *talk])


def _words(texts: Sequence[str]) -> Iterator[Conversation]:
    """Conversations with the texts that the templates compare values with. Only what stands around such a text is a
    part: a template may take its own switches and markers out of a message."""
    chosen = texts[:_MAX_WORDS]
    if not chosen:
        return
    for word in chosen:
        plain = not has_marker(word) and word.isalpha()
        before, after = "Card card999 begins with", "and ends card999."
        for name, system, question in (
            (f"{word!r} in a system message", f"{before} {word} {after}", "Probe otter000 begins."),
            (f"a system message that begins with {word!r}", f"{word} {after}", "Probe otter000 begins."),
            (f"{word!r} in a question", _SHORT, f"Probe otter000 begins {word}"),
        ):
            messages = [_system(system), {"role": "user", "content": question}]
            parts = [(ConversationPart.SYSTEM, text) for text in (before, after, _SHORT) if text in system]
            parts.append((ConversationPart.HISTORY, "Probe otter000 begins"))
            yield Conversation(name, (_request(messages),), tuple(parts), is_plain=plain)
    messages = [_system(f"Card card999 begins with {' '.join(chosen)} and ends card999."), *_talk(3)]
    around = ((ConversationPart.SYSTEM, "Card card999 begins with"), (ConversationPart.SYSTEM, "and ends card999."))
    plain = not any(map(has_marker, chosen))
    yield Conversation("all texts in the system message", (_request(messages),), around, is_plain=plain)


def _chat(name: str, messages: Sequence[Message], *, tools: int = 0, generate: bool = True) -> Conversation:
    declared = [_tool(number) for number in range(tools)]
    forms = [_request(messages, declared, generate=generate)]
    if any("tool_calls" in message for message in messages):
        forms.append(_request([_with_objects(message) for message in messages], declared, generate=generate))
    feature = TemplateFeature.CALLS if len(forms) > 1 else TemplateFeature.TOOLS if tools else TemplateFeature.NONE
    return Conversation(name, tuple(forms), tuple(_parts_of(messages, tools)), feature)


def _parts_of(messages: Sequence[Message], tools: int) -> Iterator[tuple[ConversationPart, str]]:
    for message in messages:
        kind = {
            "system": ConversationPart.SYSTEM,
            "developer": ConversationPart.SYSTEM,
            "tool": ConversationPart.RESULT,
        }.get(message["role"], ConversationPart.HISTORY)
        content = message["content"]
        for text in [piece["text"] for piece in content] if isinstance(content, list) else [content]:
            if text:
                yield kind, text
        for call in message.get("tool_calls", ()):
            yield ConversationPart.CALL, call["function"]["name"]
            yield ConversationPart.CALL, json.loads(call["function"]["arguments"])["horse"]
    for number in range(tools):
        yield from (
            (ConversationPart.TOOLS, text) for text in (f"paddock_lookup_{number:04d}", f"Looks up horse {number}.")
        )


def _request(messages: Sequence[Message], tools: Sequence[Message] = (), *, generate: bool = True) -> RenderRequest:
    return RenderRequest(messages, tools=list(tools) or None, add_generation_prompt=generate, now=NOW)


def _system(text: str = _SHORT) -> Message:
    return {"role": "system", "content": text}


def _talk(count: int) -> list[Message]:
    """`count` alternating messages that begin with a question."""
    return [
        _said("answer" if number % 2 else "question", f"Probe turn{number:04d} begins and ends.")
        for number in range(count)
    ]


def _next() -> list[Message]:
    return [_said("question", "Next next44 question.")]


def _said(kind: str, content: str) -> Message:
    return {"role": "assistant" if kind == "answer" else "user", "content": content}


def _tool(number: int) -> Message:
    parameters = {"type": "object", "properties": {"horse": {"type": "string"}}, "required": ["horse"]}
    function = {
        "name": f"paddock_lookup_{number:04d}",
        "description": f"Looks up horse {number}.",
        "parameters": parameters,
    }
    return {"type": "function", "function": function}


def _call(*numbers: int, name: str = "paddock_lookup_0000", content: str = "", value: str = "") -> Message:
    calls = [
        {
            "id": f"call{number:05d}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps({"horse": value or f"sorrel{number:04d}"})},
        }
        for number in numbers
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(number: int) -> Message:
    content = f"The stall stall{number:04d} is empty."
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": "paddock_lookup_0000", "content": content}


def _with_objects(message: Mapping[str, Any]) -> Message:
    """The message with the arguments of its calls as objects instead of JSON text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _piece(message: Mapping[str, Any]) -> Message:
    return {"type": "text", "text": message["content"]}


def _text(name: str, length: int) -> str:
    """A text of exactly `length` characters, of several lines, that begins and ends with `name`."""
    begin, end = f"Begin {name}: ", f" end {name}."
    room = length - len(begin) - len(end)
    if room < 0:
        return ("zq" * length)[:length]
    paragraph = (_SENTENCE * 5).strip() + "\n"
    return begin + (paragraph * (room // len(paragraph) + 1))[: max(room - 1, 0)] + "x" * min(room, 1) + end


def _line(name: str, length: int) -> str:
    """The text of `_text` in one line: templates may render it as JSON, which escapes the ends of lines."""
    return _text(name, length).replace("\n", " ")


def _around(number: int) -> tuple[int, int, int]:
    return number - 1, number, number + 1


def _ladder(first: int, last: int, ratio: float) -> list[int]:
    """Whole numbers from `first` to `last` that grow by `ratio`, which are no multiples of each other."""
    steps = [first]
    while steps[-1] * ratio < last:
        steps.append(max(steps[-1] + 1, int(steps[-1] * ratio) | 1))
    return [*(step for step in steps if step < last), last] if last > first else [first]
