"""Findings in JSON, and the verdict that follows from findings."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.model.finding import Finding, Severity, Verdict, verdict_of

findings = st.builds(
    Finding,
    rule=st.from_regex(r"[a-z]+(-[a-z]+)*", fullmatch=True),
    severity=st.sampled_from(Severity),
    message=st.text(),
    where=st.text(),
    cure=st.text(),
)


@given(findings)
def test_a_finding_is_equal_after_a_round_trip_through_json(finding: Finding) -> None:
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_the_json_of_a_finding_has_these_keys_and_plain_text() -> None:
    finding = Finding("gguf.container.magic", Severity.REJECT, "it is HTML", where="byte 0", cure="pull it again")
    assert finding.to_json() == {
        "rule": "gguf.container.magic",
        "severity": "reject",
        "message": "it is HTML",
        "where": "byte 0",
        "cure": "pull it again",
    }
    assert {type(value) for value in finding.to_json().values()} == {str}


def test_where_and_cure_are_optional() -> None:
    finding = Finding("model-licence", Severity.WARN, "no licence is named")
    assert Finding.from_json({"rule": finding.rule, "severity": "warn", "message": finding.message}) == finding


@given(st.lists(st.sampled_from(Severity), max_size=6))
def test_the_worst_finding_decides_the_verdict_in_any_order(severities: list[Severity]) -> None:
    found = [Finding("rule", severity, "message") for severity in severities]
    verdict = verdict_of(found)
    assert verdict == verdict_of(reversed(found))
    worst = max((list(Severity).index(finding.severity) for finding in found), default=0)
    assert verdict == list(Verdict)[worst]


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        ((), Verdict.ACCEPT),
        ((Severity.INFO, Severity.INFO), Verdict.ACCEPT),
        ((Severity.INFO, Severity.WARN), Verdict.WARN),
        ((Severity.WARN, Severity.REJECT, Severity.INFO), Verdict.REJECT),
    ],
    ids=["nothing", "information", "a warning", "a rejection"],
)
def test_information_accepts_a_warning_warns_and_a_rejection_rejects(
    severities: tuple[Severity, ...], verdict: Verdict
) -> None:
    assert verdict_of(Finding("rule", severity, "message") for severity in severities) is verdict
