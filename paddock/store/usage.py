"""Usage rows: which worker used which snapshot on which day, for what, how long and for how many tokens; and sums.

A row is one line of JSON, in files of the volume and in objects of a remote store:

    {"worker": "gpu-7", "model": "org/name", "revision": "<40 hex>", "variant": "Q8_0", "kind": "serve",
     "first": "2026-05-01T09:00:00+00:00", "last": "2026-05-01T17:30:00+00:00",
     "uses": 2, "seconds": 30600.0, "requests": 12, "prompt_tokens": 3400, "completion_tokens": 5600}

`first` and `last` lie on one day in UTC. Rows that agree in worker, snapshot, kind and day can be added up into one at
any time. Nothing that is read is trusted: a line that is no row is left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, parse_revision
from paddock.model.reference import SnapshotId, parse_variant
from paddock.untrusted.fields import time_field
from paddock.untrusted.json_text import parse_object

UseKind = Literal["serve", "benchmark", "tune", "restore"]
USE_KINDS: tuple[UseKind, ...] = get_args(UseKind)
OTHER_WORKERS = "others"
"""The worker of rows that were added up over workers, where there are too many."""
MAX_ROWS = 20_000
"""The most rows of one month on a volume: about 6 MB."""
MAX_SHARED_ROWS = 80_000
"""The most rows of one worker in a remote store: about 24 MB."""
MAX_CONTENT_BYTES = 32 * 1024 * 1024
"""What is read of one file or object."""

_MAX_LINE_BYTES = 4096
_MAX_LINES = 4 * MAX_SHARED_ROWS  # a row may have an empty line before it
_ROW = b'{"worker"'
_MAX_COUNT = 10**15
_CLOCK_ERROR = timedelta(days=1)
"""A use that is so far in the future did not happen: its snapshot would never be evicted."""
_WORKER_MAX = 63
_WORKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used: `uses` is how often (servers started, benchmarks, ...), `seconds` for how long, and the rest what
    was served."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uses: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.uses + other.uses,
            round(self.seconds + other.seconds, 3),
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_FIELDS = tuple(one.name for one in fields(Usage))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one kind of a snapshot by one worker on one day."""

    worker: str
    id: SnapshotId
    kind: UseKind
    first: datetime
    last: datetime
    usage: Usage

    @property
    def day(self) -> date:
        return self.first.date()

    def to_line(self) -> bytes:
        """The row as one line of JSON, with the line's end."""
        value = {
            "worker": self.worker,
            "model": str(self.id.model),
            "revision": self.id.revision,
            "variant": self.id.variant,
            "kind": self.kind,
            "first": self.first.isoformat(timespec="seconds"),
            "last": self.last.isoformat(timespec="seconds"),
            **self.usage.to_json(),
        }
        return json.dumps(value).encode() + b"\n"


def check_worker(name: str) -> str:
    """Return the name of a worker unchanged. Raises UnsafeName unless it is safe as a file name."""
    if len(name) > _WORKER_MAX or not _WORKER.fullmatch(name):
        raise UnsafeName(
            f"the worker's name {name[:80]!r} is not safe: it must consist of at most {_WORKER_MAX} letters, digits,"
            " '_', '-' and single '.', and begin with a letter or digit"
        )
    return name


def parse_rows(content: bytes) -> Iterator[UsageRow]:
    """The rows of a file or object. Lines that are no rows are left out."""
    for line in islice(BytesIO(content[:MAX_CONTENT_BYTES]), _MAX_LINES):
        if line.startswith(_ROW) and len(line) <= _MAX_LINE_BYTES:
            row = _parse_row(line)
            if row is not None:
                yield row


def write_rows(rows: Iterable[UsageRow]) -> bytes:
    return b"".join(row.to_line() for row in rows)


def add_up(rows: Iterable[UsageRow], *, at_most: int | None = None) -> list[UsageRow]:
    """One row for each worker, snapshot, kind and day, sorted by day.

    With `at_most`, more rows than that are added up over the workers, and of those that are still too many the ones
    that were used last are kept.
    """
    sums: dict[tuple[str, SnapshotId, UseKind, date], UsageRow] = {}
    for row in rows:
        key = (row.worker, row.id, row.kind, row.day)
        before = sums.get(key)
        sums[key] = row if before is None else _sum(before, row)
    found = sorted(sums.values(), key=lambda row: (row.day, row.worker, row.id, row.kind))
    if at_most is None or len(found) <= at_most:
        return found
    merged = add_up(replace(row, worker=OTHER_WORKERS) for row in found)
    kept = sorted(merged, key=lambda row: row.last)[-at_most:]
    return add_up(kept)


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """The sum of some rows, and its parts by kind."""

    usage: Usage = Usage()
    kinds: Mapping[UseKind, Usage] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    first: datetime | None = None
    last: datetime | None = None

    @classmethod
    def of(cls, rows: Iterable[UsageRow]) -> UsageTotal:
        total, kinds, workers = Usage(), dict.fromkeys(USE_KINDS, Usage()), set()
        first: datetime | None = None
        last: datetime | None = None
        for row in rows:
            total += row.usage
            kinds[row.kind] += row.usage
            workers.add(row.worker)
            first = row.first if first is None else min(first, row.first)
            last = row.last if last is None else max(last, row.last)
        return cls(total, kinds, tuple(sorted(workers)), first, last)


def total_by(rows: Iterable[UsageRow], key: Callable[[UsageRow], _Key]) -> dict[_Key, UsageTotal]:
    """The sums of the rows with the same key."""
    groups: dict[_Key, list[UsageRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return {name: UsageTotal.of(group) for name, group in groups.items()}


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    return replace(
        one, first=min(one.first, other.first), last=max(one.last, other.last), usage=one.usage + other.usage
    )


def _parse_row(line: bytes) -> UsageRow | None:
    try:
        value = parse_object(line, max_bytes=_MAX_LINE_BYTES)
        first, last = time_field(value, "first"), time_field(value, "last")
        kind = value["kind"]
        is_future = last > datetime.now(UTC) + _CLOCK_ERROR
        if kind not in USE_KINDS or first > last or first.date() != last.date() or is_future:
            return None
        id = _parse_id(value["model"], value["revision"], value["variant"])
        usage = Usage(*(_number(value[name], whole=name != "seconds") for name in _FIELDS))
        return UsageRow(check_worker(value["worker"]), id, kind, first, last, usage)
    except (ValueError, KeyError, TypeError, AttributeError):  # UnsafeName and UnusableContent among them
        return None


def _number(value: Any, *, whole: bool) -> Any:
    """A count or a duration, which is neither negative nor without an end. Raises ValueError for anything else."""
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MAX_COUNT:  # false for NaN
        raise ValueError("no count")
    return value if whole else float(value)


@functools.lru_cache(maxsize=4096)
def _parse_id(model: str, revision: str, variant: str) -> SnapshotId:
    return SnapshotId(ModelName.parse(model), parse_revision(revision), parse_variant(variant))
