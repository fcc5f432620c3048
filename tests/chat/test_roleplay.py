from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.chat.roleplay import fit_messages, message_text
from paddock.errors import ConflictingConfiguration

Conversation = list[dict[str, object]]


def words(text: str) -> int:
    return len(text.split())


contents = st.text(alphabet="ab ", min_size=1, max_size=12)
names = st.sampled_from([None, "Mara", "Tom"])
messages = st.builds(
    lambda role, content, name: {"role": role, "content": content, **({"name": name} if name else {})},
    st.sampled_from(["user", "assistant", "system", "tool"]),
    contents,
    names,
)
cards = st.lists(st.builds(lambda content: {"role": "system", "content": content}, contents), max_size=2)
conversations = st.builds(lambda card, rest: card + rest, cards, st.lists(messages, max_size=14))


def cost(conversation: Conversation) -> int:
    return sum(words(message_text(message)) for message in conversation)


def card_of(conversation: Conversation) -> Conversation:
    card: Conversation = []
    for message in conversation:
        if message["role"] != "system":
            break
        card.append(message)
    return card


@given(conversations, st.integers(0, 60))
def test_the_card_and_the_newest_turns_are_kept_within_the_budget(conversation: Conversation, budget: int) -> None:
    try:
        kept = fit_messages(conversation, words, budget)
    except ConflictingConfiguration:
        return
    card = card_of(conversation)
    rest = kept[len(card) :]
    assert cost(kept) <= budget
    assert kept[: len(card)] == card
    assert rest == conversation[len(conversation) - len(rest) :]
    assert conversation == card or rest
    dropped = conversation[len(card) : len(conversation) - len(rest)]
    assert not dropped or not rest or rest[0]["role"] == "user", "a turn is kept whole"


@given(conversations, st.integers(0, 60))
def test_a_conversation_that_fits_is_unchanged(conversation: Conversation, budget: int) -> None:
    if cost(conversation) <= budget:
        assert fit_messages(conversation, words, budget) == conversation


@given(conversations, st.integers(0, 40), st.integers(0, 40))
def test_a_larger_budget_never_keeps_less(conversation: Conversation, budget: int, more: int) -> None:
    try:
        few = fit_messages(conversation, words, budget)
    except ConflictingConfiguration:
        return
    assert len(fit_messages(conversation, words, budget + more)) >= len(few)


@given(conversations, st.integers(0, 60))
def test_fitting_is_idempotent(conversation: Conversation, budget: int) -> None:
    try:
        once = fit_messages(conversation, words, budget)
    except ConflictingConfiguration:
        return
    assert fit_messages(once, words, budget) == once


def test_the_oldest_turns_are_dropped_with_their_answers() -> None:
    conversation: Conversation = [
        {"role": "system", "content": "card"},
        {"role": "assistant", "content": "greeting"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    assert [message["content"] for message in fit_messages(conversation, words, 3)] == ["card", "three"]
    assert [message["content"] for message in fit_messages(conversation, words, 4)] == ["card", "one", "two", "three"]


def test_a_window_too_small_for_the_card_and_the_newest_turn_raises_an_error_with_both_numbers() -> None:
    conversation: Conversation = [{"role": "system", "content": "a b c"}, {"role": "user", "content": "d e"}]
    with pytest.raises(ConflictingConfiguration, match="take 5 tokens, but the window has 4"):
        fit_messages(conversation, words, 4)


def test_the_result_does_not_share_messages_with_the_conversation() -> None:
    conversation: Conversation = [{"role": "user", "content": "a"}]
    fit_messages(conversation, words, 4)[0]["content"] = "b"
    assert conversation[0]["content"] == "a"
