"""The real parts that tests share, one of each for a whole run; and who runs beside whom in `make test`."""

import pytest

from tests.support.house import parts
from tests.support.hub import demo_cache, hub
from tests.support.stack import prefect_server, s3

__all__ = ["demo_cache", "hub", "parts", "prefect_server", "s3"]

_LONG = ("tests/lifecycle/test_pull_processes.py", "tests/infra/test_stack.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay in one process, and all that want Prefect's server in the same one: an idle server takes
    as much of the processor as many tests. What takes longest begins first."""

    def asks_prefect(item: pytest.Item) -> bool:
        return "prefect_server" in getattr(item, "fixturenames", ())

    group = {item.path: "prefect" for item in items if asks_prefect(item)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group.get(item.path, f"{item.path.parent.name}/{item.path.stem}")))
    items.sort(key=lambda item: item.path not in group and not item.nodeid.startswith(_LONG))
