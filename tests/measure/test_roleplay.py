"""The roleplay suite: on the real model with the right template and a wrong one (torture), and on small models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.chat.families import GENERIC
from paddock.chat.stops import find_stop_sequences
from paddock.chat.template import ChatFormat, choose_chat_format
from paddock.errors import ConflictingConfiguration
from paddock.measure.roleplay import SCENES, Roleplay, Scene, Trait, measure_roleplay
from tests.support.architectures import sound
from tests.support.gguf import CHATML, U32, tiny_llama


@pytest.fixture(scope="module")
def right(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    directory = tmp_path_factory.mktemp("model")
    (directory / model.name).symlink_to(model)
    return choose_chat_format(directory, "org/SmolLM2")


def with_wrong_template(chat: ChatFormat) -> ChatFormat:
    source = GENERIC.source
    return ChatFormat(
        source, "family", "wrong", chat.bos, chat.eos, find_stop_sequences(source, bos=chat.bos, eos=chat.eos)
    )


SHORT = (replace(SCENES[0], facts=SCENES[0].facts[:1]),)
"""One scene with one fact, played in a window of 256 tokens."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("scenes", "window"),
    [
        pytest.param(SHORT, 256, id="short", marks=pytest.mark.torture),
        pytest.param(SCENES[:2], 2048, id="2", marks=pytest.mark.torture),
    ],
)
def test_a_wrong_template_scores_clearly_worse(
    model: Path, right: ChatFormat, scenes: tuple[Scene, ...], window: int
) -> None:
    scores = {}
    for name, chat in (("right", right), ("wrong", with_wrong_template(right))):
        scores[name] = measure_roleplay(model, chat, context_tokens=window, scenes=scenes, threads=1)
        print(f"\n{name}: {chat.origin}")
        for row in scores[name].rows():
            print("  ", *row)
    assert scores["right"].score > scores["wrong"].score + 0.2
    kept = {name: {trait.name: trait.score for trait in one.traits} for name, one in scores.items()}
    assert kept["right"]["leaves the user"] > kept["wrong"]["leaves the user"] + 0.3
    assert kept["right"]["ends"] > kept["wrong"]["ends"]


@pytest.mark.torture
def test_the_same_suite_has_the_same_score(model: Path, right: ChatFormat) -> None:
    one, two = (measure_roleplay(model, right, scenes=SCENES[:1], threads=1) for _ in range(2))
    assert one == two
    assert [trait.asked for trait in one.traits] == [4, 6, 6, 2]


def test_a_score_survives_json() -> None:
    score = Roleplay("a" * 64, (Trait("ends", 3, 4, "and so on"), Trait("remembers", 1, 2)), Trait("whole", 1, 4))
    assert Roleplay.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert score.to_json()["score"] == score.score == 0.25


def played(path: Path, context_tokens: int) -> Roleplay:
    return measure_roleplay(
        path, choose_chat_format(path.parent, "org/tiny"), context_tokens=context_tokens, scenes=SCENES[:1], threads=1
    )


def test_markup_of_many_tokens_leaves_fewer_turns_in_the_window(tmp_path: Path) -> None:
    file = tiny_llama(template=CHATML).set("llama.context_length", U32, 4096)
    assert [trait.asked for trait in played(file.write(tmp_path / "m.gguf"), 2048).traits] == [4, 6, 6, 2]


def test_a_window_too_small_for_the_card_is_refused_before_generation(tmp_path: Path) -> None:
    path = sound("gpt2").write(tmp_path / "m.gguf")  # trained for 256 tokens, with a token for each byte
    with pytest.raises(ConflictingConfiguration, match="the window has"):
        played(path, 256)
