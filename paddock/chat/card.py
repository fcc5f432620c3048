"""Parse character cards, and adapt roleplay conversations to the capabilities of a chat template.

A *character card* has a name, a persona, a scenario, example dialogue and a first message, with the placeholders
`{{char}}` and `{{user}}`. It is rendered as a system message and the character's greeting.

Templates support different kinds of messages. `detect_capabilities` finds out which ones by rendering samples, and
`adapt_messages` rewrites a conversation without losing text: the card moves to the first user message if there is no
system message, the speaker's name is put before the text if the template ignores names, and consecutive messages of one
role are merged if roles must alternate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from paddock.chat.render import RenderRequest, TemplateProcess
from paddock.chat.roleplay import Message, message_text
from paddock.errors import ConflictingConfiguration, ModelRejected

_MAX_FIELD_CHARS = 200_000
_OPENING = "(The scene begins.)"


@dataclass(frozen=True, slots=True)
class CharacterCard:
    """A character card. Its texts may contain `{{char}}` and `{{user}}`."""

    name: str
    persona: str
    scenario: str = ""
    examples: str = ""
    first_message: str = ""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a decoded JSON card, with the fields at the top level (version 1) or in `data` (versions 2 and 3).

        The fields are `name`, `description`, `personality` (appended to the description), `scenario`, `mes_example` and
        `first_mes`, of at most 200,000 characters each. Raises ConflictingConfiguration for other values.
        """
        data = value.get("data", value) if isinstance(value, Mapping) else value
        if not isinstance(data, Mapping):
            raise _invalid_card("it is not a JSON object")
        texts = {key: data.get(key, "") for key in ("name", "description", "personality", "scenario", "mes_example")}
        texts["first_mes"] = data.get("first_mes", "")
        for key, text in texts.items():
            if not isinstance(text, str) or len(text) > _MAX_FIELD_CHARS:
                raise _invalid_card(f"{key!r} is not a string of at most {_MAX_FIELD_CHARS} characters")
        name = " ".join(texts["name"].split())
        if not name:
            raise _invalid_card("it has no name")
        persona = "\n".join(part for part in (texts["description"], texts["personality"]) if part.strip())
        return cls(name, persona, texts["scenario"], texts["mes_example"], texts["first_mes"])

    def messages(self, user: str) -> list[dict[str, object]]:
        """Return the system message, and the greeting if the card has one. `user` replaces `{{user}}`."""
        parts = [
            f"You are {self.name}. Stay in character as {self.name}, and never speak for {user}.",
            self.persona,
            f"Scenario: {self.scenario}" if self.scenario.strip() else "",
            f"Example dialogue:\n{_examples(self.examples)}" if self.examples.strip() else "",
        ]
        system = "\n\n".join(part.strip() for part in parts if part.strip())
        messages: list[dict[str, object]] = [{"role": "system", "content": self._fill_names(system, user)}]
        if self.first_message.strip():
            greeting = self._fill_names(self.first_message.strip(), user)
            messages.append({"role": "assistant", "name": self.name, "content": greeting})
        return messages

    def _fill_names(self, text: str, user: str) -> str:
        names = {"char": self.name, "user": user}
        return re.sub(r"\{\{(char|user)\}\}", lambda match: names[match[1].lower()], text, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TemplateCapabilities:
    """Capabilities of a template: a system message, a greeting before the first user message, the `name` of a message
    (rendered as `Name: text`), and consecutive messages of one role.
    """

    system: bool
    greeting: bool
    names: bool
    consecutive: bool


def detect_capabilities(source: str, *, bos: str, eos: str) -> TemplateCapabilities:
    """Detect a template's capabilities by rendering sample conversations in a subprocess.

    `bos` and `eos` are the texts of the begin and end tokens. Raises ModelRejected for a template that is unsafe or
    does not render a single user message.
    """

    def messages(*turns: tuple[str, str], name: str | None = None) -> list[dict[str, object]]:
        return [{"role": role, "content": text, **({"name": name} if name else {})} for role, text in turns]

    system, user, assistant = ("system", "otter999"), ("user", "heron999"), ("assistant", "badger999")
    again = ("user", "plover999")
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        if process.analyse().rejected:
            raise ModelRejected("the chat template is unsafe", cure="use the family's template")

        def supports(conversation: list[dict[str, object]], *texts: str) -> bool:
            result = process.render(RenderRequest(conversation))
            return result.ok and all(result.text.count(text) == 1 for text in texts)

        if not supports(messages(user), "heron999"):
            raise ModelRejected(
                "the chat template does not render a single user message", cure="use the family's template"
            )
        return TemplateCapabilities(
            system=supports(messages(system, user), "otter999", "heron999"),
            greeting=supports(messages(assistant, user), "badger999", "heron999"),
            names=supports(
                messages(user, assistant, again, name="Mara"), "Mara: heron999", "Mara: badger999", "Mara: plover999"
            ),
            consecutive=supports(
                messages(user, again, assistant, ("assistant", "weasel999")), "heron999", "plover999", "weasel999"
            ),
        )


def adapt_messages(messages: Sequence[Message], capabilities: TemplateCapabilities) -> list[dict[str, object]]:
    """Rewrite a conversation for a template, without losing text. The leading system messages are the card."""
    adapted = [dict(message) for message in messages]
    if not capabilities.names:
        adapted = [{"role": message["role"], "content": message_text(message)} for message in adapted]
    card: list[dict[str, object]] = []
    while adapted and adapted[0]["role"] == "system":
        card.append(adapted.pop(0))
    has_greeting = bool(adapted) and adapted[0]["role"] == "assistant"
    if not capabilities.system and card:
        text = "\n\n".join(message_text(message) for message in card)
        if adapted and adapted[0]["role"] == "user":
            adapted[0] = {"role": "user", "content": f"{text}\n\n{message_text(adapted[0])}"}
        else:
            adapted.insert(0, {"role": "user", "content": text})
        card = []
    elif has_greeting and not capabilities.greeting:
        adapted.insert(0, {"role": "user", "content": _OPENING})
    return [*card, *(adapted if capabilities.consecutive else _merge_consecutive(adapted))]


def roleplay_stops(stops: Sequence[str], users: Sequence[str]) -> tuple[str, ...]:
    """Return the stop sequences for roleplay: the template's own, and a line that begins with a user's name."""
    return tuple(dict.fromkeys([*stops, *(f"\n{user}:" for user in users)]))


def _merge_consecutive(messages: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    merged: list[dict[str, object]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            text = f"{merged[-1]['content']}\n{message_text(message)}"
            merged[-1] = {**merged[-1], "content": text}
        else:
            merged.append(message)
    return merged


def _examples(text: str) -> str:
    """Split example dialogue at `<START>`, and join the parts with blank lines."""
    pieces = [piece.strip() for piece in re.split(r"<START>", text, flags=re.IGNORECASE)]
    return "\n\n".join(piece for piece in pieces if piece)


def _invalid_card(reason: str) -> ConflictingConfiguration:
    return ConflictingConfiguration(f"the character card is invalid: {reason}", cure="use a card with a name and texts")
