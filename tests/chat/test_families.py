from __future__ import annotations

import pytest

from paddock.chat.audit import audit_template
from paddock.chat.families import FAMILIES, GENERIC, Family, detect_family, family_of
from paddock.chat.render import RenderRequest, TemplateProcess, render_messages
from paddock.chat.stops import find_stop_sequences
from paddock.model.finding import Severity, Verdict, verdict_of

ALL = pytest.mark.parametrize("family", [*FAMILIES, GENERIC], ids=lambda family: family.name)

CARD: dict[str, object] = {"role": "system", "content": "You are Mara."}
SCENE: list[dict[str, object]] = [
    CARD,
    {"role": "assistant", "name": "Mara", "content": "The gate is open."},
    {"role": "user", "name": "Tom", "content": "May I come in?"},
    {"role": "assistant", "name": "Mara", "content": "Do."},
    {"role": "user", "name": "Ann", "content": "And I?"},
]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("01-ai/Yi-34B-Chat", "yi"),
        ("TheBloke/Nous-Hermes-2-Yi-34B-GGUF", "yi"),
        ("01-ai/Yi1.5-9B", "yi"),
        ("acme/Yield-7B", "human-assistant"),
        ("acme/Tinyita", "human-assistant"),
        ("Qwen/Qwen2.5-7B-Instruct-GGUF", "qwen"),
        ("Qwen/CodeQwen1.5-7B", "qwen"),
        ("Qwen/QwQ-32B", "qwen"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral"),
        ("TheBloke/Mixtral-8x7B-GGUF", "mistral"),
        ("mistralai/Ministral-3-14B", "mistral"),
        ("microsoft/DialoGPT-medium", "dialogpt"),
        ("dialogpt-small", "dialogpt"),
        ("mistralai/Qwen-copy", "qwen"),
        ("Qwen/unknown", "qwen"),
        ("meta-llama/Llama-2-7b", "human-assistant"),
        ("", "human-assistant"),
    ],
)
def test_the_family_is_detected_by_the_name(name: str, family: str) -> None:
    assert family_of(name).name == family


@ALL
def test_the_audit_accepts_every_family_except_for_the_one_without_role_markers(family: Family) -> None:
    findings = audit_template(family.source)
    if family.name == "dialogpt":
        assert {finding.rule for finding in findings if finding.severity is not Severity.INFO} == {"template.roles"}
    else:
        assert verdict_of(findings) is Verdict.ACCEPT, findings


@ALL
def test_the_card_comes_first_and_every_character_keeps_their_name(family: Family) -> None:
    prompt = render_messages(family.source, SCENE)
    places = [
        prompt.index(text)
        for text in ("You are Mara.", "Mara: The gate is open.", "Tom: May I come in?", "Mara: Do.", "Ann: And I?")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "Qwen/Qwen2-7B",
            "<|im_start|>system\nYou are Mara.<|im_end|>\n<|im_start|>assistant\nMara: The gate is open.<|im_end|>\n"
            "<|im_start|>user\nTom: May I come in?<|im_end|>\n<|im_start|>assistant\nMara: Do.<|im_end|>\n"
            "<|im_start|>user\nAnn: And I?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "mistralai/Mistral-7B",
            "<s>[INST] You are Mara. [/INST] Mara: The gate is open.</s>[INST] Tom: May I come in? [/INST] Mara: Do."
            "</s>[INST] Ann: And I? [/INST]",
        ),
        (
            "microsoft/DialoGPT-large",
            "You are Mara.</s>Mara: The gate is open.</s>Tom: May I come in?</s>Mara: Do.</s>Ann: And I?</s>",
        ),
        (
            "acme/model",
            "<s>You are Mara.\n\n### Assistant: Mara: The gate is open.\n### Human: Tom: May I come in?\n"
            "### Assistant: Mara: Do.\n### Human: Ann: And I?\n### Assistant:",
        ),
    ],
)
def test_each_family_renders_a_scene_in_its_format(name: str, prompt: str) -> None:
    assert render_messages(family_of(name).source, SCENE) == prompt


def test_mistral_puts_the_card_into_the_first_user_turn() -> None:
    messages: list[dict[str, object]] = [CARD, {"role": "user", "content": "Hello."}]
    assert render_messages(family_of("mistral").source, messages) == "<s>[INST] You are Mara.\n\nHello. [/INST]"


