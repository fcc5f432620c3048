"""Counters of a worker on the volume: bytes received, failures and evictions, added up over all its runs.

    .paddock/counters/<worker>.jsonl      lines to be added up: {"received_bytes": {"hub": 4096.0}}

Each run appends what it counted as one line by one write, so that runs of any number count at once. A file that has
grown to `COMPACT_BYTES` is replaced by its sum, under an exclusive flock that every writer tries to take for a moment.
A writer that does not get it, as on a file system without flock, only appends; what it appends while another one writes
the sum is not counted. Nothing is fsynced, and a power loss may take counts: only the metrics rest on them.

Machines have files of their own. What is read is not trusted: a line, counter, label or number that is not one of
Paddock's is left out.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, get_args

from paddock import errors
from paddock.store.durable import UNDER_UMASK, disk_errors, write_atomically
from paddock.store.volume.layout import Layout
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular_to_append, read_descriptor, read_head
from paddock.untrusted.json_text import parse_object

CounterName = Literal["received_bytes", "received_seconds", "failures", "evicted_snapshots", "evicted_bytes"]
Counts = Mapping[CounterName, Mapping[str, float]]
"""Counters by name, and each by its label: the origin of bytes, the class of an error, the store of a snapshot."""

COMPACT_BYTES = 64 * 1024
_MAX_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 16 * 1024
_MAX_COUNT = 2.0**62
_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_TRIES = 50
_PAUSE_S = 0.01


@cache
def _error_names() -> tuple[str, ...]:
    """The names of the errors that are raised: the classes of `paddock.errors` without a class below them."""
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PaddockError)]
    bases = {base for one in classes for base in one.__mro__[1:]}
    return tuple(sorted(one.__name__ for one in classes if one not in bases))


def labels_of(name: CounterName) -> tuple[str, ...]:
    """The labels that a counter can have."""
    if name == "failures":
        return _error_names()
    return ("hub", "s3") if name.startswith("received") else ("volume", "s3")


class WorkerCounters:
    """The counters of the machine `worker`."""

    def __init__(self, layout: Layout, worker: str) -> None:
        self.root = layout.root
        self._layout = layout
        self._path = layout.counters(worker)

    @disk_errors
    def add(self, counts: Counts) -> None:
        """Add counts. Raises NoPermission where they cannot be written."""
        self._layout.make_directory(self._path.parent)
        descriptor, is_locked = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size < COMPACT_BYTES or (not is_locked and size < _MAX_BYTES):
                # It begins with the end of a line: a full disk may have left half of one before.
                os.write(descriptor, b"\n" + _line(counts))
            elif is_locked:
                total = _add_up([*_parse(read_descriptor(descriptor, max_bytes=_MAX_BYTES)), counts])
                write_atomically(self._path, _line(total), sync=False)
        finally:
            os.close(descriptor)

    @disk_errors
    def read(self) -> Counts:
        """The sums, with 0 for each label that was never counted. A file that cannot be used counts as empty."""
        try:
            content = read_head(self._path, max_bytes=_MAX_BYTES, below=self.root)
        except (FileNotFoundError, NotADirectoryError, UnusableContent):
            content = b""
        names: tuple[CounterName, ...] = get_args(CounterName)
        zeros: Counts = {name: dict.fromkeys(labels_of(name), 0.0) for name in names}
        return _add_up([zeros, *_parse(content)])

    def _open(self) -> tuple[int, bool]:
        """(a descriptor of the file, whether it is locked). The file is created where it is missing."""
        for _ in range(_TRIES):
            descriptor = open_regular_to_append(self._path, mode=UNDER_UMASK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD:  # there is no flock
                    return descriptor, False
                time.sleep(_PAUSE_S)
            else:
                if _is_at(self._path, descriptor):
                    return descriptor, True
            os.close(descriptor)
        return open_regular_to_append(self._path, mode=UNDER_UMASK), False


def _is_at(path: os.PathLike[str], descriptor: int) -> bool:
    """Whether an open file still has its name: another run may have replaced it."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _line(counts: Counts) -> bytes:
    return json.dumps(counts).encode() + b"\n"


def _parse(content: bytes) -> Iterator[Counts]:
    for line in content.splitlines():
        if not line:
            continue
        try:
            value = parse_object(line, max_bytes=_MAX_LINE_BYTES)
        except UnusableContent:
            continue
        yield {
            name: {label: found for label, found in value[name].items() if _is_count(found)}
            for name in get_args(CounterName)
            if isinstance(value.get(name), dict)
        }


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT  # false for NaN


def _add_up(counts: list[Counts]) -> Counts:
    """The sums, of the labels that are known."""
    total: dict[CounterName, dict[str, float]] = {}
    for one in counts:
        for name, by_label in one.items():
            sums = total.setdefault(name, {})
            for label in labels_of(name):
                if label in by_label:
                    sums[label] = sums.get(label, 0.0) + by_label[label]
    return total
