"""Types of settings that are more than a plain type and a range.

A check returns the value as it is used, or raises ValueError with what was expected, and never with the value itself,
since it may be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeGuard
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from paddock.network.authority import Authority

MIN_PRICE, MAX_PRICE = 1e-6, 1e7
"""The range of a price of an hour, in any currency: what is outside of it is a mistake."""
PRICE_EXPECTED = "a number from 0.000001 to 10000000"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SIZE = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?\s*([KMGTP]i?)?B?", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(r"(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,6})?)\s*%", re.ASCII)
_CRON = re.compile(r"[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4}")
_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """Keys of S3 that are not from the environment, whose keys boto3 reads itself."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError("the home directory for `~` cannot be determined") from None


def _absolute(value: Path) -> Path:
    path = _expanded(value)
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


def _size(value: str) -> str:
    if not _SIZE.fullmatch(value):
        raise ValueError("expected a size such as 500GiB")
    return value


def _size_or_share(value: str) -> str:
    if not _SIZE.fullmatch(value) and not _SHARE.fullmatch(value):
        raise ValueError("expected a size such as 500GiB, or a share of the disk from 0% to 100%")
    return value


def _remote_store(value: str) -> str:
    parts = _split(value)
    if parts is None or not parts.scheme or not _BUCKET.fullmatch(parts.netloc) or parts[3:] != ("", ""):
        raise ValueError(
            "expected s3://bucket or s3://bucket/prefix"
        )  # whether a store supports the scheme is checked later
    return value.rstrip("/")


def parse_catalog_place(value: str) -> Path | str:
    """The place of a catalog: a file, or the address of an object, which stays a text. Raises ValueError."""
    if "://" not in value:
        return _expanded(Path(value))
    parts = _split(value)
    if parts is None or not parts.scheme or not _BUCKET.fullmatch(parts.netloc) or parts[3:] != ("", ""):
        raise ValueError("expected a file, or s3://bucket/key")
    if any(part in {"", ".", ".."} for part in parts.path.split("/")[1:]) or not parts.path:
        raise ValueError("expected s3://bucket/key, the name of an object")
    return value


def _catalog(value: object) -> object:
    return parse_catalog_place(value) if isinstance(value, str) else value


def is_price(value: object) -> TypeGuard[float]:
    """Whether a value is a number in the range of a price of an hour. False for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_PRICE <= value <= MAX_PRICE


def parse_price(value: object) -> float:
    """A price of an hour, in any currency. Raises ValueError."""
    number = float(value) if isinstance(value, str) and _PRICE.fullmatch(value.strip()) else value
    if not is_price(number):
        raise ValueError(f"expected {PRICE_EXPECTED}, such as 2.10, without a currency")
    return number


def _cron(value: str) -> str:
    if not _CRON.fullmatch(value):  # Prefect checks the rest when a flow is deployed
        raise ValueError("expected the five fields of a cron expression, such as 30 3 * * 0")
    return value


def _http_address(value: str) -> str:
    parts = _split(value)
    if (
        parts is None
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise ValueError("expected an http:// or https:// address without credentials")
    return value.rstrip("/")


def _origins(value: object) -> object:
    if not isinstance(value, str):
        return value
    origins = tuple(part.strip() for part in value.split(","))
    for origin in origins:
        parts = _split(origin)
        if origin != "*" and (
            parts is None
            or not parts.scheme
            or not parts.hostname
            or "@" in parts.netloc
            or origin != f"{parts.scheme}://{parts.netloc}".lower()
        ):
            raise ValueError("expected * or origins such as https://chat.example, separated by commas")
    return origins


def _hosts(value: object) -> object:
    if not isinstance(value, str):
        return value
    hosts = []
    for entry in (part.strip() for part in value.split(",")):
        bracketed = f"[{entry}]" if entry.count(":") > 1 and not entry.startswith("[") else entry
        authority = Authority("*") if entry == "*" else Authority.parse(bracketed)
        if authority is None or authority.port is not None or entry.endswith(":"):
            raise ValueError("expected * or host names and addresses without a port, separated by commas")
        hosts.append(authority.host)
    return tuple(hosts)


def _header(value: SecretStr) -> SecretStr:
    # An invalid header would fail later, with an error of the HTTP client that quotes the secret.
    if not _TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("expected printable ASCII characters without spaces")
    return value


def _split(address: str) -> SplitResult | None:
    """Split a URL; None if it is invalid. The error of urlsplit itself would quote the value."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError unless it is a number up to 65535
    except ValueError:
        return None
    return parts


def _directories(value: object) -> object:
    if not isinstance(value, str):
        return value
    paths = [Path(name) for name in value.split(":") if name]
    if not all(path.is_absolute() for path in paths):
        raise ValueError("expected absolute paths, separated by a colon")
    return tuple(paths)


CatalogPlace = Annotated[Path | str, BeforeValidator(_catalog)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Size = Annotated[str, AfterValidator(_size)]
SizeOrShare = Annotated[str, AfterValidator(_size_or_share)]
RemoteStoreUri = Annotated[str, AfterValidator(_remote_store)]
Cron = Annotated[str, AfterValidator(_cron)]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
Directories = Annotated[tuple[Path, ...], BeforeValidator(_directories)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Price = Annotated[float, BeforeValidator(parse_price)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header)]
