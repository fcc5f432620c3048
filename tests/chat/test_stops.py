"""Stop sequences are what ends an assistant's turn, and nothing that stands inside one."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.chat.stops import find_stop_sequences
from paddock.chat.template import ChatFormat, choose_chat_format, read_chat_format
from tests.support.gguf import ARRAY, I32, STRING, array, byte_vocabulary, tiny_llama
from tests.support.templates import CHATML, real_templates

HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.FIELD %}<|start|>assistant<|channel|>analysis<|message|>{{ m.FIELD }}<|end|>{% endif %}"
    "{% for c in m.tool_calls or [] %}<|start|>assistant to={{ c.function.name }}<|channel|>commentary<|message|>"
    "{{ c.function.arguments }}<|call|>{% endfor %}"
    "{% if m.content %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss: a thought, a call and an answer are messages of their own, closed alike. FIELD is the thought's name."""
THINK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|>"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% else %}<|User|>{{ m.content }}{% endif %}{% endfor %}"
)
"""As DeepSeek-R1: the thought of an earlier turn is left out."""
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS]{{ m.tool_calls | tojson }}{{ eos_token }}"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<|python_tag|>{{ c.function | tojson }}{% endfor %}"
    "{{ '<|eom_id|>' if m.tool_calls else '<|eot_id|>' }}{% endfor %}"
)
_NAMED = "{% for m in messages %}{{ 'User' if m.role == 'user' else 'Assistant' }}: {{ m.content }}END{% endfor %}"
NAMES, NAMES_ON_A_LINE = _NAMED.replace("END", "\n\n"), _NAMED.replace("END", " ")
VICUNA = _NAMED.replace("END", "{{ eos_token if m.role == 'assistant' else ' ' }}")
GUANACO = _NAMED.replace("{{ 'User'", "### {{ 'Human'").replace("END", "\n")
PARTS = (
    "{% for m in messages %}### {{ m.role }}:\n{% if m.reasoning %}{{ m.reasoning }}\n[END]\n{% endif %}"
    "{{ m.content }}\n[END]\n{% for c in m.tool_calls or [] %}{{ c.function.arguments }}\n[END]\n{% endfor %}"
    "{% endfor %}"
)
"""The end of each part of a turn is text, and no token."""
_HARMONY_TOKENS = "<|start|> <|channel|> <|message|> <|end|> <|call|> <|return|>"
_LLAMA_3_TOKENS = "<|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>"


@pytest.mark.parametrize(
    ("source", "tokens", "as_text"),
    [
        pytest.param(
            HARMONY.replace("FIELD", "thinking"), _HARMONY_TOKENS, ("<|start|>user<|message|>",), id="gpt-oss"
        ),
        pytest.param(
            HARMONY.replace("FIELD", "reasoning_content"), _HARMONY_TOKENS, ("<|start|>user<|message|>",), id="its kin"
        ),
        pytest.param(THINK, "<|User|> <|Assistant|>", (), id="DeepSeek-R1"),
        pytest.param(QWEN3, "<|im_start|> <|im_end|>", ("<|im_end|>", "<|im_start|>user"), id="Qwen3"),
        pytest.param(
            LLAMA_3, _LLAMA_3_TOKENS, ("<|eot_id|>", "<|start_header_id|>user<|end_header_id|>"), id="Llama 3"
        ),
        pytest.param(MISTRAL, "[INST] [/INST] [TOOL_CALLS]", (), id="Mistral"),
        pytest.param(MISTRAL, "", (), id="Mistral, where [INST] is text"),
        pytest.param(CHATML, "<|im_start|> <|im_end|>", ("<|im_end|>", "<|im_start|>user"), id="ChatML"),
    ],
)
def test_a_turn_that_a_token_closes_has_no_stop_sequence(source: str, tokens: str, as_text: tuple[str, ...]) -> None:
    """`as_text` are those for a vocabulary that has none of the template's markers."""
    assert find_stop_sequences(source, bos="<s>", eos="</s>", control=frozenset(tokens.split())) == ()
    assert find_stop_sequences(source, bos="<s>", eos="</s>") == as_text


@pytest.mark.parametrize(
    ("source", "stops"),
    [
        pytest.param(GUANACO, ("### Human:",), id="Guanaco"),
        pytest.param(NAMES, ("\nUser:",), id="names"),
        pytest.param(NAMES_ON_A_LINE, ("User:",), id="names on a line"),
        pytest.param(VICUNA, (), id="Vicuna, where the end token closes a turn"),
        pytest.param(PARTS, ("### user:",), id="parts that are closed alike"),
        pytest.param(PARTS.replace("{% if m.reasoning %}", "{% if 0 %}"), ("### user:",), id="calls alone"),
        pytest.param(PARTS.replace("m.tool_calls or []", "[]"), ("### user:",), id="thoughts alone"),
        pytest.param(
            PARTS.replace("{% if m.reasoning %}", "{% if 0 %}").replace("m.tool_calls or []", "[]"),
            ("[END]", "### user:"),
            id="an answer alone",
        ),
    ],
)
def test_a_turn_that_text_closes_ends_at_that_text(source: str, stops: tuple[str, ...]) -> None:
    assert find_stop_sequences(source, bos="<s>", eos="</s>", control=frozenset({"<s>", "</s>"})) == stops


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("openai-gpt-oss-120b.jinja", "<|end|>"),
        ("upstage-Solar-Open-100B.jinja", "<|end|>"),
        ("Kimi-K3.jinja", "<|close|>"),
        ("GigaChat3-10B-A1.8B.jinja", "<|message_sep|>"),
    ],
)
def test_what_stands_inside_a_turn_of_a_real_template_is_no_stop_sequence(name: str, inside: str) -> None:
    source = real_templates()[name]
    assert inside not in find_stop_sequences(source, bos="<s>", eos="</s>")


def test_the_control_tokens_are_those_of_the_model(tmp_path: Path) -> None:
    file = tiny_llama(template=CHATML)
    (tmp_path / "model.gguf").write_bytes(file.to_bytes())
    chat = choose_chat_format(tmp_path, "acme/model")
    assert (chat.origin, chat.stop) == ("the GGUF", ("<|im_end|>", "<|im_start|>user"))
    for kind, stops in ((4, chat.stop), (3, ())):  # a user-defined token, which is printed, and a control token
        file.set("tokenizer.ggml.tokens", ARRAY, array(STRING, [*byte_vocabulary()[:-1], "<|im_end|>"]))
        file.set("tokenizer.ggml.token_type", ARRAY, array(I32, [2, 3, 3, *[6] * 256, kind]))
        (tmp_path / "model.gguf").write_bytes(file.to_bytes())
        assert choose_chat_format(tmp_path, "acme/model").stop == stops


def test_stop_sequences_of_an_older_version_are_derived_anew(tmp_path: Path) -> None:
    source = HARMONY.replace("FIELD", "thinking")
    (tmp_path / "model.gguf").write_bytes(tiny_llama(template=source).to_bytes())
    chat = choose_chat_format(tmp_path, "acme/model")
    newer = chat.to_json()
    older = newer.replace('"schema": 2', '"schema": 1').replace("<|start|>user<|message|>", "<|end|>")
    assert ChatFormat.from_json(older, source).stop == ("<|end|>",)
    assert read_chat_format(older, source, tmp_path) == chat
    assert read_chat_format(newer.replace("<|start|>", "<|other|>"), source, tmp_path).stop == (
        "<|other|>user<|message|>",
    )
