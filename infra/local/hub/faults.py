"""Inject faults into the local Hub's responses.

A *fault* has a kind, a pattern (with `*` and `?`) and `where` that select responses, the number of times it happens,
and the parameters of its kind:

- `where="file"` (the default) selects GET requests whose response is a file's bytes; the pattern is matched against
  `org/name/path`.
- `where="hub"` selects all other responses of the Hub (API, redirects to the bytes, errors), for any method; the
  pattern is matched against the URL's path, such as `/api/models/org/name/tree/main` or
  `/org/name/resolve/main/model.gguf`.

The first fault that matches a response changes it, and its remaining `times` go down by one. Each kind is a row of
`KINDS`, a small edit of a correct response. Faults of the transport (a reset, a stall) are set here and carried out
where responses are sent.
"""

import fnmatch
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from infra.local.hub.response import ConnectionEnd, HubResponse

Where = Literal["file", "hub"]

LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to this network.</body></html>"


@dataclass(frozen=True)
class Fault:
    """A fault to inject. `KINDS` says which parameters a kind reads; `times=None` means until it is cleared."""

    kind: str
    path: str = "*"
    where: Where = "file"
    times: int | None = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    location: str = ""
    after_bytes: int = 0
    bytes_per_s: float = 1
    offset: int = 0
    bit: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            msg = f"unknown kind of fault {self.kind!r}: expected one of {', '.join(sorted(KINDS))}"
            raise ValueError(msg)
        if self.where not in ("file", "hub"):
            msg = f"where={self.where!r}: expected 'file' or 'hub'"
            raise ValueError(msg)

    @classmethod
    def from_json(cls, value: Any) -> "Fault":
        if not isinstance(value, dict):
            msg = f"{value!r} is not a fault: expected an object"
            raise TypeError(msg)
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            msg = f"unknown fields of a fault: {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        return cls(**value)


def _status(fault: Fault, response: HubResponse) -> None:
    response.replace_by_text(fault.status, b"injected by a test", fault.headers)


def _html(_: Fault, response: HubResponse) -> None:
    response.replace_by_text(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})


def _redirect(fault: Fault, response: HubResponse) -> None:
    response.replace_by_text(302, b"", {"Location": fault.location})


def _expire(_: Fault, response: HubResponse) -> None:
    if response.expire_url is not None:
        response.expire_url()
    response.replace_by_text(
        403,
        b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
        {"Content-Type": "application/xml"},
    )


def _cut(connection_end: ConnectionEnd) -> Callable[[Fault, HubResponse], None]:
    def edit(fault: Fault, response: HubResponse) -> None:
        response.cut_after, response.connection_end = fault.after_bytes, connection_end

    return edit


def _slow(fault: Fault, response: HubResponse) -> None:
    response.bytes_per_s = fault.bytes_per_s


def _flip(fault: Fault, response: HubResponse) -> None:
    response.flip = (fault.offset, fault.bit)


def _full(_: Fault, response: HubResponse) -> None:
    assert response.file is not None  # noqa: S101 - `KINDS` requires a file for this kind
    response.status, response.start, response.stop = 200, 0, response.file.size
    del response.headers["Content-Range"]
    response.headers["Content-Length"] = str(response.file.size)


def _shift(fault: Fault, response: HubResponse) -> None:
    assert response.file is not None  # noqa: S101 - `KINDS` requires a file for this kind
    size = response.file.size
    response.start = min(max(response.start + fault.offset, 0), size - 1)
    response.stop = min(max(response.stop + fault.offset, response.start + 1), size)
    response.headers["Content-Range"] = f"bytes {response.start}-{response.stop - 1}/{size}"
    response.headers["Content-Length"] = str(response.stop - response.start)


def _shorten(fault: Fault, response: HubResponse) -> None:
    assert response.file is not None  # noqa: S101 - `KINDS` requires a file for this kind
    response.stop = min(response.stop, response.start + fault.after_bytes)
    response.headers["Content-Range"] = f"bytes {response.start}-{response.stop - 1}/{response.file.size}"
    response.headers["Content-Length"] = str(response.stop - response.start)


