"""Check the tokenizer in a GGUF header: vocabulary, merges, token types, and special token ids.

These are the properties that the engine relies on: if one is violated, it aborts or generates garbage. *Special ids*
are the ids of tokens such as begin, end and unknown; for ids that the file does not set, the engine has *defaults* per
kind of tokenizer. Kinds, pre-tokenizers and defaults are copied from llama-vocab.cpp. Chat templates are checked in
`paddock.chat`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from paddock.gguf.format import MAX_MERGES, MAX_TOKENS, ValueType
from paddock.gguf.header import Array, Header
from paddock.gguf.imitation import imitated_marker
from paddock.model.finding import Finding, Severity

PREFIX: Final = "tokenizer.ggml."
_WITHOUT_VOCABULARY: Final = frozenset({"none", "no_vocab"})
_BPE: Final = frozenset({"gpt2", "gemma4", "hybriddna", "whitespace"})
_SPM: Final = "llama"

KINDS: Final = frozenset({"llama", "bert", "t5", "rwkv", "plamo2", "test", *_BPE, *_WITHOUT_VOCABULARY})
"""The values of `tokenizer.ggml.model` that the engine supports."""

_PRE_TOKENIZERS: Final = """
default minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano deepseek-llm
deepseek-coder deepseek-v3 spark2_5 youtu falcon mpt starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es
jina-v2-de a.x-4.0 mellum modern-bert jais-2 gemma4 granite-embed-multi-311m sarvam-moe jina-v1-en jina-v2-code
roberta-bpe whitespace refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 olmo dbrx smaug-bpe
poro-chat chatglm-bpe glm4 glm5 viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 exaone-moe
chameleon minerva-7b megrez gpt-4o llama4 kanana2 talkie granite-embed-multi-97m tiny_aya cohere2moe superbpe trillion
granite-docling bailingmoe bailingmoe2 llada-moe seed-coder hunyuan hunyuan-dense hy_v4 joyai-llm kimi-k2 ufakzeka
grok-2 afmoe laguna minimax-m2 solar-open mellum2
"""
PRE_TOKENIZERS: Final = frozenset(_PRE_TOKENIZERS.split())
"""The values of `tokenizer.ggml.pre` that the engine supports. Only BPE tokenizers have a pre-tokenizer."""

_DEFAULT_IDS: Final = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102},
    "t5": {"eos": 1, "unknown": 2},
    "plamo2": {"bos": 1, "eos": 2, "unknown": 0},
    "gpt2": {"bos": 11, "eos": 11},
    "hybriddna": {"bos": 11, "eos": 11},
    "whitespace": {"bos": 11, "eos": 11},
}
_IDS: Final = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "prefix", "suffix", "middle"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
)  # "seperator" is how the GGUF key is spelled
_TYPES: Final = {
    "pre": ValueType.STRING,
    "token_type_count": ValueType.UINT32,
    **dict.fromkeys(
        ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"),
        ValueType.BOOL,
    ),
}
_WARNED_IF_OUT_OF_RANGE: Final = frozenset({"padding", "mask", "seperator"})
_WITHOUT_BOS: Final = frozenset({"chatglm-bpe", "glm4", "glm5"})
"""Pre-tokenizers for which the engine has no default begin token, unlike for others of their kind."""
_ID_TYPES: Final = frozenset(
    {ValueType.UINT8, ValueType.INT8, ValueType.UINT16, ValueType.INT16, ValueType.UINT32, ValueType.INT32}
    | {ValueType.UINT64, ValueType.INT64}
)
_SUPPRESSED: Final = "suppress_tokens"
_WITH_MASK_TOKEN: Final = frozenset({"nomic-bert-moe", "jina-bert-v3"})
_PRE_WITH_MASK_TOKEN: Final = ("jina-v2-de", "jina-v2-es", "jina-v2-code")
_PHI3_TOKENS: Final = (b"</s>", b"<unk>", b"<s>", b"<|endoftext|>")
_MAX_TOKEN_BYTES: Final = 4096
"""The longest tokens of published vocabularies, runs of spaces and dashes, have some hundred bytes. The engine's work
grows with the square of the length for some tokenizers."""
_CONTROL_TYPE: Final = 3
_CONTROL_TYPES: Final = frozenset({_CONTROL_TYPE, 4})  # control, and user-defined: the engine finds both in any text
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_BYTE_TYPE = 6
_CURE = "use a file that was converted with a current llama.cpp"


def special_token(header: Header, name: str) -> str:
    """Return the text of the special token `bos` or `eos`: that of the file, or the engine's default of a SentencePiece
    vocabulary. Empty if there is none."""
    tokens, index = header.array(PREFIX + "tokens"), header.integer(f"{PREFIX}{name}_token_id")
    if index is None and header.text(PREFIX + "model") == _SPM:
        index = _DEFAULT_IDS[_SPM][name]
    if tokens is None or index is None or not 0 <= index < tokens.count or tokens.type is not ValueType.STRING:
        return ""
    return tokens.text(index)


def control_tokens(header: Header) -> frozenset[str]:
    """Return the texts of the control tokens, which the engine does not print."""
    tokens, types = header.array(PREFIX + "tokens"), header.array(PREFIX + "token_type")
    if tokens is None or types is None or tokens.type is not ValueType.STRING or types.type is not ValueType.INT32:
        return frozenset()
    pairs = zip(tokens.iter_raw(), types.numbers(), strict=False)
    return frozenset(token.decode(errors="replace") for token, kind in pairs if kind == _CONTROL_TYPE)


def check(header: Header, *, embedding_rows: int | None) -> Iterator[Finding]:
    """Check the tokenizer. `embedding_rows` is the number of rows of the token embedding, or None if the embedding is
    not in this file.
    """
    kind = header.text(PREFIX + "model")
    if kind is None:
        yield _reject("gguf.tokenizer.model", "model", "tokenizer.ggml.model is missing, but the engine requires it")
        return
    if kind not in KINDS:
        yield _reject("gguf.tokenizer.model", "model", f"the engine does not support the tokenizer {kind[:60]!r}")
        return
    if kind in _WITHOUT_VOCABULARY:
        yield Finding(
            "gguf.tokenizer.model",
            Severity.WARN,
            "the model has no vocabulary: it accepts token ids, not text",
            PREFIX + "model",
        )
        return
    pre = header.text(PREFIX + "pre")
    for name, expected in _TYPES.items():
        if header.types.get(PREFIX + name, expected) is not expected:
            message = f"{PREFIX}{name} has type {header.types[PREFIX + name].name}, expected {expected.name}"
            yield _reject("gguf.tokenizer.key-type", name, message)
    if kind in _BPE and kind != "gemma4":
        yield from _check_pre(pre, present=PREFIX + "pre" in header.metadata)
    tokens = header.array(PREFIX + "tokens")
    if tokens is None or tokens.type is not ValueType.STRING or tokens.count == 0:
        yield _reject("gguf.tokenizer.tokens", "tokens", "the vocabulary is missing, empty, or not an array of strings")
        return
    if tokens.count > MAX_TOKENS:
        yield _reject(
            "gguf.tokenizer.tokens",
            "tokens",
            f"the vocabulary has {tokens.count} tokens, allowed are at most {MAX_TOKENS}",
        )
        return
    if embedding_rows is not None and embedding_rows != tokens.count:
        yield _reject(
            "gguf.tokenizer.embedding-rows",
            "tokens",
            f"the vocabulary has {tokens.count} tokens, but the token embedding has {embedding_rows} rows",
        )
    vocabulary = _Vocabulary(kind, pre, tokens.raw())
    yield from _check_tokens(vocabulary)
    yield from _check_lengths(header, vocabulary)
    yield from _check_token_types(header, vocabulary)
    yield from _check_merges(header, vocabulary)
    yield from _check_ids(header, vocabulary)
    yield from _check_id_lists(header, vocabulary)
    yield from _check_named_tokens(header, vocabulary)
    yield from _check_charsmap(header, vocabulary)


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    kind: str
    pre: str | None
    tokens: list[bytes]


def _reject(rule: str, key: str, message: str, *, cure: str = _CURE) -> Finding:
    return Finding(rule, Severity.REJECT, message, PREFIX + key, cure)


def _check_pre(pre: str | None, *, present: bool) -> Iterator[Finding]:
    if pre is None and present:  # already reported as a wrong type
        return
    if not pre:
        message = "tokenizer.ggml.pre is missing, so the engine may split text differently than in training"
        yield Finding("gguf.tokenizer.pre", Severity.WARN, message, PREFIX + "pre", _CURE)
    elif pre not in PRE_TOKENIZERS:
        yield _reject("gguf.tokenizer.pre", "pre", f"the engine does not support the pre-tokenizer {pre[:60]!r}")


def _check_tokens(vocabulary: _Vocabulary) -> Iterator[Finding]:
    tokens = vocabulary.tokens
    joined = b"\0".join(tokens)
    if joined.count(0) != len(tokens) - 1:
        index = next(index for index, token in enumerate(tokens) if 0 in token)
        yield _reject(
            "gguf.tokenizer.token-nul",
            "tokens",
            f"token {index} contains a NUL character, where the engine truncates it",
        )
    longest = max(range(len(tokens)), key=lambda index: len(tokens[index]))
    if len(tokens[longest]) > _MAX_TOKEN_BYTES:
        message = f"token {longest} has {len(tokens[longest])} bytes, allowed are at most {_MAX_TOKEN_BYTES}"
        yield _reject("gguf.tokenizer.token-length", "tokens", message)
    try:
        joined.decode()
    except UnicodeDecodeError:
        index = next(index for index, token in enumerate(tokens) if not _is_utf8(token))
        yield _reject("gguf.tokenizer.utf8", "tokens", f"token {index} is not UTF-8: {tokens[index][:40]!r}")
    # the engine renames an empty token to [EMPTY_n], and aborts if two tokens have the same text
    named = tokens if b"" not in tokens else [token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens)]
    if len(set(named)) != len(named):
        seen: dict[bytes, int] = {}
        for index, token in enumerate(named):
            if token in seen:
                message = f"tokens {seen[token]} and {index} have the same text {token[:40]!r}"
                yield _reject("gguf.tokenizer.duplicate", "tokens", message)
                return
            seen[token] = index


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_lengths(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    count = len(vocabulary.tokens)
    for name, types in (("scores", (ValueType.FLOAT32, ValueType.INT32)), ("token_type", (ValueType.INT32,))):
        value = header.metadata.get(PREFIX + name)
        if value is None:
            continue
        if not isinstance(value, Array) or value.type not in types:
            wanted = " or ".join(kind.name for kind in types)
            yield _reject("gguf.tokenizer.key-type", name, f"{PREFIX}{name} is not an array of {wanted}")
        elif value.count != count:
            yield _reject(
                "gguf.tokenizer.lengths",
                name,
                f"{PREFIX}{name} has {value.count} items, but the vocabulary has {count} tokens",
            )
        elif value.type is ValueType.FLOAT32 and not math.isfinite(sum(value.numbers())):
            yield _reject("gguf.tokenizer.scores", name, "a score is infinite or not a number")


def _check_token_types(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    tokens = vocabulary.tokens
    types = header.array(PREFIX + "token_type")
    if types is not None and types.type is ValueType.INT32 and types.count == len(tokens):
        kinds = types.numbers()
        if not 1 <= min(kinds) <= max(kinds) <= 6:
            index, number = next((index, number) for index, number in enumerate(kinds) if not 1 <= number <= 6)
            yield _reject(
                "gguf.tokenizer.token-type", "token_type", f"token {index} has token type {number}, allowed are 1 to 6"
            )
        wrong = [
            index
            for index, number in enumerate(kinds)
            if number == _BYTE_TYPE and not _BYTE_TOKEN.fullmatch(tokens[index])
        ]
        if wrong:
            message = f"the byte token {wrong[0]} is {tokens[wrong[0]][:40]!r}, expected <0x00> to <0xFF>"
            yield _reject("gguf.tokenizer.byte-token", "tokens", message)
        yield from _check_imitations(tokens, kinds)
    if vocabulary.kind in {_SPM, "plamo2"}:
        # the engine throws at the first prompt that contains a byte without a token
        texts = set(tokens)
        accepts_single_byte = vocabulary.kind == _SPM
        missing = [
            byte
            for byte in range(256)
            if b"<0x%02X>" % byte not in texts and not (accepts_single_byte and bytes([byte]) in texts)
        ]
        if missing:
            first = f"<0x{missing[0]:02X}>"
            message = (
                f"{len(missing)} of 256 byte tokens are missing, the first is {first}: the engine fails on such text"
            )
            yield _reject("gguf.tokenizer.byte-missing", "tokens", message)


def _check_imitations(tokens: list[bytes], kinds: tuple[int | float | bool, ...]) -> Iterator[Finding]:
    for token, kind in zip(tokens, kinds, strict=True):
        if (
            kind in _CONTROL_TYPES
            and not token.isascii()
            and (marker := imitated_marker(token.decode(errors="replace")))
        ):
            message = f"the control token {token.decode(errors='replace')!a} imitates the marker {marker!r}"
            cure = "use another file: whoever made this one wants the two to be confused"
            yield _reject("gguf.tokenizer.imitation", "tokens", message, cure=cure)
            return


def _check_merges(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    if vocabulary.kind not in _BPE:
        return
    value = header.metadata.get(PREFIX + "merges")
    if value is None:
        if vocabulary.pre != "kimi-k2":
            yield _reject("gguf.tokenizer.merges", "merges", "the BPE tokenizer has no merges")
        return
    if not isinstance(value, Array) or value.type is not ValueType.STRING:
        yield _reject("gguf.tokenizer.merges", "merges", f"{PREFIX}merges is not an array of strings")
        return
    if value.count > MAX_MERGES:
        yield _reject(
            "gguf.tokenizer.merges",
            "merges",
            f"the tokenizer has {value.count} merges, allowed are at most {MAX_MERGES}",
        )
        return
    merges = value.raw()
    if not _is_utf8(b" ".join(merges)):
        yield _reject("gguf.tokenizer.utf8", "merges", "a merge is not UTF-8")
    for index, merge in enumerate(merges):
        # the first character may itself be a space, so the engine searches from the second one
        if not 0 < merge.find(b" ", 1) < len(merge) - 1:
            yield _reject(
                "gguf.tokenizer.merges",
                "merges",
                f"merge {index} is {merge[:40]!r}, expected two parts separated by a space",
            )
            return


def _check_ids(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    count = len(vocabulary.tokens)
    defaults = dict(_DEFAULT_IDS.get(vocabulary.kind, {}))
    if vocabulary.kind in _BPE and vocabulary.pre in _WITHOUT_BOS:
        del defaults["bos"]
    is_usable: dict[str, bool] = {}
    for name in _IDS:
        key = f"{name}_token_id"
        default = defaults.get(name)
        is_usable[name] = default is not None and default < count
        if PREFIX + key not in header.metadata:
            if default is not None and default >= count:
                message = f"{PREFIX}{key} is missing, and the engine's default {default} is not one of {count} tokens"
                yield _reject("gguf.tokenizer.default-id", key, message)
            continue
        value = header.integer(PREFIX + key)
        if value is None or header.types[PREFIX + key] is not ValueType.UINT32:
            yield _reject(
                "gguf.tokenizer.key-type",
                key,
                f"{PREFIX}{key} has type {header.types[PREFIX + key].name}, expected UINT32",
            )
        elif value >= count:
            severity = Severity.WARN if name in _WARNED_IF_OUT_OF_RANGE else Severity.REJECT
            message = f"{PREFIX}{key} is {value}, but the vocabulary has {count} tokens"
            yield Finding("gguf.tokenizer.id-range", severity, message, PREFIX + key, _CURE)
        else:
            is_usable[name] = True
    for name in ("bos", "eos"):
        if header.metadata.get(f"{PREFIX}add_{name}_token") is True and not is_usable[name]:
            yield _reject(
                "gguf.tokenizer.id-missing",
                f"add_{name}_token",
                f"{PREFIX}add_{name}_token is set, but there is no {name} token",
            )


def _check_id_lists(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    """Check the keys with several token ids, such as `tokenizer.ggml.eos_token_ids`."""
    count = len(vocabulary.tokens)
    for key, value in header.metadata.items():
        name = key.removeprefix(PREFIX)
        if name == key or not (name.endswith("_token_ids") or name == _SUPPRESSED):
            continue
        if not isinstance(value, Array) or value.type not in _ID_TYPES:
            yield _reject("gguf.tokenizer.key-type", name, f"{key[:80]} is not an array of token ids")
        elif name == _SUPPRESSED and value.type is not ValueType.INT32:
            message = f"{key} is an array of {value.type.name}, expected INT32"
            yield _reject("gguf.tokenizer.key-type", name, message)
        elif wrong := [number for number in value.numbers() if not 0 <= number < count]:
            message = f"{key[:80]} has the id {wrong[0]}, but the vocabulary has {count} tokens"
            yield _reject("gguf.tokenizer.id-range", name, message)


def _check_named_tokens(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    """Check the tokens that the engine looks up because of the model's name: it fails where one is not there."""
    name = (header.text("general.name") or "").lower()
    if not any(part in name for part in ("phi-3", "phi3")) or header.architecture in _WITH_MASK_TOKEN:
        return
    if any(part in (vocabulary.pre or "") for part in _PRE_WITH_MASK_TOKEN):
        return
    texts = set(vocabulary.tokens)
    missing = [token.decode() for token in _PHI3_TOKENS if token not in texts]
    if missing:
        message = f"the engine treats a model named {name[:40]!r} as Phi-3, and needs its token {missing[0]!r}"
        cure = "use a file with another general.name, or with all tokens of Phi-3"
        yield Finding("gguf.tokenizer.named-token", Severity.REJECT, message, "general.name", cure)


def _check_charsmap(header: Header, vocabulary: _Vocabulary) -> Iterator[Finding]:
    value = header.metadata.get(PREFIX + "precompiled_charsmap")
    if vocabulary.kind != "t5" or value is None:
        return
    if not isinstance(value, Array) or value.type not in {ValueType.INT8, ValueType.UINT8} or value.count < 4:
        yield _reject(
            "gguf.tokenizer.charsmap", "precompiled_charsmap", "the character map is not an array of at least 4 bytes"
        )
    elif int.from_bytes(value.prefix[value.start : value.start + 4], "little") + 4 >= value.count:
        yield _reject("gguf.tokenizer.charsmap", "precompiled_charsmap", "the character map is longer than its array")
