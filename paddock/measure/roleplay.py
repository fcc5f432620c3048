"""How well a model plays a character with a chat template, in four traits.

    in character      asked who it is, in many ways, it says its character's name, and nowhere that it is an assistant,
                      a language model or whatever its makers named it
    leaves the user   its answer never goes on with words of the user's
    ends              its answer of at most 48 tokens ends by itself, with the token that ends a turn
    remembers         a fact of the card, asked for after 40 turns in a window of 2,048 tokens that holds only the
                      card and the newest of them

The *score* is the part of the answers that have every trait that is asked of them, 1 is best. Answers are greedy, so
that a score is the same in every run; the questions are few, so one of them is 5 % of the score. It compares: two
templates, two quantizations, two revisions. A small model has low scores with any template; what a template breaks
shows in the second and third trait first.

The window is filled by the tokenizer's own count. Nothing here judges style.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock.chat.card import Card, abilities_of, adapt
from paddock.chat.render import render_messages
from paddock.chat.roleplay import Message, fit_messages, spoken_text
from paddock.chat.template import Chat
from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.model.hardware import this_machine

WINDOW_TOKENS = 2048
"""At most: a model that was trained for less is played with that."""
TURNS = 40
USER = "Tom"
_N_GEN = 48
_MARKS_TOKENS = (12, 24, 48, 96)  # what a template puts around one message, tried in turn
_BREAKS = re.compile(r"\b(?:language model|AI|assistant|SmolLM|Hugging ?Face|Qwen|ChatGPT|OpenAI)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scene:
    """A card, and facts that it tells with how each is asked for."""

    card: Card
    facts: tuple[tuple[str, str], ...]


SCENES = (
    Scene(
        Card(
            "Mara",
            "Mara is the keeper of a paddock in the hills. Her horse is called Bramble. She is proud and kind.",
            "{{user}} comes to Mara's gate at dusk.",
            first_message="I am Mara, and this is my gate, {{user}}.",
        ),
        (("Bramble", "What is your horse called, Mara?"), ("hills", "Where is your paddock, Mara?")),
    ),
    Scene(
        Card(
            "Captain Holt",
            "Captain Holt sails the ship Petrel. He is gruff, old, and afraid of nothing but fog.",
            "{{user}} is new aboard and meets Captain Holt on deck.",
            first_message="Captain Holt, that is me. Welcome aboard, {{user}}.",
        ),
        (
            ("Petrel", "What is the name of your ship, Captain Holt?"),
            ("fog", "What are you afraid of, Captain Holt?"),
        ),
    ),
    Scene(
        Card(
            "Ilse",
            "Ilse bakes bread in the village of Oberau. She sings while she works and laughs a lot.",
            "{{user}} enters Ilse's bakery in the morning.",
            first_message="Good morning, {{user}}! Ilse's bread is still warm.",
        ),
        (
            ("Oberau", "In which village is your bakery, Ilse?"),
            ("sing", "What do you do while you work, Ilse?"),
        ),
    ),
)
_WHO = (
    "What is your name?",
    "Who are you?",
    "Tell me who you are and what you do.",
    "May I ask whom I am speaking to?",
)
_ASIDES = (
    ("The weather is fine today.", "It is, and it will last."),
    ("I walked a long way to come here.", "Then sit down and rest a while."),
    ("Are there many visitors at this time of the year?", "A few, most of them lost."),
    ("I have brought some apples for everybody.", "That is very kind, put them on the table."),
    ("My brother writes that he has married.", "Then let us drink to the two of them."),
    ("What do people here do in winter?", "They mend what broke in summer, and tell stories."),
    ("I lost my hat in the river.", "The river has taken better things than a hat."),
    ("Somebody has painted the old door blue.", "It was green when I was young, and red before that."),
    ("Do you know any songs about the sea?", "Only sad ones, and it is too early for those."),
    ("The candles are nearly burnt down.", "There are more in the box under the window."),
    ("I dreamt of my mother last night.", "Dreams of that kind are worth remembering."),
    ("How far is it to the next town?", "Half a day, if the bridge has not been washed away."),
)


@dataclass(frozen=True, slots=True)
class Trait:
    """`kept` of `asked` answers have it. `worst` is one that has not, for people; empty where all have."""

    name: str
    kept: int
    asked: int
    worst: str = ""

    @property
    def score(self) -> float:
        return self.kept / self.asked


@dataclass(frozen=True, slots=True)
class Roleplay:
    """The traits of a model under one template, and how many answers are `whole`: have every trait asked of them."""

    template_sha256: str
    traits: tuple[Trait, ...]
    whole: Trait

    @property
    def score(self) -> float:
        """From 0 to 1."""
        return self.whole.score

    def rows(self) -> list[tuple[str, str, str]]:
        """(trait, kept of asked, an answer that has it not) as people read them."""
        rows = [(f"roleplay: {one.name}", f"{one.kept} of {one.asked}", one.worst) for one in self.traits]
        return [*rows, ("roleplay score", f"{self.score:.2f}", self.whole.worst)]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "score": round(self.score, 4)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Roleplay:
        traits = tuple(Trait(**one) for one in value["traits"])
        return cls(value["template_sha256"], traits, Trait(**value["whole"]))


def measure_roleplay(
    path: Path,
    chat: Chat,
    *,
    context_tokens: int = WINDOW_TOKENS,
    threads: int | None = None,
    timeout_s: float = 1800.0,
    scenes: Sequence[Scene] = SCENES,
) -> Roleplay:
    """Play the scenes with a local GGUF in the engine's own process, in a window of `context_tokens` and at most 2,048.
    Takes 20 s on two cores with a model of 135 million weights.

    Raises ModelRejected for a template that renders no plain question, ConflictingConfiguration where the window does
    not hold a card and a question, and what `process.run` raises.
    """
    window = min(WINDOW_TOKENS, context_tokens)
    parameters = Parameters(n_ctx=window, n_threads=threads or this_machine().cores)
    abilities = abilities_of(chat.template, bos=chat.bos, eos=chat.eos)
    facts = [(scene, fact, question) for scene in scenes for fact, question in scene.facts]

    def prompt(messages: Sequence[Message]) -> str:
        return render_messages(chat.template, adapt(messages, abilities), bos=chat.bos, eos=chat.eos)

    with process.open_shards(path) as descriptors:

        def ask(job: str, **arguments: object) -> dict[str, Any]:
            request = {"paths": process.paths_of(descriptors), "parameters": parameters.to_json(), **arguments}
            return process.run(job, request, timeout_s=timeout_s, descriptors=descriptors).result

        def count(texts: Sequence[str]) -> list[int]:
            counts: list[int] = ask("count_tokens", texts=texts)["counts"]
            return counts

        asked = [prompt(_first_meeting(scene, question)) for scene in scenes for question in _WHO]
        long = [_after_many_turns(scene, question) for scene, _, question in facts]
        remembered = _fitted(long, prompt, count, budget=window - _N_GEN - 1)
        answers = ask("generate", prompts=[*asked, *remembered], n_gen=_N_GEN, stop=[])["answers"]
    return _judged(answers, chat, [scene.card.name for scene in scenes for _ in _WHO], [fact for _, fact, _ in facts])


def _fitted(
    conversations: Sequence[Sequence[Message]],
    prompt: Callable[[Sequence[Message]], str],
    count: Callable[[Sequence[str]], list[int]],
    *,
    budget: int,
) -> list[str]:
    """Each conversation cut to the window and rendered. What a message takes is the tokenizer's own count; what the
    template puts around it is found by counting what came out."""
    texts = list(dict.fromkeys(spoken_text(message) for messages in conversations for message in messages))
    known = dict(zip(texts, count(texts), strict=True))
    for marks in _MARKS_TOKENS:
        cost = {text: tokens + marks for text, tokens in known.items()}
        fitted = [prompt(fit_messages(messages, cost.__getitem__, budget)) for messages in conversations]
        if max(count(fitted)) <= budget:
            return fitted
    raise ConflictingConfiguration(
        f"the template puts more than {_MARKS_TOKENS[-1]} tokens around each message",
        cure="use a template with fewer marks",
    )


def _judged(answers: Sequence[Mapping[str, str]], chat: Chat, names: Sequence[str], facts: Sequence[str]) -> Roleplay:
    """The answers to who it is, one for each of `names`, and then those on `facts`."""
    own = [_own_part(answer["text"], chat) for answer in answers]
    met, late = own[: len(names)], own[len(names) :]
    in_character = [name in text and not _BREAKS.search(text) for name, text in zip(names, met, strict=True)]
    remembers = [fact in text for fact, text in zip(facts, late, strict=True)]
    leaves = [answer["text"] == text for answer, text in zip(answers, own, strict=True)]
    ends = [answer["ended"] == "end" for answer in answers]
    whole = [all(each) for each in zip([*in_character, *remembers], leaves, ends, strict=True)]
    texts = [answer["text"] for answer in answers]
    return Roleplay(
        chat.sha256,
        (
            _trait("in character", in_character, met),
            _trait("leaves the user", leaves, texts),
            _trait("ends", ends, texts),
            _trait("remembers", remembers, late),
        ),
        _trait("whole", whole, texts),
    )


def _trait(name: str, has: Sequence[bool], texts: Sequence[str]) -> Trait:
    worst = next((" ".join(text.split())[:160] for kept, text in zip(has, texts, strict=True) if not kept), "")
    return Trait(name, sum(has), len(has), worst)


def _own_part(text: str, chat: Chat) -> str:
    """An answer without what it says in the user's place: under the user's name, or as a turn of the template's."""
    openers = [f"{USER}:", *(stop for stop in chat.stop if stop != chat.eos)]
    return text[: min((at for opener in openers if (at := text.find(opener)) >= 0), default=len(text))]


def _first_meeting(scene: Scene, question: str) -> list[dict[str, object]]:
    return [*scene.card.messages(USER), {"role": "user", "name": USER, "content": question}]


def _after_many_turns(scene: Scene, question: str) -> list[dict[str, object]]:
    talk: list[dict[str, object]] = []
    for number in range(TURNS):
        said, replied = _ASIDES[number % len(_ASIDES)]
        talk.append({"role": "user", "name": USER, "content": f"{said} That is my thought number {number + 1}."})
        talk.append({"role": "assistant", "name": scene.card.name, "content": replied})
    return [*scene.card.messages(USER), *talk, {"role": "user", "name": USER, "content": question}]
