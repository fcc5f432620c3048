"""The real parts that tests share, one of each for a whole run; and who runs beside whom in `make test`."""

from typing import Any

import pytest

from tests.support.house import parts
from tests.support.hub import demo_cache, hub
from tests.support.stack import prefect_server, s3

__all__ = ["demo_cache", "hub", "parts", "prefect_server", "s3"]

_PREFECT = ("tests/flows/", "tests/infra/test_prefect_server.py")
_LONG = ("tests/lifecycle/test_pull_processes.py", "tests/infra/test_stack.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(_PREFECT):
            raise pytest.UsageError(f"{item.nodeid} starts another Prefect server: put it below one of {_PREFECT}")
    items.sort(key=lambda item: not item.nodeid.startswith((*_PREFECT, *_LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file stay in one process, and all that want Prefect's server in the same one: an idle server takes
    as much of the processor as many tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return "prefect" if nodeid.startswith(_PREFECT) else nodeid.split("::", 1)[0]

    return ByFile(config, log)
