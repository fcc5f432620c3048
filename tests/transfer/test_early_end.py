"""After any early end, the next transfer fetches again at most the bytes that were in flight.

With the default settings one span is 4 MiB and a segment 64 MiB, and sixteen connections fill their spans side by side:
most of the received bytes lie behind a gap.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import TransferInterrupted
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.transfer.pieces import PIECE_BYTES
from paddock.transfer.progress import Progress
from tests.support.fault_totals import Faults
from tests.transfer.remote import KIB, MIB, Remote, content, on_hub

ROOT = Path(__file__).parents[2]
MB = 1_000_000
SPAN_BYTES = 4 * MIB
READ_BYTES = 256 * KIB


def in_flight_bytes(size: int) -> int:
    """Bytes that the connections may have written and not recorded, or read and not written."""
    connections = min(Options().connections, -(-size // SPAN_BYTES))
    return connections * (PIECE_BYTES + READ_BYTES)


def check_resume(source: Remote, staging: Path, data: bytes, *, done_bytes: int) -> None:
    staged = fetch(source, staging=staging)
    assert staged is not None
    print(f"{done_bytes} of {len(data)} bytes were there, {staged.resumed_bytes} were used")
    assert staged.path.read_bytes() == data
    assert staged.transferred_bytes == len(data) - staged.resumed_bytes
    assert staged.resumed_bytes >= done_bytes - in_flight_bytes(len(data))


@pytest.mark.parametrize(
    ("megabytes", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(60, signal.SIGKILL, marks=pytest.mark.torture),
        pytest.param(200, signal.SIGKILL, marks=pytest.mark.torture),
        (20, signal.SIGTERM),
        (60, signal.SIGINT),
    ],
)
def test_a_process_that_is_killed_leaves_the_received_bytes(
    hub: HubService, staging: Path, faults: Faults, megabytes: int, number: signal.Signals
) -> None:
    faults.add()
    data = content(megabytes * MB)
    source = on_hub(hub, data)
    arguments = [source.url, str(len(data)), str(source.expected.sha256), str(staging), str(len(data) // 2)]
    command = [sys.executable, "-m", "tests.transfer.reporting_child", *arguments]
    done = 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done = json.loads(line)["done"]
            if done >= 0.8 * len(data):
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert 0.8 * len(data) <= done < len(data)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    check_resume(source, staging, data, done_bytes=done)


@pytest.mark.parametrize("megabytes", [1, 60])
def test_a_cancelled_transfer_leaves_the_received_bytes(hub: HubService, staging: Path, megabytes: int) -> None:
    data = content(megabytes * MB)
    source = on_hub(hub, data)
    cancel, done = threading.Event(), 0

    def stop(progress: Progress) -> None:
        nonlocal done
        done = progress.done_bytes
        if done >= 0.8 * len(data):
            cancel.set()

    options = Options(limit_rate_bytes_per_s=len(data) // 2)
    with pytest.raises(TransferInterrupted, match="received bytes are kept"):
        fetch(source, staging=staging, options=options, on_progress=stop, cancel=cancel)
    assert done < len(data)
    check_resume(source, staging, data, done_bytes=done)


def test_a_transfer_that_is_interrupted_repeatedly_completes(hub: HubService, staging: Path) -> None:
    """Each run resumes the pieces of the one before."""
    data = content(20 * MB)
    source = on_hub(hub, data)
    goal = 0

    def stop(progress: Progress) -> None:
        if progress.done_bytes >= goal:
            raise KeyboardInterrupt

    for tenth in (3, 5, 7, 9):
        goal = tenth * len(data) // 10
        with pytest.raises(KeyboardInterrupt):
            fetch(source, staging=staging, options=Options(limit_rate_bytes_per_s=len(data)), on_progress=stop)
    check_resume(source, staging, data, done_bytes=goal)
