"""Serve leases: which snapshots are being served now, so that they are not removed.

A lease is a file in `.paddock/leases/org--name/` on which its holder keeps an exclusive flock. The lock ends with the
holder, however it ends, so a lease never outlives its holder. Its JSON (revision, variant, pid, host, since) names the
snapshot. A lease whose lock can be taken belongs to a dead process, and is removed.

On a file system where flock is only local, the leases of other machines are not seen; on one without flock, a lease
holds for UNLOCKED_S from its last change on, whatever it says. A lease protects from a mistake;
the correctness of bytes never depends on it. Where no lease can be written, the snapshot is read without one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from paddock.errors import PaddockError
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId
from paddock.store.durable import STAGING_PREFIX, disk_errors, disk_errors_in, write_new
from paddock.store.volume.layout import Layout
from paddock.store.volume.lock_holder import MAX_BYTES, process_of
from paddock.store.volume.recording import recording
from paddock.store.volume.snapshots import Snapshots
from paddock.store.volume.usage import UsageRecords
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import text_field
from paddock.untrusted.files import open_directory, open_regular, read_descriptor
from paddock.untrusted.json_text import parse_object

log = logging.getLogger(__name__)
LOCK_WAIT_S = 5.0
UNLOCKED_S = 30 * 24 * 3600.0


class ServeLeases:
    def __init__(self, layout: Layout, snapshots: Snapshots, usage: UsageRecords) -> None:
        self.root = layout.root
        self._layout = layout
        self._snapshots = snapshots
        self._usage = usage

    @contextmanager
    def hold(self, id: SnapshotId) -> Iterator[Path]:
        """Keep a snapshot from being removed until the block ends, and record a use. Yields the snapshot's directory.
        On a volume that cannot be written, both are left out. Raises NotOnVolume, and CorruptFile for one that was
        found damaged."""
        with ExitStack() as stack:
            with ExitStack() as taking:
                with recording(self.root):
                    directory = self._make_directory(id.model)
                    taking.enter_context(_locked(directory, fcntl.LOCK_SH))
                    stack.enter_context(_held(directory, id))
                # The snapshot is looked up after the lease is visible, and `Removal` looks for leases after it made the
                # snapshot invisible, so one of the two always sees the other. With the lock, which `Removal` takes too,
                # no snapshot vanishes for that moment under the holder of a lease.
                with disk_errors_in(self.root):
                    self._snapshots.require_undamaged(id)
            try:
                with recording(self.root):
                    self._usage.touch(id)
            except PaddockError as error:  # something else has its name: the snapshot is served all the same
                log.warning("the use of %s was not recorded: %s", id, error.message)
            yield self._layout.snapshot(id)

    @contextmanager
    def none_taken(self, model: ModelName) -> Iterator[None]:
        """Let no other process take a lease on a snapshot of the model until the block ends, where flock works."""
        with _locked(self._make_directory(model), fcntl.LOCK_EX):
            yield

    @disk_errors
    def holders(self, id: SnapshotId) -> list[str]:
        """The processes that serve a snapshot, as text for messages. A lease file that cannot be read counts as held,
        for every snapshot of its model; what is no file is no lease."""
        directory = self._layout.leases(id.model)
        paths = [directory / name for name in self._layout.names(directory) if not name.startswith(STAGING_PREFIX)]
        leases = [lease for path in paths if (lease := _read(path, below=self.root)) is not None]
        return [holder for leased, holder in leases if leased is None or leased == (id.revision, id.variant)]

    @disk_errors
    def _make_directory(self, model: ModelName) -> Path:
        return self._layout.make_directory(self._layout.leases(model))


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    """Hold an flock on a directory. It is not waited for more than LOCK_WAIT_S: its holder may be suspended."""
    with disk_errors_in(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while time.monotonic() < end:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:  # no flock on this file system
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held(directory: Path, snapshot: SnapshotId) -> Iterator[None]:
    """Hold a lease in an existing directory. It becomes visible with its lock taken, so that no reader takes it for
    that of a dead process."""
    token = secrets.token_hex(8)
    staged, path = directory / f"{STAGING_PREFIX}{token}", directory / token
    content = {
        "revision": snapshot.revision,
        "variant": snapshot.variant,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with ExitStack() as stack:
        with disk_errors_in(directory):
            stack.callback(_remove, staged)
            write_new(staged, json.dumps(content).encode())
            descriptor = os.open(staged, os.O_RDWR | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            with suppress(OSError):  # without flock a reader cannot take the lock either, and sees the lease as held
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(_remove, path)
            staged.rename(path)
        yield


def _remove(lease: Path) -> None:
    """Remove a lease of this process. One that stays is removed by the next reader, once its lock is free."""
    with suppress(OSError):
        lease.unlink(missing_ok=True)


def _read(path: Path, *, below: Path) -> tuple[tuple[str, str] | None, str] | None:
    """((revision, variant), holder) of a held lease; None for that of a dead process, which is removed, and for what is
    no regular file: Paddock never makes a lease of it."""
    try:
        descriptor = open_regular(path, below=below)
    except (FileNotFoundError, UnusableContent):
        return None
    except OSError as error:
        return None, f"{path} ({error.strerror})"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that readers do not see each other
    except OSError as error:
        has_flock = isinstance(error, BlockingIOError)
        if not has_flock and abs(time.time() - os.fstat(descriptor).st_mtime) > UNLOCKED_S:
            return None
        try:
            lease = parse_object(read_descriptor(descriptor, max_bytes=MAX_BYTES), max_bytes=MAX_BYTES)
            return (text_field(lease, "revision"), text_field(lease, "variant")), process_of(lease)
        except UnusableContent:
            return None, str(path)
    else:
        with suppress(OSError), open_directory(path.parent, below=below) as directory:
            os.unlink(path.name, dir_fd=directory)  # it stays on a volume that cannot be written
        return None
    finally:
        os.close(descriptor)
