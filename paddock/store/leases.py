"""Leases: who serves a snapshot now.

A lease is a file whose holder keeps an exclusive flock on it; the lock ends with the holder, however it ends, so that a
lease is never left behind. Its JSON (revision, pid, host, since) is for people. A lease whose lock can be had is dead,
and is removed.

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

from paddock.model.names import Revision
from paddock.store.durable import STAGING_PREFIX, disk_error, names, write_new


@contextmanager
def held(directory: Path, revision: Revision) -> Iterator[None]:
    """Hold a lease in `directory`, which is there. It appears with its lock on, so that no one takes it for dead."""
    token = secrets.token_hex(8)
    staged, path = directory / f"{STAGING_PREFIX}{token}", directory / token
    since = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"revision": revision, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
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


def holders(directory: Path) -> list[tuple[str, str]]:
    """The living leases in `directory`, as (revision, who). A file that cannot be judged counts as living."""
    paths = [directory / name for name in names(directory) if not name.startswith(STAGING_PREFIX)]
    return [found for path in paths if (found := _living(path)) is not None]


def _living(path: Path) -> tuple[str, str] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        return "", f"{path} ({error.strerror})"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two readers do not take each other for it
    except OSError:
        try:
            told = json.loads(os.pread(descriptor, 4096, 0))
            return str(told["revision"]), f"process {told['pid']} on {told['host']} since {told['since']}"
        except (ValueError, KeyError, TypeError):
            return "", str(path)
    else:
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)
