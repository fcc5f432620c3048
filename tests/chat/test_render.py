from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from paddock.chat.protocol import Analysis, Rendered, Status
from paddock.chat.render import Request, TemplateProcess, render_messages
from paddock.errors import ModelRejected
from paddock.model.finding import Finding, Severity
from tests.support.templates import CHATML, EVIL

USER: list[dict[str, object]] = [{"role": "user", "content": "héllo <b>"}]


def rendered(source: str, **fields: object) -> Rendered:
    with TemplateProcess(source, bos="<s>", eos="</s>") as process:
        assert process.analyse().findings == ()
        return process.render(Request(USER, **fields))  # type: ignore[arg-type]  # the table below gives them their types


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content }}", "héllo <b>"),
        ("{% if true %}\n  {% set x = 1 %}\n{{ x }}\n  {% endif %}\n", "1\n"),
        ("{{ {'b': '<é&>', 'a': 1}|tojson }}", '{"b": "<é&>", "a": 1}'),
        ("{{ [1]|tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}{{ eos_token }}{% endgeneration %}", "</s>"),
        ("{{ strftime_now('%Y-%m-%d %B') }}", "2031-02-03 February"),
        ("{{ tools is none }} {{ documents is defined }}", "True False"),
        ("{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}", "4"),
        ("{{ messages|map(attribute='role')|join(',') }}", "user"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
        ("{{ nothing }}{{ nothing|default('x') }}", "x"),
    ],
)
def test_rendering_follows_the_conventions_of_transformers(source: str, text: str) -> None:
    result = rendered(source, now=datetime.fromisoformat("2031-02-03"))
    assert result == Rendered(Status.OK, text)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("{{ raise_exception('not like this') }}", Status.RAISED),
        ("{{ nothing.at.all }}", Status.ERROR),
        ("{{ 1 + 'a' }}", Status.ERROR),
        ("{{ messages|map(attribute='x')|list|first|upper|length / 0 }}", Status.ERROR),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", Status.DEPTH),
        ("{% for i in range(10**7) %}{% endfor %}", Status.RANGE),
        ("{{ 'x' * 10**6 }}", Status.OUTPUT),
        ("{% set x = 'x' * 2 %}{{ x * 10**9 }}", Status.MEMORY),
    ],
)
def test_a_rendering_that_fails_says_how(source: str, status: Status) -> None:
    assert rendered(source).status is status


def test_one_process_renders_many_conversations_and_survives_those_that_fail() -> None:
    source = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}"
    with TemplateProcess(source, bos="", eos="") as process:
        process.analyse()
        for number in range(50):
            message: dict[str, object] = {"role": "user", "content": str(number)}
            assert process.render(Request([message])).text == str(number)
            assert process.render(Request([message, message])).status is Status.RAISED


def test_after_a_limit_that_kills_every_further_answer_says_so() -> None:
    bomb = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    source = "{% if messages|length > 1 %}" + bomb + "{% endif %}"
    with TemplateProcess(source, bos="", eos="") as process:
        process.analyse()
        assert process.render(Request(USER)).ok
        assert process.render(Request(USER * 2)).status is Status.KILLED
        assert process.render(Request(USER)).status is Status.KILLED


def test_the_process_has_no_environment_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with TemplateProcess(CHATML, bos="", eos="") as process:
        assert process._process is not None
        place = Path(f"/proc/{process._process.pid}")
        environment = (place / "environ").read_bytes()
        limits = (place / "limits").read_text()
    assert environment == b"LC_ALL=C\0"
    for name, value in (
        ("Max open files", 0),
        ("Max file size", 0),
        ("Max core file size", 0),
        ("Max address space", 256 << 20),
    ):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[:2] == [str(value)] * 2


def test_render_messages_gives_the_prompt() -> None:
    assert render_messages(CHATML, USER) == "<|im_start|>user\nhéllo <b><|im_end|>\n<|im_start|>assistant\n"
    assert render_messages(CHATML, USER, add_generation_prompt=False).endswith("<|im_end|>\n")


@pytest.mark.parametrize("source", ["{{ lipsum }}", "{% if %}", "{{ raise_exception('no') }}", "x" * 300_000])
def test_what_cannot_be_rendered_is_an_error_with_a_cure(source: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        render_messages(source, USER)
    assert caught.value.cure


def test_what_crosses_the_pipe_comes_back_the_same() -> None:
    analysis = Analysis((Finding("template.url", Severity.WARN, EVIL, "line 1", "read it"),), ("a", "é"), (3,))
    assert Analysis.from_json(json.loads(json.dumps(analysis.to_json()))) == analysis
    result = Rendered(Status.OK, "é\ud800")
    assert Rendered.from_json(json.loads(json.dumps(result.to_json()))) == result
