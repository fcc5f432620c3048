"""Check whether the installed llama.cpp supports a model, and list what a model requires of an engine.

A *model type* is the Hub's name for a kind of model (`model_type` in config.json); an *architecture* is the engine's
(`general.architecture` in a GGUF). A table maps the first to the second where they differ. The supported architectures
are determined by the engine itself, once for each build. The soundness of a GGUF is checked by
`paddock.validation.audit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from paddock.gguf.header import Array, Header, Tensor

ARCHITECTURES: Final = {
    "aquila": "llama",
    "yi": "llama",
    "internlm": "llama",
    "internlm3": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "ministral": "mistral3",
    "ministral3": "mistral3",
    "llama4_text": "llama4",
    "llava": "llama",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "kimi_k2": "deepseek2",
    "deepseek_v32": "deepseek32",
    "qwen2_moe": "qwen2moe",
    "qwen2_vl": "qwen2vl",
    "qwen2_5_vl": "qwen2vl",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
    "qwen3_vl": "qwen3vl",
    "qwen3_vl_moe": "qwen3vlmoe",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "gemma3_text": "gemma3",
    "gemma3n_text": "gemma3n",
    "gemma4_text": "gemma4",
    "phi": "phi2",
    "phi-msft": "phi2",
    "rw": "falcon",
    "refinedweb": "falcon",
    "refinedwebmodel": "falcon",
    "falcon_h1": "falcon-h1",
    "falcon_mamba": "mamba",
    "gpt_neox": "gptneox",
    "gpt_bigcode": "starcoder",
    "gpt_refact": "refact",
    "gpt_oss": "gpt-oss",
    "cohere": "command-r",
    "olmo_1124": "olmo2",
    "olmo3": "olmo2",
    "granitemoehybrid": "granitehybrid",
    "glm": "chatglm",
    "glm4_moe": "glm4moe",
    "glm_moe_dsa": "glm-dsa",
    "nemotron_h": "nemotron_h",
    "seed_oss": "seed_oss",
    "ernie4_5": "ernie4_5",
    "hunyuan_vl": "hunyuan_vl",
    "nemotron-nas": "deci",
    "nemotron_nas": "deci",
    "exaone_moe": "exaone-moe",
    "ernie4_5_moe": "ernie4_5-moe",
    "hunyuan": "hunyuan-moe",
    "hunyuan_v1_moe": "hunyuan-moe",
    "hunyuan_v1_dense": "hunyuan-dense",
    "lfm2_moe": "lfm2moe",
    "minimax_m2": "minimax-m2",
    "bailing_moe": "bailingmoe",
    "bailing_moe_v2": "bailingmoe2",
    "llada_moe": "llada-moe",
    "kimi_linear": "kimi-linear",
    "modernbert": "modern-bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "nomic_bert": "nomic-bert",
    "umt5": "t5",
    "mt5": "t5",
}
"""The engine's architecture for model types and classes that have another name in the engine.

