from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from paddock.chat.protocol import RenderResult, RenderStatus, TemplateAnalysis
from paddock.chat.render import RenderRequest, TemplateProcess, render_messages
from paddock.errors import ModelRejected
from paddock.model.finding import Finding, Severity
from tests.support.templates import CHATML, INJECTED

USER: list[dict[str, object]] = [{"role": "user", "content": "héllo <b>"}]


def render(source: str, **fields: object) -> RenderResult:
    with TemplateProcess(source, bos="<s>", eos="</s>") as process:
        assert not process.analyse().rejected
        return process.render(RenderRequest(USER, **fields))  # type: ignore[arg-type]  # typed by the tables below


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
    result = render(source, now=datetime.fromisoformat("2031-02-03"))
    assert result == RenderResult(RenderStatus.OK, text)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("{{ raise_exception('not like this') }}", RenderStatus.RAISED),
        ("{{ nothing.at.all }}", RenderStatus.ERROR),
        ("{{ 1 + 'a' }}", RenderStatus.ERROR),
        ("{{ messages|map(attribute='x')|list|first|upper|length / 0 }}", RenderStatus.ERROR),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", RenderStatus.DEPTH),
        ("{% for i in range(10**7) %}{% endfor %}", RenderStatus.RANGE),
        ("{{ 'x' * 10**6 }}", RenderStatus.OUTPUT),
        ("{% set x = 'x' * 2 %}{{ x * 10**9 }}", RenderStatus.MEMORY),
    ],
)
def test_a_failed_rendering_has_a_status(source: str, status: RenderStatus) -> None:
    assert render(source).status is status


def test_one_process_renders_many_conversations_and_survives_failures() -> None:
    source = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}"
    with TemplateProcess(source, bos="", eos="") as process:
        process.analyse()
        for number in range(50):
            message: dict[str, object] = {"role": "user", "content": str(number)}
            assert process.render(RenderRequest([message])).text == str(number)
            assert process.render(RenderRequest([message, message])).status is RenderStatus.RAISED


def test_after_the_process_was_killed_every_further_result_is_killed() -> None:
    bomb = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    source = "{% if messages|length > 1 %}" + bomb + "{% endif %}"
    with TemplateProcess(source, bos="", eos="") as process:
        process.analyse()
        assert process.render(RenderRequest(USER)).ok
        assert process.render(RenderRequest(USER * 2)).status is RenderStatus.KILLED
        assert process.render(RenderRequest(USER)).status is RenderStatus.KILLED


def test_the_process_has_an_empty_environment_and_cannot_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with TemplateProcess(CHATML, bos="", eos="") as process:
        assert process._process is not None
        directory = Path(f"/proc/{process._process.pid}")
        environment = (directory / "environ").read_bytes()
        limits = (directory / "limits").read_text()
    assert environment == b"LC_ALL=C\0"
    for name, value in (
        ("Max open files", 0),
        ("Max file size", 0),
        ("Max core file size", 0),
        ("Max address space", 256 << 20),
    ):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[:2] == [str(value)] * 2


def test_the_process_has_no_other_descriptors_than_its_pipes() -> None:
    with TemplateProcess(CHATML, bos="", eos="") as first, TemplateProcess(CHATML, bos="", eos="") as second:
        for process in (first, second):
            assert process._process is not None
            descriptors = {path.name for path in Path(f"/proc/{process._process.pid}/fd").iterdir()}
            assert descriptors == {"0", "1", "2"}


def test_each_template_has_a_process_of_its_own_that_ends_with_it() -> None:
    with TemplateProcess("{{ messages[0].content }}", bos="", eos="") as process:
        process.analyse()
        assert process._process is not None
        first = psutil.Process(process._process.pid)
        assert process.render(RenderRequest(USER)).ok
    with TemplateProcess("{{ messages[0].content }}", bos="", eos="") as process:
        assert process._process is not None
        second = psutil.Process(process._process.pid)
        assert first != second
        assert not first.is_running()


def test_templates_are_rendered_after_the_process_that_starts_them_was_killed() -> None:
    with TemplateProcess(CHATML, bos="", eos="") as process:
        process.analyse()
        assert process._process is not None
        parent = psutil.Process(process._process.pid).parent()
        assert parent is not None
        assert parent.environ() == {"LC_ALL": "C"}
        parent.kill()
        parent.wait()
        assert process.render(RenderRequest(USER)).ok
    assert render("{{ messages[0].content }}").ok


def test_many_threads_render_templates_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda number: render(f"{{{{ {number} }}}}").text, range(16)))
    assert texts == [str(number) for number in range(16)]


def test_a_process_that_was_forked_starts_its_own() -> None:
    assert render("{{ 1 }}").ok
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if render("{{ 2 }}").text == "2" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert render("{{ 3 }}").text == "3"


def test_render_messages_returns_the_prompt() -> None:
    assert render_messages(CHATML, USER) == "<|im_start|>user\nhéllo <b><|im_end|>\n<|im_start|>assistant\n"
    assert render_messages(CHATML, USER, add_generation_prompt=False).endswith("<|im_end|>\n")


@pytest.mark.parametrize("source", ["{{ lipsum }}", "{% if %}", "{{ raise_exception('no') }}", "x" * 300_000])
def test_a_template_that_cannot_be_rendered_raises_an_error_with_a_cure(source: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        render_messages(source, USER)
    assert caught.value.cure


def test_the_messages_of_the_pipe_survive_a_round_trip() -> None:
    analysis = TemplateAnalysis(
        (Finding("template.url", Severity.WARN, INJECTED, "line 1", "read it"),), ("a", "é"), (3,)
    )
    assert TemplateAnalysis.from_json(json.loads(json.dumps(analysis.to_json()))) == analysis
    result = RenderResult(RenderStatus.OK, "é\ud800")
    assert RenderResult.from_json(json.loads(json.dumps(result.to_json()))) == result
