"""Add up the faults that the tests inject, and print the totals at the end of the run.

A test adds its numbers with the fixture `faults`; in one that fails, a fault was not survived. The numbers travel in
the test's report, so that those of all processes of pytest-xdist are added up. tests/conftest.py names this module as a
plugin.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import astuple, dataclass
from typing import Any

import pytest

_PROPERTY = "faults"


@dataclass
class Faults:
    """Faults that a test injected. `survived`: everything that must hold after one held. `wrong_bytes`: how many times
    bytes were found, or served, that differ from their digest."""

    injected: int = 0
    survived: int = 0
    wrong_bytes: int = 0

    def add(self, injected: int = 1, *, wrong_bytes: int = 0, failed: int = 0) -> None:
        """Add faults that were injected, of which `failed` were not survived."""
        self.injected += injected
        self.survived += max(0, injected - failed)
        self.wrong_bytes += wrong_bytes


_FAULTS = pytest.StashKey[Faults]()


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The faults that this test injects."""
    counted = Faults()
    request.node.stash[_FAULTS] = counted
    return counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    counted = item.stash.get(_FAULTS, None)
    if report.when == "call" and counted is not None:
        if report.failed and counted.survived >= counted.injected:
            counted.injected = max(1, counted.injected)
            counted.survived = counted.injected - 1
        report.user_properties.append((_PROPERTY, list(astuple(counted))))  # xdist sends plain values only
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", None) == "call"
    ]
    counts = [value for report in reports for name, value in report.user_properties if name == _PROPERTY]
    if counts:
        injected, survived, wrong_bytes = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(f"faults: injected {injected}, survived {survived}, wrong bytes {wrong_bytes}")
