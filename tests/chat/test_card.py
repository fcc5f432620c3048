"""A character card keeps everything that it says, under any template."""

from __future__ import annotations

import pytest

from paddock.chat.card import Abilities, Card, abilities_of, adapt, roleplay_stops
from paddock.chat.families import FAMILIES, GENERIC, Family
from paddock.chat.render import render_messages
from paddock.errors import ConflictingConfiguration, ModelRejected
from tests.support.templates import real_templates

CARD = Card(
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
WHOLE = [*CARD.messages("Tom"), *TALK]


def check(source: str, abilities: Abilities, *, card_first: bool = True) -> None:
    """Every text is there once and in order. A real template may write the card before the last question."""
    prompt = render_messages(source, adapt(WHOLE, abilities))
    assert all(prompt.count(text) == 1 for text in (*CARD_TEXTS, *TALK_TEXTS))
    card, talk = ([prompt.index(text) for text in texts] for texts in (CARD_TEXTS, TALK_TEXTS))
    assert card == sorted(card)
    assert talk == sorted(talk)
    assert card[-1] < talk[0] or not card_first


@pytest.mark.parametrize("family", [*FAMILIES, GENERIC], ids=lambda family: family.name)
def test_a_family_keeps_the_card_and_every_name(family: Family) -> None:
    check(family.source, abilities_of(family.source, bos="<s>", eos="</s>"))


@pytest.mark.timeout(300)
def test_every_real_template_for_conversations_keeps_the_card_and_every_name() -> None:
    kept, no_conversation = 0, []
    for name, source in sorted(real_templates().items()):
        try:
            abilities = abilities_of(source, bos="<s>", eos="</s>")
        except ModelRejected:
            no_conversation.append(name)
            continue
        try:
            check(source, abilities, card_first="Mistral-Nemo" not in name)
        except (AssertionError, ValueError, ModelRejected) as error:
            raise AssertionError(f"{name}: {error}") from error
        kept += 1
    assert kept > 60
    assert all("tool" in name or "firefunction" in name for name in no_conversation), no_conversation


@pytest.mark.parametrize(
    ("abilities", "roles"),
    [
        (Abilities(True, True, True, True), ["system", "assistant", "user", "assistant", "user", "user"]),
        (Abilities(True, False, True, True), ["system", "user", "assistant", "user", "assistant", "user", "user"]),
        (Abilities(True, True, False, False), ["system", "assistant", "user", "assistant", "user"]),
        (Abilities(False, False, False, False), ["user", "assistant", "user", "assistant", "user"]),
    ],
)
def test_a_conversation_is_adapted_to_what_a_template_takes(abilities: Abilities, roles: list[str]) -> None:
    assert [message["role"] for message in adapt(WHOLE, abilities)] == roles


def test_a_card_without_a_system_message_or_a_greeting_goes_before_the_first_question() -> None:
    card = Card("Mara", "Brief.")
    adapted = adapt([*card.messages("Tom"), *TALK[:1]], Abilities(False, False, False, False))
    assert len(adapted) == 1
    assert str(adapted[0]["content"]).endswith("Brief.\n\nTom: May I come in?")


@pytest.mark.parametrize("wrapped", [False, True], ids=["version 1", "version 2"])
def test_a_card_is_read_in_the_forms_that_are_passed_around(wrapped: bool) -> None:
    fields = {
        "name": " Mara ",
        "description": "Keeper.",
        "personality": "Kind.",
        "scenario": "Dusk.",
        "mes_example": "<START>",
        "first_mes": "Hello.",
    }
    value = {"spec": "chara_card_v2", "data": fields} if wrapped else fields
    assert Card.parse(value) == Card("Mara", "Keeper.\nKind.", "Dusk.", "<START>", "Hello.")


@pytest.mark.parametrize(
    "value", [[], "Mara", {}, {"name": ""}, {"name": 3}, {"data": []}, {"name": "x", "scenario": "y" * 200_001}]
)
def test_what_is_no_card_is_refused_with_the_reason(value: object) -> None:
    with pytest.raises(ConflictingConfiguration, match="no character card"):
        Card.parse(value)


def test_an_answer_ends_where_the_user_would_speak() -> None:
    assert roleplay_stops(("<|im_end|>",), ["Tom", "Ann"]) == ("<|im_end|>", "\nTom:", "\nAnn:")


def test_the_card_is_not_put_into_a_named_users_mouth() -> None:
    adapted = adapt([*Card("Mara", "Brief.").messages("Tom"), *TALK[:1]], Abilities(False, True, True, True))
    assert [message.get("name") for message in adapted] == [None]
    assert str(adapted[0]["content"]).endswith("Brief.\n\nTom: May I come in?")
