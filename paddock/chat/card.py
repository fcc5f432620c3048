"""Character cards: who a model plays, and how that becomes a conversation under any template.

A *card* has a name, a persona, a scenario, example dialogue and a first message, in which `{{char}}` and `{{user}}`
stand for the names. It becomes a system message and the character's greeting.

Templates differ in what they take. `abilities_of` finds that out by rendering, and `adapt` writes a conversation so
that nothing of it is lost: the card goes into the first user's message where there is no system message, a name goes
before the words where the template shows none, and messages of one role in a row become one where roles must alternate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from paddock.chat.render import Request, TemplateProcess
from paddock.chat.roleplay import Message, spoken_text
from paddock.errors import ConflictingConfiguration, ModelRejected

_MOST_CHARACTERS = 200_000
_SCENE = "(The scene begins.)"


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    persona: str
    scenario: str = ""
    examples: str = ""
    first_message: str = ""

    @classmethod
    def parse(cls, value: object) -> Self:
        """A card in the forms that are passed around: the fields at the top (version 1), or below `data` (2 and 3):
        `name`, `description` with `personality`, `scenario`, `mes_example`, `first_mes`.

        Raises ConflictingConfiguration for what is no card.
        """
        data = value.get("data", value) if isinstance(value, Mapping) else value
        if not isinstance(data, Mapping):
            raise _no_card("it is no object")
        texts = {key: data.get(key, "") for key in ("name", "description", "personality", "scenario", "mes_example")}
        texts["first_mes"] = data.get("first_mes", "")
        for key, text in texts.items():
            if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
                raise _no_card(f"its {key!r} is no text of at most {_MOST_CHARACTERS} characters")
        name = " ".join(texts["name"].split())
        if not name:
            raise _no_card("it has no name")
        persona = "\n".join(part for part in (texts["description"], texts["personality"]) if part.strip())
        return cls(name, persona, texts["scenario"], texts["mes_example"], texts["first_mes"])

    def messages(self, user: str) -> list[dict[str, object]]:
        """The system message, and the greeting where the card has one."""
        parts = [
            f"You are {self.name}. Stay in character as {self.name}, and never speak for {user}.",
            self.persona,
            f"Scenario: {self.scenario}" if self.scenario.strip() else "",
            f"Example dialogue:\n{_examples(self.examples)}" if self.examples.strip() else "",
        ]
        system = "\n\n".join(part.strip() for part in parts if part.strip())
        made: list[dict[str, object]] = [{"role": "system", "content": self._named(system, user)}]
        if self.first_message.strip():
            greeting = self._named(self.first_message.strip(), user)
            made.append({"role": "assistant", "name": self.name, "content": greeting})
        return made

    def _named(self, text: str, user: str) -> str:
        names = {"char": self.name, "user": user}
        return re.sub(r"\{\{(char|user)\}\}", lambda found: names[found[1].lower()], text, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template takes: a system message, a greeting before the first question, a message's name (which it writes
    as `Name: text`), and two messages of one role in a row."""

    system: bool
    greeting: bool
    names: bool
    in_a_row: bool


def abilities_of(source: str, *, bos: str, eos: str) -> Abilities:
    """Raises ModelRejected for a template that renders no plain question."""

    def said(*turns: tuple[str, str], name: str | None = None) -> list[dict[str, object]]:
        return [{"role": role, "content": text, **({"name": name} if name else {})} for role, text in turns]

    system, user, assistant = ("system", "otter999"), ("user", "heron999"), ("assistant", "badger999")
    again = ("user", "plover999")
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        if process.analyse().rejected:
            raise ModelRejected("the chat template may not be rendered", cure="use the family's template")

        def takes(messages: list[dict[str, object]], *texts: str) -> bool:
            rendered = process.render(Request(messages))
            return rendered.ok and all(rendered.text.count(text) == 1 for text in texts)

        if not takes(said(user), "heron999"):
            raise ModelRejected("the chat template renders no plain question", cure="use the family's template")
        return Abilities(
            system=takes(said(system, user), "otter999", "heron999"),
            greeting=takes(said(assistant, user), "badger999", "heron999"),
            names=takes(
                said(user, assistant, again, name="Mara"), "Mara: heron999", "Mara: badger999", "Mara: plover999"
            ),
            in_a_row=takes(
                said(user, again, assistant, ("assistant", "weasel999")), "heron999", "plover999", "weasel999"
            ),
        )


def adapt(messages: Sequence[Message], abilities: Abilities) -> list[dict[str, object]]:
    """The same conversation in a form that a template takes. Its first messages may be the card."""
    made = [dict(message) for message in messages]
    if not abilities.names:
        made = [{"role": message["role"], "content": spoken_text(message)} for message in made]
    card: list[dict[str, object]] = []
    while made and made[0]["role"] == "system":
        card.append(made.pop(0))
    opens = bool(made) and made[0]["role"] == "assistant"
    if not abilities.system and card:
        text = "\n\n".join(spoken_text(message) for message in card)
        if made and made[0]["role"] == "user":
            made[0] = {"role": "user", "content": f"{text}\n\n{spoken_text(made[0])}"}
        else:
            made.insert(0, {"role": "user", "content": text})
        card = []
    elif opens and not abilities.greeting:
        made.insert(0, {"role": "user", "content": _SCENE})
    return [*card, *(made if abilities.in_a_row else _joined(made))]


def roleplay_stops(stops: Sequence[str], users: Sequence[str]) -> tuple[str, ...]:
    """What ends an answer in a roleplay: the template's own, and a line that begins with a user's name."""
    return tuple(dict.fromkeys([*stops, *(f"\n{user}:" for user in users)]))


def _joined(messages: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    joined: list[dict[str, object]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            text = f"{joined[-1]['content']}\n{spoken_text(message)}"
            joined[-1] = {**joined[-1], "content": text}
        else:
            joined.append(message)
    return joined


def _examples(text: str) -> str:
    """Example dialogue, whose pieces are parted by `<START>`."""
    pieces = [piece.strip() for piece in re.split(r"<START>", text, flags=re.IGNORECASE)]
    return "\n\n".join(piece for piece in pieces if piece)


def _no_card(why: str) -> ConflictingConfiguration:
    return ConflictingConfiguration(f"this is no character card: {why}", cure="give a card with a name and texts")
