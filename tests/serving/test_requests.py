"""Requests as the engine gets them: the profile's sampling, the snapshot's stop sequences, normalized names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddock.chat.template import ChatFormat
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.planning.profile import PROFILES
from paddock.serving.llama_server import llama_server_arguments
from paddock.serving.requests import EngineRequest, RequestRefused, parse
from paddock.serving.spec import ServeSpec

SPEC = ServeSpec(
    name="org/name",
    revision="b" * 40,
    variant="Q8_0",
    quantization="Q8_0",
    file=Path("/nowhere.gguf"),
    chat=ChatFormat("{{ messages }}", "family", "", "<s>", "</s>", ("<|im_end|>", "<|im_start|>user")),
    parameters=Parameters(n_ctx=2048, n_threads=2),
    memory=Memory(1, 1, 1, 1, "engine"),
    profile=PROFILES["roleplay"],
)
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> EngineRequest:
    body = {"messages": HELLO, **fields}
    return parse("/v1/chat/completions", json.dumps(body).encode(), SPEC)


def completion(**fields: Any) -> EngineRequest:
    return parse("/v1/completions", json.dumps({"prompt": "Hello", **fields}).encode(), SPEC)


def test_sampling_parameters_that_a_client_omits_are_the_profiles() -> None:
    assert {name: chat().body[name] for name in ("temperature", "top_p", "min_p", "repeat_penalty")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.05,
        "repeat_penalty": 1.05,
    }
    assert chat(temperature=0, top_p=None).body["temperature"] == 0
    assert chat(temperature=0, top_p=None).body["top_p"] == 1.0


def test_the_snapshots_stop_sequences_follow_the_clients_in_a_chat_only() -> None:
    assert chat().body["stop"] == ["<|im_end|>", "<|im_start|>user"]
    assert chat(stop="END").body["stop"] == ["END", "<|im_end|>", "<|im_start|>user"]
    assert chat(stop=["<|im_end|>"]).body["stop"] == ["<|im_end|>", "<|im_start|>user"]
    assert "stop" not in completion().body


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 7}, 7),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None}, None),
    ],
)
def test_both_names_of_the_token_limit_are_normalized(fields: dict[str, Any], max_tokens: int | None) -> None:
    body = chat(**fields).body
    assert body.get("max_tokens") == max_tokens
    assert "max_completion_tokens" not in body


def test_a_completion_without_a_token_limit_gets_openais_default() -> None:
    assert completion().body["max_tokens"] == 16


def test_parameters_of_llama_cpp_beyond_openais_pass_through() -> None:
    body = chat(grammar='root ::= "yes"', top_k=5, chat_template_kwargs={"enable_thinking": False}).body
    assert body["grammar"] == 'root ::= "yes"'
    assert body["top_k"] == 5
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_engine_is_always_asked_for_the_token_usage_of_a_stream() -> None:
    quiet, requested = chat(stream=True), chat(stream=True, stream_options={"include_usage": True})
    assert quiet.body["stream_options"] == requested.body["stream_options"] == {"include_usage": True}
    assert (quiet.include_usage, requested.include_usage) == (False, True)
    assert "stream_options" not in chat(stream_options={"include_usage": True}).body


@pytest.mark.parametrize("model", ["org/name", f"org/name@{'b' * 40}", None])
def test_the_model_may_be_named_with_its_revision(model: str | None) -> None:
    assert chat(model=model).body["model"] == "org/name"


@pytest.mark.parametrize("model", ["", "org/other", f"org/name@{'c' * 40}"])
def test_another_model_is_refused(model: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        chat(model=model)
    assert (refused.value.status, refused.value.param) == (404, "model")


def test_every_parameter_of_a_plan_is_an_argument_of_llama_server() -> None:
    parameters = Parameters(
        n_ctx=8192,
        n_threads=3,
        n_threads_batch=5,
        n_batch=1024,
        n_ubatch=256,
        n_seq_max=4,
        n_gpu_layers=12,
        tensor_split=(3.0, 1.0),
        flash_attn="on",
        type_k="q8_0",
        type_v="q4_0",
        use_mmap=False,
        use_mlock=True,
        use_extra_bufts=False,
        swa_full=False,
    )
    words = llama_server_arguments(parameters)
    command = " ".join(words)
    for expected in (
        "--ctx-size 8192",
        "--parallel 4",
        "--batch-size 1024",
        "--ubatch-size 256",
        "--threads 3",
        "--threads-batch 5",
        "--gpu-layers 12",
        "--tensor-split 3.0,1.0",
        "--flash-attn on",
        "--cache-type-k q8_0",
        "--cache-type-v q4_0",
        "--load-mode mlock",
        "--no-repack",
    ):
        assert expected in command
    assert "--swa-full" not in words
    whole = llama_server_arguments(replace(parameters, n_gpu_layers=-1, swa_full=True))
    assert " ".join(whole).count("--gpu-layers all") == 1
    assert "--swa-full" in whole
