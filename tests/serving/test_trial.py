"""Grammars, JSON schemas and tools are compiled in a trial engine: what it cannot compile never meets the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from paddock.serving.spec import ServeSpec
from paddock.serving.trial.request_trial import TrialQueue
from tests.serving.test_schema_bounds import with_parameters, with_schema
from tests.serving.test_service import QUICK
from tests.support.constraints import constrained_bodies
from tests.support.fault_totals import Faults
from tests.support.serving import QUESTION, RunningServer, ask, has_restarted, running
from tests.support.trial import TOOL_TEMPLATE, TrialThread, trial_thread
from tests.support.waiting import wait_for

LINKED_LIST = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
GROWING = "root ::= s\ns ::= . s | . s s | . s s s | ."
COMPILES = {
    "a maxLength of 4000": with_schema({"type": "object", "properties": {"q": {"type": "string", "maxLength": 4000}}}),
    "a pattern with a class": with_schema({"type": "string", "pattern": "^\\w+$"}),
    "a pattern of alternatives": with_schema({"type": "string", "pattern": "^(a|b)*c{1,3}$"}),
    "a list of itself": with_schema({"$ref": "#/$defs/n", "$defs": {"n": LINKED_LIST}}),
    "an enum": with_schema({"enum": ["red", "green", None, 5]}),
    "any object": {"response_format": {"type": "json_object"}},
    "a grammar": {"grammar": 'root ::= ("a" | "b"){1,5}'},
    "a tool": {**with_parameters({"type": "object", "properties": {"a": {"type": "string"}}})},
    "a tool that must be called": {**with_parameters({"type": "object"}), "tool_choice": "required"},
}
DOES_NOT_COMPILE = {
    "a rule that is missing": ({"grammar": "root ::= missing"}, "grammar", "'missing'"),
    "left recursion": ({"grammar": 'root ::= root "a" | "b"'}, "grammar", "left recursion"),
    "an unclosed group": ({"grammar": 'root ::= ("a"'}, "grammar", "expecting ')'"),
    "deep groups": ({"grammar": f'root ::= {"(" * 100_000}"a"{")" * 100_000}'}, "grammar", "stack"),
    "a million repetitions": ({"grammar": 'root ::= "a"{1000000}'}, "grammar", "repetitions"),
    "fewer repetitions than none": ({"grammar": 'root ::= "a"{5,2}'}, "grammar", "cannot compile it"),
    "left corners in powers of two": (
        {"grammar": "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1} | r{n + 1}\n" for n in range(40)) + 'r40 ::= "a"'},
        "grammar",
        "alternatives",
    ),
    "texts that grow into each other": (
        {"grammar": "root ::= s\ns ::= . s | . s s | . s s s | ."},
        "grammar",
        "in time",
    ),
    "a range without a character": ({"grammar": "root ::= [z-a]"}, "grammar", "no token"),
    "a remote reference": (with_schema({"$ref": "http://127.0.0.1:9/a"}), "response_format", "unsupported $ref"),
    "a reference to itself": (
        with_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        "response_format",
        "left recursion",
    ),
    "a pattern that is none": (with_schema({"type": "string", "pattern": "^(a$"}), "response_format", "parentheses"),
    "an unknown type": ({"json_schema": {"type": "foo"}}, "json_schema", "foo"),
    "a parameter without a schema": (
        with_parameters({"type": "object", "properties": {"a": None}}),
        "tools",
        "must be an object",
    ),
    "an unknown choice": ({**with_parameters({}), "tool_choice": "bogus"}, "tool_choice", "bogus"),
}


@pytest.fixture(scope="module")
def trial(serve_spec: ServeSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialThread]:
    home = tmp_path_factory.mktemp("trial")
    with trial_thread(serve_spec, home, template=TOOL_TEMPLATE, processor_s=1.0) as made:
        yield made


@pytest.mark.parametrize("body", COMPILES.values(), ids=COMPILES)
def test_what_compiles_passes(trial: TrialThread, body: dict[str, Any]) -> None:
    assert trial.check(body) is None


@pytest.mark.parametrize(("body", "field", "reason"), DOES_NOT_COMPILE.values(), ids=DOES_NOT_COMPILE)
def test_what_does_not_compile_is_a_400_that_names_the_field_and_says_why(
    trial: TrialThread, body: dict[str, Any], field: str, reason: str
) -> None:
    path = "/v1/completions" if field == "json_schema" else "/v1/chat/completions"
    refused = trial.check(body, path=path)
    assert refused is not None
    assert (refused.status, refused.param) == (400, field)
    assert refused.message.startswith(f"{field}: ")
    assert reason in refused.message


@pytest.mark.parametrize("body", [{}, {"response_format": {"type": "text"}}, {"tools": []}, {"grammar": ""}])
def test_a_request_without_anything_to_compile_starts_no_trial_engine(
    serve_spec: ServeSpec, tmp_path: Path, body: dict[str, Any]
) -> None:
    with trial_thread(serve_spec, tmp_path) as unused:
        assert unused.check({**body, "chat_template_kwargs": {"enable_thinking": False}}) is None
        assert unused.pid is None


def test_a_result_is_remembered(trial: TrialThread) -> None:
    body = with_schema({"type": "string", "pattern": "^remembered$"})
    assert trial.check(body) is None
    used_s = psutil.Process(trial.pid).cpu_times()
    assert trial.check({**body, "messages": ["others"]}) is None
    assert psutil.Process(trial.pid).cpu_times() == used_s


def test_a_trial_engine_that_died_is_started_again(trial: TrialThread) -> None:
    assert trial.check({"grammar": 'root ::= "before"'}) is None
    before = trial.pid
    psutil.Process(before).kill()
    assert trial.check({"grammar": 'root ::= "after"'}) is None
    assert trial.pid not in {before, None}


def test_few_requests_wait_for_the_trial_engine_and_none_for_ever(serve_spec: ServeSpec, tmp_path: Path) -> None:
    queue = TrialQueue(waiting=1, timeout_s=0.1)
    with trial_thread(serve_spec, tmp_path, processor_s=1.0, queue=queue) as made:
        results = [made.begin({"grammar": f'{GROWING} | "{name}"'}) for name in "abc"]
        statuses = [refused.status if refused else 200 for refused in (one.result(60) for one in results)]
        assert statuses == [400, 503, 503]  # it takes too long, waited too long, and found the queue full
        assert made.check({"grammar": 'root ::= "d"'}) is None


def test_the_trial_engine_is_small_and_ends_with_its_trial(serve_spec: ServeSpec, tmp_path: Path) -> None:
    with trial_thread(serve_spec, tmp_path) as made:
        assert made.check({"grammar": 'root ::= "a"'}) is None
        process = psutil.Process(made.pid)
        assert process.memory_info().rss < 100 * 2**20  # with the 49,152 tokens of SmolLM2
    assert not process.is_running()


@pytest.fixture(scope="module")
def tool_server(serve_spec: ServeSpec) -> Iterator[RunningServer]:
    with running(replace(serve_spec, chat=replace(serve_spec.chat, template=TOOL_TEMPLATE))) as now:
        yield now


def test_no_grammar_or_schema_ends_the_engine_of_a_server(tool_server: RunningServer) -> None:
    served, engine = tool_server, tool_server.engine.pid
    tried = [
        (with_schema({"type": "object", "properties": {"q": {"type": "string", "maxLength": 4000}}}), 200),
        ({"response_format": {"type": "json_object", "schema": {"type": "string", "pattern": "^\\w+$"}}}, 200),
        ({"grammar": "root ::= missing"}, 400),
        ({"grammar": f'root ::= {"(" * 100_000}"a"{")" * 100_000}'}, 400),
    ]
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for body, status in tried:
            answer = client.post("/v1/chat/completions", json={"messages": [QUESTION], "max_tokens": 8, **body})
            assert answer.status_code == status, answer.text
    assert served.engine.pid == engine


@pytest.mark.torture
def test_a_grammar_that_grows_beyond_measure_only_later_is_lost_with_one_restart(serve_spec: ServeSpec) -> None:
    spec = replace(serve_spec, parameters=replace(serve_spec.parameters, n_threads_batch=2))
    grammar = GROWING.replace("root ::= s", "root ::= [a-z ]{50} s")
    with running(spec, limits=QUICK) as served, httpx.Client(base_url=served.url, timeout=60) as client:
        answer = client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 200, "grammar": grammar})
        assert answer.status_code == 502
        wait_for(partial(has_restarted, served.url, 1))
        assert ask(client, stream=False).complete


def try_generated(served: RunningServer, *, examples: int) -> None:
    """Send generated grammars, schemas and tools to a server: its engine survives, and answers well."""
    engine, statuses = served.engine.pid, Counter[int]()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @seed(1)
    @given(body=constrained_bodies(), is_chat=st.booleans(), stream=st.booleans())
    def send(body: dict[str, Any], is_chat: bool, stream: bool) -> None:
        path, prompt = "/v1/completions", dict[str, Any](prompt="Hello")
        if is_chat or "tools" in body:
            path, prompt = "/v1/chat/completions", {"messages": [QUESTION]}
        answer = client.post(path, json={**prompt, "max_tokens": 6, "stream": stream, **body})
        statuses[answer.status_code] += 1
        assert answer.status_code in {200, 400, 502, 503}, answer.text
        assert served.engine.pid == engine

    with httpx.Client(base_url=served.url, timeout=120) as client:
        send()
        assert ask(client, stream=False).complete
    print(f"{examples} generated grammars, schemas and tools: {dict(statuses)}; the engine lives")
    assert statuses[200] >= examples // 10
    assert statuses[400] >= examples // 10


def test_no_generated_grammar_schema_or_tool_ends_the_engine(tool_server: RunningServer, faults: Faults) -> None:
    faults.add(25)
    try_generated(tool_server, examples=25)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_no_generated_grammar_schema_or_tool_of_2000_ends_the_engine(
    tool_server: RunningServer, faults: Faults
) -> None:
    faults.add(2000)
    try_generated(tool_server, examples=2000)
