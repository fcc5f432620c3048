"""Tiny models in the place of those of the demonstration, so that a local stack starts at once."""

from __future__ import annotations

from pathlib import Path

from infra.local.quantize import FILE_TYPES, NAME
from tests.support.gguf import U32, tiny_llama
from tests.support.tiny_hub import CONFIG


def fill_demo_cache(state: Path) -> None:
    """Write a model for each quantization of the demonstration to the cache of a stack with this state directory."""
    cache = state / "hub" / "cache"
    cache.mkdir(parents=True)
    for layers, (quantization, file_type) in enumerate(FILE_TYPES.items(), 1):
        model = tiny_llama(layers=layers).set("general.file_type", U32, file_type)
        model.set("llama.context_length", U32, 1024).write(cache / f"{NAME}-{quantization}.gguf")
    (cache / "config.json").write_bytes(CONFIG)
    (cache / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (cache / "generation_config.json").write_text("{}")
