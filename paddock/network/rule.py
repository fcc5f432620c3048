"""The rule by which every HTTP client of the process chooses proxies and trusted certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paddock.network.authority import DEFAULT_PORTS
from paddock.network.certificates import system_bundle, trusting
from paddock.network.no_proxy import is_excluded
from paddock.network.proxies import HttpProxy, parse_proxy

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Network:
    """Proxies and certificates, as the settings name them; without settings no proxy, and the system's certificates.

    Values are parsed and files read when a request needs them: a command that sends no request works whatever they
    are. The proxies are not in the repr, since they may contain a password.
    """

    http_proxy: str | None = field(default=None, repr=False)
    https_proxy: str | None = field(default=None, repr=False)
    all_proxy: str | None = field(default=None, repr=False)
    no_proxy: str = ""
    ca_path: Path | None = None
    ca_setting: str = "SSL_CERT_FILE"

    def proxy_for(self, url: str) -> HttpProxy | None:
        """The proxy for a URL; None to connect directly. Raises BadSetting for a proxy that cannot be used."""
        parts = urlsplit(url)
        own = {"http": self.http_proxy, "https": self.https_proxy}.get(parts.scheme)
        value, setting = (own, f"{parts.scheme.upper()}_PROXY") if own else (self.all_proxy, "ALL_PROXY")
        if not value or parts.scheme not in DEFAULT_PORTS:
            return None
        if is_excluded(self.no_proxy, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]):
            return None
        return parse_proxy(value, setting)

    def ssl_context(self) -> ssl.SSLContext:
        """The context for TLS connections, to servers and to proxies. Raises BadSetting."""
        return trusting(self.ca_path, self.ca_setting)

    def ca_bundle(self) -> str:
        """The path of the trusted certificates, for clients that accept no context. Raises BadSetting."""
        self.ssl_context()
        return system_bundle() if self.ca_path is None else str(self.ca_path)

    def with_ca(self, path: Path, setting: str) -> Network:
        return replace(self, ca_path=path, ca_setting=setting)

    def to_json(self) -> dict[str, str | None]:
        """All fields, with the passwords of proxies, for a process of our own."""
        return asdict(self) | {"ca_path": str(self.ca_path) if self.ca_path is not None else None}

    @staticmethod
    def from_json(fields: Mapping[str, str | None]) -> Network:
        path = fields["ca_path"]
        return Network(**{**fields, "ca_path": Path(path) if path is not None else None})  # type: ignore[arg-type] # one type for each field

    @property
    def untrusted_cure(self) -> str:
        """The cure of an error about a server certificate that is not trusted."""
        if self.ca_path is None:
            return "set SSL_CERT_FILE to a PEM file with the certificate of the authority (CA) that signed it"
        return f"add the certificate of the authority (CA) that signed it to {self.ca_path} ({self.ca_setting})"

    def environment(self, url: str | None = None) -> dict[str, str]:
        """Environment variables by which a program that reads them itself follows this rule: for one URL exactly, else
        for all as far as that program understands NO_PROXY. Raises BadSetting."""
        variables = {}
        if self.ca_path is not None:
            variables["SSL_CERT_DIR" if self.ca_path.is_dir() else "SSL_CERT_FILE"] = str(self.ca_path)
        if url is not None:
            proxy = self.proxy_for(url)
            return variables | ({f"{scheme}_PROXY": proxy.secret_url for scheme in ("HTTP", "HTTPS")} if proxy else {})
        for scheme in ("HTTP", "HTTPS"):
            value = (self.http_proxy if scheme == "HTTP" else self.https_proxy) or self.all_proxy
            if value:
                variables[f"{scheme}_PROXY"] = parse_proxy(value, f"{scheme}_PROXY").secret_url
        return variables | ({"NO_PROXY": self.no_proxy} if self.no_proxy else {})


DIRECT = Network()
"""No proxy, and the system's certificates."""
