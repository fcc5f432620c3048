"""Tokenize texts and generate greedy completions of finished prompts, in the engine's child process.

Greedy decoding, so that the same file, engine and prompts in the same order give the same completions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

from paddock.engine.bindings import Session
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration

_PIECE_BYTES = 512


def count_tokens(paths: Sequence[str], parameters: Parameters, texts: Sequence[str]) -> dict[str, Any]:
    """Count the tokens of each text with the model's own tokenizer, parsing special tokens.

    Returns `{"counts": [...]}`. Only the header of the model is needed.
    """
    log = Log()
    with Session(paths, parameters, log, no_alloc=True) as session:
        return {"counts": [len(_tokens(session, text, add_special=False)) for text in texts]}


def generate(
    paths: Sequence[str], parameters: Parameters, prompts: Sequence[str], *, n_gen: int, stop: Sequence[str]
) -> dict[str, Any]:
    """Generate at most `n_gen` tokens after each prompt.

    Returns `{"answers": [{"text", "ended"}, ...]}`, where `ended` is `end` for an end-of-generation token, the stop
    sequence that was found, or `length`. The prefix that a prompt shares with the one before it is not computed again,
    so consecutive conversations with the same character card compute the card once.
    """
    log = Log()
    with Session(paths, parameters, log) as session:
        return {"answers": [_complete(session, prompt, n_gen=n_gen, stop=stop) for prompt in prompts]}


def _complete(session: Session, prompt: str, *, n_gen: int, stop: Sequence[str]) -> dict[str, str]:
    tokens = _tokens(session, prompt, add_special=True)
    if len(tokens) + n_gen > session.context_tokens:
        raise ConflictingConfiguration(
            f"a prompt of {len(tokens)} tokens and an answer of {n_gen} do not fit in a context of"
            f" {session.context_tokens}",
            cure="use a larger context",
        )
    output = b""
    pending = session.reuse_prefix(tokens)
    for _ in range(n_gen):
        session.decode(pending)
        token = int(session.logits().argmax())
        if llama.llama_vocab_is_eog(session.vocabulary, token):
            return {"text": output.decode(errors="replace"), "ended": "end"}
        output += _piece(session, token)
        text = output.decode(errors="replace")
        for sequence in stop:
            if sequence in text:
                return {"text": text[: text.index(sequence)], "ended": sequence}
        pending = [token]
    return {"text": output.decode(errors="replace"), "ended": "length"}


def _tokens(session: Session, text: str, *, add_special: bool) -> list[int]:
    """Tokenize; `add_special` adds the beginning-of-text token if the vocabulary wants it and the text lacks it."""
    data = text.encode()
    capacity = len(data) + 8
    array = (llama.llama_token * capacity)()
    count = llama.llama_tokenize(session.vocabulary, data, len(data), array, capacity, False, True)
    tokens = list(array[: max(count, 0)])
    wants_bos = add_special and llama.llama_vocab_get_add_bos(session.vocabulary) and session.bos >= 0
    return [session.bos, *tokens] if wants_bos and tokens[:1] != [session.bos] else tokens


def _piece(session: Session, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(_PIECE_BYTES)
    length = llama.llama_token_to_piece(session.vocabulary, token, buffer, _PIECE_BYTES, 0, True)
    return buffer.raw[: max(length, 0)]
