"""Render character cards with every template, without loss of text."""

from __future__ import annotations

import pytest

from paddock.chat.card import CharacterCard, TemplateCapabilities, adapt_messages, detect_capabilities, roleplay_stops
from paddock.chat.families import FAMILIES, GENERIC, Family
from paddock.chat.render import render_messages
from paddock.errors import ConflictingConfiguration, ModelRejected
from tests.support.templates import real_templates

CARD = CharacterCard(
    name="Mara",
    persona="{{char}} keeps the paddock and has a horse called Bramble.",
    scenario="{{user}} comes to the gate at dusk.",
    examples="<START>\n{{user}}: Is it late?\n{{char}}: Late enough.\n<start>\n{{char}}: Mind the step.",
    first_message="The gate is open, {{user}}.",
)
TALK: list[dict[str, object]] = [
    {"role": "user", "name": "Tom", "content": "May I come in?"},
    {"role": "assistant", "name": "Mara", "content": "Do."},
    {"role": "user", "name": "Tom", "content": "It is dark."},
    {"role": "user", "name": "Ann", "content": "And cold."},
]
CARD_TEXTS = (
    "You are Mara.",
    "Mara keeps the paddock",
    "Tom comes to the gate",
    "Mara: Late enough.",
)
TALK_TEXTS = (
    "Mara: The gate is open, Tom.",
    "Tom: May I come in?",
    "Mara: Do.",
    "Tom: It is dark.",
    "Ann: And cold.",
)
CONVERSATION = [*CARD.messages("Tom"), *TALK]


def check(source: str, capabilities: TemplateCapabilities, *, card_first: bool = True) -> None:
    """Check that every text occurs once and in order. A real template may put the card before the last question."""
    prompt = render_messages(source, adapt_messages(CONVERSATION, capabilities))
    assert all(prompt.count(text) == 1 for text in (*CARD_TEXTS, *TALK_TEXTS))
    card, talk = ([prompt.index(text) for text in texts] for texts in (CARD_TEXTS, TALK_TEXTS))
    assert card == sorted(card)
    assert talk == sorted(talk)
    assert card[-1] < talk[0] or not card_first


@pytest.mark.parametrize("family", [*FAMILIES, GENERIC], ids=lambda family: family.name)
def test_a_family_template_keeps_the_card_and_every_name(family: Family) -> None:
    check(family.source, detect_capabilities(family.source, bos="<s>", eos="</s>"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.torture)])
def test_every_real_chat_template_keeps_the_card_and_every_name(step: int) -> None:
    kept, no_conversation = 0, []
    for name, source in sorted(real_templates().items())[::step]:
        try:
            capabilities = detect_capabilities(source, bos="<s>", eos="</s>")
        except ModelRejected:
            no_conversation.append(name)
            continue
        try:
            check(source, capabilities, card_first="Mistral-Nemo" not in name)
        except (AssertionError, ValueError, ModelRejected) as error:
            raise AssertionError(f"{name}: {error}") from error
        kept += 1
    assert kept > 60 // step
    assert all("tool" in name or "firefunction" in name for name in no_conversation), no_conversation


@pytest.mark.parametrize(
    ("capabilities", "roles"),
    [
        (TemplateCapabilities(True, True, True, True), ["system", "assistant", "user", "assistant", "user", "user"]),
        (
            TemplateCapabilities(True, False, True, True),
            ["system", "user", "assistant", "user", "assistant", "user", "user"],
        ),
        (TemplateCapabilities(True, True, False, False), ["system", "assistant", "user", "assistant", "user"]),
        (TemplateCapabilities(False, False, False, False), ["user", "assistant", "user", "assistant", "user"]),
    ],
)
def test_a_conversation_is_adapted_to_the_capabilities_of_a_template(
    capabilities: TemplateCapabilities, roles: list[str]
) -> None:
    assert [message["role"] for message in adapt_messages(CONVERSATION, capabilities)] == roles


def test_without_a_system_message_the_card_is_put_before_the_first_question() -> None:
    card = CharacterCard("Mara", "Brief.")
    adapted = adapt_messages([*card.messages("Tom"), *TALK[:1]], TemplateCapabilities(False, False, False, False))
    assert len(adapted) == 1
    assert str(adapted[0]["content"]).endswith("Brief.\n\nTom: May I come in?")


@pytest.mark.parametrize("wrapped", [False, True], ids=["version 1", "version 2"])
def test_both_versions_of_the_card_format_are_parsed(wrapped: bool) -> None:
    fields = {
        "name": " Mara ",
        "description": "Keeper.",
        "personality": "Kind.",
        "scenario": "Dusk.",
        "mes_example": "<START>",
        "first_mes": "Hello.",
    }
    value = {"spec": "chara_card_v2", "data": fields} if wrapped else fields
    assert CharacterCard.parse(value) == CharacterCard("Mara", "Keeper.\nKind.", "Dusk.", "<START>", "Hello.")


@pytest.mark.parametrize(
    "value", [[], "Mara", {}, {"name": ""}, {"name": 3}, {"data": []}, {"name": "x", "scenario": "y" * 200_001}]
)
def test_an_invalid_card_is_rejected_with_the_reason(value: object) -> None:
    with pytest.raises(ConflictingConfiguration, match="the character card is invalid"):
        CharacterCard.parse(value)


def test_the_roleplay_stop_sequences_include_the_names_of_the_users() -> None:
    assert roleplay_stops(("<|im_end|>",), ["Tom", "Ann"]) == ("<|im_end|>", "\nTom:", "\nAnn:")


def test_a_card_in_the_first_user_message_is_not_attributed_to_the_named_user() -> None:
    adapted = adapt_messages(
        [*CharacterCard("Mara", "Brief.").messages("Tom"), *TALK[:1]], TemplateCapabilities(False, True, True, True)
    )
    assert [message.get("name") for message in adapted] == [None]
    assert str(adapted[0]["content"]).endswith("Brief.\n\nTom: May I come in?")
