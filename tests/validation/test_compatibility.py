from __future__ import annotations

from typing import Any

import pytest

from paddock.engine import facts
from paddock.errors import EngineTooOld
from paddock.validation import compatibility
from paddock.validation.compatibility import is_model_supported, why_unsupported

pytest.importorskip("llama_cpp", reason="no engine: pip install 'llama-cpp-python[server]>=0.3.36'")

STABLELM = {"model_type": "stablelm", "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5, "use_qkv_bias": False}

CLASSES = """
LlamaForCausalLM MistralForCausalLM GPTNeoXForCausalLM GPT2LMHeadModel QWenLMHeadModel Qwen2MoeForCausalLM
RWForCausalLM Gemma3ForConditionalGeneration BaiChuanForCausalLM MPTForCausalLM DeepseekV3ForCausalLM
GPTBigCodeForCausalLM NemotronHForCausalLM SeedOssForCausalLM CohereForCausalLM T5ForConditionalGeneration
BertModel
"""
TYPES = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3 gemma3_text phi phi3 phimoe falcon
gpt2 gpt_neox gptj bloom mpt starcoder2 gpt_bigcode deepseek_v2 deepseek_v3 cohere cohere2 olmo olmo2 granite
granitemoe smollm3 internlm2 internlm3 baichuan stablelm mamba dbrx gpt_oss exaone glm4 chatglm jamba minicpm
orion nemotron
"""


@pytest.mark.parametrize(
    "model_type",
    TYPES.split(),
)
def test_common_model_types_are_supported(model_type: str) -> None:
    config = STABLELM if model_type == "stablelm" else {"model_type": model_type}
    assert why_unsupported(config, "org/name") is None
    assert is_model_supported(config, "org/name") is True


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "stablelm_epoch"}, "stablelm_epoch"),
        ({"model_type": "stablelmepoch"}, "stablelm_epoch"),
        ({"model_type": "StableLM_Epoch", "auto_map": {}}, "stablelm_epoch"),
        ({"architectures": ["StableLMEpochForCausalLM"]}, "stablelm_epoch"),
        ({"model_type": "stablelm", "architectures": ["StableLMEpochForCausalLM"]}, "stablelm_epoch"),
        ({"model_type": "stablelm"}, "old StableLM"),
        ({"model_type": "stablelm", "rope_pct": 0.25, "norm_eps": 1e-5}, "old StableLM"),
        ({"architectures": ["StableLmForCausalLM"]}, "old StableLM"),
        ({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "auto_map"),
        ({"model_type": "no_such_type"}, "no_such_type"),
        ({"model_type": "no_such_type", "architectures": ["LlamaForCausalLM"]}, "no_such_type"),
        ({"architectures": ["NoSuchForCausalLM"]}, "nosuch"),
        ({"model_type": "clip"}, "language model"),
        ({"model_type": "a\nb" * 100}, "does not know"),
        ({"model_type": None, "architectures": None}, "neither"),
        ({"model_type": 3, "architectures": "Llama"}, "neither"),
        ({"architectures": []}, "neither"),
        ({}, "neither"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:50],
)
def test_an_unsupported_model_is_refused_with_the_reason(config: dict[str, Any], word: str) -> None:
    reason = why_unsupported(config, "org/name")
    assert reason is not None
    assert word in reason
    assert "org/name" in reason
    assert is_model_supported(config, "org/name") is False


@pytest.mark.parametrize(
    "name",
    CLASSES.split(),
)
def test_without_a_model_type_the_classes_decide(name: str) -> None:
    assert why_unsupported({"architectures": [name]}, "org/name") is None


def test_the_current_stablelm_is_supported_in_both_of_its_spellings() -> None:
    assert is_model_supported(STABLELM, "stabilityai/stablelm-2-1_6b")
    newer = {"model_type": "stablelm", "rope_parameters": {"partial_rotary_factor": 0.25}, "use_qkv_bias": True}
    assert is_model_supported(newer, "stabilityai/stablelm-2-1_6b")


def test_the_engine_supports_every_architecture_in_the_table() -> None:
    wanted = set(compatibility.ARCHITECTURES.values())
    assert {name for name, known in facts.known_architectures(wanted).items() if not known} == set()


def test_the_engines_own_names_are_supported() -> None:
    for name in ("command-r", "qwen2moe", "gptneox", "falcon-h1"):
        assert is_model_supported({"model_type": name}, "org/name")


@pytest.mark.parametrize(("version", "word"), [("0.2.23", "0.2.24"), ("0.3.35", "0.3.36")])
def test_an_engine_that_is_too_old_is_refused(version: str, word: str) -> None:
    with pytest.raises(EngineTooOld, match=word):
        facts.check_version(version)
