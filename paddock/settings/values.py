"""Parse the values of settings that are more than a plain type.

Each parser takes the text of a variable, or a value that has its type already, and returns the value as it is used. It
raises ValueError with what was expected, and never with the value itself, since it may be a secret.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard
from urllib.parse import SplitResult, urlsplit

MIN_PRICE, MAX_PRICE = 1e-6, 1e7
"""The range of a price of an hour, in any currency: what is outside of it is a mistake."""
PRICE_EXPECTED = "a number from 0.000001 to 10000000"

# Patterns are compiled when they are used: most processes set few variables.
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}"
_SIZE = r"(?ai)[0-9]{1,18}(\.[0-9]{1,18})?\s*([KMGTP]i?)?B?"
_SHARE = r"(?a)(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,6})?)\s*%"
_CRON = r"[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4}"
_PRICE = r"[0-9]{1,12}(\.[0-9]{1,12})?"
_PRINTABLE = r"[!-~]+"
_WHOLE = r"[+-]?[0-9]{1,18}"
_DECIMAL = r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][+-]?[0-9]{1,3})?"
_TRUE, _FALSE = frozenset({"1", "true", "t", "yes", "y", "on"}), frozenset({"0", "false", "f", "no", "n", "off"})


class Secret:
    """A text that is in no repr and no message."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('**********')"


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """Keys of S3 that are not from the environment, whose keys boto3 reads itself."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class Whole:
    """Parses a whole number within bounds."""

    def __init__(self, at_least: int, at_most: int | None = None) -> None:
        self.at_least, self.at_most = at_least, at_most

    def __call__(self, value: object) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(_WHOLE, value) else value
        if (
            isinstance(number, bool)
            or not isinstance(number, int)
            or not _is_within(number, self.at_least, self.at_most)
        ):
            raise ValueError(f"expected a whole number, {_bounds(self.at_least, self.at_most)}")
        return number


class Number:
    """Parses a finite number within bounds; `above` is not one of its values itself."""

    def __init__(
        self, at_least: float | None = None, at_most: float | None = None, *, above: float | None = None
    ) -> None:
        self.at_least, self.at_most, self.above = at_least, at_most, above

    def __call__(self, value: object) -> float:
        number = float(value) if isinstance(value, str) and re.fullmatch(_DECIMAL, value) else value
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or not math.isfinite(number)
            or not _is_within(number, self.at_least, self.at_most)
            or (self.above is not None and number <= self.above)
        ):
            raise ValueError(f"expected a number, {_bounds(self.at_least, self.at_most, above=self.above)}")
        return float(number)


class OneOf:
    """Parses one of a few texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __call__(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.texts:
            raise ValueError(f"expected {' or '.join(self.texts)}")
        return value


class Text:
    """Parses a text with at most `max_length` characters, of a form that `expected` describes."""

    def __init__(self, max_length: int, pattern: str = ".*", expected: str = "a text") -> None:
        self.max_length, self.pattern, self.expected = max_length, pattern, expected

    def __call__(self, value: object) -> str:
        text = _text(value)
        if len(text) > self.max_length or not re.fullmatch(self.pattern, text):
            raise ValueError(f"expected {self.expected}, of at most {self.max_length} characters")
        return text


def _is_within(number: float, at_least: float | None, at_most: float | None) -> bool:
    return (at_least is None or number >= at_least) and (at_most is None or number <= at_most)


def _bounds(at_least: float | None, at_most: float | None, *, above: float | None = None) -> str:
    least = f"above {above:g}" if above is not None else f"at least {at_least}"
    return least if at_most is None else f"{least} and at most {at_most}"


def parse_flag(value: object) -> bool:
    """True or False from 1 or 0, and from what other programs write for them."""
    if isinstance(value, bool):
        return value
    folded = value.lower() if isinstance(value, str) else ""
    if folded not in _TRUE | _FALSE:
        raise ValueError("expected 1 or 0")
    return folded in _TRUE


def parse_path(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("expected a path")  # noqa: TRY004 - callers catch one type for all unusable values
    return Path(value)


def parse_absolute_path(value: object) -> Path:
    path = _expanded(parse_path(value))
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError("the home directory for `~` cannot be determined") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")  # noqa: TRY004 - callers catch one type for all unusable values
    return value


def parse_text(value: object) -> str:
    return _text(value)


def parse_size(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_SIZE, text):
        raise ValueError("expected a size such as 500GiB")
    return text


def parse_size_or_share(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_SIZE, text) and not re.fullmatch(_SHARE, text):
        raise ValueError("expected a size such as 500GiB, or a share of the disk from 0% to 100%")
    return text


def parse_store_uri(value: object) -> str:
    """The address of a remote store. Whether its scheme is supported is checked where it is opened."""
    text = _text(value)
    parts = _split(text)
    if parts is None or not parts.scheme or not re.fullmatch(_BUCKET, parts.netloc) or parts[3:] != ("", ""):
        raise ValueError("expected s3://bucket or s3://bucket/prefix")
    return text.rstrip("/")


def parse_catalog_place(value: object) -> Path | str:
    """The place of a catalog: a file, or the address of an object, which stays a text."""
    if not isinstance(value, str) or "://" not in value:
        return _expanded(parse_path(value))
    parts = _split(value)
    if parts is None or not parts.scheme or not re.fullmatch(_BUCKET, parts.netloc) or parts[3:] != ("", ""):
        raise ValueError("expected a file, or s3://bucket/key")
    if any(part in {"", ".", ".."} for part in parts.path.split("/")[1:]) or not parts.path:
        raise ValueError("expected s3://bucket/key, the name of an object")
    return value


def is_price(value: object) -> TypeGuard[float]:
    """Whether a value is a number in the range of a price of an hour. False for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_PRICE <= value <= MAX_PRICE


def parse_price(value: object) -> float:
    """A price of an hour, in any currency."""
    number = float(value) if isinstance(value, str) and re.fullmatch(_PRICE, value.strip()) else value
    if not is_price(number):
        raise ValueError(f"expected {PRICE_EXPECTED}, such as 2.10, without a currency")
    return float(number)


def parse_cron(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(_CRON, text):  # Prefect checks the rest when a flow is deployed
        raise ValueError("expected the five fields of a cron expression, such as 30 3 * * 0")
    return text


def parse_http_address(value: object) -> str:
    text = _text(value)
    parts = _split(text)
    if (
        parts is None
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise ValueError("expected an http:// or https:// address without credentials")
    return text.rstrip("/")


def parse_origins(value: object) -> tuple[str, ...]:
    origins = _parts(value, ",")
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


def parse_hosts(value: object) -> tuple[str, ...]:
    from paddock.network.authority import Authority

    hosts = []
    for entry in _parts(value, ","):
        bracketed = f"[{entry}]" if entry.count(":") > 1 and not entry.startswith("[") else entry
        authority = Authority("*") if entry == "*" else Authority.parse(bracketed)
        if authority is None or authority.port is not None or entry.endswith(":"):
            raise ValueError("expected * or host names and addresses without a port, separated by commas")
        hosts.append(authority.host)
    return tuple(hosts)


def parse_directories(value: object) -> tuple[Path, ...]:
    paths = tuple(Path(name) for name in _parts(value, ":") if name)
    if not all(path.is_absolute() for path in paths):
        raise ValueError("expected absolute paths, separated by a colon")
    return paths


def _parts(value: object, separator: str) -> tuple[str, ...]:
    """The parts of a text that are separated, or the items of a sequence as texts."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(separator))
    if not isinstance(value, tuple | list):
        raise ValueError("expected a text")  # noqa: TRY004 - callers catch one type for all unusable values
    return tuple(map(str, value))


def parse_secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(value))


def parse_header_secret(value: object) -> Secret:
    secret = parse_secret(value)
    # An invalid header would fail later, with an error of the HTTP client that quotes the secret.
    if not re.fullmatch(_PRINTABLE, secret.get_secret_value()):
        raise ValueError("expected printable ASCII characters without spaces")
    return secret


def _split(address: str) -> SplitResult | None:
    """Split a URL; None if it is invalid. The error of urlsplit itself would quote the value."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError unless it is a number up to 65535
    except ValueError:
        return None
    return parts
