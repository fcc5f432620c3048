"""Faults that the local Hub commits when it is told to.

A *fault* names what it meets (a pattern, with `*` and `?`, and `where`), its kind, how many times it happens, and its
numbers:

- `where="file"` (the default) meets GET requests that are answered with a file's bytes; the pattern is matched with
  `org/name/path`.
- `where="hub"` meets everything that the Hub itself answers (API, redirects to the bytes, errors), any method; the
  pattern is matched with the address's path, such as `/api/models/org/name/tree/main` or
  `/org/name/resolve/main/model.gguf`.

The first fault that meets an answer changes it, and is then used up by one. Each kind is one row of `KINDS`: a small
edit of a right answer. The faults of transport themselves (a reset, a silence) are carried out where answers are
sent.
"""

import fnmatch
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from infra.local.hub.answer import Ending, HubAnswer

Where = Literal["file", "hub"]

LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to this network.</body></html>"


@dataclass(frozen=True)
class Fault:
    """One order. Which of the numbers a kind reads is said in `KINDS`; `times=None` means until it is cleared."""

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
            msg = f"{self.kind!r} is no kind of fault: expected one of {', '.join(sorted(KINDS))}"
            raise ValueError(msg)
        if self.where not in ("file", "hub"):
            msg = f"where={self.where!r}: expected 'file' or 'hub'"
            raise ValueError(msg)

    @classmethod
    def from_json(cls, value: Any) -> "Fault":
        if not isinstance(value, dict):
            msg = f"{value!r}: expected an object"
            raise TypeError(msg)
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            msg = f"a fault has no {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        return cls(**value)


def _status(fault: Fault, answer: HubAnswer) -> None:
    answer.replace_by_text(fault.status, b"ordered by a test", fault.headers)


def _html(_: Fault, answer: HubAnswer) -> None:
    answer.replace_by_text(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})


def _redirect(fault: Fault, answer: HubAnswer) -> None:
    answer.replace_by_text(302, b"", {"Location": fault.location})


def _expire(_: Fault, answer: HubAnswer) -> None:
    if answer.lapse is not None:
        answer.lapse()
    answer.replace_by_text(
        403,
        b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
        {"Content-Type": "application/xml"},
    )


def _cut(ending: Ending) -> Callable[[Fault, HubAnswer], None]:
    def edit(fault: Fault, answer: HubAnswer) -> None:
        answer.cut_after, answer.ending = fault.after_bytes, ending

    return edit


def _slow(fault: Fault, answer: HubAnswer) -> None:
    answer.bytes_per_s = fault.bytes_per_s


def _flip(fault: Fault, answer: HubAnswer) -> None:
    answer.flip = (fault.offset, fault.bit)


def _full(_: Fault, answer: HubAnswer) -> None:
    assert answer.file is not None  # noqa: S101 - the table says that this kind needs a file
    answer.status, answer.start, answer.stop = 200, 0, answer.file.size
    del answer.headers["Content-Range"]
    answer.headers["Content-Length"] = str(answer.file.size)


def _shift(fault: Fault, answer: HubAnswer) -> None:
    assert answer.file is not None  # noqa: S101 - the table says that this kind needs a file
    size = answer.file.size
    answer.start = min(max(answer.start + fault.offset, 0), size - 1)
    answer.stop = min(max(answer.stop + fault.offset, answer.start + 1), size)
    answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.stop - 1}/{size}"
    answer.headers["Content-Length"] = str(answer.stop - answer.start)


def _shorten(fault: Fault, answer: HubAnswer) -> None:
    assert answer.file is not None  # noqa: S101 - the table says that this kind needs a file
    answer.stop = min(answer.stop, answer.start + fault.after_bytes)
    answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.stop - 1}/{answer.file.size}"
    answer.headers["Content-Length"] = str(answer.stop - answer.start)