def _etag(_: Fault, response: HubResponse) -> None:
    for name in ("ETag", "X-Linked-Etag"):
        if name in response.headers:
            response.headers[name] = f'"{"0" * 8}{response.headers[name].strip(chr(34))[8:]}"'


def _unsized(_: Fault, response: HubResponse) -> None:
    response.headers.pop("Content-Length", None)


def _endless(_: Fault, response: HubResponse) -> None:
    response.endless = True
    response.headers.pop("Content-Length", None)


def _gzip(_: Fault, response: HubResponse) -> None:
    response.gzip = True
    response.headers["Content-Encoding"] = "gzip"
    response.headers.pop("Content-Length", None)


def _always(_: Fault, __: HubResponse) -> bool:
    return True


def _has_file(_: Fault, response: HubResponse) -> bool:
    return response.file is not None


def _has_range(_: Fault, response: HubResponse) -> bool:
    return response.file is not None and response.status == 206


def _has_byte(fault: Fault, response: HubResponse) -> bool:
    return response.file is not None and response.start <= fault.offset < response.stop


def _is_longer(fault: Fault, response: HubResponse) -> bool:
    return response.body_bytes > fault.after_bytes


def _is_signed(_: Fault, response: HubResponse) -> bool:
    return response.expire_url is not None


@dataclass(frozen=True)
class FaultKind:
    """How a fault changes a response, and whether it can change that one."""

    apply: Callable[[Fault, HubResponse], None]
    applies_to: Callable[[Fault, HubResponse], bool] = _always


KINDS: dict[str, FaultKind] = {
    "status": FaultKind(_status),  # `status` with `headers`, such as Retry-After
    "html": FaultKind(_html),  # a captive portal's page, with status 200
    "redirect": FaultKind(_redirect),  # to `location`: another host, or the same URL, a loop
    "expire": FaultKind(_expire, _is_signed),  # the signed URL has expired: 403, from now on. A new one works
    "reset": FaultKind(_cut(ConnectionEnd.RESET), _is_longer),  # TCP reset after at most `after_bytes` of a longer body
    "short": FaultKind(_cut(ConnectionEnd.CLOSED), _is_longer),  # an orderly close after `after_bytes`
    "stall": FaultKind(_cut(ConnectionEnd.STALLED), _is_longer),  # no byte after `after_bytes`, and no close
    "slow": FaultKind(_slow),  # `bytes_per_s`
    "flip": FaultKind(_flip, _has_byte),  # `bit` of the byte at `offset`; waits for a response that contains it
    "full": FaultKind(_full, _has_range),  # 200 and the whole file, for a range request
    "shift": FaultKind(_shift, _has_range),  # a range `offset` bytes away, with the Content-Range of that range
    "shorten": FaultKind(_shorten, _has_range),  # the first `after_bytes` of the range, with their Content-Range
    "etag": FaultKind(_etag),  # another ETag (and X-Linked-Etag)
    "unsized": FaultKind(_unsized),  # no Content-Length: chunked encoding
    "endless": FaultKind(_endless, _has_file),  # the body never ends
    "gzip": FaultKind(_gzip),  # Content-Encoding: gzip, whatever the client accepts
}


class Faults:
    """The faults to inject, oldest first. Safe to use from several threads."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def pending(self) -> list[Fault]:
        with self._lock:
            return list(self._pending)

    def apply(self, response: HubResponse, *, method: str, url_path: str) -> None:
        """Change the response by the first fault that matches it, if any."""
        where: Where = "hub" if response.file is None else "file"
        path = url_path if response.file is None else response.file.name
        if where == "file" and method != "GET":
            return
        with self._lock:
            for position, fault in enumerate(self._pending):
                kind = KINDS[fault.kind]
                if fault.where == where and fnmatch.fnmatchcase(path, fault.path) and kind.applies_to(fault, response):
                    if fault.times is not None:
                        self._pending[position : position + 1] = (
                            [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                        )
                    kind.apply(fault, response)
                    return
