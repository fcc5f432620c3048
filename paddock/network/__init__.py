"""Decide how HTTP clients reach a URL: through which proxy, which certificates they trust, and which addresses they may
be led to.

`Network` is the rule for the first two. Settings make it, and each HTTP client gets its result; none reads the
environment itself. `Reach` is that for the third.
"""

from paddock.network.certificates import is_untrusted
from paddock.network.proxies import HttpProxy
from paddock.network.reach import FORBIDDEN_CURE, ForbiddenAddress, Reach
from paddock.network.rule import DIRECT, Network

__all__ = ["DIRECT", "FORBIDDEN_CURE", "ForbiddenAddress", "HttpProxy", "Network", "Reach", "is_untrusted"]