Any other name is the same in both.
"""
_NOT_LANGUAGE_MODELS: Final = frozenset({"clip", "controlvector"})

_OLD_STABLELM: Final = frozenset({"stablelmepoch"})
_CLASS_SUFFIX = re.compile(
    r"(?:LMHeadModel|ForCausalLM|ForConditionalGeneration|ForSequenceClassification|ForMaskedLM|Model|LM)$"
)


@dataclass(frozen=True, slots=True)
class EngineRequirements:
    """Requirements of a GGUF on an engine: support for its architecture, pre-tokenizer, tensor types and features.

    The audit and a load without tensor data have shown that the installed engine, `engine`, meets them all.
    `minimum_engine` is the oldest version that Paddock works with. `features` are in words, such as "sliding window".
    """

    architecture: str
    pre_tokenizer: str | None
    tensor_types: tuple[str, ...]
    features: tuple[str, ...]
    engine: str
    minimum_engine: str

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "pre_tokenizer": self.pre_tokenizer,
            "tensor_types": list(self.tensor_types),
            "features": list(self.features),
            "engine": self.engine,
            "minimum_engine": self.minimum_engine,
        }


def engine_requirements(header: Header, tensors: Sequence[Tensor]) -> EngineRequirements:
    """The requirements of an audited model, from the header of its first shard and the tensors of all shards.

    Raises EngineTooOld.
    """
    from paddock.engine import facts

    return EngineRequirements(
        architecture=header.architecture or "",
        pre_tokenizer=header.text("tokenizer.ggml.pre"),
        tensor_types=tuple(sorted({tensor.type.name for tensor in tensors})),
        features=tuple(_features(header, tensors)),
        engine=f"llama-cpp-python {facts.engine_version()}",
        minimum_engine=facts.MINIMUM_ENGINE,
    )


def _features(header: Header, tensors: Sequence[Tensor]) -> Iterator[str]:
    names = {tensor.name.split(".", 2)[-1] for tensor in tensors if tensor.name.startswith("blk.")}
    experts = header.architecture_value("expert_count")
    if isinstance(experts, int) and experts > 0:
        yield "mixture of experts"
    if "attn_kv_a_mqa.weight" in names:
        yield "latent attention"
    recurrent = any(name.startswith(("ssm_", "shortconv.", "time_mix_")) for name in names)
    if recurrent:
        yield "recurrent"
    if header.architecture_value("attention.sliding_window"):
        yield "sliding window"
    if isinstance(header.architecture_value("attention.head_count_kv"), Array) and not recurrent:
        yield "heads by layer"
    ahead = header.architecture_value("nextn_predict_layers")
    if isinstance(ahead, int) and ahead > 0:
        yield "prediction of tokens ahead"


def is_model_supported(model_config: dict, model_name: str) -> bool:  # type: ignore[type-arg]  # this signature is public and fixed
    """Whether the installed llama.cpp supports the model with this configuration (see `get_model_config`).

    Raises EngineTooOld, EngineCrashed.
    """
    return why_unsupported(model_config, model_name) is None


def why_unsupported(model_config: dict[str, Any], model_name: str) -> str | None:
    """The reason why a model is not supported, as a sentence that names it; None if it is supported.

    Raises EngineTooOld, EngineCrashed.
    """
    from paddock.engine import facts

    facts.engine_version()
    reason = _refusal_reason(model_config)
    if reason is None:
        architectures = list(dict.fromkeys(_architectures(model_config)))
        if not architectures:
            reason = "its configuration names neither a model type nor an architecture"
        elif not any(facts.known_architectures(architectures).values()):
            reason = f"llama.cpp {facts.engine_version()} does not know the architecture {architectures[0][:60]!r}"
    return f"the model {model_name[:120]!r} is not supported: {reason}" if reason else None


def _refusal_reason(config: dict[str, Any]) -> str | None:
    """The reason why a configuration is refused regardless of the engine; None if there is none."""
    names = [_folded(name) for name in (_model_type(config), *map(_family, _classes(config))) if name]
    if any(name in _NOT_LANGUAGE_MODELS for name in names):
        return "it is a component for a language model, not a language model itself"
    if any(name in _OLD_STABLELM for name in names):
        return "it has the type stablelm_epoch, which was replaced by stablelm: use a more recent conversion"
    if config.get("auto_map"):
        return "its architecture is implemented by code in its repository (auto_map), which Paddock does not run"
    if "stablelm" in names and not _is_current_stablelm(config):
        return "it is an old StableLM, without partial_rotary_factor and one of layer_norm_eps and use_qkv_bias"
    return None


def _is_current_stablelm(config: dict[str, Any]) -> bool:
    rope = config.get("rope_parameters")
    rotary = config.get("partial_rotary_factor")
    if rotary is None and isinstance(rope, dict):
        rotary = rope.get("partial_rotary_factor")
    return rotary is not None and any(config.get(key) is not None for key in ("layer_norm_eps", "use_qkv_bias"))


def _architectures(config: dict[str, Any]) -> Iterator[str]:
    """The engine's architectures that the configuration may refer to: from its model type, or from its classes if it
    has none."""
    model_type = _model_type(config)
    if model_type is not None:
        yield ARCHITECTURES.get(model_type, model_type)
        return
    by_fold = {_folded(name): architecture for name, architecture in ARCHITECTURES.items()}
    for name in map(_family, _classes(config)):
        yield by_fold.get(_folded(name), name.lower())


def _model_type(config: dict[str, Any]) -> str | None:
    value = config.get("model_type")
    return value.strip().lower() if isinstance(value, str) and value.strip() else None


def _classes(config: dict[str, Any]) -> list[str]:
    value = config.get("architectures")
    return [name for name in value if isinstance(name, str) and name] if isinstance(value, list | tuple) else []


def _family(name: str) -> str:
    """The family in the name of a Transformers class: `GPTNeoX` for `GPTNeoXForCausalLM`."""
    return _CLASS_SUFFIX.sub("", name) or name


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
