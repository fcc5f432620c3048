"""Bounds of requests: JSON, sizes, types and names of fields, before the engine gets anything."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.serving.requests.fields import policy
from paddock.serving.requests.json_body import InvalidJson, parse_text
from paddock.serving.requests.parse import RequestRefused, parse
from tests.serving.test_requests import HELLO, SPEC

CHAT = "/v1/chat/completions"
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]


def refusal(path: str, body: bytes | dict[str, Any]) -> RequestRefused:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    began = time.monotonic()
    with pytest.raises(RequestRefused) as refused:
        parse(path, content, SPEC)
    assert time.monotonic() - began < 5
    error = refused.value
    assert len(error.message) <= 500
    json.dumps(error.to_json(), ensure_ascii=False).encode()
    return error


def chat_refusal(**fields: Any) -> RequestRefused:
    return refusal(CHAT, {"messages": HELLO, **fields})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'"text"', "is not a JSON object"),
        (b"[" * 100_000, "deeper than 100"),
        (b'{"a":' * 100_000, "deeper than 100"),
        (b"[" * 100_000 + b"]" * 100_000, "deeper than 100"),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "deeper than 100"),
        (b"[" + b"[]," * 2_000_000 + b"[]]", "lists and objects"),
        (b'{"a":[' + b"1," * 600_000 + b"1]}", "values"),
        (b'{"messages": 1e999}', "not finite"),
        (b'{"a": [{"b": NaN}]}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "64 bits"),
        (b'{"a": 18446744073709551616}', "64 bits"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "lone surrogate"),
        (b'{"\\ud800": 1}', "lone surrogate"),
        (b'{"a": ["\\u0000"]}', "NUL"),
        (b'{"model": "a", "model": "b"}', "twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_body_that_is_no_plain_json_object_is_refused_at_once(content: bytes, message: str) -> None:
    error = refusal(CHAT, content)
    assert error.status == 400
    assert message in error.message


def test_what_json_allows_and_no_parser_disputes_is_accepted() -> None:
    assert parse_text('{"a": "\\ud83d\\ude00", "b": 18446744073709551615, "c": [1.5, null, true]}')["a"] == "😀"
    assert parse_text(json.dumps({"text": "{[" * 100_000}))
    depth = 99
    assert parse_text("[" * depth + "]" * depth)


def test_the_path_of_a_value_that_is_refused_is_named() -> None:
    with pytest.raises(InvalidJson) as refused:
        parse_text('{"messages": [{"content": "a\\u0000"}]}')
    assert refused.value.path == "messages.0.content"


UNSUPPORTED: dict[str, Any] = {
    # fields of llama-server that are its own, or that change what was planned or what another request gets
    **dict.fromkeys(("chat_format", "generation_prompt", "chat_parser", "parse_tool_calls", "preserved_tokens"), "a"),
    **dict.fromkeys(("grammar_triggers", "grammar_lazy", "grammar_type", "backend_sampling", "lora", "id_slot"), 1),
    **dict.fromkeys(("n_keep", "n_discard", "n_cache_reuse", "return_progress", "response_fields", "verbose"), 1),
    **dict.fromkeys(("return_tokens", "sse_ping_interval", "n_indent", "n_cmpl", "message_delimiters", "n_probs"), 1),
    **dict.fromkeys(("reasoning_budget_tokens", "thinking_budget_tokens", "reasoning_budget_start_tag"), 1),
    **dict.fromkeys(("reasoning_budget_end_tag", "reasoning_budget_message", "reasoning_control"), "a"),
    "speculative.n_max": 4,
    "prompt": "a",
    "input": "a",
    "__verbose": True,
    "": 1,
    "x" * 1000: 1,
    # OpenAI's that ask for what is not done here
    "store": 1,
    "audio": {"voice": "a"},
    "modalities": ["text", "audio"],
    "web_search_options": {},
    "prediction": {"type": "content", "content": "a"},
    "functions": [],
    "function_call": "auto",
    "service_tier": "priority",
    "verbosity": "low",
    "best_of": 2,
    "echo": True,
    "suffix": "a",
    "dimensions": 8,
    "repetition_penalty": 1.1,
}


@pytest.mark.parametrize("name", UNSUPPORTED, ids=lambda name: name[:30])
def test_a_field_that_is_not_honoured_is_refused_by_name(name: str) -> None:
    error = chat_refusal(**{name: UNSUPPORTED[name]})
    assert (error.status, error.code) == (400, "unsupported_parameter")
    assert error.param == name[:200] or name == ""


def test_a_similar_name_is_suggested() -> None:
    assert "did you mean repeat_penalty?" in chat_refusal(repetition_penalty=1.1).message


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 2**31}),
        ("max_tokens", {"max_tokens": "5"}),
        ("max_tokens", {"max_tokens": 5.5}),
        ("max_tokens", {"max_tokens": True}),
        ("max_tokens", {"max_tokens": 5, "max_completion_tokens": 7}),
        ("n", {"n": 0}),
        ("n", {"n": 2}),
        ("n", {"n": 10**18}),
        ("seed", {"seed": 2**32}),
        ("seed", {"seed": -2}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": "hot"}),
        ("temperature", {"temperature": 1e300}),
        ("top_p", {"top_p": 1.01}),
        ("top_k", {"top_k": -2}),
        ("stop", {"stop": ["a"] * 33}),
        ("stop", {"stop": [f"{number}" for number in range(1000)]}),
        ("stop.0", {"stop": "a" * 1_000_000}),
        ("stop.1", {"stop": ["a", ""]}),
        ("stop.0", {"stop": [None]}),
        ("logit_bias", {"logit_bias": {str(token): 1 for token in range(1025)}}),
        ("logit_bias", {"logit_bias": {"5": 101}}),
        ("logit_bias", {"logit_bias": {"-1": 1}}),
        ("logit_bias", {"logit_bias": {"word": 1}}),
        ("logit_bias", {"logit_bias": {"5": None}}),
        ("logit_bias", {"logit_bias": {"5": True}}),
        ("logit_bias", {"logit_bias": {"4096": 1}}),
        ("logit_bias", {"logit_bias": {"99999999999999999999": 1}}),
        ("logit_bias", {"logit_bias": [[1]]}),
        ("logit_bias", {"logit_bias": "5"}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("logprobs", {"logprobs": 5}),
        ("samplers.0", {"samplers": ["infill"]}),
        ("dry_sequence_breakers", {"dry_sequence_breakers": []}),
        ("mirostat", {"mirostat": 3}),
        ("stream", {"stream": "yes"}),
        ("stream_options.other", {"stream_options": {"other": 1}}),
        ("stream_options.include_usage", {"stream_options": {"include_usage": 1}}),
        ("grammar", {"grammar": "a" * 300_000}),
        ("grammar", {"grammar": "a", "json_schema": {}}),
        ("grammar", {"grammar": "a", "response_format": {"type": "json_object"}}),
        ("json_schema", {"json_schema": {}, "response_format": {"type": "json_object"}}),
        ("json_schema", {"json_schema": "a"}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        ("response_format.type", {"response_format": {}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        ("response_format.schema", {"response_format": {"type": "text", "schema": {}}}),
        ("response_format", {"response_format": "json_object"}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"messages": []}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"a b": 1}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"enable_thinking": "no"}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {f"a{number}": 1 for number in range(33)}}),
        ("enable_thinking", {"enable_thinking": "no"}),
        ("reasoning_effort", {"reasoning_effort": "huge"}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("reasoning_format", {"reasoning_format": "other"}),
        ("add_generation_prompt", {"add_generation_prompt": 1}),
        ("continue_final_message", {"continue_final_message": True}),
        ("messages", {"messages": []}),
        ("messages", {"messages": None}),
        ("messages", {"messages": HELLO * 5000}),
        ("messages", {"messages": {}}),
        ("model", {"model": 5}),
    ],
)
def test_a_value_out_of_bounds_is_a_bad_request_that_names_the_field(param: str, fields: dict[str, Any]) -> None:
    error = chat_refusal(**fields)
    assert error.status == 400
    assert (error.param or "").startswith(param)


CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("role", {"role": "wizard", "content": "a"}),
        ("role", {"role": "function", "name": "a", "content": "a"}),
        ("role", {"content": "a"}),
        ("content", {"role": "user"}),
        ("content", {"role": "user", "content": 5}),
        ("content", {"role": "user", "content": {"type": "text", "text": "a"}}),
        ("content.0.type", {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}),
        ("content.0.type", {"role": "user", "content": [{"type": "file", "file": {}}]}),
        ("content.0.type", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}),
        ("content.0.type", {"role": "user", "content": [{"type": "media_marker", "text": "a"}]}),
        ("content.0.type", {"role": "user", "content": [{"text": "a"}]}),
        ("content.0.text", {"role": "user", "content": [{"type": "text"}]}),
        ("content.0", {"role": "user", "content": ["a"]}),
        ("content.0.other", {"role": "user", "content": [{"type": "text", "text": "a", "other": 1}]}),
        ("name", {"role": "user", "content": "a", "name": ""}),
        ("name", {"role": "user", "content": "a", "name": 5}),
        ("other", {"role": "user", "content": "a", "other": 1}),
        ("tool_calls", {"role": "user", "content": "a", "tool_calls": [CALL]}),
        ("tool_call_id", {"role": "user", "content": "a", "tool_call_id": "1"}),
        ("content", {"role": "assistant"}),
        ("audio", {"role": "assistant", "audio": {"id": "a"}}),
        ("refusal", {"role": "assistant", "refusal": "no", "content": None}),
        ("function_call", {"role": "assistant", "function_call": {"name": "a", "arguments": ""}}),
        ("tool_calls.0.type", {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}),
        ("tool_calls.0.function", {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}),
        ("tool_calls.0", {"role": "assistant", "tool_calls": [None]}),
        ("tool_calls", {"role": "assistant", "tool_calls": [CALL] * 200}),
        *(
            (
                "tool_calls.0.function.arguments",
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "look", "arguments": arguments}}]},
            )
            for arguments in ("{", "{'a': 1}", "[" * 100_000, '{"a": 1, "a": 2}', '{"a": NaN}', 5)
        ),
    ],
)
def test_a_message_that_is_not_valid_is_named(param: str, message: dict[str, Any]) -> None:
    error = chat_refusal(messages=[*HELLO, message, *HELLO])
    assert error.status == 400
    assert (error.param or "").startswith(f"messages.1.{param}")


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "a"}}]}),  # the template knows none
        ("tools.0.type", {"tools": [{"type": "web_search"}]}),
        ("tools.0.function.name", {"tools": [{"type": "function", "function": {"name": ""}}]}),
        ("tools.0.function", {"tools": [{"type": "function"}]}),
        ("tools.0.function.parameters", {"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "a"}}] * 2}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "a"}}] * 200}),
        ("tools", {"tools": {}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tool_choice": "sometimes"}),
        ("tool_choice", {"tool_choice": {"type": "allowed_tools"}}),
        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "a"}}}),
        ("tool_choice", {"tool_choice": 5}),
        ("tool_choice", {"tool_choice": []}),
        ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
    ],
)
def test_tools_that_are_not_valid_are_named(param: str, fields: dict[str, Any]) -> None:
    error = chat_refusal(**fields)
    assert error.status == 400
    assert (error.param or "").startswith(param)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": 5}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ["a", "b"]}),
        ("prompt", {"prompt": [1, "a"]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": [4096]}),
        ("prompt", {"prompt": {"prompt_string": "a", "multimodal_data": []}}),
        ("logprobs", {"prompt": "a", "logprobs": 21}),
        ("logprobs", {"prompt": "a", "logprobs": True}),
        ("messages", {"prompt": "a", "messages": HELLO}),
        ("response_format", {"prompt": "a", "response_format": {"type": "json_object"}}),
        ("tools", {"prompt": "a", "tools": []}),
    ],
)
def test_a_completion_that_is_not_valid_is_named(param: str, fields: dict[str, Any]) -> None:
    error = refusal("/v1/completions", fields)
    assert error.status == 400
    assert (error.param or "").startswith(param)


def test_the_lists_of_fields_without_effect_and_of_refused_fields_are_those_of_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    section = text.split("### Fields that are not honoured", 1)[1].split("\n#", 1)[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert documented == policy.WITHOUT_EFFECT | set(policy.ONLY) | set(policy.REFUSED)
