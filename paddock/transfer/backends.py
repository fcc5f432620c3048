"""Download with another backend: hf_transfer, or huggingface_hub with Xet.

Each runs in a process of its own (`paddock.transfer.backend_process`), since neither can be cancelled, and one is
native code. It writes a file from the start: nothing is resumed, and bytes received before a failure are not used. Its
result is not trusted: the caller hashes all of it, as it does with its own downloads.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from paddock.confinement.parent import unreadable
from paddock.errors import TransferInterrupted, TransferRefused
from paddock.model.source import Address, Source
from paddock.network import FORBIDDEN_CURE, ForbiddenAddress
from paddock.plain_text import one_line
from paddock.settings import child_environment

Backend = Literal["paddock", "hf_transfer", "xet"]
"""Download backend: Paddock's own worker threads, hf_transfer, or huggingface_hub with Xet."""

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.1
_MIN_SIZE_BYTES = 8 * 1024 * 1024
"""Smaller files are not worth a process."""
_EXTRA_FACTOR, _EXTRA_BYTES = 3, 1024 * 1024 * 1024
"""A program that has written more than so many times the file, plus so much, receives another one, maybe without an
end. huggingface_hub keeps a cache of chunks beside the file."""
_NAMES = {"hf_transfer": "hf_transfer", "xet": "huggingface_hub"}
_CURE = "try again, or use Paddock's own backend (PADDOCK_TRANSFER=paddock)"


def select_backend(requested: Backend, source: Source, *, limited: bool) -> Backend:
    """The backend to use for a source: `requested`, or Paddock's own if that one cannot fetch it or would not help.

    `limited`: a bandwidth limit is set, which only Paddock's own backend keeps.
    """
    if requested == "paddock" or source.expected.size < _MIN_SIZE_BYTES:
        return "paddock"
    if source.expected.key is None:  # without a digest, a truncated file would pass for a complete one
        return "paddock"
    if requested == "xet" and source.hub_location is None:
        return "paddock"
    if limited:
        log.warning(
            "%s does not support a bandwidth limit: Paddock's own backend fetches %s", _NAMES[requested], source.label
        )
        return "paddock"
    return requested


def download(
    backend: Backend,
    source: Source,
    path: Path,
    *,
    connections: int,
    stall_s: float,
    on_received: Callable[[int], None],
) -> int:
    """Download `source` to `path` with another backend; return the number of bytes that it reports.

    `on_received` is called with the bytes received so far, ten times a second; what it raises ends the download. A
    refused URL is renewed once. hf_transfer reports whole chunks of 1 MiB only: if none is completed within `stall_s`,
    the download has stalled. Raises TransferInterrupted, TransferRefused, and the errors of the source.
    """
    request: dict[str, object] = {"engine": backend, "path": str(path), "parent": os.getpid()}
    if backend == "xet" and source.hub_location:
        place: dict[str, object] = {"place": asdict(source.hub_location), "directory": str(_working_directory(path))}
        network = _address(source, on_received=on_received).network
        place["network"] = network.to_json()
        return _run(request | place, network.environment(), source, stall_s=stall_s, on_received=on_received)
    for is_last in (False, True):
        address = _address(source, on_received=on_received)
        _check_reach(address, source)
        target = {"connections": connections, "url": address.url, "headers": dict(address.headers)}
        try:
            environment = address.network.environment(address.url)
            return _run(request | target, environment, source, stall_s=stall_s, on_received=on_received)
        except TransferRefused as refusal:
            if is_last:
                raise
            log.info("%s; renewing its URL", refusal.message)
    raise AssertionError("the second attempt returns or raises")


def clean(path: Path) -> None:
    """Remove the files that huggingface_hub leaves beside the data if it is killed."""
    shutil.rmtree(_working_directory(path), ignore_errors=True)


def _address(source: Source, *, on_received: Callable[[int], None]) -> Address:
    """Request a new address of the bytes, in a thread, so that the calling thread can be cancelled while it waits.

    Its errors are more precise than those of another program.
    """
    result: list[Address | BaseException] = []

    def resolve() -> None:
        try:
            result.append(source.address(renew=True))
        except BaseException as error:  # raised again in the calling thread
            result.append(error)

    thread = threading.Thread(target=resolve, name="paddock-address", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        on_received(0)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _check_reach(address: Address, source: Source) -> None:
    """Check where a program will connect that connects by itself. Raises TransferRefused."""
    parts = urlsplit(address.url)
    try:
        if address.network.proxy_for(address.url) is None:
            address.reach.check(address.url)
        else:
            address.reach.check_written(parts.hostname or "")
    except ForbiddenAddress as error:
        raise TransferRefused(
            f"{source.label} is redirected to {error}, which is not followed", cure=FORBIDDEN_CURE
        ) from None
    except OSError as error:
        raise TransferInterrupted(f"{parts.hostname} cannot be resolved: {error.strerror}", cure=_CURE) from None


@unreadable()
def _run(
    request: Mapping[str, object],
    environment: Mapping[str, str],
    source: Source,
    *,
    stall_s: float,
    on_received: Callable[[int], None],
) -> int:
    """Run one download in a child process, with the variables of `environment`."""
    name = _NAMES[str(request["engine"])]
    path = Path(str(request["path"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "paddock.transfer.backend_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a vendor may print signed URLs there
        cwd=_ROOT,
        env=child_environment(
            **environment,
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HOME=str(_working_directory(path) / "home"),
        ),
        process_group=0,
    )
    try:
        assert process.stdin is not None  # noqa: S101 - tells the type checker what PIPE above means
        assert process.stdout is not None  # noqa: S101 - the same
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        with process.stdout as stdout:
            received = read_reports(stdout, source, name, stall_s=stall_s, on_received=on_received)
        if process.wait(timeout=stall_s) == 0:
            return received
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise TransferInterrupted(f"{name} exited before {source.label} was complete", cure=_CURE)


def _working_directory(path: Path) -> Path:
    """Where huggingface_hub keeps its files: beside the data, in the staging directory."""
    return path.with_name("huggingface")


def _received_bytes(line: bytes, source: Source, name: str) -> int:
    """The bytes that a report tells of. Raises TransferRefused, TransferInterrupted for one of an error, and
    TransferRefused for what is no report."""
    try:
        report = json.loads(line)
        if "error" not in report:
            return int(report["came"])
        kind = TransferRefused if report["final"] else TransferInterrupted
        message = one_line(str(report["error"]))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        kind, message = TransferRefused, "what its process wrote is no report"
    raise kind(f"{name} could not download {source.label}: {message}", cure=_CURE)


def read_reports(
    stdout: IO[bytes], source: Source, name: str, *, stall_s: float, on_received: Callable[[int], None]
) -> int:
    """Read the process's reports until it closes its output; return the number of bytes received.

    A report is `{"came": N}`, or at the end `{"error": ..., "final": ...}`.
    """
    received, progress_at, rest = 0, time.monotonic(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            on_received(received)
            if selector.select(_POLL_S):
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    return received
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    came = _received_bytes(line, source, name)
                    if came > received:
                        received, progress_at = came, time.monotonic()
                    if received > _EXTRA_FACTOR * source.expected.size + _EXTRA_BYTES:
                        raise TransferRefused(f"{name} receives more than {source.label} has", cure=_CURE)
            if time.monotonic() > progress_at + stall_s:
                raise TransferInterrupted(f"{name} received nothing of {source.label} for {stall_s:g} s", cure=_CURE)
