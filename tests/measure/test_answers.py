"""Greedy answers of two models, and whether their weights are the same."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from paddock.measure.answers import Answers, compare_answers, same_tensors
from tests.support.gguf import F32, STRING, Gguf, tiny_llama, tiny_shards


def reordered(file: Gguf) -> Gguf:
    file.tensors.reverse()
    return file


def with_one_other_byte(file: Gguf) -> Gguf:
    tensor = file.tensor("blk.0.ffn_down.weight")
    content = bytearray(tensor.content())
    content[-1] ^= 1
    tensor.data = bytes(content)
    return file


def with_halved_norm(file: Gguf) -> Gguf:
    tensor = file.tensor("output_norm.weight")
    tensor.data = struct.pack("<32f", *[0.5] * 32)
    return file


MODELS = {
    "metadata added": (tiny_llama().set("general.author", STRING, "somebody"), True),
    "another rope base": (tiny_llama().set("llama.rope.freq_base", F32, 100000.0), True),
    "tensors in another order": (reordered(tiny_llama()), True),
    "one other byte": (with_one_other_byte(tiny_llama()), False),
    "another layer": (tiny_llama(layers=2), False),
    "another type": (tiny_llama(kind=0), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_same_whatever_the_metadata_and_the_order(name: str, tmp_path: Path) -> None:
    file, same = MODELS[name]
    one, other = tiny_llama().write(tmp_path / "one.gguf"), file.write(tmp_path / "other.gguf")
    assert same_tensors(one, other) is same_tensors(other, one) is same


def test_weights_of_a_split_model_are_those_of_all_its_shards(tmp_path: Path) -> None:
    for number, shard in enumerate(tiny_shards(2), 1):
        shard.write(tmp_path / "split" / f"m-{number:05d}-of-00002.gguf")
    first = tmp_path / "split" / "m-00001-of-00002.gguf"
    assert same_tensors(first, first)
    whole = Gguf(keys=tiny_llama().keys, tensors=[tensor for shard in tiny_shards(2) for tensor in shard.tensors])
    assert same_tensors(first, whole.write(tmp_path / "whole.gguf"))


def test_answers_match_for_equal_models_alone(tmp_path: Path) -> None:
    one = with_halved_norm(tiny_llama()).write(tmp_path / "one.gguf")
    other = tiny_llama().set("general.author", STRING, "somebody").write(tmp_path / "other.gguf")
    answers = compare_answers(one, other, same_tensors=same_tensors(one, other), threads=1)
    assert (answers.asked, answers.same_tensors, answers.match) == (4, False, None)
    assert Answers.from_json(json.loads(json.dumps(answers.to_json()))) == answers
    same = compare_answers(other, other, same_tensors=True, threads=1)
    assert (same.equal, same.match, same.difference) == (4, True, "")


def test_an_answer_that_differs_is_quoted() -> None:
    answers = Answers(4, 3, same_tensors=True, difference="after 'x' it says 'a', and the other one 'b'")
    assert answers.match is False
    assert answers.equal_share == 0.75
