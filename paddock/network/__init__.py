"""Decide how HTTP clients reach a URL: through which proxy, and which certificates they trust.

`Network` is the one rule. Settings make it, and each HTTP client gets its result; none reads the environment itself.
"""

from paddock.network.certificates import is_untrusted
from paddock.network.proxies import HttpProxy
from paddock.network.rule import DIRECT, Network

__all__ = ["DIRECT", "HttpProxy", "Network", "is_untrusted"]
