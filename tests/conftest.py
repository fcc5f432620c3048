"""Shared fixtures of real servers, the order and distribution of tests, and the hooks for skipped tests."""

import gc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.hub import demo_cache, hub
from tests.support.memory_directory import memory
from tests.support.skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.stack import moto, prefect_server, s3, stop_prefect
from tests.support.tiny_hub import clients, pulled, pulled_home

__all__ = [
    "clients",
    "demo_cache",
    "hub",
    "memory",
    "moto",
    "prefect_server",
    "pulled",
    "pulled_home",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "s3",
]

# A sample of the examples; `make torture` has the full number. No deadline: the cores have other tests too.
hypothesis.settings.register_profile("sample", max_examples=12, deadline=None)
hypothesis.settings.register_profile("torture", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("sample")

pytest_plugins = ["tests.support.fault_totals"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="write the screenshots of the documentation to this directory")


_PREFECT = ("tests/flows/", "tests/infra/test_prefect_server.py")
_GREAT_EXPECTATIONS = ("tests/lifecycle/test_data_docs.py", "tests/validation/test_expectations.py")
_LONG = (
    "tests/infra/test_stack.py",
    "tests/lifecycle/test_pull_processes.py",
    "tests/serving/test_service.py",
    "tests/serving/test_command.py",
    "tests/lifecycle/test_lease_wait.py",
    "tests/measure/test_benchmark.py",
    "tests/engine/test_oracle.py",
    "tests/lifecycle/",
    "tests/chat/",
)
"""Files and folders in the order in which they run, so that no long file is left for the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected: nearly all that is made then stays, and is gone through again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, and refuse tests elsewhere that would start another Prefect server."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(_PREFECT):
            raise pytest.UsageError(f"{item.nodeid} starts another Prefect server: put it below one of {_PREFECT}")
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    """The place of a test's file: those with Prefect, which run in one worker, then `_LONG`, then all others."""
    if item.nodeid.startswith(_PREFECT):
        return -1
    return next((place for place, start in enumerate(_LONG) if item.nodeid.startswith(start)), len(_LONG))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop Prefect's server and the threads of its client after the last test that uses them.

    An idle server takes time from the other tests. The threads change the state of `random`, which fails property tests
    that draw at that moment.
    """
    if item.nodeid.startswith(_PREFECT) and not (nextitem and nextitem.nodeid.startswith(_PREFECT)):
        stop_prefect(item.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all tests that use the Prefect server in one xdist worker, and those that import great_expectations.

    `--dist loadfile` keeps the tests of a file in one worker; without this hook, several workers would each start a
    server, and an idle server uses as much CPU time as many tests. The import takes 7 s of CPU time.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduler: Any = LoadFileScheduling(config, log)
    by_file = scheduler._split_scope

    def scope(nodeid: str) -> str:
        if nodeid.startswith(_PREFECT):
            return "prefect"
        return "great_expectations" if nodeid.startswith(_GREAT_EXPECTATIONS) else by_file(nodeid)

    scheduler._split_scope = scope
    return scheduler
