"""Compare chat templates: what a template loses is found under whatever condition it loses it."""

from __future__ import annotations

import pytest

from paddock.chat.comparison import TemplateComparison, compare_templates
from paddock.chat.comparison_probes import ConversationPart
from paddock.chat.template import ChatFormat
from paddock.lifecycle.promote.template_gates import template_gates
from tests.support.chat_template import DEMANDING
from tests.support.templates import CHATML, real_templates

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
    "with a word of two parts": system("'hor' ~ 'se' in message.content"),
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


def torture(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.torture) for name in names])


def test_a_template_that_loses_the_system_message_under_conditions_is_held_back_without_a_promoted_one() -> None:
    source = system(
        "(tools and message.content|length > 3000) or messages|length > 150 or 'hor' ~ 'se' in message.content"
        " or message.content|length > 200 * 1000"
    )
    comparison = compare_templates(chat_format(source), None)
    assert failed(comparison) == ["system_message"]
    lost = {loss.conversation for loss in comparison.lost(ConversationPart.SYSTEM)}
    assert {
        "a system message of 4,101 characters and a tool",
        "151 messages after a system message",
        "'horse' in a system message",
        "a system message of 262,144 characters",
    } <= lost
    (gate,) = (gate for gate in template_gates(comparison) if gate.name == "system_message")
    assert gate.reason.startswith(f"the system message is lost in {len(lost)} of {comparison.rendered} conversations")


@torture(list(LOSES_THE_SYSTEM_MESSAGE))
def test_a_lost_system_message_is_found_with_and_without_a_promoted_template(name: str) -> None:
    for promoted in (chat_format(CHATML), None):
        comparison = compare_templates(chat_format(LOSES_THE_SYSTEM_MESSAGE[name]), promoted)
        assert "system_message" in failed(comparison), comparison.kept


@torture(list(LOSES_IT_IN_ROLEPLAY))
def test_a_system_message_that_is_lost_in_roleplay_is_found(name: str) -> None:
    comparison = compare_templates(chat_format(LOSES_IT_IN_ROLEPLAY[name]), chat_format(CHATML))
    assert failed(comparison) == ["system_message"], comparison.losses


@torture(list(OTHER_LOSSES))
def test_lost_tools_and_messages_are_found(name: str) -> None:
    gate, source, promoted = OTHER_LOSSES[name]
    assert gate in failed(compare_templates(chat_format(source), chat_format(promoted)))


def test_losses_of_tools_and_history_are_told_apart_and_differences_are_readable() -> None:
    source = without("message.role == 'tool' and message.content|length > 3000 or loop.index > 200", TOOLS)
    comparison = compare_templates(chat_format(source), chat_format(TOOLS))
    assert failed(comparison) == ["tool_call", "history"]
    assert {loss.part for loss in comparison.losses} == {
        ConversationPart.RESULT,
        ConversationPart.HISTORY,
        ConversationPart.ORDER,
    }
    (same,) = (gate for gate in template_gates(comparison) if gate.name == "template")
    assert same.passed, "a template may render otherwise"
    assert "conversations render differently, such as a tool's result of 4,101 characters: at character" in same.reason
    assert "became" in same.reason


def passes_all(comparison: TemplateComparison) -> bool:
    gates = template_gates(comparison)
    assert [gate.name for gate in gates] == ["template", "system_message", "tool_call", "history"]
    return all(gate.passed for gate in gates)


def test_the_promoted_template_passes_every_gate_and_is_not_rendered() -> None:
    comparison = compare_templates(chat_format(CHATML), chat_format(CHATML))
    assert (comparison.is_same, comparison.rendered) == (True, 0)
    assert passes_all(comparison)


@pytest.mark.torture
def test_another_template_that_renders_the_same_passes_every_gate() -> None:
    rewritten = CHATML.replace("{% for message in messages %}", "{# #}{% for message in messages -%}")
    comparison = compare_templates(chat_format(rewritten), chat_format(CHATML))
    assert (comparison.differences, comparison.losses, comparison.is_same) == ((), (), False)
    assert passes_all(comparison)


@pytest.mark.torture
def test_a_template_without_system_messages_is_compared_as_it_is_served() -> None:
    """Serving puts the text of the system message into the question."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + CHATML
    comparison = compare_templates(chat_format(refusing), chat_format(CHATML))
    assert "system_message" not in failed(comparison), comparison.lost(ConversationPart.SYSTEM)


@pytest.mark.torture
def test_a_template_that_exceeds_the_limits_loses_what_the_promoted_one_renders() -> None:
    endless = (
        "{% if messages|length > 20 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    comparison = compare_templates(chat_format(endless + "{% endif %}" + CHATML), chat_format(CHATML))
    assert failed(comparison) == ["system_message", "tool_call", "history"]
    assert "exceeded the time or memory limit" in comparison.losses[-1].reason


@pytest.mark.torture
def test_real_templates_lose_nothing_by_their_own_standard() -> None:
    found = {name: compare_templates(chat_format(source), None) for name, source in real_templates().items()}
    assert {name: failed(comparison) for name, comparison in found.items() if failed(comparison)} == {}