def _etag(_: Fault, answer: HubAnswer) -> None:
    for name in ("ETag", "X-Linked-Etag"):
        if name in answer.headers:
            answer.headers[name] = f'"{"0" * 8}{answer.headers[name].strip(chr(34))[8:]}"'


def _unsized(_: Fault, answer: HubAnswer) -> None:
    answer.headers.pop("Content-Length", None)


def _endless(_: Fault, answer: HubAnswer) -> None:
    answer.endless = True
    answer.headers.pop("Content-Length", None)


def _gzip(_: Fault, answer: HubAnswer) -> None:
    answer.gzip = True
    answer.headers["Content-Encoding"] = "gzip"
    answer.headers.pop("Content-Length", None)


def _always(_: Fault, __: HubAnswer) -> bool:
    return True


def _has_file(_: Fault, answer: HubAnswer) -> bool:
    return answer.file is not None


def _has_range(_: Fault, answer: HubAnswer) -> bool:
    return answer.file is not None and answer.status == 206


def _has_byte(fault: Fault, answer: HubAnswer) -> bool:
    return answer.file is not None and answer.start <= fault.offset < answer.stop


def _is_longer(fault: Fault, answer: HubAnswer) -> bool:
    return answer.body_bytes > fault.after_bytes


def _is_signed(_: Fault, answer: HubAnswer) -> bool:
    return answer.lapse is not None


@dataclass(frozen=True)
class Kind:
    edit: Callable[[Fault, HubAnswer], None]
    meets: Callable[[Fault, HubAnswer], bool] = _always


KINDS: dict[str, Kind] = {
    "status": Kind(_status),  # `status` with `headers`, such as Retry-After
    "html": Kind(_html),  # a page of a captive portal, with 200
    "redirect": Kind(_redirect),  # to `location`: another host, or the same address again, a loop
    "expire": Kind(_expire, _is_signed),  # this signed address has expired, for ever: 403. A new one works
    "reset": Kind(_cut(Ending.RESET), _is_longer),  # TCP reset after at most `after_bytes` of a longer body
    "short": Kind(_cut(Ending.CLOSED), _is_longer),  # an orderly close after `after_bytes`, fewer than promised
    "stall": Kind(_cut(Ending.SILENT), _is_longer),  # nothing more after `after_bytes`, and the connection stays open
    "slow": Kind(_slow),  # `bytes_per_s`
    "flip": Kind(_flip, _has_byte),  # `bit` of the file's byte at `offset`; waits for an answer that has that byte
    "full": Kind(_full, _has_range),  # 200 and the whole file, for a range
    "shift": Kind(_shift, _has_range),  # another range than was asked for, `offset` bytes away, and it says so
    "shorten": Kind(_shorten, _has_range),  # the first `after_bytes` of the range that was asked for, and it says so
    "etag": Kind(_etag),  # another ETag (and X-Linked-Etag)
    "unsized": Kind(_unsized),  # no Content-Length: chunks
    "endless": Kind(_endless, _has_file),  # the body never ends
    "gzip": Kind(_gzip),  # Content-Encoding: gzip, whatever was accepted
}


class Faults:
    """The orders that stand, in their order. Safe to use from several threads."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []
        self._lock = threading.Lock()

    def order(self, fault: Fault) -> None:
        with self._lock:
            self._orders.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._orders.clear()

    def standing(self) -> list[Fault]:
        with self._lock:
            return list(self._orders)

    def strike(self, answer: HubAnswer, *, method: str, address_path: str) -> None:
        """Changes the answer by the first fault that meets it."""
        where: Where = "hub" if answer.file is None else "file"
        path = address_path if answer.file is None else answer.file.name
        if where == "file" and method != "GET":
            return
        with self._lock:
            for position, fault in enumerate(self._orders):
                kind = KINDS[fault.kind]
                if fault.where == where and fnmatch.fnmatchcase(path, fault.path) and kind.meets(fault, answer):
                    if fault.times is not None:
                        self._orders[position : position + 1] = (
                            [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                        )
                    kind.edit(fault, answer)
                    return
