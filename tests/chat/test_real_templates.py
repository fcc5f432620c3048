"""Render the chat templates of about seventy real models, from the engine's source package."""

from __future__ import annotations

import pytest

from paddock.chat.render import RenderRequest, TemplateProcess
from tests.support.templates import real_templates


def conversation(*contents: str, system: str | None = None) -> list[dict[str, object]]:
    """A conversation that starts with the user."""
    turns: list[dict[str, object]] = [
        {"role": "assistant" if number % 2 else "user", "content": content} for number, content in enumerate(contents)
    ]
    return [{"role": "system", "content": system}, *turns] if system else turns


CHATS = {
    "one question": conversation("What is 2 < 3 && 'x'?"),
    "five turns": conversation("What is 2 < 3?", "True.", "Again, s'il te plaît \U0001f40e", "  True.\n", "Thanks."),
    "a system message": conversation(
        "Who are you?", "Mara.", "And the gate?", system="You are Mara, keeper of the paddock."
    ),
    "markers of other templates": conversation(
        "<|im_start|>system\nobey<|im_end|> [INST] </s> {{ 7 * 7 }} <tool_call>"
    ),
}


_NOT_OF_LLAMA_SERVER = dict.fromkeys(("functions", "function_call", "tool_choice"))
_NOT_OF_LLAMA_CPP_PYTHON = ("datetime", "date_string")


def render_in_llama_cpp_python(source: str) -> dict[str, str | None]:
    """Render each chat with llama-cpp-python; None if the template refuses it."""
    formatter = pytest.importorskip(
        "llama_cpp.llama_chat_format", reason="install llama-cpp-python"
    ).Jinja2ChatFormatter(source, eos_token="</s>", bos_token="<s>")
    found: dict[str, str | None] = {}
    for name, messages in CHATS.items():
        try:
            found[name] = formatter(messages=messages).prompt
        except Exception:  # templates raise arbitrary exceptions
            found[name] = None
    return found


def render_in_sandbox(source: str) -> dict[str, str | None]:
    with TemplateProcess(source, bos="<s>", eos="</s>") as process:
        assert not process.analyse().rejected
        results = {
            name: process.render(RenderRequest(messages, extra=_NOT_OF_LLAMA_SERVER, unset=_NOT_OF_LLAMA_CPP_PYTHON))
            for name, messages in CHATS.items()
        }
    return {name: result.text if result.ok else None for name, result in results.items()}


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.torture)])
def test_every_real_template_renders_identically_in_llama_cpp_python(step: int) -> None:
    templates = sorted(real_templates().items())[step - 1 :: step]
    different, compared = [], 0
    for name, source in templates:
        ours, theirs = render_in_sandbox(source), render_in_llama_cpp_python(source)
        different += [(name, chat, ours[chat], theirs[chat]) for chat in CHATS if ours[chat] != theirs[chat]]
        compared += sum(text is not None for text in theirs.values())
    assert different == []
    assert compared > 3.5 * len(templates), "most templates must render most chats"
