"""Small sound models that generate no text: embedding models, a reranker, an encoder-decoder model, a diffusion model.

The real engine loads each of them. Their weights are small random numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.support import gguf as g
from tests.support.architectures import WIDTH, sound
from tests.support.gguf import Gguf, TensorRow, tiny_llama

_WIDTH, _INNER, _CONTEXT = 32, 64, 128


def bert() -> Gguf:
    """An encoder: an embedding model whose attention looks in both directions."""
    tokens = [f"▁w{number}" for number in range(260)]
    special = {"padding": 0, "unknown": 100, "bos": 101, "seperator": 102, "mask": 103}
    for number, text in zip(special.values(), ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True):
        tokens[number] = text
    file = _with_keys("bert", layers=2, pooling_type=1)
    file.set("bert.attention.causal", g.BOOL, False).set("bert.attention.layer_norm_epsilon", g.F32, 1e-12)
    file.set("tokenizer.ggml.model", g.STRING, "bert").set("tokenizer.ggml.token_type_count", g.U32, 2)
    file.set("tokenizer.ggml.tokens", g.ARRAY, g.array(g.STRING, tokens))
    for name, number in special.items():
        file.set(f"tokenizer.ggml.{name}_token_id", g.U32, number)
    file.tensors += [
        TensorRow("token_embd.weight", (_WIDTH, len(tokens))),
        TensorRow("position_embd.weight", (_WIDTH, _CONTEXT)),
        TensorRow("token_types.weight", (_WIDTH, 2)),
        *_norm("token_embd_norm", bias=True),
    ]
    for layer in range(2):
        at = f"blk.{layer}."
        for name, (columns, rows) in _matrices("attn_output", gated=False).items():
            file.tensors += [TensorRow(f"{at}{name}.weight", (columns, rows)), TensorRow(f"{at}{name}.bias", (rows,))]
        file.tensors += [*_norm(f"{at}attn_output_norm", bias=True), *_norm(f"{at}layer_output_norm", bias=True)]
    return file


def t5() -> Gguf:
    """An encoder and a decoder."""
    tokens = ["<pad>", "</s>", "<unk>", *(f"▁w{number}" for number in range(3, 260))]
    file = _with_keys("t5", layers=1, decoder_start_token_id=0)
    for name, value in (("key_length", 16), ("value_length", 16), ("relative_buckets_count", 32)):
        file.set(f"t5.attention.{name}", g.U32, value)
    file.set("t5.attention.layer_norm_rms_epsilon", g.F32, 1e-6).set("t5.attention.layer_norm_epsilon", g.F32, 1e-6)
    file.set("tokenizer.ggml.model", g.STRING, "t5")
    file.set("tokenizer.ggml.tokens", g.ARRAY, g.array(g.STRING, tokens))
    file.set("tokenizer.ggml.scores", g.ARRAY, g.array(g.F32, [0.0] * len(tokens)))
    file.set("tokenizer.ggml.token_type", g.ARRAY, g.array(g.I32, [3, 3, 2, *[1] * (len(tokens) - 3)]))
    for name, number in (("padding", 0), ("eos", 1), ("unknown", 2)):
        file.set(f"tokenizer.ggml.{name}_token_id", g.U32, number)
    file.tensors += [TensorRow("token_embd.weight", (_WIDTH, len(tokens)))]
    file.tensors += [TensorRow("output.weight", (_WIDTH, len(tokens)))]
    for part in ("enc", "dec"):
        at = f"{part}.blk.0."
        file.tensors += [*_norm(f"{part}.output_norm"), *_norm(f"{at}attn_norm"), *_norm(f"{at}ffn_norm")]
        file.tensors.append(TensorRow(f"{at}attn_rel_b.weight", (2, 32)))
        file.tensors += [TensorRow(f"{at}{name}.weight", shape) for name, shape in _matrices("attn_o").items()]
    file.tensors += _norm("dec.blk.0.cross_attn_norm")
    file.tensors += [TensorRow(f"dec.blk.0.cross_attn_{name}.weight", (_WIDTH, _WIDTH)) for name in "qkvo"]
    return file


def pooled_llama() -> Gguf:
    """A decoder that was trained to embed: its last token's state is the embedding of a text."""
    return tiny_llama(kind=g.TYPE_F32).set("llama.pooling_type", g.U32, 3)


def reranker() -> Gguf:
    """A decoder with a classifier on top: it scores how well a text answers a question."""
    file = sound("qwen3").set("qwen3.pooling_type", g.U32, 4)
    file.set("qwen3.classifier.output_labels", g.ARRAY, g.array(g.STRING, ["yes", "no"]))
    file.tensors.append(TensorRow("cls.output.weight", (WIDTH, 2)))
    return file


def diffusion() -> Gguf:
    """A language model that fills in masked tokens instead of appending to a text."""
    file = tiny_llama(kind=g.TYPE_F32)
    for key in file.keys:
        key.name = str(key.name).replace("llama.", "llada.") if str(key.name).startswith("llama.") else key.name
    return file.set("general.architecture", g.STRING, "llada")


EMBEDDING_KINDS: dict[str, Callable[[], Gguf]] = {
    "embedding": bert,
    "embedding of a decoder": pooled_llama,
    "reranker": reranker,
    "encoder-decoder": t5,
}


def _with_keys(architecture: str, *, layers: int, **more: int) -> Gguf:
    file = Gguf().set("general.architecture", g.STRING, architecture).set("general.file_type", g.U32, 0)
    keys = {
        "context_length": _CONTEXT,
        "embedding_length": _WIDTH,
        "block_count": layers,
        "feed_forward_length": _INNER,
        "attention.head_count": 2,
        **more,
    }
    for key, value in keys.items():
        file.set(f"{architecture}.{key}", g.U32, value)
    return file


def _matrices(output: str, *, gated: bool = True) -> dict[str, tuple[int, int]]:
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", output), (_WIDTH, _WIDTH))
    gate = {"ffn_gate": (_WIDTH, _INNER)} if gated else {}
    return {**square, **gate, "ffn_up": (_WIDTH, _INNER), "ffn_down": (_INNER, _WIDTH)}


def _norm(name: str, *, bias: bool = False) -> list[TensorRow]:
    rows = [TensorRow(f"{name}.weight", (_WIDTH,), data=struct.pack(f"<{_WIDTH}f", *[1.0] * _WIDTH))]
    return [*rows, TensorRow(f"{name}.bias", (_WIDTH,))] if bias else rows
