from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from paddock.chat import sandbox_start
from paddock.chat.audit import audit_template
from paddock.chat.fidelity import check_fidelity
from paddock.chat.probes import standard_probes
from paddock.chat.protocol import BATCH_CPU_S, RenderResult, RenderStatus
from paddock.chat.render import render_messages
from paddock.errors import EngineCrashed
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from tests.support.hostile_templates import HOSTILE
from tests.support.templates import CHATML, DOUBTFUL, NOTED, SOUND
from tests.support.waiting import wait_for

START_CPU_S = 2.0
"""Allowance for starting the subprocess, in addition to the limit of the batch."""


def rules(findings: list[Finding], severity: Severity) -> set[str]:
    return {finding.rule for finding in findings if finding.severity is severity}


def _subprocesses_cpu_s() -> float:
    """The CPU time of all subprocesses, which one process starts; waits until those that have ended are counted."""
    (server,) = (child for child in psutil.Process().children() if "sandbox_server" in " ".join(child.cmdline()))
    wait_for(lambda: not server.children())
    return sum(server.cpu_times()[:4])


@pytest.mark.parametrize(("source", "rule"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_rejected_within_the_cpu_limit(source: str, rule: str) -> None:
    """The limit is CPU time, so it does not depend on the load of the machine; `protocol.WALL_S` limits the rest."""
    render_messages(CHATML, [])  # the first template of a session starts the process that starts the others
    started, subprocesses_s = time.process_time(), _subprocesses_cpu_s()
    findings = audit_template(source)
    assert _subprocesses_cpu_s() - subprocesses_s < BATCH_CPU_S + START_CPU_S
    assert rule in rules(findings, Severity.REJECT), findings
    assert all(finding.cure for finding in findings if finding.severity is Severity.REJECT)
    assert time.process_time() - started < 1, "the work must be done in the subprocess"


@pytest.mark.parametrize(("source", "rule"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_a_doubtful_template_is_accepted_with_a_warning(source: str, rule: str) -> None:
    findings = audit_template(source)
    assert verdict_of(findings) is Verdict.WARN, findings
    assert rule in rules(findings, Severity.WARN), findings


@pytest.mark.parametrize(("source", "rule"), NOTED.values(), ids=NOTED.keys())
def test_a_sound_template_with_a_peculiarity_is_accepted_with_an_info_finding(source: str, rule: str) -> None:
    findings = audit_template(source)
    assert verdict_of(findings) is Verdict.ACCEPT, findings
    assert rule in rules(findings, Severity.INFO), findings


def test_a_faithful_template_has_no_finding() -> None:
    assert audit_template(CHATML) == []


def test_the_audit_of_an_accepted_template_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CHATML + "{# asked for twice #}"
    rejected = "{% for i in range(10 ** 9) %}{% endfor %}"
    audit_template(rejected)
    assert audit_template(source) == []
    sandbox_start.stop()
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert audit_template(source) == []
    for other, bos in ((source, "<|begin|>"), (rejected, "<s>")):
        with pytest.raises(EngineCrashed):
            audit_template(other, bos=bos)


def test_a_template_that_the_sandbox_stops_is_rejected() -> None:
    (finding,) = check_fidelity([(standard_probes()[0], RenderResult(RenderStatus.UNSAFE, "access to an internal"))])
    assert (finding.rule, finding.severity) == ("template.unsafe", Severity.REJECT)


@pytest.mark.parametrize("source", SOUND.values(), ids=SOUND.keys())
def test_a_sound_template_is_accepted(source: str) -> None:
    findings = audit_template(source)
    assert verdict_of(findings) is Verdict.ACCEPT, findings


def test_findings_of_a_named_template_have_its_name() -> None:
    findings = audit_template("{{ lipsum }}", name="tool_use")
    assert [finding.where for finding in findings] == ["tool_use: line 1"]


def test_the_template_gets_the_texts_of_the_special_tokens() -> None:
    source = "{% if eos_token != '<|end|>' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    assert verdict_of(audit_template(source, eos="<|end|>")) is Verdict.ACCEPT
    assert verdict_of(audit_template(source)) is Verdict.REJECT


def test_a_template_with_a_lone_surrogate_is_audited_like_any_other() -> None:
    assert verdict_of(audit_template("\ud800" + CHATML)) is Verdict.WARN


def test_an_audit_leaves_no_subprocess_and_no_open_descriptor() -> None:
    def open_resources() -> tuple[int, str]:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), children

    audit_template(CHATML)
    before = open_resources()
    audit_template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    audit_template(CHATML, eos="<|another|>")
    assert open_resources() == before
