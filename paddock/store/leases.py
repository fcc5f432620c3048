"""Leases: who serves a snapshot now.

A lease is a file whose holder keeps an exclusive flock on it; the lock ends with the holder, however it ends, so that a
lease is never left behind. Its JSON (revision, variant, pid, host, since) says which snapshot. A lease whose lock can
be had is dead, and is removed.

On a file system where flock is only local, the leases of other machines are not seen. They protect from a mistake, and
no byte's correctness rests on them.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from paddock.model.reference import SnapshotId
from paddock.store.durable import STAGING_PREFIX, disk_error, names, write_new


@contextmanager
def held(directory: Path, snapshot: SnapshotId) -> Iterator[None]:
    """Hold a lease in `directory`, which is there. It appears with its lock on, so that no one takes it for dead."""
    token = secrets.token_hex(8)
    staged, path = directory / f"{STAGING_PREFIX}{token}", directory / token
    since = datetime.now(UTC).isoformat(timespec="seconds")
    told = {
        "revision": snapshot.revision,
        "variant": snapshot.variant,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": since,
    }
    try:
        write_new(staged, json.dumps(told).encode(), mode=0o644)
        descriptor = os.open(staged, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        raise disk_error(error, directory) from error
    try:
        with suppress(OSError):  # no such locks here: then a reader cannot lock it either, and takes it for living
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        staged.rename(path)
        yield
    finally:
        staged.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holders(directory: Path, snapshot: SnapshotId) -> list[str]:
    """Who holds a living lease on the snapshot. A file that cannot be judged counts as living, and for every one."""
    paths = [directory / name for name in names(directory) if not name.startswith(STAGING_PREFIX)]
    living = [found for path in paths if (found := _living(path)) is not None]
    ours = (snapshot.revision, snapshot.variant)
    return [who for which, who in living if which is None or which == ours]


def _living(path: Path) -> tuple[tuple[str, str] | None, str] | None:
    """(revision and variant, who) of a living lease; None for one whose holder ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        return None, f"{path} ({error.strerror})"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two readers do not take each other for it
    except OSError:
        try:
            told = json.loads(os.pread(descriptor, 4096, 0))
            which = str(told["revision"]), str(told["variant"])
            return which, f"process {told['pid']} on {told['host']} since {told['since']}"
        except (ValueError, KeyError, TypeError):
            return None, str(path)
    else:
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)
