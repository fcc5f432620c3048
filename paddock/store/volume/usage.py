"""Record on the volume which snapshots are used, when, how long and for how many tokens, without a server or a lock.

    .paddock/usage/
      org--name/<revision>/<variant>     an empty file: its modification time is the snapshot's last use
      2026-05-01/<worker>.jsonl          what a worker wrote on that day (UTC)
      2026-04.jsonl                      the sums of an earlier month, for all workers

The format of a row is that of `paddock.store.usage`. A use is one line that is appended by one write, and no two
machines append to the same file: nothing is read before it is written, so that no writer undoes what another one wrote.

Files of earlier days are not written any more, and are replaced by their sums: each day's file by one with the same
sums, which is harmless however many processes do it at once; then the files of a month by the file of that month. That
one is only ever created, by a process that had read all days before it existed, and where it exists the days do not
count. The files of the last `MONTHS` months are kept, and each of them has at most `MAX_ROWS` rows.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from paddock.errors import PaddockError
from paddock.model.reference import SnapshotId
from paddock.store import durable
from paddock.store.durable import UNDER_UMASK, disk_errors
from paddock.store.usage import (
    MAX_CONTENT_BYTES,
    MAX_ROWS,
    Usage,
    UsageRow,
    UsageTotal,
    UseKind,
    add_up,
    check_worker,
    parse_rows,
    write_rows,
)
from paddock.store.volume.layout import Layout
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular_to_append, read_head

MONTHS = 24
"""How many months with a use are kept, in addition to the days of this one."""

log = logging.getLogger(__name__)
_DAY = r"\d{4}-\d{2}-\d{2}"
_MONTH = r"(\d{4}-\d{2})\.jsonl"
_SETTLED = timedelta(days=2)
"""After this time no worker writes to a day's file any more, even if clocks differ."""
_READS = 3
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UsageRecords:
    """The usage of the volume. `worker` is the name of this machine in the rows that it adds."""

    def __init__(self, layout: Layout, worker: str) -> None:
        self.root = layout.root
        self.worker = check_worker(worker)
        self._layout = layout
        self._directory = layout.usage_root

    @disk_errors
    def touch(self, id: SnapshotId) -> None:
        """Set the time of the snapshot's last use to now."""
        record = self._layout.usage(id)
        self._layout.make_directory(record.parent)
        try:
            os.utime(record, follow_symlinks=False)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another process was faster
                os.close(os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, UNDER_UMASK))

    @disk_errors
    def last_used(self, id: SnapshotId) -> datetime | None:
        """The time of the last use, in UTC; None where there was none."""
        try:
            found = datetime.fromtimestamp(self._layout.usage(id).lstat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError, ValueError, OverflowError):
            return None
        return min(found, datetime.now(UTC))

    @disk_errors
    def add(self, id: SnapshotId, kind: UseKind, usage: Usage, *, at: datetime | None = None) -> None:
        """Add a use that ended now, or at another time, and set the time of the last use to now."""
        self.touch(id)
        now = datetime.now(UTC).replace(microsecond=0)
        path = self._directory / self._open_day(now.date()).isoformat() / f"{self.worker}.jsonl"
        is_first = not path.exists()
        self._layout.make_directory(path.parent)
        _append(path, UsageRow(self.worker, id, kind, at or now, at or now, usage).to_line())
        if is_first:
            try:
                self.condense()
            except PaddockError as error:
                log.warning("the usage of earlier days was not added up: %s", error.message)

    def rows(self) -> list[UsageRow]:
        """All rows, with one for each worker, snapshot, kind and day, sorted by day. What cannot be read is left out,
        with a warning."""
        for _ in range(_READS):
            before = self._names(self._directory)
            found = add_up(row for path in self._files(before) for row in self._read(path))
            if self._names(self._directory) == before:  # else a month was added up meanwhile, and its days are gone
                break
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        return [row for row in found if row.day <= tomorrow]

    def read(self, id: SnapshotId) -> UsageTotal:
        """The sum of all uses of a snapshot."""
        return UsageTotal.of(row for row in self.rows() if row.id == id)

    @disk_errors
    def condense(self, *, today: date | None = None) -> None:
        """Add up the rows of earlier days, and of earlier months, and remove the files of months that are too old."""
        settled = (today or datetime.now(UTC).date()) - _SETTLED
        found = self._layout.names(self._directory)
        if not found:
            return
        self._layout.check_directory(self._directory)
        months = {match[1] for name in found if (match := re.fullmatch(_MONTH, name))}
        days = [name for name in found if re.fullmatch(_DAY, name)]
        for month in sorted({day[:7] for day in days}):
            if month < settled.isoformat()[:7]:
                self._condense_month(month, [day for day in days if day[:7] == month], exists=month in months)
                months.add(month)
        for day in days:
            if settled.isoformat()[:7] <= day < settled.isoformat():
                for path in self._day_files(day):
                    self._condense_file(path)
        for month in sorted(months)[:-MONTHS]:
            (self._directory / f"{month}.jsonl").unlink(missing_ok=True)
        durable.sweep(self._directory)

    def _open_day(self, day: date) -> date:
        """The first day that is not before `day` and whose month was not added up yet, as it is where this machine's
        clock is late: what would be written there does not count any more."""
        for _ in range(MONTHS):
            if not (self._directory / f"{day:%Y-%m}.jsonl").exists():
                break
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        return day

    def _files(self, found: list[str]) -> Iterator[Path]:
        """The files that count, of the names in the directory."""
        months = {match[1] for name in found if (match := re.fullmatch(_MONTH, name))}
        for name in found:
            if re.fullmatch(_MONTH, name):
                yield self._directory / name
            elif re.fullmatch(_DAY, name) and name[:7] not in months:
                yield from self._day_files(name)

    def _day_files(self, day: str) -> Iterator[Path]:
        directory = self._directory / day
        yield from (directory / name for name in self._names(directory) if name.endswith(".jsonl"))

    def _condense_month(self, month: str, days: list[str], *, exists: bool) -> None:
        """Create the file of a month from those of its days, unless it exists, and remove them."""
        paths = [path for day in days for path in self._day_files(day)]
        if not exists:
            rows = add_up((row for path in paths for row in self._read(path)), at_most=MAX_ROWS)
            with suppress(FileExistsError):
                self._create(self._directory / f"{month}.jsonl", write_rows(rows))
        for path in paths:
            with suppress(OSError):  # another process was faster, or it is no file
                self._layout.check_directory(path.parent)
                path.unlink()
        for day in days:
            with suppress(OSError):  # the same, or it holds something that is not Paddock's
                durable.sweep(self._layout.check_directory(self._directory / day))
                (self._directory / day).rmdir()

    def _create(self, path: Path, content: bytes) -> None:
        """Create a file with its whole content. Raises FileExistsError."""
        staged = durable.staging_name(self._directory)
        try:
            durable.write_new(staged, content)
            durable.rename_noreplace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        durable.sync_directory(self._directory)

    def _names(self, directory: Path) -> list[str]:
        try:
            return self._layout.names(directory)
        except (OSError, UnusableContent) as error:
            log.warning("the usage records in %s cannot be read: %s", directory, error)
            return []

    def _read(self, path: Path) -> Iterator[UsageRow]:
        return parse_rows(self._content(path))

    def _content(self, path: Path) -> bytes:
        """The first MAX_CONTENT_BYTES of a regular file; nothing for what is not there, or cannot be read."""
        try:
            return read_head(path, max_bytes=MAX_CONTENT_BYTES, below=self.root)
        except FileNotFoundError:
            return b""
        except (OSError, UnusableContent) as error:
            log.warning("the usage record %s cannot be read: %s", path, error)
            return b""

    def _condense_file(self, path: Path) -> None:
        """Replace the rows of a file by their sums, if there are fewer of these."""
        rows = list(self._read(path))
        sums = add_up(rows)
        if len(sums) < len(rows):
            durable.write_atomically(path, write_rows(sums))


def this_host() -> str:
    """The name of this machine, as the name of a worker."""
    name = re.sub(r"[^A-Za-z0-9_.-]+|\.{2,}", "-", os.uname().nodename)
    return name[:63].strip("._-") or "unknown"


def _append(path: Path, line: bytes) -> None:
    """Append a line by one write. It begins with the end of a line: a full disk may have left half of one before."""
    descriptor = open_regular_to_append(path, mode=UNDER_UMASK)
    try:
        if os.fstat(descriptor).st_size + len(line) >= MAX_CONTENT_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        if os.write(descriptor, b"\n" + line) <= len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)
