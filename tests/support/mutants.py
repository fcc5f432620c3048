"""Valid models with one to three random changes, for fuzzing the audit and the engine.

A mutant changes parts of a model (a key, a tensor, a token), or its bytes. The same number gives the same mutant.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.support import gguf as g
from tests.support.gguf import Gguf, tiny_llama

_NUMBERS = (0, 1, 2, 3, 7, 31, 32, 33, 64, 127, 128, 255, 256, 257, 512, 513, 1000, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_WIDE = (*_NUMBERS, 2**32, 2**63, 2**64 - 32, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1e-30, 1e-5, 0.5, 1.0, 2.0, 1e4, 1e30, -1.0, float("inf"), float("-inf"), float("nan"))
_KINDS = (g.U8, g.I8, g.U16, g.I16, g.U32, g.I32, g.F32, g.BOOL, g.STRING, g.U64, g.I64, g.F64)
_LLAMA = (
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"),
    *("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count"),
    *("rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.causal", "attention.scale"),
    *("attention.sliding_window", "attention.clamp_kqv", "attention.max_alibi_bias", "expert_count", "vocab_size"),
    *("expert_used_count", "expert_weights_scale", "expert_gating_func", "expert_feed_forward_length", "pooling_type"),
    *("leading_dense_block_count", "logit_scale", "attn_logit_softcapping", "final_logit_softcapping"),
    *("nextn_predict_layers", "embedding_length_out", "residual_scale", "embedding_scale", "use_parallel_residual"),
)
_GGML = (
    *("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id", "eot_token_id", "eom_token_id"),
    *("seperator_token_id", "mask_token_id", "fim_pre_token_id", "add_bos_token", "add_eos_token", "add_sep_token"),
    *("add_space_prefix", "remove_extra_whitespaces", "model", "pre", "token_type_count", "scores", "token_type"),
)
_WORDS = (
    "",
    "llama",
    "qwen2",
    "gemma",
    "phi3",
    "gpt2",
    "bert",
    "t5",
    "rwkv",
    "none",
    "linear",
    "yarn",
    "longrope",
    "x",
)


def mutant(number: int) -> bytes:
    draw = random.Random(number)
    file = tiny_llama(
        layers=draw.choice((1, 2, 3)),
        width=draw.choice((32, 64)),
        heads=draw.choice((1, 2, 4)),
        kind=draw.choice((g.TYPE_Q8_0, g.TYPE_F16, g.TYPE_F32)),
        template=None,
    )
    changes = draw.choices(_CHANGES, k=draw.choice((1, 1, 1, 2, 3)))
    for change in changes:
        change(draw, file)
    data = file.to_bytes()
    return _change_bytes(draw, data) if draw.random() < 0.25 else data


def _value(draw: random.Random, kind: int) -> object:
    if kind == g.STRING:
        return draw.choice(_WORDS)
    if kind == g.BOOL:
        return draw.random() < 0.5
    if kind in (g.F32, g.F64):
        return draw.choice(_FLOATS)
    form = g._CODES[kind]
    return struct.unpack(f"<{form}", draw.choice(_WIDE).to_bytes(8, "little")[: struct.calcsize(form)])[0]


def _change_key(draw: random.Random, file: Gguf) -> None:
    key = draw.choice([key for key in file.keys if key.kind != g.ARRAY])
    key.kind = key.kind if draw.random() < 0.7 else draw.choice(_KINDS)
    key.value = _value(draw, key.kind)


def _add_key(draw: random.Random, file: Gguf) -> None:
    name = f"llama.{draw.choice(_LLAMA)}" if draw.random() < 0.6 else f"tokenizer.ggml.{draw.choice(_GGML)}"
    kind = draw.choice((g.U32, g.U32, g.U32, g.F32, g.F32, g.BOOL, g.STRING, draw.choice(_KINDS)))
    file.set(name, kind, _value(draw, kind))


def _add_array(draw: random.Random, file: Gguf) -> None:
    kind = draw.choice((g.U32, g.I32, g.F32, g.STRING))
    items = [_value(draw, kind) for _ in range(draw.choice((0, 1, 2, 3, 260)))]
    name = f"llama.{draw.choice(_LLAMA)}" if draw.random() < 0.5 else f"tokenizer.ggml.{draw.choice(_GGML)}"
    file.set(name, g.ARRAY, g.array(kind, items))


def _remove_key(draw: random.Random, file: Gguf) -> None:
    file.keys.remove(draw.choice(file.keys))


def _change_tokens(draw: random.Random, file: Gguf) -> None:
    tokens: list[str | bytes] = list(g.byte_vocabulary())
    for _ in range(draw.choice((1, 1, 2, 5))):
        tokens[draw.randrange(len(tokens))] = draw.choice(("", "x", "<0x41>", "</s>", "é", b"\xff", "a" * 300, "\0"))
    file.set("tokenizer.ggml.tokens", g.ARRAY, g.array(g.STRING, tokens[: draw.choice((260, 260, 260, 259, 3))]))


def _change_token_type(draw: random.Random, file: Gguf) -> None:
    types = [2, 3, 3, *([6] * 256), 1]
    types[draw.randrange(len(types))] = draw.choice((-1, 0, 1, 2, 3, 4, 5, 6, 7))
    file.set("tokenizer.ggml.token_type", g.ARRAY, g.array(g.I32, types))


def _remove_tensor(draw: random.Random, file: Gguf) -> None:
    file.tensors.remove(draw.choice(file.tensors))


def _rename_tensor(draw: random.Random, file: Gguf) -> None:
    row = draw.choice(file.tensors)
    row.name = draw.choice(
        ("output.weight", "rope_freqs.weight", "blk.0.attn_q.bias", "blk.9.attn_q.weight", "x", str(row.name) + ".x")
    )


def _reshape_tensor(draw: random.Random, file: Gguf) -> None:
    row = draw.choice(file.tensors)
    shape = list(row.shape)
    shape[draw.randrange(len(shape))] = draw.choice((1, 2, 16, 31, 32, 33, 64, 128, 256))
    row.shape = tuple(draw.choice((shape, shape[::-1], [*shape, 1], [*shape, 2])))
    if row.data is None and row.shape[0] % g._BLOCKS[row.kind][0]:
        row.data = bytes(64)


def _change_tensor_type(draw: random.Random, file: Gguf) -> None:
    row = draw.choice(file.tensors)
    kind = draw.choice((g.TYPE_F32, g.TYPE_F16, g.TYPE_Q4_0, g.TYPE_Q8_0, g.TYPE_Q8_1, g.TYPE_I32, g.TYPE_F64, 30, 12))
    if kind in g._BLOCKS and row.shape[0] % g._BLOCKS[kind][0] == 0:
        row.kind = kind
    else:
        row.data, row.kind = row.content(), kind


def _add_tensor(draw: random.Random, file: Gguf) -> None:
    names = ("output.weight", "output.bias", "rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "y")
    shape = draw.choice(((32,), (64,), (32, 260), (64, 260), (16,), (8,), (1,)))
    file.tensors.append(g.TensorRow(draw.choice(names), shape, g.TYPE_F32))


def _change_weights(draw: random.Random, file: Gguf) -> None:
    row = draw.choice(file.tensors)
    data = bytearray(row.content())
    for _ in range(draw.choice((1, 4, 64))):
        data[draw.randrange(len(data))] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    row.data = bytes(data)


def _change_bytes(draw: random.Random, data: bytes) -> bytes:
    """Change bytes at random, without regard to the format."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(out) if draw.random() < 0.3 else min(len(out), 6000))
        match draw.randrange(5):
            case 0:
                out[at] ^= 1 << draw.randrange(8)
            case 1:
                size = draw.choice((1, 2, 4, 8))
                out[at : at + size] = draw.choice(_WIDE).to_bytes(8, "little")[:size]
            case 2:
                del out[at : at + draw.choice((1, 4, 8, 100))]
            case 3:
                out[at:at] = out[at : at + draw.choice((1, 4, 8, 100))]
            case _:
                out = out[: max(1, at)] if draw.random() < 0.2 else out
    return bytes(out)


_CHANGES: tuple[Callable[[random.Random, Gguf], None], ...] = (
    _change_key,
    _change_key,
    _add_key,
    _add_key,
    _add_key,
    _add_array,
    _remove_key,
    _change_tokens,
    _change_token_type,
    _remove_tensor,
    _rename_tensor,
    _reshape_tensor,
    _change_tensor_type,
    _add_tensor,
    _change_weights,
    _change_weights,
)
