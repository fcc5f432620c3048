"""Processes that fetch and are killed, the staging directories that they leave, and fetches that resume them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddock.transfer.fetch import Staged, fetch
from paddock.transfer.journal import Journal, JournalHeader
from paddock.transfer.options import Options
from tests.support.segments import segment_of
from tests.transfer.remote import KIB, MIB, SMALL, Remote

ROOT = Path(__file__).parents[2]
SPAN = 256 * KIB
# What a kill can lose: the window, the span that started in it last, and the bytes after the last checkpoint.
LOST_BYTES = MIB + 2 * SPAN


@contextmanager
def fetching_process(source: Remote, directory: Path, *, rate: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run `tests.transfer.child`, limited to `rate` bytes per second (0: no limit), and kill it at the end."""
    command = [sys.executable, "-m", "tests.transfer.child", source.url, str(source.expected.size)]
    command += [str(source.expected.sha256), str(directory), str(rate)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result_of(process: subprocess.Popen[str]) -> dict[str, int] | None:
    """Wait for the process; return the JSON that it printed."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    answer: dict[str, int] | None = json.loads(out)
    return answer


def create_partial(source: Remote, staging: Path, data: bytes, *, written: int, token: str = "dead") -> Path:
    """Create the staging directory of a fetch that was killed after `written` bytes; return its path."""
    assert source.expected.key is not None
    directory = staging / source.expected.key / token
    directory.mkdir(parents=True)
    (directory / "data").write_bytes(data[:written] + bytes(len(data) - written))
    journal = Journal(directory / "journal", create=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    journal.start(JournalHeader(key=source.expected.key, size=len(data), segment_bytes=MIB, boot=boot), {})
    for end in range(SPAN, written + 1, SPAN):
        journal.add_checkpoint(end, segment_of(data[(end - 1) // MIB * MIB : end]))
    journal.close()
    return directory


def resume_and_check(source: Remote, staging: Path, data: bytes, options: Options = SMALL) -> Staged:
    """Fetch, check the bytes, and check that one staging directory is left."""
    staged = fetch(source, staging=staging, options=options)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert len(list(staging.glob("*/*"))) == 1
    return staged
