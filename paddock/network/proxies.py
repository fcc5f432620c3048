"""Parse the address of a proxy, and turn its refusals, such as status 407, into errors.

The address may hold a user name and a password, which are in no message and no repr.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from paddock.errors import BadSetting, ProxyRefused, TransientError
from paddock.network.authority import DEFAULT_PORTS

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?")  # a name, or an IPv6 address
_NO_PATH = {("", "", ""), ("/", "", "")}
_AUTHENTICATION_REQUIRED = 407
_TUNNEL_FAILED = re.compile(r"Tunnel connection failed: (\d{3})")  # by http.client, which urllib3 and boto3 build on
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy that HTTP requests are sent to. `setting` is the variable that names it.

    `scheme` is how the proxy itself is reached: `http`, or `https` for TLS. `user` and `password` are None without
    credentials.
    """

    setting: str
    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """Its URL without credentials."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def label(self) -> str:
        return f"the proxy {self.netloc} ({self.setting})"

    @property
    def secret_url(self) -> str:
        """Its URL with the credentials, for clients that accept nothing else."""
        if self.user is None:
            return self.address
        return f"{self.scheme}://{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@{self.netloc}"

    @property
    def authorization(self) -> str | None:
        """The value of the header Proxy-Authorization; None without credentials."""
        if self.user is None:
            return None
        return "Basic " + b64encode(f"{self.user}:{self.password or ''}".encode()).decode()

    def tunnel_refusal(
        self, error: Exception, target: str, unavailable: type[TransientError]
    ) -> ProxyRefused | TransientError | None:
        """As `refusal`, for the answer to CONNECT as urllib3 reports it; None for any other error."""
        cause: BaseException | None = error
        while cause is not None:
            if status := _TUNNEL_FAILED.search(str(cause)):
                return self.refusal(int(status[1]), target, unavailable)
            cause = cause.__cause__ or cause.__context__
        return None

    def refusal(self, status: int, target: str, unavailable: type[TransientError]) -> ProxyRefused | TransientError:
        """The error for a status with which the proxy itself answered a request for `target`, which `unavailable` is
        the transient error of."""
        if status == _AUTHENTICATION_REQUIRED and self.user is None:
            return ProxyRefused(
                f"{self.label} requires a user name and a password (status 407)",
                cure=f"set {self.setting} to {self.scheme}://USER:PASSWORD@{self.netloc}",
            )
        if status == _AUTHENTICATION_REQUIRED:
            return ProxyRefused(
                f"{self.label} refuses the user name and password that the setting contains (status 407)",
                cure=f"correct them in {self.setting}, with special characters percent-encoded",
            )
        if status in _TRANSIENT_STATUS:
            return unavailable(f"{self.label} could not connect to {target} (status {status})", cure="try again later")
        return ProxyRefused(
            f"{self.label} refuses to connect to {target} (status {status})",
            cure=f"allow {target} at the proxy, or add it to NO_PROXY if it can be reached directly",
        )

    def unreachable(self, target: str, unavailable: type[TransientError]) -> TransientError:
        return unavailable(
            f"{target} could not be reached through {self.label}",
            cure=f"check {self.setting}, and that the proxy runs, then try again",
        )


@lru_cache(maxsize=64)
def parse_proxy(value: str, setting: str) -> HttpProxy:
    """Parse `[scheme://][user[:password]@]host[:port]`. Without a scheme it is http.

    The credentials may be percent-encoded, and need not be: everything before the last `@` belongs to them. Raises
    BadSetting, which does not quote the value.
    """
    scheme, separator, rest = value.strip().partition("://") if "://" in value else ("http", "", value.strip())
    scheme, rest = scheme.lower(), rest if separator else rest.removeprefix("//")
    if scheme.startswith("socks"):
        raise BadSetting(
            f"{setting} names a {scheme[:8]} proxy, which is not supported",
            cure=f"set {setting} to the address of an HTTP proxy, or add the hosts that need no proxy to NO_PROXY",
        )
    credentials, _, place = rest.rpartition("@")
    try:
        parts = urlsplit(f"//{place}")
        host = parts.hostname if (parts.path, parts.query, parts.fragment) in _NO_PATH else None
        port = parts.port or DEFAULT_PORTS.get(scheme, 0)
    except ValueError:
        host, port = None, 0
    if scheme not in DEFAULT_PORTS or not _HOST.fullmatch(host or ""):
        raise BadSetting(
            f"{setting} is not the address of a proxy: expected [http://][user:password@]host:port",
            cure=f"correct {setting}, or unset it",
        )
    if not credentials:
        return HttpProxy(setting, scheme, str(host), port)
    user, _, password = credentials.partition(":")
    return HttpProxy(setting, scheme, str(host), port, unquote(user), unquote(password))
