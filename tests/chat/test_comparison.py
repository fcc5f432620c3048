"""Compare chat templates: what a template loses is found under whatever condition it loses it."""

from __future__ import annotations

import pytest

from paddock.chat.comparison import TemplateComparison, compare_templates
from paddock.chat.template import ChatFormat
from paddock.lifecycle.promote.template_gates import template_gates
from tests.support.chat_template import DEMANDING
from tests.support.templates import CHATML

TOOLS = DEMANDING[DEMANDING.index("{%- if tools") :].replace("roles must alternate", "")
_START = "{{ '<|im_start|>' +"


def chat_format(source: str) -> ChatFormat:
    return ChatFormat(source, "the GGUF", "the model brings it", "<s>", "</s>", ())


def without(condition: str, source: str = CHATML) -> str:
    """The template, which leaves a message out under a condition."""
    return source.replace(_START, "{% if " + condition + " %}{% continue %}{% endif %}" + _START, 1)


def system(condition: str) -> str:
    return without(f"message.role == 'system' and ({condition})")


def failed(comparison: TemplateComparison) -> list[str]:
    return [gate.name for gate in template_gates(comparison) if gate.passed is False]


LOSES_THE_SYSTEM_MESSAGE = {
    "longer than 40 characters": system("message.content|length > 40"),
    "longer than 60,000 characters": system("message.content|length > 60000"),
    "longer than 200,000 characters, computed": system("message.content|length > 200 * 1000"),
    "of a length between two": system("message.content|length > 700 and message.content|length < 1100"),
    "of one length": system("message.content|length == 12345"),
    "of a length with a remainder": system("message.content|length % 29 == 3"),
    "of many words": system("message.content.split(' ')|length > 300"),
    "of many lines": system("message.content.split('\\n')|length > 20"),
    "the end of a long one": CHATML.replace("message['content']", "message['content'][:6000]"),
    "the middle of a long one": CHATML.replace(
        "message['content']", "(message['content'][:900] ~ message['content'][-900:])"
        " if message['content']|length > 1800 else message['content']"
    ),
    "beside tools": system("tools"),
    "beside three tools": system("tools and tools|length > 2"),
    "long and beside tools": system("tools and message.content|length > 3000"),
    "after some turns": system("messages|length > 8"),
    "after many turns": system("messages|length > 150"),
    "long and after some turns": system("messages|length > 20 and message.content|length > 2000"),
    "with a word": system("'horse' in message.content"),
    "that begins with a word": system("message.content.startswith('Your')"),
    "before a word in the question": system("'horse' in messages[-1].content"),
    "before a long question": system("messages[-1].content|length > 5000"),
    "before a long answer": system("messages|length > 2 and messages[2].content|length > 5000"),
    "refused if long": CHATML.replace(
        _START, "{% if message.content|length > 9000 %}{{ raise_exception('too long') }}{% endif %}" + _START
    ),
}  # fmt: skip
"""Found without a promoted template too."""
LOSES_IT_IN_ROLEPLAY = {
    "with a name": system("message.name"),
    "before a greeting": system("messages[1].role == 'assistant'"),
    "before named messages": system("messages[-1].name"),
    "in the middle": system("not loop.first"),
    "the second one": system("loop.index == 2"),
    "while thinking": system("enable_thinking is defined and enable_thinking"),
    "with nothing to answer": system("not add_generation_prompt"),
}
OTHER_LOSSES = {
    "the oldest messages": ("history", without("messages|length - loop.index > 20"), CHATML),
    "a long question": ("history", without("message.role == 'user' and message.content|length > 4000"), CHATML),
    "an answer after others": ("history", without("message.role == 'assistant' and loop.index > 6"), CHATML),
    "the order": ("history", CHATML.replace("in messages", "in messages|reverse"), CHATML),
    "tools": ("tool_call", CHATML, TOOLS),
    "many tools": ("tool_call", TOOLS.replace("in tools %}", "in tools[:3] %}"), TOOLS),
    "descriptions of tools": ("tool_call", TOOLS.replace("{{ tool | tojson", "{{ tool.function.name"), TOOLS),
    "calls": ("tool_call", TOOLS.replace("in message['tool_calls'] or []", "in []"), TOOLS),
    "arguments": ("tool_call", TOOLS.replace("call['function']['arguments'] | tojson", "'{}'"), TOOLS),
    "results": ("tool_call", without("message.role == 'tool'", TOOLS), TOOLS),
    "a long result": ("tool_call", without("message.content|length > 3000 and message.role == 'tool'", TOOLS), TOOLS),
}  # fmt: skip


@pytest.mark.parametrize("source", LOSES_THE_SYSTEM_MESSAGE.values(), ids=LOSES_THE_SYSTEM_MESSAGE.keys())
@pytest.mark.torture
def test_a_lost_system_message_is_found_with_and_without_a_promoted_template(source: str) -> None:
    for promoted in (chat_format(CHATML), None):
        comparison = compare_templates(chat_format(source), promoted)
        assert "system_message" in failed(comparison), comparison.kept