@ALL
def test_a_content_may_be_a_list_of_parts_or_null(family: Family) -> None:
    messages: list[dict[str, object]] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}],
        },
        {"role": "assistant", "content": None},
        {"role": "user", "content": "three"},
    ]
    prompt = render_messages(family.source, messages)
    assert "one two" in prompt
    assert "None" not in prompt


@ALL
def test_llama_cpp_python_renders_each_family_identically(family: Family) -> None:
    formatter = pytest.importorskip(
        "llama_cpp.llama_chat_format", reason="install llama-cpp-python"
    ).Jinja2ChatFormatter
    with TemplateProcess(family.source, bos="<s>", eos="</s>") as process:
        assert not process.analyse().rejected
        for generate in (True, False):
            theirs = formatter(family.source, eos_token="</s>", bos_token="<s>", add_generation_prompt=generate)
            for messages in (SCENE, SCENE[:1], SCENE[2:], [*SCENE, *SCENE[2:]]):
                ours = process.render(RenderRequest(messages, add_generation_prompt=generate))
                assert theirs(messages=messages).prompt == ours.text


FIVE_TURNS: list[dict[str, object]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "Mara."},
    {"role": "user", "content": "Bye."},
]
_IN_CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nMara.<|im_end|>\n"
    "<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n"
)
PUBLISHED = {
    "01-ai/Yi-34B-Chat": _IN_CHATML,
    "Qwen/Qwen2-7B": _IN_CHATML,
    "mistralai/Mistral-7B": (
        "<s>[INST] Be brief.\n\nHi. [/INST] Hello.</s>[INST] Who are you? [/INST] Mara.</s>[INST] Bye. [/INST]"
    ),
    "microsoft/DialoGPT-medium": "Be brief.</s>Hi.</s>Hello.</s>Who are you?</s>Mara.</s>Bye.</s>",
    "somebody/unknown": (
        "<s>Be brief.\n\n### Human: Hi.\n### Assistant: Hello.\n### Human: Who are you?\n### Assistant: Mara.\n"
        "### Human: Bye.\n### Assistant:"
    ),
}
"""A model of each family, and a system message with five turns in its published format: ChatML (OpenAI's
chatml.md), Mistral's instruct format with the system message before the first question, DialoGPT's turns that each end
with the end-of-text token, and the turns of Guanaco's data."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_system_message_and_five_turns_have_the_published_format_of_the_family(name: str) -> None:
    assert render_messages(family_of(name).source, FIVE_TURNS) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "architecture", "tokens", "family", "why"),
    [
        ("acme/unknown", "qwen2moe", (), "qwen", "architecture is qwen2moe"),
        ("mistralai/Mistral-7B", "qwen3", (), "qwen", "architecture is qwen3"),
        ("acme/unknown", "llama", ("<|im_start|>", "<|im_end|>", "<s>"), "chatml", "vocabulary has"),
        ("mistralai/Mistral-7B", "llama", ("<|im_start|>", "<|im_end|>"), "chatml", "vocabulary has"),
        ("acme/unknown", "llama", ("[INST]", "[/INST]"), "mistral", "vocabulary has"),
        ("acme/unknown", "llama", ("[INST]",), "human-assistant", "neither"),
        ("acme/unknown", "mistral3", (), "mistral", "architecture is mistral3"),
        ("microsoft/DialoGPT-medium", "gpt2", (), "dialogpt", "name says"),
    ],
)
def test_the_architecture_and_the_tokens_have_precedence_over_the_name(
    name: str, architecture: str, tokens: tuple[str, ...], family: str, why: str
) -> None:
    match = detect_family(name, architecture=architecture, tokens=tokens)
    assert match.family.name == family
    assert why in match.reason


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("Qwen/Qwen2-7B", ("<|im_end|>", "<|im_start|>user")),
        ("mistralai/Mistral-7B", ()),  # the end token closes a turn
        ("microsoft/DialoGPT-medium", ()),
        ("somebody/unknown", ("### Human:",)),
    ],
)
def test_the_stop_sequences_are_the_markers_after_an_answer(name: str, stops: tuple[str, ...]) -> None:
    assert find_stop_sequences(family_of(name).source, bos="<s>", eos="</s>") == stops


def test_text_that_occurs_in_any_answer_is_not_a_stop_sequence() -> None:
    source = "{% for m in messages %}- {{ m.content }}\n{% endfor %}"
    assert find_stop_sequences(source, bos="<s>", eos="</s>") == ()
