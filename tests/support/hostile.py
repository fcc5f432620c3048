"""Tables of broken GGUF files, each with the rule by which the audit must reject it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, array, string, tiny_llama
from tests.support.hyperparameters import broken_hyperparameters

_BIG = 2**64 - 1


def _changed(change: Callable[[Gguf], object]) -> Callable[[], bytes]:
    def build() -> bytes:
        file = tiny_llama(template=None)
        change(file)
        return file.to_bytes()

    return build


def _set(name: str | bytes, kind: int, value: object) -> Callable[[], bytes]:
    return _changed(lambda file: file.set(name, kind, value))


def _tensor(**changes: object) -> Callable[[], bytes]:
    """A model whose query projection has other values in its tensor row."""

    def change(file: Gguf) -> None:
        row = file.tensor("blk.0.attn_q.weight")
        row.data = row.content()
        for name, value in changes.items():
            setattr(row, name, value)

    return _changed(change)


def _tokens(*tokens: str | bytes) -> Callable[[], bytes]:
    """A model with other texts for the last tokens of the vocabulary."""
    whole = g.byte_vocabulary()
    return _set("tokenizer.ggml.tokens", g.ARRAY, array(g.STRING, [*whole[: -len(tokens)], *tokens]))


def _types(*last: int) -> Callable[[], bytes]:
    return _set("tokenizer.ggml.token_type", g.ARRAY, array(g.I32, [*([2, 3, 3, *[6] * 256, 1][: -len(last)]), *last]))


def _bpe(merges: list[str] | None, pre: str = "gpt-2") -> Callable[[], bytes]:
    def change(file: Gguf) -> None:
        file.set("tokenizer.ggml.model", g.STRING, "gpt2")
        file.set("tokenizer.ggml.pre", g.STRING, pre)
        if merges is not None:
            file.set("tokenizer.ggml.merges", g.ARRAY, array(g.STRING, merges))

    return _changed(change)


def _other(**general: str) -> Callable[[], bytes]:
    return _changed(lambda file: [file.set(f"general.{key}", g.STRING, value) for key, value in general.items()])


def _expert(**values: int) -> Callable[[], bytes]:
    return _changed(lambda file: [file.set(f"llama.{key}", g.U32, value) for key, value in values.items()])


def _norm_in_q8(file: Gguf) -> None:
    file.tensor("output_norm.weight").kind = g.TYPE_Q8_0


def _norm_in_f16(file: Gguf) -> None:
    file.tensor("output_norm.weight").kind = g.TYPE_F16


def _extra(name: str, *shape: int) -> Callable[[], bytes]:
    return _changed(lambda file: file.tensors.append(TensorRow(name, shape)))


def _twice(file: Gguf) -> None:
    file.tensors.append(TensorRow("output_norm.weight", (32,)))


def _key_twice(file: Gguf) -> None:
    file.keys.append(g.Key("general.name", g.STRING, "again"))


def _one_tensor_for_each_expert(file: Gguf) -> None:
    file.set("llama.expert_count", g.U32, 2).set("llama.expert_used_count", g.U32, 1)
    file.drop(*(f"blk.0.ffn_{part}.weight" for part in ("gate", "up", "down")))
    file.tensors.append(TensorRow("blk.0.ffn_gate_inp.weight", (32, 2)))
    for expert in range(2):
        file.tensors += [
            TensorRow(f"blk.0.ffn_gate.{expert}.weight", (32, 64)),
            TensorRow(f"blk.0.ffn_up.{expert}.weight", (32, 64)),
            TensorRow(f"blk.0.ffn_down.{expert}.weight", (64, 32)),
        ]


def _experts(in_tensors: int, in_keys: int) -> Callable[[], bytes]:
    def change(file: Gguf) -> None:
        _one_tensor_for_each_expert(file)
        file.tensors = [row for row in file.tensors if ".ffn_g" not in str(row.name) and ".ffn_" not in str(row.name)]
        file.set("llama.expert_count", g.U32, in_keys)
        file.tensors += [
            TensorRow("blk.0.ffn_norm.weight", (32,)),
            TensorRow("blk.0.ffn_gate_inp.weight", (32, in_tensors)),
            TensorRow("blk.0.ffn_gate_exps.weight", (32, 64, in_tensors)),
            TensorRow("blk.0.ffn_up_exps.weight", (32, 64, in_tensors)),
            TensorRow("blk.0.ffn_down_exps.weight", (64, 32, in_tensors)),
        ]

    return _changed(change)


def _control_token(text: str) -> Callable[[], bytes]:
    """A model with a control token of this text at the end of its vocabulary."""

    def change(file: Gguf) -> None:
        file.set("tokenizer.ggml.tokens", g.ARRAY, array(g.STRING, [*g.byte_vocabulary()[:-1], text]))
        file.set("tokenizer.ggml.token_type", g.ARRAY, array(g.I32, [2, 3, 3, *[6] * 256, 3]))

    return _changed(change)


def _glm_with_bos(file: Gguf) -> None:
    file.set("tokenizer.ggml.model", g.STRING, "gpt2").set("tokenizer.ggml.pre", g.STRING, "glm4")
    file.set("tokenizer.ggml.merges", g.ARRAY, array(g.STRING, ["a b"])).drop("tokenizer.ggml.bos_token_id")
    file.set("tokenizer.ggml.add_bos_token", g.BOOL, True)


def _layer_beyond(file: Gguf) -> None:
    file.tensors.append(TensorRow("blk.7.attn_norm.weight", (32,)))


def _no_default(file: Gguf) -> None:
    file.drop("tokenizer.ggml.bos_token_id")
    file.set("tokenizer.ggml.tokens", g.ARRAY, array(g.STRING, ["a"]))


def _add_missing(file: Gguf) -> None:
    file.set("tokenizer.ggml.model", g.STRING, "rwkv").drop("tokenizer.ggml.bos_token_id")
    file.set("tokenizer.ggml.add_bos_token", g.BOOL, True)


def _charsmap(file: Gguf) -> None:
    file.set("tokenizer.ggml.model", g.STRING, "t5")
    file.set("tokenizer.ggml.precompiled_charsmap", g.ARRAY, array(g.U8, [255, 255, 255, 255, 0]))


_HEAD = b"GGUF" + struct.pack("<I", 3)
_STRINGS = struct.pack("<IQ", g.STRING, 3)

BROKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    # container
    "version-1": ("gguf.container.version", _changed(lambda file: setattr(file, "version", 1))),
    "version-99": ("gguf.container.version", _changed(lambda file: setattr(file, "version", 99))),
    "big-endian": ("gguf.container.endianness", lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "ends-in-the-counts": ("gguf.container.truncated", lambda: _HEAD + b"\0\0\0"),
    "keys-2^64": ("gguf.container.counts", _changed(lambda file: setattr(file, "key_count", _BIG))),
    "tensors-2^63": ("gguf.container.counts", _changed(lambda file: setattr(file, "tensor_count", 2**63))),
    "tensors-65537": ("gguf.container.counts", _changed(lambda file: setattr(file, "tensor_count", 65_537))),
    "keys-one-too-many": (
        "gguf.tensor.name-length",
        _changed(lambda file: setattr(file, "key_count", len(file.keys) + 1)),
    ),
    "string-2^64": ("gguf.container.truncated", _set("general.name", g.STRING, struct.pack("<Q", _BIG))),
    "string-2^63": ("gguf.container.truncated", _set("general.name", g.STRING, struct.pack("<Q", 2**63))),
    "array-past-end": ("gguf.container.truncated", _set("x.y", g.ARRAY, struct.pack("<IQ", g.F64, 15_000_000))),
    "array-string-2^64": (
        "gguf.container.truncated",
        _set("x.y", g.ARRAY, _STRINGS + string("a") + struct.pack("<Q", _BIG)),
    ),
    "array-string-past-end": (
        "gguf.container.truncated",
        _set("x.y", g.ARRAY, _STRINGS + string("a") * 2 + b"\0\0\1\0\0\0\0\0"),
    ),
    "trailing-bytes": ("gguf.container.trailing", _changed(lambda file: setattr(file, "tail", b"#!/bin/sh\n" * 20))),
    # keys
    "key-empty": ("gguf.key.length", _set("", g.U32, 1)),
    "key-too-long": ("gguf.key.length", _set("a" * 65_536, g.U32, 1)),
    "key-control-character": ("gguf.key.ascii", _set("a\x07b", g.U32, 1)),
    "key-not-ascii": ("gguf.key.ascii", _set("schlüssel", g.U32, 1)),
    "key-with-nul": ("gguf.key.ascii", _set("general.name\0", g.U32, 1)),
    "key-twice": ("gguf.key.duplicate", _changed(_key_twice)),
    "value-type-13": ("gguf.key.type", _set("x.y", 13, struct.pack("<I", 1))),
    "element-type-99": ("gguf.key.type", _set("x.y", g.ARRAY, struct.pack("<IQ", 99, 1))),
    "bool-2": ("gguf.key.bool", _set("x.y", g.BOOL, b"\2")),
    "bools-with-2": ("gguf.key.bool", _set("x.y", g.ARRAY, struct.pack("<IQ", g.BOOL, 3) + b"\0\1\2")),
    "nested-array": ("gguf.key.nested-array", _set("x.y", g.ARRAY, struct.pack("<IQIQ", g.ARRAY, 1, g.U8, 0))),
    "array-2^64": ("gguf.key.array-items", _set("x.y", g.ARRAY, struct.pack("<IQ", g.U8, _BIG))),
    "value-not-utf8": ("gguf.key.utf8", _set("general.name", g.STRING, string(b"\xff\xfe"))),
    "array-not-utf8": ("gguf.key.utf8", _set("general.tags", g.ARRAY, array(g.STRING, [b"ok", b"\xff"]))),
    "value-with-nul": ("gguf.key.nul", _set("general.architecture", g.STRING, "llama\0x")),
    "alignment-0": ("gguf.key.alignment", _set("general.alignment", g.U32, 0)),
    "alignment-33": ("gguf.key.alignment", _set("general.alignment", g.U32, 33)),
    "alignment-4": ("gguf.key.alignment", _set("general.alignment", g.U32, 4)),
    "alignment-2^31": ("gguf.key.alignment", _set("general.alignment", g.U32, 2**31)),
    "alignment-float": ("gguf.key.alignment", _set("general.alignment", g.F32, 32.0)),
    # tensors
    "name-empty": ("gguf.tensor.name-length", _tensor(name="")),
    "name-64-bytes": ("gguf.tensor.name-length", _tensor(name="n" * 64)),
    "name-with-nul": ("gguf.tensor.name-ascii", _tensor(name="output_norm\0.weight")),
    "tensor-twice": ("gguf.tensor.duplicate", _changed(_twice)),
    "no-dimension": ("gguf.tensor.dimensions", _tensor(dimensions=0)),
    "five-dimensions": ("gguf.tensor.dimensions", _tensor(shape=(32, 1, 1, 1, 1))),
    "dimensions-2^32": ("gguf.tensor.dimensions", _tensor(dimensions=2**32 - 1)),
    "dimension-0": ("gguf.tensor.dimension", _tensor(shape=(32, 0))),
    "dimension-2^64": ("gguf.tensor.dimension", _tensor(shape=(32, _BIG))),
    "product-wraps-to-0": ("gguf.tensor.past-end", _tensor(shape=(2**31, 2**31, 2**31, 2**31))),
    "larger-than-file": ("gguf.tensor.past-end", _tensor(shape=(32, 2**20))),
    "type-removed": ("gguf.tensor.type-removed", _tensor(kind=4)),
    "type-repacked": ("gguf.tensor.type-removed", _tensor(kind=31)),
    "type-unknown": ("gguf.tensor.type", _tensor(kind=4096)),
    "type-q8_1": ("gguf.tensor.type", _tensor(kind=g.TYPE_Q8_1, data=bytes(32 * 36))),
    "type-f64": ("gguf.tensor.type", _tensor(kind=g.TYPE_F64, data=bytes(32 * 32 * 8))),
    "type-i32": ("gguf.tensor.type", _tensor(kind=g.TYPE_I32, data=bytes(32 * 32 * 4))),
    "half-a-block": ("gguf.tensor.blocks", _tensor(shape=(33, 32))),
    "offset-unaligned": ("gguf.tensor.alignment", _tensor(offset=1)),
    "offset-overlaps": ("gguf.tensor.offset", _tensor(offset=0)),
    "offset-with-hole": ("gguf.tensor.offset", _tensor(offset=32_000)),
    "offset-2^64": ("gguf.tensor.offset", _tensor(offset=2**64 - 32)),
    "norm-quantized": ("gguf.tensor.norm-type", _changed(_norm_in_q8)),
    "norm-f16": ("gguf.tensor.norm-type", _changed(_norm_in_f16)),
    # model
    "no-architecture": ("gguf.model.architecture", _changed(lambda file: file.drop("general.architecture"))),
    "architecture-empty": ("gguf.model.architecture", _set("general.architecture", g.STRING, "")),
    "architecture-number": ("gguf.model.key-type", _set("general.architecture", g.U32, 1)),
    "adapter": ("gguf.model.is-adapter", _other(type="adapter")),
    "adapter-by-key": ("gguf.model.is-adapter", _set("adapter.type", g.STRING, "lora")),
    "projector": ("gguf.model.is-projector", _other(architecture="clip")),
    "imatrix": ("gguf.model.is-imatrix", _other(type="imatrix")),
    "control-vector": ("gguf.model.is-control-vector", _other(architecture="controlvector")),
    "vocabulary": ("gguf.model.is-vocabulary", _changed(lambda file: file.tensors.clear())),
    "no-context-length": ("gguf.model.key-missing", _changed(lambda file: file.drop("llama.context_length"))),
    "no-epsilon": (
        "gguf.model.key-missing",
        _changed(lambda file: file.drop("llama.attention.layer_norm_rms_epsilon")),
    ),
    "block-count-0": ("gguf.model.key-range", _set("llama.block_count", g.U32, 0)),
    "block-count-513": ("gguf.model.key-range", _set("llama.block_count", g.U32, 513)),
    "block-count-u64": ("gguf.model.key-type", _set("llama.block_count", g.U64, 1)),
    "block-count-text": ("gguf.model.key-type", _set("llama.block_count", g.STRING, "1")),
    "heads-array-too-long": (
        "gguf.model.key-length",
        _set("llama.attention.head_count", g.ARRAY, array(g.U32, [2, 2, 2])),
    ),
    "heads-array-of-floats": ("gguf.model.key-type", _set("llama.attention.head_count", g.ARRAY, array(g.F32, [2.0]))),
    "heads-negative": ("gguf.model.key-range", _set("llama.attention.head_count", g.ARRAY, array(g.I32, [-2]))),
    "heads-0": ("gguf.model.key-missing", _set("llama.attention.head_count", g.U32, 0)),
    "heads-do-not-divide": ("gguf.model.heads", _set("llama.attention.head_count", g.U32, 3)),
    "kv-heads-do-not-divide": ("gguf.model.heads", _set("llama.attention.head_count_kv", g.U32, 3)),
    "kv-heads-0": ("gguf.model.heads", _set("llama.attention.head_count_kv", g.U32, 0)),
    "rope-dimensions-odd": ("gguf.model.rope-dimensions", _set("llama.rope.dimension_count", g.U32, 15)),
    "rope-dimensions-too-many": ("gguf.model.rope-dimensions", _set("llama.rope.dimension_count", g.U32, 128)),
    "epsilon-nan": ("gguf.model.key-finite", _set("llama.attention.layer_norm_rms_epsilon", g.F32, math.nan)),
    "epsilon-negative": ("gguf.model.key-range", _set("llama.attention.layer_norm_rms_epsilon", g.F32, -1.0)),
    "epsilon-double": ("gguf.model.key-type", _set("llama.attention.layer_norm_rms_epsilon", g.F64, 1e-5)),
    "epsilon-huge": ("gguf.model.key-range", _set("llama.attention.layer_norm_rms_epsilon", g.F32, 1e30)),
    "causal-number": ("gguf.model.key-type", _set("llama.attention.causal", g.U32, 1)),
    "sliding-window-float": ("gguf.model.key-type", _set("llama.attention.sliding_window", g.F32, 1.0)),
    "rope-base-0": ("gguf.model.key-range", _set("llama.rope.freq_base", g.F32, 0.0)),
    "rope-base-infinite": ("gguf.model.key-finite", _set("llama.rope.freq_base", g.F32, math.inf)),
    "rope-scaling-unknown": ("gguf.model.rope-scaling", _set("llama.rope.scaling.type", g.STRING, "sideways")),
    "rope-scaling-number": ("gguf.model.rope-scaling", _set("llama.rope.scaling.type", g.U32, 1)),
    "experts-1025": ("gguf.model.key-range", _expert(expert_count=1025)),
    "experts-none-used": ("gguf.model.experts", _expert(expert_count=8)),
    "experts-more-used": ("gguf.model.experts", _expert(expert_count=8, expert_used_count=9)),
    "experts-groups": ("gguf.model.experts", _expert(expert_count=8, expert_used_count=2, expert_group_count=3)),
    "all-layers-predict-ahead": ("gguf.model.key-range", _set("llama.nextn_predict_layers", g.U32, 1)),
    "tensor-missing": ("gguf.model.tensor-missing", _changed(lambda file: file.drop("blk.0.ffn_up.weight"))),
    "no-embedding": ("gguf.model.tensor-missing", _changed(lambda file: file.drop("token_embd.weight"))),
    "tensor-shape": ("gguf.model.tensor-shape", _tensor(shape=(32, 31), data=bytes(31 * 34))),
    "output-shape": ("gguf.model.tensor-shape", _extra("output.weight", 32, 8)),
    "bias-shape": ("gguf.model.tensor-shape", _extra("blk.0.attn_q.bias", 64)),
    "file-type-text": ("gguf.model.key-type", _set("general.file_type", g.STRING, "7")),
    "embedding-out-array": (
        "gguf.model.key-type",
        _set("llama.embedding_length_out", g.ARRAY, array(g.U32, [32])),
    ),
    "layer-missing": ("gguf.model.layers", _set("llama.block_count", g.U32, 2)),
    "layer-beyond": ("gguf.model.layers", _changed(_layer_beyond)),
    "expert-layout": ("gguf.model.expert-layout", _changed(_one_tensor_for_each_expert)),
    "experts-fewer-tensors": ("gguf.model.experts", _experts(in_tensors=4, in_keys=8)),
    "experts-more-tensors": ("gguf.model.experts", _experts(in_tensors=8, in_keys=4)),
    "tensor-unknown": ("gguf.model.tensor-unknown", _extra("blk.0.attn_backdoor.weight", 32)),
    "tensor-unknown-without-layer": ("gguf.model.tensor-unknown", _extra("payload", 32)),
    "vocabulary-larger": ("gguf.model.vocabulary-size", _set("llama.vocab_size", g.U32, 261)),
    "vocabulary-smaller": ("gguf.model.vocabulary-size", _set("llama.vocab_size", g.U32, 100)),
    "positions": ("gguf.model.tensor-shape", _extra("position_embd.weight", 32, 100)),
    # tokenizer
    "no-tokenizer": ("gguf.tokenizer.model", _changed(lambda file: file.drop("tokenizer.ggml.model"))),
    "tokenizer-unknown": ("gguf.tokenizer.model", _set("tokenizer.ggml.model", g.STRING, "mystery")),
    "pre-tokenizer-unknown": ("gguf.tokenizer.pre", _bpe(["a b"], pre="mystery")),
    "pre-tokenizer-number": ("gguf.tokenizer.key-type", _set("tokenizer.ggml.pre", g.U16, 1)),
    "token-type-count-float": ("gguf.tokenizer.key-type", _set("tokenizer.ggml.token_type_count", g.F32, 1.0)),
    "no-tokens": ("gguf.tokenizer.tokens", _changed(lambda file: file.drop("tokenizer.ggml.tokens"))),
    "tokens-are-numbers": ("gguf.tokenizer.tokens", _set("tokenizer.ggml.tokens", g.ARRAY, array(g.U32, [1, 2]))),
    "tokens-one-more": (
        "gguf.tokenizer.embedding-rows",
        _set("tokenizer.ggml.tokens", g.ARRAY, array(g.STRING, [*g.byte_vocabulary(), "more"])),
    ),
    "token-twice": ("gguf.tokenizer.duplicate", _tokens("<s>")),
    "token-not-utf8": ("gguf.tokenizer.utf8", _tokens(b"\xc3")),
    "token-with-nul": ("gguf.tokenizer.token-nul", _tokens("a\0b")),
    "scores-short": ("gguf.tokenizer.lengths", _set("tokenizer.ggml.scores", g.ARRAY, array(g.F32, [0.0]))),
    "scores-nan": ("gguf.tokenizer.scores", _set("tokenizer.ggml.scores", g.ARRAY, array(g.F32, [math.nan] * 260))),
    "scores-text": ("gguf.tokenizer.key-type", _set("tokenizer.ggml.scores", g.ARRAY, array(g.STRING, ["1"] * 260))),
    "types-short": ("gguf.tokenizer.lengths", _set("tokenizer.ggml.token_type", g.ARRAY, array(g.I32, [1]))),
    "type-7": ("gguf.tokenizer.token-type", _types(7)),
    "type-0": ("gguf.tokenizer.token-type", _types(0)),
    "byte-token-malformed": ("gguf.tokenizer.byte-token", _types(6)),
    "byte-token-missing": ("gguf.tokenizer.byte-missing", _tokens("<0xXX>", "▁")),
    "no-merges": ("gguf.tokenizer.merges", _bpe(None)),
    "merge-without-space": ("gguf.tokenizer.merges", _bpe(["ab"])),
    "merge-of-one-part": ("gguf.tokenizer.merges", _bpe(["a "])),
    "bos-out-of-range": ("gguf.tokenizer.id-range", _set("tokenizer.ggml.bos_token_id", g.U32, 260)),
    **{
        f"{name}-out-of-range": ("gguf.tokenizer.id-range", _set(f"tokenizer.ggml.{name}_token_id", g.U32, 260))
        for name in ("eos", "unknown", "eot", "eom", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
    },
    **{
        f"{name}-out-of-range": ("gguf.tokenizer.id-range", _set(f"tokenizer.ggml.{name}", g.ARRAY, array(g.I32, ids)))
        for name, ids in (("eos_token_ids", [2, 260]), ("eog_token_ids", [-1]), ("suppress_tokens", [0, 1, 999_999]))
    },
    "eog-ids-are-texts": (
        "gguf.tokenizer.key-type",
        _set("tokenizer.ggml.eog_token_ids", g.ARRAY, array(g.STRING, ["</s>"])),
    ),
    "suppressed-ids-unsigned": (
        "gguf.tokenizer.key-type",
        _set("tokenizer.ggml.suppress_tokens", g.ARRAY, array(g.U32, [1])),
    ),
    "token-300-kB": ("gguf.tokenizer.token-length", _tokens("a" * 300_000)),
    "named-phi-3-without-its-tokens": ("gguf.tokenizer.named-token", _set("general.name", g.STRING, "My Phi-3 Mini")),
    "bos-added-where-the-pre-tokenizer-has-none": ("gguf.tokenizer.id-missing", _changed(_glm_with_bos)),
    "marker-with-a-cyrillic-letter": ("gguf.tokenizer.imitation", _control_token("<|\u0456m_start|>")),
    "marker-in-cyrillic": ("gguf.tokenizer.imitation", _control_token("<|\u0455\u0443\u0455tem|>")),
    "marker-with-a-greek-letter": ("gguf.tokenizer.imitation", _control_token("[\u0399NST]")),
    "marker-with-an-invisible-character": ("gguf.tokenizer.imitation", _control_token("<|im\u200b_start|>")),
    "marker-in-full-width-letters": ("gguf.tokenizer.imitation", _control_token("<|\uff49\uff4d_end|>")),
    "marker-with-an-accent": ("gguf.tokenizer.imitation", _control_token("<|assist\u00e1nt|>")),
    "eos-signed": ("gguf.tokenizer.key-type", _set("tokenizer.ggml.eos_token_id", g.I32, -1)),
    "add-bos-number": ("gguf.tokenizer.key-type", _set("tokenizer.ggml.add_bos_token", g.U32, 1)),
    "tokens-without-end": (
        "gguf.tokenizer.tokens",
        _set("tokenizer.ggml.tokens", g.ARRAY, struct.pack("<IQ", g.STRING, 2**20 + 1) + bytes(8 * (2**20 + 1))),
    ),
    "default-out-of-range": ("gguf.tokenizer.default-id", _changed(_no_default)),
    "bos-added-and-missing": ("gguf.tokenizer.id-missing", _changed(_add_missing)),
    "charsmap-past-end": ("gguf.tokenizer.charsmap", _changed(_charsmap)),
    # shards
    "split-keys-of-other-types": ("gguf.split.key-type", _set("split.count", g.U32, 2)),
    "split-number-beyond": (
        "gguf.split.number",
        _changed(lambda file: file.set("split.count", g.U16, 2).set("split.no", g.U16, 2)),
    ),
    "split-number-missing": ("gguf.split.number", _set("split.count", g.U16, 2)),
    "split-under-another-name": (
        "gguf.split.name",
        _changed(lambda file: file.set("split.count", g.U16, 2).set("split.no", g.U16, 0)),
    ),
    "split-too-many-tensors": (
        "gguf.split.tensors",
        _changed(lambda file: file.set("split.count", g.U16, 2).set("split.tensors.count", g.I32, 1)),
    ),
    # templates
    "template-number": ("template.type", _set("tokenizer.chat_template", g.U32, 1)),
    "templates-without-end": (
        "template.count",
        _changed(lambda file: [file.set(f"tokenizer.chat_template.t{n}", g.STRING, g.CHATML) for n in range(17)]),
    ),
}
"""Broken files by their defect: the rule that must reject the file, and a function that builds it."""


def _cut(bytes_left: float) -> Callable[[], bytes]:
    """A truncated file, which has only this fraction of its bytes."""

    def build() -> bytes:
        data = tiny_llama(template=None).to_bytes()
        return data[: int(len(data) * bytes_left)]

    return build


BROKEN |= broken_hyperparameters()
BROKEN |= {f"cut-at-{part}-percent": ("gguf.container.truncated", _cut(part / 100)) for part in (5, 10, 15, 20)}
BROKEN |= {f"cut-at-{part}-percent": ("gguf.tensor.past-end", _cut(part / 100)) for part in (35, 50, 75, 90, 99)}
