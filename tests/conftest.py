"""The real parts that tests share, one of each for a whole run."""

from tests.support.house import parts
from tests.support.hub import demo_cache, hub
from tests.support.stack import prefect_server, s3

__all__ = ["demo_cache", "hub", "parts", "prefect_server", "s3"]
