from tests.support.hub import demo_cache, hub
from tests.support.stack import prefect_server, s3

__all__ = ["demo_cache", "hub", "prefect_server", "s3"]
