"""Roleplay suite: how well a model plays a character with a chat template, measured in four traits.

    in character      asked in several ways who it is, it gives its character's name, and never says that it is an
                      assistant, a language model or the name that its makers gave it
    leaves the user   its answer never continues with words of the user
    ends              its answer of at most 48 tokens ends by itself, with the token that ends a turn
    remembers         it recalls a fact of the character card after 40 turns, in a window of 2,048 tokens that
                      holds only the card and the newest turns

The *score* is the share of answers that have every trait that applies to them, from 0 to 1. Answers are greedy, so a
score is the same in every run. The questions are few: one of them is 5 % of the score. The suite compares templates,
quantizations or revisions. A small model scores low with any template; a broken template shows first in the second and
third trait.

The window is filled by the model's own tokenizer's count. Style is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock.chat.card import CharacterCard, adapt_messages, detect_capabilities
from paddock.chat.render import render_messages
from paddock.chat.roleplay import Message, fit_messages, message_text
from paddock.chat.template import ChatFormat
from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.model.hardware import this_machine

WINDOW_TOKENS = 2048
"""Largest window; a model that was trained for a shorter context uses that."""
TURNS = 40
USER = "Tom"
_N_GEN = 48
_OVERHEAD_TOKENS = (12, 24, 48, 96)  # per message, of the template's markup; tried in this order
_OUT_OF_CHARACTER = re.compile(
    r"\b(?:language model|AI|assistant|SmolLM|Hugging ?Face|Qwen|ChatGPT|OpenAI)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A character card, and (fact, question) pairs: the answer to the question should contain the fact."""

    card: CharacterCard
    facts: tuple[tuple[str, str], ...]


