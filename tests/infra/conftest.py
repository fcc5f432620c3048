from tests.support.hub import demo_cache, hub

__all__ = ["demo_cache", "hub"]
