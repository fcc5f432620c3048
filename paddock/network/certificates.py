"""Load the certificates of the authorities (CA) that HTTPS clients trust."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.errors import BadSetting

if TYPE_CHECKING:
    import ssl

_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


def system_bundle() -> str:
    """The path of the system's bundle of authorities, which an administrator adds an own one to; without one, that of
    the package certifi."""
    import ssl

    compiled_in = ssl.get_default_verify_paths().openssl_cafile
    found = next((path for path in (compiled_in, *_SYSTEM_BUNDLES) if Path(path).is_file()), None)
    if found is not None:
        return found
    import certifi

    return certifi.where()


@lru_cache(maxsize=16)
def trusting(path: Path | None, setting: str) -> ssl.SSLContext:
    """A context that trusts the authorities in a PEM file, or in a directory that `openssl rehash` prepared; None: the
    system's. `setting` is the variable that names the path.

    Raises BadSetting for a path that is missing, not readable, or no PEM file.
    """
    import ssl

    if path is None:
        return ssl.create_default_context(cafile=system_bundle())
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:  # a subclass of OSError
        raise BadSetting(
            f"{setting} is not usable: {path} has no certificates in PEM format",
            cure=f"set {setting} to a PEM file; `openssl x509 -inform der -in FILE -out FILE.pem` converts a DER file",
        ) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise BadSetting(
            f"{setting} is not usable: {path} could not be read: {reason}",
            cure=f"set {setting} to a readable PEM file, or unset it",
        ) from None


def is_untrusted(error: BaseException) -> bool:
    """Whether an error of an HTTP client was caused by a server certificate that is not trusted."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
