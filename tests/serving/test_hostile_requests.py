"""Generated requests: nothing that a client sends gives another server error than 502 or 503, or ends the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.serving.requests.fields import policy
from paddock.serving.requests.fields.chat import ChatRequest
from paddock.serving.requests.fields.completion import CompletionRequest
from paddock.serving.requests.parse import RequestRefused, parse
from paddock.serving.spec import ServeSpec
from tests.serving.test_requests import SPEC
from tests.support.chat_template import with_demanding_template
from tests.support.constraints import constrained_bodies
from tests.support.fault_totals import Faults
from tests.support.serving import RunningServer, running

TEXTS = st.sampled_from(["", "a", "Hello", "\U0001f600", "<|im_end|>", "{{ x }}", "é" * 300, "a\nb"]) | st.text(
    max_size=8
)
NUMBERS = st.sampled_from(
    [-(2**63), -2, -1, 0, 1, 2, 20, 49_151, 49_152, 2**31 - 1, 2**31, 2**32, 2**64, 0.0, 1e-30, 1e38]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda number: good if number else bad)


ARGUMENTS = mostly(st.sampled_from(["{}", "", '{"a": [1]}', "[1]", "5"]), TEXTS | JSON)
FUNCTION = st.fixed_dictionaries({"name": st.sampled_from(["look", "ping"]), "arguments": ARGUMENTS})
CALLS = st.fixed_dictionaries(
    {"type": st.just("function"), "function": FUNCTION}, optional={"id": mostly(st.just("1"))}
)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)


def message(role: str, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    content = mostly(TEXTS | st.none() | PARTS)
    return st.fixed_dictionaries({"role": st.just(role), "content": content}, optional=more)


NAME = st.sampled_from(["Mara", "x" * 256])
MESSAGES = st.lists(
    message("user", name=NAME)
    | message("system")
    | message("developer")
    | message("assistant", tool_calls=st.lists(CALLS, max_size=2), reasoning_content=TEXTS)
    | message("tool", tool_call_id=TEXTS, name=NAME)
    | mostly(message("user"), st.fixed_dictionaries({"role": TEXTS, "content": JSON, "other": JSON})),
    min_size=1,
    max_size=4,
)
TOOLS = st.sampled_from([[{"type": "function", "function": {"name": name}}] for name in ("look", "ping")])
FRACTIONS = st.sampled_from([0, 1, 0.5, 1e-30, None])
COUNTS = st.sampled_from([-1, 0, 1, 20, 100.0, 2**31 - 1, None])
BIASES = st.dictionaries(st.integers(0, 49_151).map(str), st.floats(-100, 100), max_size=3)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ["stream", "ignore_eos", "cache_prompt", "timings_per_token", "post_sampling_probs"], st.booleans()
    ),
    **dict.fromkeys(["top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "presence_penalty"], FRACTIONS),
    **dict.fromkeys(["temperature", "mirostat_tau", "mirostat_eta", "dry_multiplier", "top_n_sigma"], FRACTIONS),
    **dict.fromkeys(["dynatemp_range", "dynatemp_exponent", "frequency_penalty"], FRACTIONS),
    **dict.fromkeys(["top_k", "seed", "repeat_last_n", "dry_penalty_last_n", "t_max_predict_ms"], COUNTS),
    "repeat_penalty": st.sampled_from([1e-30, 1, 10]),
    "dry_base": st.sampled_from([1, 1.5, 100]),
    "dry_allowed_length": st.sampled_from([0, 2, 2**31 - 1]),
    "dry_sequence_breakers": st.lists(TEXTS.filter(lambda text: 0 < len(text) < 40), min_size=1, max_size=3),
    "min_keep": st.sampled_from([0, 1, 1000]),
    "mirostat": st.sampled_from([0, 1, 2]),
    "samplers": st.lists(st.sampled_from(["top_k", "temperature", "dry", "xtc", "penalties", "typ_p"]), max_size=3),
    "n": st.sampled_from([1, 2]),
    "stop": st.lists(TEXTS.filter(bool), max_size=3),
    "logit_bias": BIASES | BIASES.map(lambda value: [list(pair) for pair in value.items()]),
    "grammar": st.sampled_from(['root ::= "a"', "", "root ::= ("]),
    "json_schema": st.sampled_from([{}, {"type": "boolean"}, None]),
}
CHAT_GOOD: dict[str, st.SearchStrategy[Any]] = {
    **GOOD,
    **dict.fromkeys(["logprobs", "add_generation_prompt", "enable_thinking", "parallel_tool_calls"], st.booleans()),
    "tools": TOOLS,
    "tool_choice": st.sampled_from(["none", "auto", None]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, None]),
    "reasoning_effort": st.sampled_from(["none", "low", "xhigh"]),
    "reasoning_format": st.sampled_from(["none", "auto", "deepseek", "deepseek-legacy"]),
    "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "x", "name"]), JSON, max_size=2),
    "continue_final_message": st.sampled_from([True, "content", "reasoning_content"]),
}
OTHER = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *policy.ONLY, *policy.REFUSED, "id_slot"})


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path and a body: some fields with a value that mostly is valid, and sometimes another with any value."""
    is_chat = draw(st.booleans())
    good = CHAT_GOOD if is_chat else GOOD
    names = draw(st.lists(st.sampled_from(sorted(good)), max_size=4, unique=True))
    fields = {name: draw(mostly(good[name])) for name in names}
    fields |= draw(mostly(st.just({}), st.dictionaries(st.sampled_from(OTHER), JSON, max_size=1)))
    if draw(st.integers(0, 4)) == 0:
        fields |= draw(constrained_bodies())
    prompts = mostly(TEXTS | st.lists(st.integers(0, 49_151), min_size=1, max_size=3))
    main = {"messages": draw(MESSAGES)} if is_chat else {"prompt": draw(prompts)}
    return "/v1/chat/completions" if is_chat else "/v1/completions", {"max_tokens": 1, **fields, **main}


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@settings(max_examples=100, deadline=None)
@given(requests())
def test_a_request_is_complete_for_the_engine_or_refused(request: tuple[str, dict[str, Any]]) -> None:
    path, body = request
    for spec in (SPEC, with_demanding_template(SPEC)):
        try:
            sent = parse(path, encode(body), spec)
        except RequestRefused as error:
            refused = error
        else:
            json.dumps(sent.body, allow_nan=False, ensure_ascii=False).encode()
            assert set(sent.body) <= {*ChatRequest.model_fields, *CompletionRequest.model_fields}
            continue
        assert 400 <= refused.status < 500
        json.dumps(refused.to_json(), ensure_ascii=False).encode()


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=40)
    | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))
    | JSON.map(lambda value: json.dumps(value).encode())
)
def test_a_body_of_any_bytes_is_refused_with_a_client_error(content: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse("/v1/chat/completions", content, SPEC)
    assert 400 <= refused.value.status < 500


@pytest.fixture(scope="module")
def served(parallel_serve_spec: ServeSpec) -> Iterator[RunningServer]:
    with running(with_demanding_template(parallel_serve_spec)) as now:
        yield now


def survives(served: RunningServer, *, examples: int) -> None:
    engine, counts = served.engine.pid, dict[int, int]()
    with httpx.Client(base_url=served.url, timeout=120, headers={"content-type": "application/json"}) as client:

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(requests())
        def send(request: tuple[str, dict[str, Any]]) -> None:
            path, body = request
            answer = client.post(path, content=encode(body))
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert answer.status_code < 500 or answer.status_code in {502, 503}, answer.text
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]
                assert "site-packages" not in answer.text

        send()
        health = client.get("/health").json()
    print(f"{examples} generated requests: {dict(sorted(counts.items()))}")
    assert (health["status"], health["restarts"], served.engine.pid) == ("ok", 0, engine)


def test_generated_requests_leave_the_engine_running(served: RunningServer, faults: Faults) -> None:
    faults.add(60)
    survives(served, examples=60)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("examples", [2_000, 10_000])
def test_thousands_of_generated_requests_leave_the_engine_running(
    served: RunningServer, faults: Faults, examples: int
) -> None:
    faults.add(examples)
    survives(served, examples=examples)
