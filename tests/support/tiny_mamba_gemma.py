"""Tiny Mamba and Gemma models, whose memory does not hold a key and a value of every token."""

from __future__ import annotations

from tests.support.gguf import F32, STRING, U32, Gguf, TensorRow


def _tiny(architecture: str, *, layers: int, width: int) -> Gguf:
    file = Gguf()
    file.set("general.architecture", STRING, architecture)
    file.set(f"{architecture}.context_length", U32, 131_072)
    file.set(f"{architecture}.embedding_length", U32, width)
    file.set(f"{architecture}.block_count", U32, layers)
    file.set(f"{architecture}.vocab_size", U32, 64)
    file.set(f"{architecture}.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("tokenizer.ggml.model", STRING, "none")
    file.tensors += [TensorRow("token_embd.weight", (width, 64)), TensorRow("output_norm.weight", (width,))]
    return file


def tiny_mamba(*, layers: int, width: int, state: int) -> Gguf:
    """A recurrent model: its state has a fixed size, however many tokens were processed."""
    file, inner, rank = _tiny("mamba", layers=layers, width=width), 2 * width, 8
    for key, value in (("conv_kernel", 4), ("inner_size", inner), ("state_size", state), ("time_step_rank", rank)):
        file.set(f"mamba.ssm.{key}", U32, value)
    for layer in range(layers):
        for name, shape in (
            ("attn_norm.weight", (width,)),
            ("ssm_in.weight", (width, 2 * inner)),
            ("ssm_conv1d.weight", (4, inner)),
            ("ssm_conv1d.bias", (inner,)),
            ("ssm_x.weight", (inner, rank + 2 * state)),
            ("ssm_dt.weight", (rank, inner)),
            ("ssm_dt.bias", (inner,)),
            ("ssm_a", (state, inner)),
            ("ssm_d", (inner,)),
            ("ssm_out.weight", (inner, width)),
        ):
            file.tensors.append(TensorRow(f"blk.{layer}.{name}", shape))
    return file


def tiny_gemma(*, layers: int, width: int, window: int) -> Gguf:
    """A model with sliding-window attention of `window` tokens in all layers but every sixth."""
    file, head = _tiny("gemma3", layers=layers, width=width), 32
    for key, value in (
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", head),
        ("attention.value_length", head),
        ("attention.sliding_window", window),
        ("feed_forward_length", 64),
    ):
        file.set(f"gemma3.{key}", U32, value)
    for layer in range(layers):
        for name, shape in (
            ("attn_norm.weight", (width,)),
            ("attn_q.weight", (width, 2 * head)),
            ("attn_k.weight", (width, head)),
            ("attn_v.weight", (width, head)),
            ("attn_output.weight", (2 * head, width)),
            ("post_attention_norm.weight", (width,)),
            ("attn_k_norm.weight", (head,)),
            ("attn_q_norm.weight", (head,)),
            ("ffn_norm.weight", (width,)),
            ("ffn_gate.weight", (width, 64)),
            ("ffn_up.weight", (width, 64)),
            ("ffn_down.weight", (64, width)),
            ("post_ffw_norm.weight", (width,)),
        ):
            file.tensors.append(TensorRow(f"blk.{layer}.{name}", shape))
    return file