SCENES = (
    Scene(
        CharacterCard(
            "Mara",
            "Mara is the keeper of a paddock in the hills. Her horse is called Bramble. She is proud and kind.",
            "{{user}} comes to Mara's gate at dusk.",
            first_message="I am Mara, and this is my gate, {{user}}.",
        ),
        (("Bramble", "What is your horse called, Mara?"), ("hills", "Where is your paddock, Mara?")),
    ),
    Scene(
        CharacterCard(
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
        CharacterCard(
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
_IDENTITY_QUESTIONS = (
    "What is your name?",
    "Who are you?",
    "Tell me who you are and what you do.",
    "May I ask whom I am speaking to?",
)
_SMALL_TALK = (
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
    """A trait: `kept` of `asked` answers have it.

    `worst` is an answer that lacks it, for display; empty if all have it.
    """

    name: str
    kept: int
    asked: int
    worst: str = ""

    @property
    def score(self) -> float:
        return self.kept / self.asked


@dataclass(frozen=True, slots=True)
class Roleplay:
    """The traits of a model with one template; `whole` counts the answers that have every trait that applies, and
    `items` says of each answer whether it does (empty in results of older versions).
    """

    template_sha256: str
    traits: tuple[Trait, ...]
    whole: Trait
    items: tuple[bool, ...] = ()

    @property
    def score(self) -> float:
        """From 0 to 1."""
        return self.whole.score

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (trait, "kept of asked", an answer that lacks it) of each trait, for display."""
        rows = [(f"roleplay: {trait.name}", f"{trait.kept} of {trait.asked}", trait.worst) for trait in self.traits]
        return [*rows, ("roleplay score", f"{self.score:.2f}", self.whole.worst)]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "score": round(self.score, 4)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Roleplay:
        traits = tuple(Trait(**trait) for trait in value["traits"])
        return cls(value["template_sha256"], traits, Trait(**value["whole"]), tuple(value.get("items", ())))


def measure_roleplay(
    path: Path,
    chat: ChatFormat,
    *,
    context_tokens: int = WINDOW_TOKENS,
    threads: int | None = None,
    timeout_s: float = 1800.0,
    scenes: Sequence[Scene] = SCENES,
) -> Roleplay:
    """Play the scenes with a local GGUF in the engine's child process, in a window of at most 2,048 tokens.

    Takes 20 s on two cores with a model of 135 million weights.

    Raises ModelRejected for a template that cannot render a plain question, ConflictingConfiguration if the window
    cannot hold a card and a question, and the errors of `process.run`.
    """
    window = min(WINDOW_TOKENS, context_tokens)
    parameters = Parameters(n_ctx=window, n_threads=threads or this_machine().cores)
    capabilities = detect_capabilities(chat.template, bos=chat.bos, eos=chat.eos)
    facts = [(scene, fact, question) for scene in scenes for fact, question in scene.facts]

    def render(messages: Sequence[Message]) -> str:
        return render_messages(chat.template, adapt_messages(messages, capabilities), bos=chat.bos, eos=chat.eos)

    with process.open_shards(path) as descriptors:

        def run_job(job: str, **arguments: object) -> dict[str, Any]:
            request = {"paths": process.paths_of(descriptors), "parameters": parameters.to_json(), **arguments}
            return process.run(job, request, timeout_s=timeout_s, descriptors=descriptors).result

        def count(texts: Sequence[str]) -> list[int]:
            counts: list[int] = run_job("count_tokens", texts=texts)["counts"]
            return counts

        first_prompts = [
            render(_first_meeting(scene, question)) for scene in scenes for question in _IDENTITY_QUESTIONS
        ]
        long_conversations = [_after_many_turns(scene, question) for scene, _, question in facts]
        memory_prompts = _fit_to_window(long_conversations, render, count, budget=window - _N_GEN - 1)
        answers = run_job("generate", prompts=[*first_prompts, *memory_prompts], n_gen=_N_GEN, stop=[])["answers"]
    return _judge(
        answers,
        chat,
        [scene.card.name for scene in scenes for _ in _IDENTITY_QUESTIONS],
        [fact for _, fact, _ in facts],
    )


def _fit_to_window(
    conversations: Sequence[Sequence[Message]],
    render: Callable[[Sequence[Message]], str],
    count: Callable[[Sequence[str]], list[int]],
    *,
    budget: int,
) -> list[str]:
    """Cut each conversation to the window and render it.

    The text of a message is counted with the tokenizer. The template's markup around it is estimated, and the estimate
    is checked by counting the rendered prompts.
    """
    texts = list(dict.fromkeys(message_text(message) for messages in conversations for message in messages))
    text_tokens = dict(zip(texts, count(texts), strict=True))
    for overhead in _OVERHEAD_TOKENS:
        cost = {text: tokens + overhead for text, tokens in text_tokens.items()}
        prompts = [render(fit_messages(messages, cost.__getitem__, budget)) for messages in conversations]
        if max(count(prompts)) <= budget:
            return prompts
    raise ConflictingConfiguration(
        f"the chat template adds more than {_OVERHEAD_TOKENS[-1]} tokens of markup to each message",
        cure="use a template with less markup",
    )


def _judge(
    answers: Sequence[Mapping[str, str]], chat: ChatFormat, names: Sequence[str], facts: Sequence[str]
) -> Roleplay:
    """Score the answers: first those to the identity questions, one for each of `names`, then those about `facts`."""
    own = [_own_part(answer["text"], chat) for answer in answers]
    identity, recall = own[: len(names)], own[len(names) :]
    in_character = [
        name in text and not _OUT_OF_CHARACTER.search(text) for name, text in zip(names, identity, strict=True)
    ]
    remembers = [fact in text for fact, text in zip(facts, recall, strict=True)]
    leaves = [answer["text"] == text for answer, text in zip(answers, own, strict=True)]
    ends = [answer["ended"] == "end" for answer in answers]
    whole = [all(traits) for traits in zip([*in_character, *remembers], leaves, ends, strict=True)]
    texts = [answer["text"] for answer in answers]
    return Roleplay(
        chat.sha256,
        (
            _trait("in character", in_character, identity),
            _trait("leaves the user", leaves, texts),
            _trait("ends", ends, texts),
            _trait("remembers", remembers, recall),
        ),
        _trait("whole", whole, texts),
        tuple(whole),
    )


def _trait(name: str, has: Sequence[bool], texts: Sequence[str]) -> Trait:
    worst = next((" ".join(text.split())[:160] for kept, text in zip(has, texts, strict=True) if not kept), "")
    return Trait(name, sum(has), len(has), worst)


def _own_part(text: str, chat: ChatFormat) -> str:
    """Cut off the part of an answer that speaks for the user: after the user's name, or a turn of the template."""
    openers = [f"{USER}:", *(stop for stop in chat.stop if stop != chat.eos)]
    return text[: min((at for opener in openers if (at := text.find(opener)) >= 0), default=len(text))]


def _first_meeting(scene: Scene, question: str) -> list[dict[str, object]]:
    return [*scene.card.messages(USER), {"role": "user", "name": USER, "content": question}]


def _after_many_turns(scene: Scene, question: str) -> list[dict[str, object]]:
    talk: list[dict[str, object]] = []
    for number in range(TURNS):
        remark, reply = _SMALL_TALK[number % len(_SMALL_TALK)]
        talk.append({"role": "user", "name": USER, "content": f"{remark} That is my thought number {number + 1}."})
        talk.append({"role": "assistant", "name": scene.card.name, "content": reply})
    return [*scene.card.messages(USER), *talk, {"role": "user", "name": USER, "content": question}]
