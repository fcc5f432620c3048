"""The engine's source package holds about seventy chat templates of real models. None of them is a stranger's trick."""

from __future__ import annotations

import pytest

from paddock.chat.render import Request, TemplateProcess
from tests.support.templates import real_templates

_MESSAGES: list[dict[str, object]] = [
    {"role": "user", "content": "What is 2 < 3 && 'x'?"},
    {"role": "assistant", "content": "True."},
    {"role": "user", "content": "Again, s'il te plaît \U0001f40e"},
]


def test_real_templates_render_here_as_in_the_engine() -> None:
    formatter = pytest.importorskip(
        "llama_cpp.llama_chat_format", reason="install llama-cpp-python"
    ).Jinja2ChatFormatter
    compared = 0
    for name, source in sorted(real_templates().items())[::5]:
        if "strftime_now" in source:
            continue  # two clocks
        with TemplateProcess(source, bos="<s>", eos="</s>") as process:
            assert not process.analyse().rejected
            ours = process.render(Request(_MESSAGES))
        try:
            theirs = formatter(source, eos_token="</s>", bos_token="<s>")(messages=_MESSAGES).prompt
        except Exception:  # whatever a template makes of a question without tools
            theirs = None
        assert (ours.text if ours.ok else None) == theirs, name
        compared += theirs is not None
    assert compared > 8
