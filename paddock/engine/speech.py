"""Text in and text out, in the engine's process: tokens of a text, and greedy answers to finished prompts.

Greedy, so that the same file, engine and prompts, in the same order, give the same answers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

from paddock.engine.native import Log, Session
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration

_PIECE_BYTES = 512


def count_tokens(paths: Sequence[str], parameters: Parameters, texts: Sequence[str]) -> dict[str, Any]:
    """How many tokens each text has by the model's own tokenizer, with its marks read as the special tokens."""
    log = Log()  # it is called for as long as the engine lives
    with Session(paths, parameters, log, hollow=True) as session:
        return {"counts": [len(_tokens(session, text, add_special=False)) for text in texts]}


def answer(
    paths: Sequence[str], parameters: Parameters, prompts: Sequence[str], *, n_gen: int, stop: Sequence[str]
) -> dict[str, Any]:
    """For each prompt the answer's text, and whether it ended by itself (`end`), at one of `stop`, or by `length`.

    A prompt that begins as the one before it is computed from where they part: conversations with one card in a row
    cost the card once.
    """
    log = Log()
    with Session(paths, parameters, log) as session:
        return {"answers": [_answer(session, prompt, n_gen=n_gen, stop=stop) for prompt in prompts]}


def _answer(session: Session, prompt: str, *, n_gen: int, stop: Sequence[str]) -> dict[str, str]:
    tokens = _tokens(session, prompt, add_special=True)
    if len(tokens) + n_gen > session.context_tokens:
        raise ConflictingConfiguration(
            f"a prompt of {len(tokens)} tokens and an answer of {n_gen} do not fit in {session.context_tokens}",
            cure="use a larger context",
        )
    said = b""
    rest = session.begin(tokens)
    for _ in range(n_gen):
        session.decode(rest)
        token = int(session.logits().argmax())
        if llama.llama_vocab_is_eog(session.vocabulary, token):
            return {"text": said.decode(errors="replace"), "ended": "end"}
        said += _piece(session, token)
        text = said.decode(errors="replace")
        for mark in stop:
            if mark in text:
                return {"text": text[: text.index(mark)], "ended": mark}
        rest = [token]
    return {"text": said.decode(errors="replace"), "ended": "length"}


def _tokens(session: Session, text: str, *, add_special: bool) -> list[int]:
    """`add_special` adds what the vocabulary begins every text with, unless the text has it already."""
    data = text.encode()
    room = len(data) + 8
    array = (llama.llama_token * room)()
    count = llama.llama_tokenize(session.vocabulary, data, len(data), array, room, False, True)
    tokens = list(array[: max(count, 0)])
    wants_bos = add_special and llama.llama_vocab_get_add_bos(session.vocabulary) and session.bos >= 0
    return [session.bos, *tokens] if wants_bos and tokens[:1] != [session.bos] else tokens


def _piece(session: Session, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(_PIECE_BYTES)
    length = llama.llama_token_to_piece(session.vocabulary, token, buffer, _PIECE_BYTES, 0, True)
    return buffer.raw[: max(length, 0)]
