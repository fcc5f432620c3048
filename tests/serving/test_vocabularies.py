"""Streams of models with real vocabularies: joined, they equal the whole answers, though tokens split characters."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from paddock.serving.http.cut_text import CutCharacterFilter, drop_cut_character
from tests.support.serving import running
from tests.support.vocabularies import VOCABULARIES, model_with_vocabulary, random_spec, real_vocabulary, tokens_of

SAMPLE = ("gpt-2", "llama-spm", "qwen2")
LENGTHS, LENGTHS_IN_FULL = (1, 3, 24), tuple(range(1, 41))
CUT = "\ufffd"


def body_of(path: str, **fields: object) -> dict[str, object]:
    start = {"prompt": "Hello"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "Hello"}]}
    return {**start, **fields}


def whole_text(client: httpx.Client, path: str, body: dict[str, object]) -> str:
    choice = client.post(path, json=body).raise_for_status().json()["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def joined_stream(client: httpx.Client, path: str, body: dict[str, object]) -> str:
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    texts = []
    for line in lines[:-1]:
        choice = httpx.Response(200, content=line.removeprefix("data: ")).json()["choices"][0]
        texts.append(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
    return "".join(texts)


def cut_tokens(data: bytes) -> list[int]:
    """Tokens that end inside a character of three or four bytes: a first byte alone, and one after a space. Empty if
    the vocabulary has no bytes."""
    tokens = tokens_of(data)
    if "Ġthe" not in tokens:
        return [tokens.index("<0xE4>")] if "<0xE4>" in tokens else []
    after_space = [f"Ġ{letter}" for letter in "ãäåæçèéðâ" if f"Ġ{letter}" in tokens]
    return [tokens.index(text) for text in ("ä", *after_space[:1])]  # GPT-2's kind writes bytes as letters


def compare(name: str, directory: Path, lengths: tuple[int, ...]) -> tuple[int, int, int]:
    """Compare streams and whole answers of a vocabulary: (answers, those with U+FFFD, those that were cut)."""
    data = real_vocabulary(name)
    path = model_with_vocabulary(data).write(directory / f"{name}.gguf")
    answers = invalid = cut = 0
    with running(random_spec(path)) as server, httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
        for route in ("/v1/completions", "/v1/chat/completions"):
            for length in lengths:
                for sampling in ({"temperature": 0}, {"temperature": 1.0, "seed": length, "top_p": 1.0, "min_p": 0.0}):
                    body = body_of(route, max_tokens=length, **sampling)
                    whole = whole_text(client, route, body)
                    assert joined_stream(client, route, body) == whole, (name, body)
                    answers += 1
                    invalid += CUT in whole
            for token in cut_tokens(data):
                body = body_of(route, max_tokens=1, temperature=0, logit_bias={str(token): 100})
                assert (whole_text(client, route, body), joined_stream(client, route, body)) == ("", "")
                cut += 1
    path.unlink()
    return answers, invalid, cut


@pytest.mark.parametrize("name", SAMPLE)
def test_a_joined_stream_equals_the_whole_answer(name: str, tmp_path: Path) -> None:
    answers, _, cut = compare(name, tmp_path, LENGTHS)
    assert (answers, cut) == (12, 2 if name == "llama-spm" else 4)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_joined_streams_equal_whole_answers_over_all_vocabularies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = invalid = cut = 0
    for name in VOCABULARIES:
        counts = compare(name, tmp_path, LENGTHS_IN_FULL)
        answers, invalid, cut = answers + counts[0], invalid + counts[1], cut + counts[2]
    with capsys.disabled():
        print(f"\n{len(VOCABULARIES)} vocabularies: {answers} pairs equal, {invalid} with U+FFFD, {cut} cut inside")


def chunks(*texts: str, name: str = "content", finish: str = "length") -> list[dict[str, object]]:
    made: list[dict[str, object]] = [{"choices": [{"index": 0, "delta": {name: text}}]} for text in texts]
    return [*made, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]


def joined(events: list[dict[str, object]]) -> str:
    filter_ = CutCharacterFilter(max_tokens=2, with_timings=False)
    text = ""
    for event in events:
        filter_.apply(event)
        for choice in event["choices"]:  # type: ignore[attr-defined]  # made above
            text += choice["delta"].get("reasoning_content", "") + choice["delta"].get("content", "")
    return text


@pytest.mark.parametrize(
    ("texts", "finish", "expected"),
    [
        (("a", f"b{CUT}"), "length", "ab"),
        (("a", f"b{CUT}"), "stop", f"ab{CUT}"),
        ((f"a{CUT}", CUT, "b"), "length", f"a{CUT}{CUT}b"),
        ((CUT, CUT), "length", ""),
        ((f"{CUT}a",), "length", f"{CUT}a"),
        (("a ", "b"), "length", "a b"),
        (("a ",), "length", "a"),
        (("a ",), "stop", "a "),
        (("a ", CUT), "length", "a"),
    ],
)
def test_only_what_is_left_at_the_end_of_a_cut_answer_is_dropped(
    texts: tuple[str, ...], finish: str, expected: str
) -> None:
    assert joined(chunks(*texts, finish=finish)) == expected
    whole = {"choices": [{"message": {"content": "".join(texts)}, "finish_reason": finish}]}
    assert drop_cut_character(whole) == (expected != "".join(texts))
    assert whole["choices"][0]["message"] == {"content": expected}


@pytest.mark.parametrize(("sent", "expected"), [(1, "a"), (2, "a ")], ids=["cut", "whole"])
def test_a_completions_space_is_dropped_only_where_later_tokens_were_not_sent(sent: int, expected: str) -> None:
    filter_, text = CutCharacterFilter(max_tokens=2, with_timings=False), ""
    for choice in ({"index": 0, "text": "a "}, {"index": 0, "text": "", "finish_reason": "length"}):
        event = {"choices": [choice], "timings": {"predicted_n": sent}}
        filter_.apply(event)
        text += str(choice["text"])
        assert ("timings" in event) == ("finish_reason" in choice)
    assert text == expected


def test_a_thought_is_cut_only_where_nothing_follows_it() -> None:
    thought = [*chunks(f"a{CUT}", name="reasoning_content")[:1], *chunks("b")]
    assert joined(thought) == f"a{CUT}b"
    assert joined(chunks(f"a{CUT}", name="reasoning_content")) == "a"
