"""Shared fixtures of real servers, the order and distribution of tests, and the hooks for skipped tests."""

from typing import Any

import pytest

from tests.support.hub import demo_cache, hub
from tests.support.skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.stack import moto, prefect_server, s3
from tests.support.tiny_hub import clients

__all__ = [
    "clients",
    "demo_cache",
    "hub",
    "moto",
    "prefect_server",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "s3",
]

_PREFECT = ("tests/flows/", "tests/infra/test_prefect_server.py")
_LONG = ("tests/lifecycle/test_pull_processes.py", "tests/infra/test_stack.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, and refuse tests elsewhere that would start another Prefect server."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(_PREFECT):
            raise pytest.UsageError(f"{item.nodeid} starts another Prefect server: put it below one of {_PREFECT}")
    items.sort(key=lambda item: not item.nodeid.startswith((*_PREFECT, *_LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all tests that use the Prefect server in one xdist worker.

    `--dist loadfile` keeps the tests of a file in one worker; without this hook, several workers would each start a
    server, and an idle server uses as much CPU time as many tests.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduler: Any = LoadFileScheduling(config, log)
    by_file = scheduler._split_scope
    scheduler._split_scope = lambda nodeid: "prefect" if nodeid.startswith(_PREFECT) else by_file(nodeid)
    return scheduler
